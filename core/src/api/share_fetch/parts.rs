//! Between the wire and the rules: what members say of records, and which batches a read has brought.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::share_acknowledge::{AcknowledgementBatch, acknowledge_type};
use tidemill_record::Batch;
use tidemill_storage::transactions::Aborted;

use crate::api::share_session::Place;
use crate::share::partition::{Acknowledgement, Given, ReadBatch, Verdict};

/// What a member says of the records of a partition.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) place: Place,
    pub(super) said: Result<Vec<Acknowledgement>, ErrorCode>,
}

impl Told {
    /// Whether it says anything.
    pub(super) fn has_something(&self) -> bool {
        self.said.as_ref().map_or(true, |said| !said.is_empty())
    }
}

/// What a request says of records; each partition once: what is said of it later counts.
pub(super) fn told_of<'a>(
    named: impl Iterator<Item = (Place, &'a [AcknowledgementBatch])>,
) -> Vec<Told> {
    let mut all: Vec<Told> = Vec::new();
    let mut seen: HashMap<Place, usize> = HashMap::new();
    for (place, batches) in named {
        let said = batches.iter().map(acknowledgement).collect();
        let index = *seen.entry(place).or_insert(all.len());
        match all.get_mut(index) {
            Some(told) => told.said = said,
            None => all.push(Told { place, said }),
        }
    }
    all
}

fn acknowledgement(batch: &AcknowledgementBatch) -> Result<Acknowledgement, ErrorCode> {
    if !batch.is_valid() {
        return Err(ErrorCode::InvalidRequest);
    }
    let verdict = |kind: &i8| match *kind {
        acknowledge_type::GAP => Ok(Verdict::Gap),
        acknowledge_type::ACCEPT => Ok(Verdict::Accept),
        acknowledge_type::RELEASE => Ok(Verdict::Release),
        acknowledge_type::REJECT => Ok(Verdict::Reject),
        acknowledge_type::RENEW => Ok(Verdict::Renew),
        _ => Err(ErrorCode::InvalidRequest),
    };
    let verdicts = batch.acknowledge_types.iter().map(verdict).collect::<Result<_, _>>()?;
    Ok(Acknowledgement { first: batch.first_offset, last: batch.last_offset, verdicts })
}

/// The batches that a read has brought, each with whether it is for members.
pub(super) fn read_batches(runs: &[Bytes], aborted: &[Aborted]) -> Vec<ReadBatch> {
    // Those of one producer follow each other.
    let of_producers = aborted.iter().map(|one| ((one.producer_id, one.first.0), one.last.0));
    let of_producers: BTreeMap<_, i64> = of_producers.collect();
    let mut all = Vec::new();
    for (batch, _) in runs.iter().flat_map(batches_of) {
        let (base, last) = (batch.base_offset().0, batch.last_offset().0);
        let was_aborted = batch.is_transactional()
            && batch.producer().is_some_and(|producer| {
                let first = (producer.id, i64::MIN);
                let before = of_producers.range(first..=(producer.id, base)).next_back();
                before.is_some_and(|(_, last)| base <= *last)
            });
        // Compaction leaves the frames of batches whose records are all gone.
        let is_empty = batch.records_count() == 0;
        all.push(ReadBatch { base, last, is_void: batch.is_control() || was_aborted || is_empty });
    }
    all
}

/// Of the batches that were read, those with records that were given out.
pub(super) fn kept(runs: &[Bytes], given: &[Given]) -> Vec<Bytes> {
    let mut all = Vec::new();
    // Both are in the order of the log.
    let mut given = given.iter().peekable();
    for run in runs {
        let mut kept: Option<(usize, usize)> = None;
        for (batch, start) in batches_of(run) {
            let (base, last) = (batch.base_offset().0, batch.last_offset().0);
            let end = start + batch.size_bytes() as usize;
            while given.next_if(|given| given.last < base).is_some() {}
            if given.peek().is_none_or(|given| last < given.first) {
                all.extend(kept.take().map(|(start, end)| run.slice(start..end)));
            } else {
                kept = Some((kept.map_or(start, |(start, _)| start), end));
            }
        }
        all.extend(kept.map(|(start, end)| run.slice(start..end)));
    }
    all
}

/// The batches of a run, each with where it begins.
fn batches_of(run: &Bytes) -> impl Iterator<Item = (Batch<'_>, usize)> {
    let mut rest = &run[..];
    std::iter::from_fn(move || {
        let start = run.len() - rest.len();
        // What the log gives out are whole batches.
        let (batch, behind) = Batch::parse(rest).ok()?;
        rest = behind;
        Some((batch, start))
    })
}

#[cfg(test)]
mod tests {
    use tidemill_record::{
        BatchBuilder, Codec, LeaderEpoch, Offset, Producer, ProducerEpoch, ProducerId, Sequence,
        Timestamp, TopicId, emptied, stamp,
    };

    use super::*;

    fn batch(base: i64, of: Option<i64>) -> Bytes {
        let mut builder = BatchBuilder::new(Codec::None);
        if let Some(id) = of {
            let producer = Producer { id: ProducerId(id), epoch: ProducerEpoch(0) };
            builder = builder.numbered(producer, Sequence(0)).transactional();
        }
        builder.append(Timestamp(1), None, Some(b"value"));
        let mut bytes = builder.build();
        stamp(&mut bytes, Offset(base), LeaderEpoch(0));
        bytes.freeze()
    }

    /// A batch that compaction has left empty was handed out as a record, which no member could
    /// find in what it got.
    #[test]
    fn a_batch_that_is_empty_is_given_to_nobody() {
        let full = batch(7, None);
        let (parsed, _) = Batch::parse(&full).unwrap();
        let runs = [emptied(&parsed).freeze(), batch(8, None)];
        let read = read_batches(&runs, &[]);
        let void: Vec<_> = read.iter().map(|one| (one.base, one.last, one.is_void)).collect();
        assert_eq!(void, [(7, 7, true), (8, 8, false)]);
    }

    /// Of what transactions have written, only that is left out which was aborted.
    #[test]
    fn only_what_was_aborted_is_left_out() {
        let aborted = |id, first, last| Aborted {
            producer_id: ProducerId(id),
            first: Offset(first),
            last: Offset(last),
            stable: Offset(first),
        };
        let all = [aborted(5, 11, 13), aborted(4, 10, 12), aborted(4, 20, 21)];
        let runs = [(9, 4), (10, 4), (11, 5), (13, 4), (13, 5), (20, 4), (20, 5)];
        let runs = runs.map(|(base, id)| batch(base, Some(id)));
        let read = read_batches(&runs, &all);
        let void: Vec<bool> = read.iter().map(|one| one.is_void).collect();
        assert_eq!(void, [false, true, true, false, true, true, false]);
    }

    /// What is said last of a partition counts, and each is told of once.
    #[test]
    fn each_partition_is_told_of_once() {
        let said = |kind| {
            [AcknowledgementBatch {
                first_offset: 0,
                last_offset: 0,
                acknowledge_types: vec![kind],
            }]
        };
        let (accept, release) = (said(acknowledge_type::ACCEPT), said(acknowledge_type::RELEASE));
        let place = |partition| (TopicId([1; 16]), partition);
        let named = [(place(1), &accept[..]), (place(0), &accept[..]), (place(1), &release[..])];
        let told = told_of(named.into_iter());
        let places: Vec<Place> = told.iter().map(|told| told.place).collect();
        assert_eq!(places, [place(1), place(0)]);
        assert_eq!(told[0].said.as_ref().unwrap()[0].verdicts, [Verdict::Release]);
    }

    /// Of what was read, whole batches stay that have something of what was given out.
    #[test]
    fn batches_with_something_given_out_stay() {
        let runs = [batch(1, None), batch(2, None), batch(5, None)];
        let given = |first, last| Given { first, last, count: 1 };
        let left = kept(&runs, &[given(0, 0), given(2, 2), given(4, 9)]);
        assert_eq!(left, runs[1..]);
    }
}
