//! What a reader of a partition may believe: that it saw each record once, in order, undamaged.
//!
//! A gap in a producer's sequences is noted, not judged: the broker may have refused those records
//! and said so. [`crate::verdict`] holds the gaps against what was acknowledged. What is repeated,
//! out of order or damaged is a fault at once.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use tidemill_record::{Batch, Contents};

use crate::workload::{CHECKSUM_AT, Identity, MAGIC, VALUE_BYTES_MIN, checksum};

/// What a batch may become when decompressed.
const BATCH_OPEN_BYTES_MAX: usize = 64 << 20;

/// How many gaps are kept for one producer; more are one gap up to the last.
const GAPS_MAX: usize = 1000;

/// What one reader has seen of one producer.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Seen {
    /// The producer's run.
    pub run: u64,
    /// The producer.
    pub producer: u32,
    /// Where this reader began.
    pub first: u64,
    /// The next sequence to be seen.
    pub next: u64,
    /// Sequences before it that were not.
    pub gaps: Vec<Range<u64>>,
}

/// What a reader of one partition has seen.
#[derive(Clone, Debug)]
pub struct Verifier {
    run: u64,
    started_at: i64,
    next_offset: i64,
    producers: Vec<Seen>,
    /// The producer of the last record: most often that of the next.
    last: usize,
    records: u64,
    foreign: u64,
}

impl Verifier {
    /// Reads on from `offset`, in this run.
    #[must_use]
    pub fn new(run: u64, offset: i64) -> Self {
        let (producers, started_at, next_offset) = (Vec::new(), offset, offset);
        Self { run, started_at, next_offset, producers, last: 0, records: 0, foreign: 0 }
    }

    /// The offset to read next.
    #[must_use]
    pub fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// How many records were a load generator's, and undamaged.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// How many records were somebody else's.
    #[must_use]
    pub fn foreign(&self) -> u64 {
        self.foreign
    }

    /// What was seen of each producer.
    #[must_use]
    pub fn producers(&self) -> &[Seen] {
        &self.producers
    }

    /// Takes the batches of one answer, in order. `due` is told when each record of this run was
    /// due, in nanoseconds since the run began. An error says what is wrong with them.
    pub fn take(&mut self, mut bytes: &[u8], due: &mut impl FnMut(u64)) -> Result<(), String> {
        while !bytes.is_empty() {
            // Brokers may cut the last batch short; what is behind the cut is asked for again.
            let (batch, rest) = match Batch::parse(bytes) {
                Ok(parsed) => parsed,
                Err(_) if is_cut_short(bytes) => return Ok(()),
                Err(error) => return Err(format!("a batch: {error:?}")),
            };
            self.take_batch(&batch, due)?;
            bytes = rest;
        }
        Ok(())
    }

    fn take_batch(&mut self, batch: &Batch<'_>, due: &mut impl FnMut(u64)) -> Result<(), String> {
        batch.verify_checksum().map_err(|e| format!("a batch: {e:?}"))?;
        if batch.last_offset().0 < self.next_offset {
            return Err(format!("offset {} again", batch.base_offset()));
        }
        let contents =
            Contents::open(batch, BATCH_OPEN_BYTES_MAX).map_err(|e| format!("a batch: {e:?}"))?;
        for record in contents.records() {
            let record = record.map_err(|e| format!("a record: {e:?}"))?;
            if self.next_offset <= record.offset.0 {
                self.take_value(record.value.unwrap_or_default(), due)?;
            }
        }
        self.next_offset = batch.next_offset().0;
        Ok(())
    }

    fn take_value(&mut self, value: &[u8], due: &mut impl FnMut(u64)) -> Result<(), String> {
        let Some(identity) = identity_of(value)? else {
            self.foreign += 1;
            return Ok(());
        };
        let seen = self.seen(&identity);
        let Identity { producer, sequence, .. } = identity;
        if sequence < seen.next {
            let missed = seen.gaps.iter().position(|gap| gap.contains(&sequence));
            let how = if missed.is_some() { "out of order" } else { "a second time" };
            if let Some(missed) = missed {
                // What comes late is not lost; what else is missing there may come as well.
                seen.gaps.remove(missed);
            }
            return Err(format!("record {sequence} of producer {producer} came {how}"));
        }
        if seen.next < sequence {
            let gap = seen.next..sequence;
            let many = GAPS_MAX <= seen.gaps.len();
            match seen.gaps.last_mut() {
                Some(last) if many || last.end == gap.start => last.end = gap.end,
                _ => seen.gaps.push(gap),
            }
        }
        seen.next = sequence + 1;
        self.records += 1;
        if identity.run == self.run {
            due(identity.due_nanos);
        }
        Ok(())
    }

    fn seen(&mut self, identity: &Identity) -> &mut Seen {
        let is_same = |seen: &Seen| seen.producer == identity.producer && seen.run == identity.run;
        if !self.producers.get(self.last).is_some_and(is_same) {
            self.last = self.producers.iter().position(is_same).unwrap_or_else(|| {
                // Whoever reads from the middle cannot expect another run's first records.
                let from_zero = identity.run == self.run || self.started_at == 0;
                let first = if from_zero { 0 } else { identity.sequence };
                let Identity { run, producer, .. } = *identity;
                self.producers.push(Seen { run, producer, first, next: first, gaps: Vec::new() });
                self.producers.len() - 1
            });
        }
        &mut self.producers[self.last]
    }
}

/// Whether `bytes` are the beginning of a batch and not all of it.
fn is_cut_short(bytes: &[u8]) -> bool {
    let length = bytes.get(8..12).and_then(|length| length.try_into().ok()).map(i32::from_be_bytes);
    length.is_none_or(|length| usize::try_from(length).is_ok_and(|size| bytes.len() < size + 12))
}

/// Whose record this is; none if it is not a load generator's.
fn identity_of(value: &[u8]) -> Result<Option<Identity>, String> {
    if value.len() < VALUE_BYTES_MIN || !value.starts_with(MAGIC) {
        return Ok(None);
    }
    let number = |from: usize| {
        let bytes: [u8; 8] = value[from..from + 8].try_into().expect("eight bytes");
        u64::from_be_bytes(bytes)
    };
    let small = |from: usize| (number(from) >> 32) as u32;
    let identity = Identity {
        run: number(8),
        producer: small(16),
        sequence: number(20),
        due_nanos: number(28),
    };
    let crc: [u8; 4] = value[CHECKSUM_AT..VALUE_BYTES_MIN].try_into().expect("four bytes");
    if checksum(value) != u32::from_be_bytes(crc) {
        let Identity { sequence, producer, .. } = identity;
        return Err(format!("record {sequence} of producer {producer} was damaged"));
    }
    Ok(Some(identity))
}

#[cfg(test)]
// A list of gaps may have one gap.
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;
    use crate::workload::{Shape, Values, pool};
    use tidemill_record::{BatchBuilder, Codec, LeaderEpoch, Offset, Timestamp, stamp};

    const RECORDS: u64 = 9;

    fn log(batches: u64, shape: Shape) -> Vec<Vec<u8>> {
        let mut values = Values::new(&[shape], pool(&[shape]), 1);
        let mut batch = |nth: u64| {
            let mut builder = BatchBuilder::new(shape.codec);
            for sequence in nth * RECORDS..(nth + 1) * RECORDS {
                let identity = Identity { run: 7, producer: 3, sequence, due_nanos: sequence };
                let (key, value) = values.next(&shape, 0, identity);
                builder.append(Timestamp(1000), key, Some(value));
            }
            let mut batch = builder.build();
            stamp(&mut batch, Offset((nth * RECORDS) as i64), LeaderEpoch(0));
            batch.to_vec()
        };
        (0..batches).map(&mut batch).collect()
    }

    fn take(verifier: &mut Verifier, bytes: &[u8]) -> Result<(), String> {
        verifier.take(bytes, &mut |_| ())
    }

    /// What was produced is what is read, whatever the shape.
    #[test]
    fn what_was_sent_is_verified() {
        let plain = Shape::of_bytes(100);
        let varied = Shape { value_bytes_max: 900, keys: Some(5), codec: Codec::Lz4, ..plain };
        for shape in [plain, varied] {
            let batches = log(5, shape);
            let mut verifier = Verifier::new(7, 0);
            let mut dues = 0;
            verifier.take(&batches.concat(), &mut |due| dues += due).unwrap();
            assert_eq!(verifier.records(), 45);
            assert_eq!(verifier.next_offset(), 45);
            assert_eq!(dues, (0..45).sum::<u64>());
            assert_eq!(verifier.producers()[0].gaps, []);
        }
    }

    /// A gap is noted; what comes again, late or changed is refused.
    #[test]
    fn every_kind_of_harm_is_noticed() {
        let batches = log(4, Shape::of_bytes(100));
        let verify = |order: &[usize]| {
            let mut verifier = Verifier::new(7, 0);
            order.iter().try_for_each(|&i| take(&mut verifier, &batches[i])).map(|()| verifier)
        };
        assert_eq!(verify(&[0, 1, 2, 3]).unwrap().producers()[0].gaps, []);
        assert_eq!(verify(&[0, 2, 3]).unwrap().producers()[0].gaps, [9..18]);
        verify(&[0, 0]).unwrap_err();
        verify(&[1, 0]).unwrap_err();

        let mut changed = batches[0].clone();
        let last = changed.len() - 2;
        changed[last] ^= 1;
        take(&mut Verifier::new(7, 0), &changed).unwrap_err();

        // The broker appended one batch twice, each time with offsets of its own.
        let mut again = batches[0].clone();
        stamp(&mut again, Offset(RECORDS as i64), LeaderEpoch(0));
        let mut verifier = Verifier::new(7, 0);
        take(&mut verifier, &batches[0]).unwrap();
        assert!(take(&mut verifier, &again).unwrap_err().contains("second time"));
    }

    /// A damaged record is noticed even if the broker made a checksum for the damage.
    #[test]
    fn a_damaged_record_in_a_sound_batch_is_noticed() {
        let mut batch = log(1, Shape::of_bytes(100)).remove(0);
        let last = batch.len() - 2;
        batch[last] ^= 1;
        let crc = crc32c::crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        assert!(take(&mut Verifier::new(7, 0), &batch).unwrap_err().contains("damaged"));
    }

    /// The tail of an answer may be half a batch: the rest is read by the next one.
    #[test]
    fn half_a_batch_at_the_end_is_asked_for_again() {
        let batches = log(2, Shape::of_bytes(100));
        let mut verifier = Verifier::new(7, 0);
        let cut = [&batches[0][..], &batches[1][..80]].concat();
        take(&mut verifier, &cut).unwrap();
        assert_eq!(verifier.next_offset(), RECORDS as i64);
        take(&mut verifier, &batches[1]).unwrap();
        assert_eq!(verifier.records(), 2 * RECORDS);
    }

    /// Another run's records are checked from the first one seen.
    #[test]
    fn another_run_is_joined_in_the_middle() {
        let batches = log(3, Shape::of_bytes(100));
        let mut verifier = Verifier::new(8, 9);
        take(&mut verifier, &batches[1]).unwrap();
        take(&mut verifier, &batches[2]).unwrap();
        assert_eq!((verifier.producers()[0].first, verifier.producers()[0].gaps.len()), (9, 0));
    }
}
