//! What holds for any records: what is built is read back the same, whatever the codec; and any
//! batch survives being damaged, in the sense that the damage is noticed or does not matter.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use tidemill_record::{
    Batch, BatchBuilder, Codec, Contents, Header, Limits, Offset, Producer, ProducerEpoch,
    ProducerId, Sequence, Timestamp, TopicId, checksum, stamp, validate,
};

#[path = "../fuzz/check.rs"]
mod check;

const LIMITS: Limits = Limits { batch_bytes_max: 1 << 20, control_allowed: false };
const MIB: usize = 1 << 20;

#[derive(Clone, Debug)]
struct Original {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Original {
    fn headers(&self) -> Vec<Header<'_>> {
        self.headers.iter().map(|(key, value)| Header { key, value: value.as_deref() }).collect()
    }
}

fn originals() -> impl Strategy<Value = Vec<Original>> {
    let bytes = || vec(any::<u8>(), 0..100);
    let headers = vec((bytes(), option::of(bytes())), 0..4);
    // Half the range of timestamps, so that no two are further apart than a timestamp can tell.
    let timestamps = i64::MIN / 2..i64::MAX / 2;
    let original = (timestamps, option::of(bytes()), option::of(bytes()), headers)
        .prop_map(|(timestamp, key, value, headers)| Original { timestamp, key, value, headers });
    vec(original, 1..20)
}

fn codec() -> impl Strategy<Value = Codec> {
    (0..5u8).prop_map(|number| Codec::from_number(number).expect("below 5"))
}

fn producer() -> impl Strategy<Value = Option<(Producer, Sequence)>> {
    let numbered = (0..=i64::MAX, 0..=i16::MAX, 0..=i32::MAX).prop_map(|(id, epoch, sequence)| {
        (Producer { id: ProducerId(id), epoch: ProducerEpoch(epoch) }, Sequence(sequence))
    });
    option::of(numbered)
}

fn build(codec: Codec, producer: Option<(Producer, Sequence)>, originals: &[Original]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(codec);
    if let Some((producer, sequence)) = producer {
        builder = builder.numbered(producer, sequence);
    }
    for record in originals {
        builder.append_with_headers(
            Timestamp(record.timestamp),
            record.key.as_deref(),
            record.value.as_deref(),
            &record.headers(),
        );
    }
    builder.build().to_vec()
}

proptest! {
    /// Records built into a batch, stamped, and read again are the same records.
    #[test]
    fn a_built_batch_is_read_back(
        originals in originals(),
        codec in codec(),
        producer in producer(),
        base in 0..i64::MAX / 2,
    ) {
        let mut bytes = build(codec, producer, &originals);
        let validated = validate(&bytes, &LIMITS).expect("what is built is valid");
        prop_assert_eq!(validated.producer(), producer.map(|(producer, _)| producer));
        prop_assert_eq!(validated.base_sequence(), producer.map(|(_, sequence)| sequence));
        prop_assert_eq!(validated.compression(), codec);

        stamp(&mut bytes, Offset(base), tidemill_record::LeaderEpoch(1));
        let (batch, _) = Batch::parse(&bytes).expect("what is built can be read");
        let contents = Contents::open(&batch, MIB).expect("it decompresses");
        let mut offset = Offset(base);
        let mut remaining = originals.iter();
        for record in contents.records() {
            let record = record.expect("what is built can be walked");
            let original = remaining.next().expect("no more records than originals");
            prop_assert_eq!(record.offset, offset);
            prop_assert_eq!(record.timestamp, Timestamp(original.timestamp));
            prop_assert_eq!(record.key, original.key.as_deref());
            prop_assert_eq!(record.value, original.value.as_deref());
            prop_assert!(record.headers.into_iter().eq(original.headers()));
            offset = offset.plus(1);
        }
        prop_assert!(remaining.next().is_none(), "as many records as originals");
        let latest = originals.iter().map(|record| Timestamp(record.timestamp)).max();
        prop_assert_eq!(Some(batch.max_timestamp()), latest);
    }

    /// A batch with bytes changed anywhere is a batch or an error, never a panic, also when the
    /// checksum has been made to fit.
    #[test]
    fn a_damaged_batch_is_a_batch_or_an_error(
        originals in originals(),
        codec in codec(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = build(codec, None, &originals);
        for (position, byte) in damage {
            let position = position.index(bytes.len());
            bytes[position] = byte;
        }
        check::check(&bytes);
    }

    /// However bytes are cut into pieces, the pieces' checksums give that of the whole.
    #[test]
    fn checksums_of_pieces_give_that_of_the_whole(
        pieces in vec(vec(any::<u8>(), 0..2000), 0..8),
    ) {
        let whole = pieces.concat();
        let combined = pieces.iter().fold(checksum::crc32c(b""), |crc, piece| {
            checksum::combine(crc, checksum::crc32c(piece), piece.len())
        });
        prop_assert_eq!(combined, checksum::crc32c(&whole));
    }

    /// Sequences wrap to 0 after 2^31 − 1, wherever one starts and however far one goes.
    #[test]
    fn sequences_count_modulo_two_to_the_31(start in 0..=i32::MAX, records in 0..=i32::MAX) {
        let expected = (i64::from(start) + i64::from(records)) % (1 << 31);
        prop_assert_eq!(i64::from(Sequence(start).plus(records).0), expected);
    }

    /// Both text forms of a topic id lead back to it.
    #[test]
    fn a_topic_id_is_read_back_from_both_text_forms(id in any::<[u8; 16]>()) {
        let id = TopicId(id);
        prop_assert_eq!(TopicId::from_hex(&id.to_string()), Some(id));
        prop_assert_eq!(TopicId::from_base64(&id.to_base64()), Some(id));
    }
}
