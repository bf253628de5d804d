//! Every message in every version, against another implementation of the same protocol.
//!
//! For seeded random messages: what we write, the crate `kafka-protocol` reads, with the same
//! value in every field of the same name; what it then writes is byte for byte what we wrote; and
//! we read it back as what it was. Each message is also cut at every byte and damaged at random,
//! which must end in a value or an error.
//!
//! `NET_CORPUS_REWRITE=1 cargo test -p tidemill-net corpus` writes the seeds of the fuzzer.

mod corpus;
mod hot;
mod share;

use super::*;
use crate::cursor::{Reader, Wire};
use bytes::Bytes;
use kafka_protocol::messages as theirs;
use kafka_protocol::protocol::{self, Decodable, Encodable};
use std::fmt::Debug;
use tidemill_record::TopicId;

/// Rounds for each message and version.
const ROUNDS: u64 = 12;

/// A row of numbers that looks random and is the same each time (splitmix64).
pub(crate) struct Seed(pub(crate) u64);

impl Seed {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// An integer whose size varies, so that small ones occur and the extremes too.
    fn integer(&mut self) -> i64 {
        match self.below(8) {
            0 => i64::MAX,
            1 => i64::MIN,
            2 => -1,
            _ => (self.next() as i64) >> self.below(64),
        }
    }
}

/// A value with any content that a version can carry.
pub(crate) trait Random: Sized {
    /// Any value.
    fn random(seed: &mut Seed, form: Form) -> Self;
    /// Any value but null.
    fn random_present(seed: &mut Seed, form: Form) -> Self {
        Self::random(seed, form)
    }
}

macro_rules! random_integers {
    ($($type:ty)*) => { $(
        impl Random for $type {
            fn random(seed: &mut Seed, _: Form) -> Self {
                seed.integer() as $type
            }
        }
    )* };
}
random_integers! { i8 i16 u16 i32 i64 }

impl Random for f64 {
    fn random(seed: &mut Seed, _: Form) -> Self {
        seed.integer() as f64 / 16.0
    }
}

impl Random for bool {
    fn random(seed: &mut Seed, _: Form) -> Self {
        seed.below(2) == 0
    }
}

impl Random for TopicId {
    fn random(seed: &mut Seed, _: Form) -> Self {
        TopicId((u128::from(seed.next()) << 64 | u128::from(seed.next())).to_be_bytes())
    }
}

impl Random for ErrorCode {
    fn random(seed: &mut Seed, _: Form) -> Self {
        ErrorCode::ALL[seed.below(ErrorCode::ALL.len() as u64) as usize]
    }
}

impl Random for Bytes {
    fn random(seed: &mut Seed, _: Form) -> Self {
        let length = [0, 1, 5, 20, 125 + seed.below(5)][seed.below(5) as usize];
        (0..length).map(|_| seed.next() as u8).collect()
    }
}

impl Random for String {
    fn random(seed: &mut Seed, _: Form) -> Self {
        // Around 127 the length before a compact string grows to two bytes.
        let length = [0, 1, 5, 20, 125 + seed.below(5)][seed.below(5) as usize];
        (0..length)
            .map(|_| ['a', 'B', '7', '.', '-', '_', 'é', '漢'][seed.below(8) as usize])
            .collect()
    }
}

impl<T: Random> Random for Vec<T> {
    fn random(seed: &mut Seed, form: Form) -> Self {
        let count = seed.below(4);
        (0..count).map(|_| T::random_present(seed, form)).collect()
    }
}

impl<T: Random> Random for Option<T> {
    fn random(seed: &mut Seed, form: Form) -> Self {
        (seed.below(4) != 0).then(|| T::random(seed, form))
    }
    fn random_present(seed: &mut Seed, form: Form) -> Self {
        Some(T::random_present(seed, form))
    }
}

/// Field names and values in the order of a `Debug` text, without the names of types, so that
/// two structures with the same fields read the same.
pub(super) fn fields(debug: &str) -> Vec<String> {
    let mut fields = Vec::new();
    let mut rest = debug;
    while let Some(first) = rest.chars().next() {
        let token_bytes = match first {
            '"' => string_bytes(rest),
            _ if is_word(first) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            _ => first.len_utf8(),
        };
        let (token, after) = rest.split_at(token_bytes);
        rest = after;
        match token {
            "[" | "]" | "true" | "false" => fields.push(token.to_owned()),
            // Options differ in shape where a message has a plain value: tell them by content.
            "None" if !fields.last().is_some_and(|field| field.ends_with("error_code:")) => {
                fields.push("null".to_owned());
            }
            "unknown_tagged_fields" => rest = &rest[": {}".len()..],
            _ if rest.starts_with(':') => fields.push(format!("{token}:")),
            _ if is_uuid(token) => fields.extend(uuid_bytes(token)),
            _ if token.starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit()) => {
                fields.push(token.to_owned());
            }
            _ => fields.extend(error_number(token)),
        }
    }
    fields
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '-'
}

fn string_bytes(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    panic!("a string without end in {text}");
}

fn is_uuid(token: &str) -> bool {
    token.len() == 36
        && !token.starts_with('"')
        && token.bytes().filter(|&byte| byte == b'-').count() == 4
}

/// As the bytes of a [`TopicId`] are told: a list of numbers.
fn uuid_bytes(token: &str) -> Vec<String> {
    let id = TopicId::from_hex(&token.replace('-', "")).unwrap();
    let bytes = id.0.iter().map(u8::to_string);
    [vec!["[".to_owned()], bytes.collect(), vec!["]".to_owned()]].concat()
}

fn error_number(token: &str) -> Option<String> {
    let code = ErrorCode::ALL.iter().find(|code| format!("{code:?}") == token)?;
    Some(code.to_wire().to_string())
}

/// Drops fields that only one of the two has, each with its one value, or list of plain values.
fn without(mut fields: Vec<String>, names: &[&str]) -> Vec<String> {
    while let Some(at) = fields.iter().position(|field| names.contains(&&field[..])) {
        let is_list = fields[at + 1] == "[";
        let behind = |from: usize| fields[from..].iter().position(|field| field == "]");
        let end = if is_list { behind(at).expect("the list ends") + at } else { at + 1 };
        fields.drain(at..=end);
    }
    fields
}

/// Fields of versions that only one of the two has, or whose value where a version lacks them differs.
fn passed_over(api_key: ApiKey, version: i16) -> &'static [&'static str] {
    match api_key {
        ApiKey::InitProducerId => &[
            "enable_2_pc:",
            "keep_prepared_txn:",
            "ongoing_txn_producer_id:",
            "ongoing_txn_producer_epoch:",
        ],
        // Of versions that they do not have.
        ApiKey::DescribeLogDirs => &["is_cordoned:"],
        ApiKey::WriteTxnMarkers => &["transaction_version:"],
        ApiKey::ShareAcknowledge => &["is_renew_ack:", "acquisition_lock_timeout_ms:"],
        ApiKey::ShareFetch => &["share_acquire_mode:", "is_renew_ack:", "partition_max_bytes:"],
        ApiKey::DescribeShareGroupOffsets => &["lag:"],
        ApiKey::DescribeConfigs if version < 3 => &["documentation:"],
        // They have a type for the topics of one group, and one for those of many; we have one.
        ApiKey::OffsetFetch if version < 8 => &["topic_id:"],
        // They have a type of its own for its topics; we have OffsetCommit's.
        ApiKey::TxnOffsetCommit => &["topic_id:"],
        // What a version lacks is null here and empty there.
        ApiKey::DescribeQuorum if version < 2 => &["error_message:"],
        ApiKey::FindCoordinator if !(1..=3).contains(&version) => &["error_message:"],
        _ => &[],
    }
}

/// Where our name of a field is not theirs: many messages share a type of ours, though Kafka calls
/// its fields by other names in each.
const OUR_NAMES: &[(&str, &str)] = &[
    ("name:", "topic:"),
    ("topic_name:", "topic:"),
    ("partition_indexes:", "partitions:"),
    ("_match:", "matched:"),
];

fn in_our_names(mut fields: Vec<String>) -> Vec<String> {
    for field in &mut fields {
        if let Some((_, ours)) = OUR_NAMES.iter().find(|(theirs, _)| field == theirs) {
            *field = (*ours).to_owned();
        }
    }
    fields
}

/// Holds one message in every version against the other implementation. That is at Kafka 4.1; the
/// versions it lacks are written down in tests/golden.
fn compare_all<Ours, Theirs>()
where
    Ours: Message + Random + PartialEq + Debug,
    Theirs: protocol::Message + Decodable + Encodable + Debug,
{
    let api = Ours::API.api();
    for version in api.advertised_min..=api.max.min(Theirs::VERSIONS.max) {
        let form = api.key.form(version).unwrap();
        compare_in::<Ours, Theirs>(form, passed_over(api.key, version));
    }
}

/// Holds one structure in one form against the other implementation.
fn compare_in<Ours, Theirs>(form: Form, passed_over: &[&str])
where
    Ours: Wire + Random + PartialEq + Debug,
    Theirs: Decodable + Encodable + Debug,
{
    let version = form.version;
    for round in 0..ROUNDS {
        let mut seed = Seed(round << 32 | u64::from(version as u16));
        let ours = Ours::random(&mut seed, form);
        let mut written = BytesMut::new();
        ours.write(&mut Writer::new(&mut written), form);
        let written = written.freeze();

        let mut unread = written.clone();
        let theirs = Theirs::decode(&mut unread, version).unwrap();
        assert!(unread.is_empty(), "version {version} of {ours:?}");
        assert_eq!(
            in_our_names(without(fields(&format!("{ours:?}")), passed_over)),
            in_our_names(without(fields(&format!("{theirs:?}")), passed_over)),
            "version {version} of {ours:?}"
        );
        let mut rewritten = BytesMut::new();
        theirs.encode(&mut rewritten, version).unwrap();
        assert_eq!(rewritten, written, "version {version} of {ours:?}");

        let mut reader = Reader::new(&written);
        assert_eq!(Ours::read(&mut reader, form).as_ref(), Ok(&ours));
        assert!(reader.is_empty());
        damage(&written, &mut seed, |bytes| {
            // Whatever it is taken for can be written again.
            if let Ok(message) = Ours::read(&mut Reader::new(bytes), form) {
                message.write(&mut Writer::new(&mut BytesMut::new()), form);
            }
        });
    }
}

/// Shows `read` the message cut at every byte, and with a few bytes replaced.
pub(super) fn damage(message: &Bytes, seed: &mut Seed, mut read: impl FnMut(&[u8])) {
    for cut in 0..message.len() {
        read(&message[..cut]);
    }
    for _ in 0..50 {
        let mut damaged = message.to_vec();
        for _ in 0..=seed.below(3) {
            if !damaged.is_empty() {
                let at = seed.below(damaged.len() as u64) as usize;
                damaged[at] = [0, 1, 0x7f, 0x80, 0xff, seed.next() as u8][seed.below(6) as usize];
            }
        }
        read(&damaged);
    }
}

/// One test for each API, named after it.
macro_rules! same_as_theirs {
    ($($api:ident: $module:ident::($request:ident, $response:ident);)*) => {
        #[allow(non_snake_case, reason = "named as Kafka names its APIs")]
        mod same_as_theirs {
            use super::*;
            $(
                #[test]
                fn $api() {
                    compare_all::<$module::$request, theirs::$request>();
                    compare_all::<$module::$response, theirs::$response>();
                }
            )*
        }
    };
}

crate::declared_messages!(same_as_theirs);

/// What consumers say inside JoinGroup and SyncGroup, behind its version.
#[test]
fn the_consumer_protocol_is_theirs() {
    for version in 0..=consumer_protocol::VERSION_MAX {
        let form = Form { version, flexible: false };
        compare_in::<consumer_protocol::Subscription, theirs::ConsumerProtocolSubscription>(
            form,
            &[],
        );
        compare_in::<consumer_protocol::Assignment, theirs::ConsumerProtocolAssignment>(form, &[]);
    }
}

/// The comparison would not be worth much if it took different fields for equal.
#[test]
fn the_comparison_tells_fields_apart() {
    let list =
        |a: i32, b: i32| format!("T {{ x: Some([U {{ a: {a}, b: {b} }}]), y: Name(\"a b\") }}");
    assert_eq!(fields(&list(1, -2)), ["x:", "[", "a:", "1", "b:", "-2", "]", "y:", "\"a b\""]);
    assert_ne!(fields(&list(1, 2)), fields(&list(2, 1)));
    assert_eq!(fields("E { error_code: UnknownTopicId }"), fields("E { error_code: 100 }"));
    assert_eq!(fields("E { error_code: None }"), fields("E { error_code: 0 }"));
    assert_eq!(
        fields("T { topic_id: 00000000-0000-0000-0000-0000000001ff }"),
        fields(&format!("T {{ topic_id: {:?} }}", TopicId(511u128.to_be_bytes())))
    );
}

/// What is worth another try is not for us to decide: Kafka's clients have decided it.
#[test]
fn retriable_errors_are_theirs() {
    for &code in ErrorCode::ALL {
        let Some(known) = kafka_protocol::ResponseError::try_from_code(code.to_wire()) else {
            assert_eq!(code, ErrorCode::None);
            continue;
        };
        // The other implementation is behind Kafka here: clients do wait and ask again.
        let expected = known.is_retriable() || code == ErrorCode::ConcurrentTransactions;
        assert_eq!(code.is_retriable(), expected, "{code}");
        let camel: String = code.name().split('_').map(capitalised).collect();
        assert_eq!(format!("{known:?}"), camel, "{code}");
    }
}

fn capitalised(word: &str) -> String {
    let lower = word.to_lowercase();
    lower[..1].to_uppercase() + &lower[1..]
}

/// Request and response headers, in both forms, are what the other implementation writes.
#[test]
fn headers_are_theirs() {
    for api in APIS {
        for version in api.advertised_min..=api.max {
            let mut frame = BytesMut::new();
            RequestHeader::write(&mut Writer::new(&mut frame), api.key, version, -7, Some("me"));
            let key = theirs::ApiKey::try_from(api.key.to_wire()).unwrap();
            let mut unread = frame.clone().freeze();
            let known = version.max(key.valid_versions().min).min(key.valid_versions().max);
            let header =
                theirs::RequestHeader::decode(&mut unread, key.request_header_version(known))
                    .unwrap();
            assert!(unread.is_empty());
            assert_eq!(header.request_api_key, api.key.to_wire());
            assert_eq!(header.request_api_version, version);
            assert_eq!((header.correlation_id, header.client_id.as_deref()), (-7, Some("me")));
            assert_eq!(RequestHeader::parse(&frame).unwrap().body_start, frame.len());

            let mut frame = BytesMut::new();
            write_response_header(&mut Writer::new(&mut frame), api.key, version, -7);
            let bytes = if key.response_header_version(known) == 0 { 4 } else { 5 };
            assert_eq!(frame.len(), bytes, "{} {version}", api.name);
            assert_eq!(parse_response_header(api.key, version, &frame), Ok((-7, bytes)));
        }
    }
}
