//! Records that can be verified, each by itself and all of them together.
//!
//! ```text
//! value: "tm-bench" | run u64 | producer u32 | sequence u64 | due u64 | checksum u32 | filler
//! ```
//!
//! The checksum covers the value but for itself. A *producer* is one connection's stream of records
//! into one partition; its sequences go up by one from zero. `due` is when the record was to be
//! sent, in nanoseconds of this machine's monotonic clock. [`crate::verify`] reads what this writes.

use std::sync::Arc;

use tidemill_record::Codec;
use tidemill_runtime::edge::Instant;

use crate::arrival::Chance;

pub(crate) const MAGIC: &[u8; 8] = b"tm-bench";

/// The smallest value: what identifies it, and no filler.
pub const VALUE_BYTES_MIN: usize = 40;

/// The largest value: what a batch of Kafka's usual limits can hold.
pub const VALUE_BYTES_MAX: usize = 16 << 20;

pub(crate) const CHECKSUM_AT: usize = 36;

const POOL_BYTES: usize = 256 * 1024;

/// What records look like.
#[derive(Clone, Copy, Debug, PartialEq)]
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
    pub codec: Codec,
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
    /// When it was due.
    pub due: Instant,
}

/// Makes keys and values.
#[derive(Clone, Debug)]
pub struct Values {
    shape: Shape,
    value: Vec<u8>,
    key: Vec<u8>,
    /// Bytes of chance that fillers are cut from, if values are to differ.
    pool: Arc<[u8]>,
    chance: Chance,
}

impl Values {
    /// Makes them in this shape, from the [`pool`] of it, which thousands of connections share.
    #[must_use]
    pub fn new(shape: Shape, pool: Arc<[u8]>, seed: u64) -> Self {
        let chance = Chance::new(seed);
        let mut value = MAGIC.to_vec();
        value.resize(shape.value_bytes_max.max(VALUE_BYTES_MIN), b'.');
        let random = random_bytes(&shape, value.len());
        value[VALUE_BYTES_MIN..VALUE_BYTES_MIN + random].copy_from_slice(&pool[..random]);
        Self { shape, value, key: Vec::new(), pool, chance }
    }

    /// A key, if records have keys. Each partition has keys of its own, so that a key's records
    /// stay in one partition.
    pub fn next_key(&mut self, partition: i32) -> Option<&[u8]> {
        let keys = self.shape.keys?;
        let nth = self.chance.below(keys);
        self.key.clear();
        self.key.extend_from_slice(format!("key-{partition}-{nth}").as_bytes());
        Some(&self.key)
    }

    /// Key and value of a record.
    pub fn next(&mut self, partition: i32, identity: Identity) -> (Option<&[u8]>, &[u8]) {
        let Shape { value_bytes_min, value_bytes_max, codec, .. } = self.shape;
        let spread = (value_bytes_max - value_bytes_min) as u64;
        let size = value_bytes_min + self.chance.below(spread + 1) as usize;
        if codec != Codec::None {
            // A codec would see through values that differ in nothing but their number.
            let random = random_bytes(&self.shape, size);
            let from = self.chance.below((self.pool.len() - random) as u64) as usize;
            let into = VALUE_BYTES_MIN..VALUE_BYTES_MIN + random;
            self.value[into].copy_from_slice(&self.pool[from..from + random]);
        }
        let value = &mut self.value[..size];
        value[8..16].copy_from_slice(&identity.run.to_be_bytes());
        value[16..20].copy_from_slice(&identity.producer.to_be_bytes());
        value[20..28].copy_from_slice(&identity.sequence.to_be_bytes());
        value[28..CHECKSUM_AT].copy_from_slice(&identity.due.nanos.to_be_bytes());
        let crc = checksum(value);
        value[CHECKSUM_AT..VALUE_BYTES_MIN].copy_from_slice(&crc.to_be_bytes());
        self.next_key(partition);
        (self.shape.keys.is_some().then_some(&self.key[..]), &self.value[..size])
    }
}

/// Bytes of chance, enough to cut any value of this shape from.
#[must_use]
pub fn pool(shape: &Shape) -> Arc<[u8]> {
    let mut chance = Chance::new(1);
    let bytes = POOL_BYTES.max(shape.value_bytes_max) + POOL_BYTES;
    (0..bytes).map(|_| chance.next_u64() as u8).collect()
}

fn random_bytes(shape: &Shape, size: usize) -> usize {
    let filler = size - VALUE_BYTES_MIN;
    (filler as f64 * (1.0 - shape.compressible)) as usize
}

pub(crate) fn checksum(value: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&value[..CHECKSUM_AT]);
    crc32c::crc32c_append(crc, &value[VALUE_BYTES_MIN..])
}
