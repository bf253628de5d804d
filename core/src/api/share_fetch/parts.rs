//! Between the wire and the rules: what members say of records, and which batches a read has brought.

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
    for (place, batches) in named {
        let said = batches.iter().map(acknowledgement).collect();
        match all.iter_mut().find(|told| told.place == place) {
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
    let mut all = Vec::new();
    for (batch, _) in runs.iter().flat_map(batches_of) {
        let (base, last) = (batch.base_offset().0, batch.last_offset().0);
        let was_aborted = batch.is_transactional()
            && batch.producer().is_some_and(|producer| {
                let of_it = |one: &Aborted| {
                    one.producer_id == producer.id && one.first.0 <= base && base <= one.last.0
                };
                aborted.iter().any(of_it)
            });
        all.push(ReadBatch { base, last, is_void: batch.is_control() || was_aborted });
    }
    all
}

/// Of the batches that were read, those with records that were given out.
pub(super) fn kept(runs: &[Bytes], given: &[Given]) -> Vec<Bytes> {
    let mut all = Vec::new();
    for run in runs {
        let mut kept: Option<(usize, usize)> = None;
        for (batch, start) in batches_of(run) {
            let (base, last) = (batch.base_offset().0, batch.last_offset().0);
            let end = start + batch.size_bytes() as usize;
            if !given.iter().any(|given| given.first <= last && base <= given.last) {
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
