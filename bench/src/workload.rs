//! Records that can be verified, each by itself and all of them together.
//!
//! ```text
//! value: "tm-bench" | run u64 | producer u32 | sequence u64 | due u64 | checksum u32 | filler
//! ```
//!
//! The checksum covers the value but for itself. A *producer* is one connection's stream of records
//! into one partition; its sequences go up by one from zero. `due` is when the record was to be
//! sent, in nanoseconds since the run began, which all of its processes know. [`crate::verify`]
//! reads what this writes.

use std::io::Write as _;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidemill_record::Codec;

use crate::arrival::Chance;

pub(crate) const MAGIC: &[u8; 8] = b"tm-bench";

/// The smallest value: what identifies it, and no filler.
pub const VALUE_BYTES_MIN: usize = 40;

/// The largest value: what a batch of Kafka's usual limits can hold.
pub const VALUE_BYTES_MAX: usize = 16 << 20;

pub(crate) const CHECKSUM_AT: usize = 36;

const POOL_BYTES: usize = 256 * 1024;

/// What records look like.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Shape {
    /// The smallest value.
    pub value_bytes_min: usize,
    /// The largest value; all sizes between the two are as likely.
    pub value_bytes_max: usize,
    /// How many keys each partition has; none for records without key.
    pub keys: Option<u64>,
    /// Which part of the filler can be compressed away, from 0 to 1.
    pub compressible: f64,
    /// What batches are compressed with.
    #[serde(with = "codec_as_name")]
    pub codec: Codec,
}

mod codec_as_name {
    //! A codec among plain values.

    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};
    use tidemill_record::Codec;

    pub(super) fn serialize<S: Serializer>(codec: &Codec, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(codec.name())
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Codec, D::Error> {
        let name = String::deserialize(from)?;
        Codec::from_name(&name).ok_or_else(|| D::Error::custom(format!("no codec is {name}")))
    }
}

impl Shape {
    /// Records of one size, without keys, not compressed.
    #[must_use]
    pub fn of_bytes(value_bytes: usize) -> Self {
        let value_bytes = value_bytes.clamp(VALUE_BYTES_MIN, VALUE_BYTES_MAX);
        Self {
            value_bytes_min: value_bytes,
            value_bytes_max: value_bytes,
            keys: None,
            compressible: 0.5,
            codec: Codec::None,
        }
    }
}

/// Whose record, and which.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Identity {
    /// The run.
    pub run: u64,
    /// The producer, unique within the run.
    pub producer: u32,
    /// The producer's records, counted from 0.
    pub sequence: u64,
    /// When it was due, in nanoseconds since the run began.
    pub due_nanos: u64,
}

/// Makes keys and values.
#[derive(Clone, Debug)]
pub struct Values {
    value: Vec<u8>,
    key: Vec<u8>,
    /// Bytes of chance that fillers are cut from, if values are to differ.
    pool: Arc<[u8]>,
    chance: Chance,
}

impl Values {
    /// Makes them in these shapes, from the [`pool`] of them, which thousands of connections share.
    #[must_use]
    pub fn new(shapes: &[Shape], pool: Arc<[u8]>, seed: u64) -> Self {
        let largest = largest(shapes);
        let mut value = MAGIC.to_vec();
        value.resize(largest, b'.');
        if let Some(shape) = shapes.first() {
            let random = random_bytes(shape, largest);
            value[VALUE_BYTES_MIN..VALUE_BYTES_MIN + random].copy_from_slice(&pool[..random]);
        }
        Self { value, key: Vec::new(), pool, chance: Chance::new(seed) }
    }

    /// A key, if records have keys. Each partition has keys of its own, so that a key's records
    /// stay in one partition.
    fn make_key(&mut self, keys: u64, partition: i32) {
        let nth = self.chance.below(keys);
        self.key.clear();
        write!(self.key, "key-{partition}-{nth}").expect("memory takes all bytes");
    }

    /// Key and value of a record of one of the shapes.
    pub fn next(
        &mut self,
        shape: &Shape,
        partition: i32,
        identity: Identity,
    ) -> (Option<&[u8]>, &[u8]) {
        let Shape { value_bytes_min, value_bytes_max, codec, .. } = *shape;
        let spread = (value_bytes_max - value_bytes_min) as u64;
        let size = match spread {
            0 => value_bytes_min,
            _ => value_bytes_min + self.chance.below(spread + 1) as usize,
        };
        if codec != Codec::None {
            // A codec would see through values that differ in nothing but their number.
            let random = random_bytes(shape, size);
            let from = self.chance.below((self.pool.len() - random) as u64) as usize;
            let into = VALUE_BYTES_MIN..VALUE_BYTES_MIN + random;
            self.value[into].copy_from_slice(&self.pool[from..from + random]);
        }
        let value = &mut self.value[..size];
        value[8..16].copy_from_slice(&identity.run.to_be_bytes());
        value[16..20].copy_from_slice(&identity.producer.to_be_bytes());
        value[20..28].copy_from_slice(&identity.sequence.to_be_bytes());
        value[28..CHECKSUM_AT].copy_from_slice(&identity.due_nanos.to_be_bytes());
        let crc = checksum(value);
        value[CHECKSUM_AT..VALUE_BYTES_MIN].copy_from_slice(&crc.to_be_bytes());
        if let Some(keys) = shape.keys {
            self.make_key(keys, partition);
        }
        (shape.keys.is_some().then_some(&self.key[..]), &self.value[..size])
    }
}

/// Bytes of chance, enough to cut any value of these shapes from.
#[must_use]
pub fn pool(shapes: &[Shape]) -> Arc<[u8]> {
    let mut chance = Chance::new(1);
    (0..POOL_BYTES.max(largest(shapes)) + POOL_BYTES).map(|_| chance.next_u64() as u8).collect()
}

fn largest(shapes: &[Shape]) -> usize {
    let largest = shapes.iter().map(|shape| shape.value_bytes_max).max();
    largest.unwrap_or_default().max(VALUE_BYTES_MIN)
}

fn random_bytes(shape: &Shape, size: usize) -> usize {
    let filler = size - VALUE_BYTES_MIN;
    (filler as f64 * (1.0 - shape.compressible)) as usize
}

pub(crate) fn checksum(value: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&value[..CHECKSUM_AT]);
    crc32c::crc32c_append(crc, &value[VALUE_BYTES_MIN..])
}
