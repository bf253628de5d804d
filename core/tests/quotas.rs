//! Quotas on the real binary: who exceeds one is answered, told to wait and not read for so long;
//! nobody else notices; and what was set survives a kill.
// Fixtures are tests, though they are no test functions.
#![allow(clippy::unwrap_used)]

mod process;
mod wire;

use std::time::{Duration, Instant};

use process::Broker;
use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::alter_client_quotas::{
    AlterClientQuotasRequest, QuotaChange, QuotaChanges,
};
use tidemill_net::kafka::describe_client_quotas::{
    ComponentFilter, DescribeClientQuotasRequest, QuotaEntity,
};
use tidemill_net::kafka::fetch::FetchResponse;
use tidemill_record::{BatchBuilder, Codec, Timestamp};
use wire::Client;

/// What a request with a batch counts beside the bytes of its one record's value, at most.
const FRAME_BYTES: usize = 250;

fn client_id(name: Option<&str>) -> Vec<QuotaEntity> {
    let entity_name = name.map(str::to_owned);
    vec![QuotaEntity { entity_type: "client-id".to_owned(), entity_name }]
}

fn alter(
    client: &mut Client,
    entity: Vec<QuotaEntity>,
    key: &str,
    value: Option<f64>,
) -> ErrorCode {
    let op =
        QuotaChange { key: key.to_owned(), value: value.unwrap_or(0.0), remove: value.is_none() };
    let entries = vec![QuotaChanges { entity, ops: vec![op] }];
    let request = AlterClientQuotasRequest { entries, validate_only: false };
    client.ask(1, &request).entries[0].error_code
}

/// All quotas that a filter lets through: names of clients, with their values.
fn described(
    client: &mut Client,
    components: &[(&str, i8, Option<&str>)],
    strict: bool,
) -> Result<Vec<(Option<String>, f64)>, ErrorCode> {
    let component = |(kind, match_type, matched): &(&str, i8, Option<&str>)| ComponentFilter {
        entity_type: (*kind).to_owned(),
        match_type: *match_type,
        matched: matched.map(str::to_owned),
    };
    let components = components.iter().map(component).collect();
    let told = client.ask(1, &DescribeClientQuotasRequest { components, strict });
    if told.error_code != ErrorCode::None {
        assert_eq!(told.entries, None);
        return Err(told.error_code);
    }
    let entries = told.entries.unwrap().into_iter();
    Ok(entries.map(|e| (e.entity[0].entity_name.clone(), e.values[0].value)).collect())
}

fn batch(bytes: usize) -> bytes::BytesMut {
    let mut builder = BatchBuilder::new(Codec::None);
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64;
    builder.append(Timestamp(now), None, Some(&vec![7; bytes]));
    builder.build()
}

/// A producer is told how long to wait, and is held to it even if it does not care; what it sends over
/// all its connections counts together. Others are not held up.
#[test]
fn a_producer_is_held_to_its_rate() {
    const RATE: usize = 50_000;
    let broker = Broker::start("produce-quota", &["--shards", "2"]);
    let mut connections = [Client::open(&broker), Client::open(&broker)];
    connections[0].create("t", 2);
    let set = alter(
        &mut connections[0],
        client_id(Some("test")),
        "producer_byte_rate",
        Some(RATE as f64),
    );
    assert_eq!(set, ErrorCode::None);

    // Ten seconds' worth may be spent at once, a second's worth each time. How soon one connection is
    // told of what was spent over the other is a matter of hundredths of a second, so that only this is
    // sure: nobody is told to wait for more than what all have spent, and who is told waits.
    let mut sent = 0;
    let mut waits = [0, 0];
    let mut held_until = [None, None];
    while waits.contains(&0) || waits.iter().sum::<i32>() < 3 {
        for (partition, client) in connections.iter_mut().enumerate() {
            let asked = Instant::now();
            let produced = client.produce("t", partition as i32, &batch(RATE));
            assert_eq!(produced.error_code, ErrorCode::None);
            assert!(held_until[partition] <= Some(Instant::now()), "it was read before its time");
            sent += RATE + FRAME_BYTES;
            let owed_ms = sent.saturating_sub(10 * RATE) * 1000 / RATE;
            let told_ms = produced.throttle_time_ms;
            assert!((0..=owed_ms as i32).contains(&told_ms), "{told_ms} ms, {owed_ms} ms owed");
            if 0 < told_ms {
                waits[partition] += 1;
                held_until[partition] = Some(asked + Duration::from_millis(told_ms as u64));
            }
        }
        assert!(sent < 30 * RATE, "nobody is held: {waits:?}");
    }

    let mut free = Client::open(&broker);
    free.name = "free";
    for _ in 0..10 {
        assert_eq!(free.produce("t", 0, &batch(RATE / 4)).throttle_time_ms, 0);
    }
}

/// A consumer that has fetched more than its quota is told so with the records, and not read for so
/// long; without the quota it is as before.
#[test]
fn a_consumer_is_held_to_its_rate() {
    let broker = Broker::start("fetch-quota", &["--shards", "2"]);
    let mut client = Client::open(&broker);
    client.create("t", 1);
    client.produce("t", 0, &batch(300_000));
    let set = alter(&mut client, client_id(None), "consumer_byte_rate", Some(25_000.0));
    assert_eq!(set, ErrorCode::None);
    let begun = Instant::now();
    let wait_ms = client.fetch("t", -1, |told| {
        assert!(300_000 <= told.partitions[0].records.concat().len());
        told.throttle_time_ms
    });
    assert!((1900..=2100).contains(&wait_ms), "50,000 bytes of debt: {wait_ms} ms");
    // It does not wait, and is not read.
    let removed = alter(&mut client, client_id(None), "consumer_byte_rate", None);
    assert_eq!(removed, ErrorCode::None);
    assert!(Duration::from_millis(wait_ms as u64) <= begun.elapsed());
    assert_eq!(client.fetch("t", -1, |told| told.throttle_time_ms), 0);
}

/// However much a consumer asks for, one answer brought any number of seconds' worth of its quota, and
/// what was owed beyond a minute was forgiven.
#[test]
fn one_fetch_brought_any_number_of_seconds_worth() {
    const RATE: usize = 10_000;
    let broker = Broker::start("fetch-quota-bound", &["--shards", "1"]);
    let mut client = Client::open(&broker);
    client.create("t", 1);
    client.create("long", 1);
    for _ in 0..20 {
        client.produce("t", 0, &batch(4 * RATE));
    }
    client.produce("long", 0, &batch(90 * RATE));
    let set = alter(&mut client, client_id(Some("test")), "consumer_byte_rate", Some(RATE as f64));
    assert_eq!(set, ErrorCode::None);
    let fetch = |client: &mut Client, topic| {
        let told = |told: &FetchResponse<'_>| {
            (told.partitions[0].records.concat().len(), told.throttle_time_ms)
        };
        client.fetch(topic, -1, told)
    };

    // Two batches are what fits into ten seconds: these are free, six of the next ones are owed.
    let two_batches = 8 * RATE..9 * RATE;
    let (bytes, wait_ms) = fetch(&mut client, "t");
    assert!(two_batches.contains(&bytes) && wait_ms == 0, "{bytes} bytes, {wait_ms} ms");
    let (bytes, wait_ms) = fetch(&mut client, "t");
    assert!(two_batches.contains(&bytes) && wait_ms <= 6100, "{bytes} bytes, {wait_ms} ms");
    // One batch is given whole by an answer, and paid for, however long that takes. The answer itself
    // comes at once.
    let begun = Instant::now();
    let (bytes, wait_ms) = fetch(&mut Client::open(&broker), "long");
    assert!(90 * RATE <= bytes && wait_ms == 60_000, "{bytes} bytes, {wait_ms} ms");
    // Until then there is nothing more, also for other connections of the client: only for others.
    let (bytes, wait_ms) = fetch(&mut Client::open(&broker), "t");
    assert!(bytes == 0 && wait_ms == 60_000, "{bytes} bytes, {wait_ms} ms");
    assert!(begun.elapsed() < Duration::from_secs(35), "who owes for a minute is told so at once");
    let mut free = Client::open(&broker);
    free.name = "free";
    let (bytes, wait_ms) = fetch(&mut free, "t");
    assert!(80 * RATE <= bytes && wait_ms == 0, "{bytes} bytes, {wait_ms} ms");
}

/// Quotas are told by filters, as Kafka tells them, and are there after a kill; what is not carried
/// out is refused.
#[test]
fn quotas_are_kept_and_told() {
    let mut broker = Broker::start("kept-quotas", &["--shards", "2"]);
    let mut client = Client::open(&broker);
    let mut set = |entity, key: &str, value| alter(&mut client, entity, key, value);
    assert_eq!(set(client_id(Some("a")), "producer_byte_rate", Some(1024.0)), ErrorCode::None);
    assert_eq!(set(client_id(None), "consumer_byte_rate", Some(2048.0)), ErrorCode::None);
    let both = || {
        let user = QuotaEntity { entity_type: "user".to_owned(), entity_name: Some("u".into()) };
        [client_id(Some("a")), vec![user]].concat()
    };
    assert_eq!(set(both(), "producer_byte_rate", Some(4096.0)), ErrorCode::None);
    let ip = vec![QuotaEntity { entity_type: "ip".to_owned(), entity_name: None }];
    for (entity, key, value) in [
        (client_id(Some("a")), "request_percentage", 10.0),
        (client_id(Some("a")), "producer_byte_rate", 0.0),
        (client_id(Some("")), "producer_byte_rate", 1.0),
        (ip, "connection_creation_rate", 1.0),
        (Vec::new(), "producer_byte_rate", 1.0),
        (both().into_iter().chain(both()).collect(), "producer_byte_rate", 1.0),
    ] {
        assert_eq!(set(entity, key, Some(value)), ErrorCode::InvalidRequest, "{key} {value}");
    }

    broker.kill();
    broker.run();
    let mut client = Client::open(&broker);
    let mut ask = |components: &[_], strict| described(&mut client, components, strict);
    let (exact, default, any) = (0, 1, 2);
    let (a, none) = (Some("a".to_owned()), None);
    assert_eq!(ask(&[], false).unwrap().len(), 3);
    assert_eq!(ask(&[("client-id", default, None)], true), Ok(vec![(none.clone(), 2048.0)]));
    assert_eq!(ask(&[("client-id", exact, Some("a"))], true), Ok(vec![(a.clone(), 1024.0)]));
    assert_eq!(ask(&[("client-id", exact, Some("a"))], false).unwrap().len(), 2);
    let strictly_clients = ask(&[("client-id", any, None)], true).unwrap();
    assert_eq!(strictly_clients, [(none, 2048.0), (a, 1024.0)]);
    assert_eq!(ask(&[("ip", any, None)], false), Ok(Vec::new()));
    assert_eq!(ask(&[("user", exact, None)], false), Err(ErrorCode::InvalidRequest));
    let twice = [("user", any, None), ("user", default, None)];
    assert_eq!(ask(&twice, false), Err(ErrorCode::InvalidRequest));
    assert_eq!(ask(&[("planet", any, None)], false), Err(ErrorCode::UnsupportedVersion));
}
