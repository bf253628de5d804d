//! Batches whose every record can be verified.
//!
//! ```text
//! value: "tm-bench" | run u64 | producer u32 | sequence u64 | checksum u32 | filler
//! ```
//!
//! The checksum covers the value but for itself. A producer's sequences go up by one from zero, so a
//! reader of its partition from the beginning sees each exactly once and in order, or says what it
//! saw instead.

use std::collections::HashMap;

use bytes::BytesMut;
use tidemill_record::{Batch, BatchBuilder, Codec, Contents, Timestamp};

const MAGIC: &[u8; 8] = b"tm-bench";

/// The smallest value: what identifies it, and no filler.
pub const VALUE_BYTES_MIN: usize = 32;

const CHECKSUM_AT: usize = 28;
const BATCH_CRC_AT: usize = 17;
const BATCH_CRC_COVERS_FROM: usize = 21;

/// A batch of one producer, changed in place from one request to the next.
#[derive(Clone, Debug)]
pub struct BatchTemplate {
    bytes: BytesMut,
    values: Vec<usize>,
    value_bytes: usize,
    next_sequence: u64,
}

impl BatchTemplate {
    /// Records of `value_bytes` each, as many as make about `batch_bytes`, at least one.
    #[must_use]
    pub fn new(run: u64, producer: u32, batch_bytes: usize, value_bytes: usize) -> Self {
        let value_bytes = value_bytes.max(VALUE_BYTES_MIN);
        let mut value = MAGIC.to_vec();
        value.extend_from_slice(&run.to_be_bytes());
        value.extend_from_slice(&producer.to_be_bytes());
        value.resize(VALUE_BYTES_MIN, 0);
        let filler = (VALUE_BYTES_MIN..value_bytes).map(|i| (i * 31 + i / 7) as u8);
        value.extend(filler);

        let mut builder = BatchBuilder::new(Codec::None);
        let now = Timestamp(tidemill_runtime::clock::wall_clock_ms());
        loop {
            builder.append(now, None, Some(&value));
            if batch_bytes < builder.size_bytes() + value_bytes + 16 {
                break;
            }
        }
        let bytes = builder.build();
        let values = positions_of(&bytes, &value);
        assert_eq!(values.len(), builder.records_count() as usize, "each value is found once");
        Self { bytes, values, value_bytes, next_sequence: 0 }
    }

    /// How many records a batch has.
    #[must_use]
    pub fn records(&self) -> usize {
        self.values.len()
    }

    /// The next batch.
    pub fn next_batch(&mut self) -> &[u8] {
        for &at in &self.values {
            let value = &mut self.bytes[at..at + self.value_bytes];
            value[20..CHECKSUM_AT].copy_from_slice(&self.next_sequence.to_be_bytes());
            let crc = checksum(value);
            value[CHECKSUM_AT..VALUE_BYTES_MIN].copy_from_slice(&crc.to_be_bytes());
            self.next_sequence += 1;
        }
        let crc = crc32c::crc32c(&self.bytes[BATCH_CRC_COVERS_FROM..]);
        self.bytes[BATCH_CRC_AT..BATCH_CRC_COVERS_FROM].copy_from_slice(&crc.to_be_bytes());
        &self.bytes
    }
}

fn positions_of(bytes: &[u8], value: &[u8]) -> Vec<usize> {
    let mut positions = Vec::new();
    let mut at = 0;
    while at + value.len() <= bytes.len() {
        if bytes[at..].starts_with(value) {
            positions.push(at);
            at += value.len();
        } else {
            at += 1;
        }
    }
    positions
}

fn checksum(value: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&value[..CHECKSUM_AT]);
    crc32c::crc32c_append(crc, &value[VALUE_BYTES_MIN..])
}

/// What a reader of one partition has seen.
#[derive(Clone, Debug, Default)]
pub struct Verifier {
    next_offset: i64,
    next_sequences: HashMap<(u64, u32), u64>,
    records: u64,
    foreign: u64,
}

impl Verifier {
    /// The offset to read next.
    #[must_use]
    pub fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// How many records were ours, and seen once and in order.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// How many records were somebody else's.
    #[must_use]
    pub fn foreign(&self) -> u64 {
        self.foreign
    }

    /// Takes the batches of one answer, in order. An error says what is wrong with them.
    pub fn take(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            let (batch, rest) = Batch::parse(bytes).map_err(|e| format!("a batch: {e:?}"))?;
            self.take_batch(&batch)?;
            bytes = rest;
        }
        Ok(())
    }

    fn take_batch(&mut self, batch: &Batch<'_>) -> Result<(), String> {
        batch.verify_checksum().map_err(|e| format!("a batch: {e:?}"))?;
        if batch.last_offset().0 < self.next_offset {
            return Err(format!("offset {} again", batch.base_offset()));
        }
        if self.next_offset < batch.base_offset().0 {
            return Err(format!("offset {} after {}", batch.base_offset(), self.next_offset));
        }
        let limit_bytes = batch.bytes().len();
        let contents = Contents::open(batch, limit_bytes).map_err(|e| format!("a batch: {e:?}"))?;
        for record in contents.records() {
            let record = record.map_err(|e| format!("a record: {e:?}"))?;
            if self.next_offset <= record.offset.0 {
                self.take_value(record.value.unwrap_or_default())?;
            }
        }
        self.next_offset = batch.next_offset().0;
        Ok(())
    }

    fn take_value(&mut self, value: &[u8]) -> Result<(), String> {
        if value.len() < VALUE_BYTES_MIN || !value.starts_with(MAGIC) {
            self.foreign += 1;
            return Ok(());
        }
        let number = |from: usize, to: usize| {
            value[from..to].iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte))
        };
        let (run, producer, sequence) = (number(8, 16), number(16, 20) as u32, number(20, 28));
        if u64::from(checksum(value)) != number(CHECKSUM_AT, VALUE_BYTES_MIN) {
            return Err(format!("record {sequence} of producer {producer} was changed"));
        }
        let next = self.next_sequences.entry((run, producer)).or_insert(0);
        if *next != sequence {
            return Err(format!("record {sequence} of producer {producer} instead of {next}"));
        }
        *next += 1;
        self.records += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_record::{LeaderEpoch, Offset, stamp};

    fn log(template: &mut BatchTemplate, batches: usize) -> Vec<Vec<u8>> {
        let records = template.records() as i64;
        let batch = |i: usize| {
            let mut batch = template.next_batch().to_vec();
            stamp(&mut batch, Offset(i as i64 * records), LeaderEpoch(0));
            batch
        };
        (0..batches).map(batch).collect()
    }

    /// What was produced is what is read.
    #[test]
    fn what_was_sent_is_verified() {
        let mut template = BatchTemplate::new(7, 3, 4000, 100);
        assert!(30 < template.records());
        let batches = log(&mut template, 5);
        let mut verifier = Verifier::default();
        verifier.take(&batches.concat()).unwrap();
        assert_eq!(verifier.records(), 5 * template.records() as u64);
        assert_eq!(verifier.next_offset(), 5 * template.records() as i64);
    }

    /// Lost, repeated, swapped and changed records are all noticed.
    #[test]
    fn every_kind_of_harm_is_noticed() {
        let batches = log(&mut BatchTemplate::new(7, 3, 1000, 100), 4);
        let verify = |order: &[usize]| {
            let mut verifier = Verifier::default();
            order.iter().try_for_each(|&i| verifier.take(&batches[i]))
        };
        verify(&[0, 1, 2, 3]).unwrap();
        verify(&[0, 2]).unwrap_err();
        verify(&[0, 0]).unwrap_err();
        verify(&[1, 0]).unwrap_err();

        let mut changed = batches[0].clone();
        let last = changed.len() - 2;
        changed[last] ^= 1;
        Verifier::default().take(&changed).unwrap_err();

        // The broker appended one batch twice, each time with offsets of its own.
        let mut again = batches[0].clone();
        let records = BatchTemplate::new(7, 3, 1000, 100).records() as i64;
        stamp(&mut again, Offset(records), LeaderEpoch(0));
        let mut verifier = Verifier::default();
        verifier.take(&batches[0]).unwrap();
        assert!(verifier.take(&again).unwrap_err().contains("instead of"));
    }
}
