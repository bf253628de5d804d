//! Whole batches out of aligned disk bytes: what a fetch of older records returns.
//!
//! A read is planned from the index ([`ReadPlan::new`]): whole spans, rounded out to blocks. When
//! the bytes are there, [`ReadPlan::cut`] proves them and cuts out the batches that were asked
//! for. Nothing that fails a checksum is ever returned; the exact range is told instead.
//!
//! [`SegmentWalk`] goes over a whole segment the same way, one bounded step at a time.
//!
//! Start reading at [`ReadPlan::cut`].

mod walk;

use std::ops::Range;

use bytes::Bytes;
use tidemill_record::{Batch, Contents, Offset, Timestamp, TopicPartition};

use crate::block::{round_down, round_up};
use crate::index::{Index, Span};

pub use self::walk::{STEP_BYTES, SegmentWalk};

/// What a reader asks of a log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Wanted {
    /// The first record wanted.
    pub from: Offset,
    /// No batch that reaches past this.
    pub visible_end: Offset,
    /// About so many bytes.
    pub limit_bytes: u32,
    /// Whether the first batch is returned even if it alone exceeds `limit_bytes`. Otherwise a
    /// consumer with a small limit would ask for the same offset for ever.
    pub min_one: bool,
}

/// A boundary between two batches of a segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Boundary {
    /// Its place in the segment.
    pub position: u64,
    /// Offset of the first record behind it.
    pub offset: Offset,
}

/// What to read from a segment, and what to cut out of it then.
#[derive(Clone, Debug)]
pub struct ReadPlan {
    partition: TopicPartition,
    /// At least one, back to back.
    spans: Vec<Span>,
    /// The segment is compacted.
    has_gaps: bool,
    /// The last batch boundary up to which the segment's bytes are on disk.
    written: Boundary,
    wanted: Wanted,
}

/// Batches cut out of a read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cut {
    /// Whole batches, back to back, verbatim. May be empty.
    pub batches: Bytes,
    /// The offset after the last of them: where to go on. As wanted if there are none.
    pub next_offset: Offset,
    /// The first damage in what was read. Nothing of it is among `batches`.
    pub damage: Option<Damage>,
}

/// A range of a segment that is not what was written there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Damage {
    /// The boundary before the first batch that cannot be served.
    pub start: Boundary,
    /// The first boundary after it that is known otherwise.
    pub end: Boundary,
}

impl ReadPlan {
    /// Plans to read what is `wanted`, as far as the segment holds it on disk: up to `written`,
    /// the first batch that is not there as a whole. `None` if that is nothing.
    ///
    /// At least one span is read, so a batch of any size is found whole; beyond that at most
    /// `read_bytes_max`.
    #[must_use]
    pub fn new(
        index: &Index,
        written: Boundary,
        wanted: Wanted,
        read_bytes_max: u32,
    ) -> Option<Self> {
        let first = index.span_holding(wanted.from)?;
        if written.offset <= wanted.from || wanted.visible_end <= wanted.from {
            return None;
        }
        let mut spans = vec![index.span(first)];
        let start = spans[0].position;
        let enough_bytes = u64::from(wanted.limit_bytes.min(read_bytes_max));
        for span in index.spans_from(first + 1) {
            // `from` may lie at the end of the first span, so that one does not count.
            let have_bytes = span.position - spans[0].end();
            let too_long = u64::from(read_bytes_max) < span.end() - start;
            let past_end =
                written.offset <= span.base_offset || wanted.visible_end <= span.base_offset;
            if past_end || too_long || enough_bytes <= have_bytes {
                break;
            }
            spans.push(span);
        }
        let has_gaps = index.has_gaps();
        Some(Self { partition: index.partition(), spans, has_gaps, written, wanted })
    }

    /// Plans to read where the first record from `from` on may be that is not older than `at`: at
    /// least one span, beyond that at most `read_bytes_max`. `None` if nothing of it is on disk,
    /// up to `written`.
    #[must_use]
    pub fn for_time(
        index: &Index,
        at: Timestamp,
        from: Offset,
        written: Boundary,
        read_bytes_max: u32,
    ) -> Option<Self> {
        // What a span knows counts the records before `from` too.
        let first = index.span_at_time(at)?.max(index.span_holding(from)?);
        let wanted = Wanted {
            from: from.max(index.span(first).base_offset),
            visible_end: written.offset,
            limit_bytes: u32::MAX,
            min_one: true,
        };
        Self::new(index, written, wanted, read_bytes_max)
    }

    /// Where to read: aligned.
    #[must_use]
    pub fn position(&self) -> u64 {
        round_down(self.start())
    }

    /// How many bytes to read: aligned. The file may end before.
    #[must_use]
    pub fn size_bytes(&self) -> u32 {
        (round_up(self.end()) - self.position()) as u32
    }

    /// What was asked for.
    #[must_use]
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// Proves the bytes read from [`ReadPlan::position`] and cuts the wanted batches out of them.
    ///
    /// A span that is on disk as a whole is proved by its checksum in the index. The open span
    /// may be there only in part, and what of a damaged one is sound is still served: there each
    /// batch is proved by its own.
    #[must_use]
    pub fn cut(&self, bytes: &Bytes) -> Cut {
        let mut proved_end = self.start();
        let mut damage = None;
        for span in &self.spans {
            match self.prove(span, bytes) {
                Ok(()) => proved_end = span.end().min(self.written.position),
                Err(found) => {
                    proved_end = found.start.position;
                    damage = Some(found);
                    break;
                }
            }
        }
        let first = proved_end - self.position();
        let start = (self.start() - self.position()) as usize;
        let proved = if self.start() < proved_end {
            bytes.slice(start..first as usize)
        } else {
            Bytes::new()
        };
        let (batches, next_offset) = whole_batches(&proved, &self.wanted);
        Cut { batches, next_offset, damage }
    }

    fn prove(&self, span: &Span, bytes: &[u8]) -> Result<(), Damage> {
        let end = self.end_of(span);
        let size_bytes = (end.position - span.position) as usize;
        let start = ((span.position - self.position()) as usize).min(bytes.len());
        let found = &bytes[start..];
        let found = &found[..size_bytes.min(found.len())];

        let is_whole = end.position == span.end();
        if is_whole && Index::crc_of(self.partition, span.position, found) == span.crc {
            return Ok(());
        }
        let start = Boundary { position: span.position, offset: span.base_offset };
        if self.has_gaps {
            // Nothing but the span's checksum tells that a batch's offset is its own.
            return Err(Damage { start, end });
        }
        let sound = sound_batches(found, start);
        if sound.position < end.position && sound.offset < end.offset {
            return Err(Damage { start: sound, end });
        }
        if is_whole || sound != end {
            // Each batch is sound by itself, but its offset, epoch or place is not, or it is not
            // what the index was told: which of them cannot be said.
            return Err(Damage { start, end });
        }
        Ok(())
    }

    fn end_of(&self, span: &Span) -> Boundary {
        if span.end() <= self.written.position {
            Boundary { position: span.end(), offset: span.next_offset }
        } else {
            self.written
        }
    }

    fn start(&self) -> u64 {
        self.spans[0].position
    }

    fn end(&self) -> u64 {
        let last = self.spans.last().expect("a plan has a span");
        last.end().min(self.written.position)
    }
}

/// Cuts what is `wanted` out of batches that have been proved, lying back to back.
///
/// Also for the tail, whose batches were never off memory.
#[must_use]
pub fn whole_batches(proved: &Bytes, wanted: &Wanted) -> (Bytes, Offset) {
    let mut rest = &proved[..];
    let mut start = 0;
    let mut end = 0;
    let mut next_offset = wanted.from;
    while let Ok((batch, behind)) = Batch::parse(rest) {
        let size_bytes = batch.bytes().len();
        if batch.next_offset() <= wanted.from {
            start += size_bytes;
            end = start;
        } else {
            let fits = end - start + size_bytes <= wanted.limit_bytes as usize;
            let forced = wanted.min_one && start == end;
            if wanted.visible_end < batch.next_offset() || !(fits || forced) {
                break;
            }
            end += size_bytes;
            next_offset = batch.next_offset();
        }
        rest = behind;
    }
    (proved.slice(start..end), next_offset)
}

/// The first record of proved batches whose offset lies in `offsets` and whose timestamp is not
/// below `timestamp`.
///
/// Compressed batches become at most `limit_bytes`. One whose records cannot be read, because its
/// producer wrote nonsense into it, counts as a whole: whoever reads on from there misses nothing.
#[must_use]
pub fn first_since(
    proved: &[u8],
    timestamp: Timestamp,
    offsets: Range<Offset>,
    limit_bytes: usize,
) -> Option<(Timestamp, Offset)> {
    batches_in(proved, &offsets).filter(|batch| timestamp <= batch.max_timestamp()).find_map(
        |batch| {
            let whole = (batch.max_timestamp(), batch.base_offset().max(offsets.start));
            let Ok(contents) = Contents::open(&batch, limit_bytes) else { return Some(whole) };
            for record in contents.records() {
                let Ok(record) = record else { return Some(whole) };
                if timestamp <= record.timestamp && offsets.contains(&record.offset) {
                    return Some((record.timestamp, record.offset));
                }
            }
            None
        },
    )
}

/// The record of proved batches with the newest timestamp among those whose offset lies in
/// `offsets`; the first of equals. See [`first_since`] for what cannot be read.
#[must_use]
pub fn newest(
    proved: &[u8],
    offsets: Range<Offset>,
    limit_bytes: usize,
) -> Option<(Timestamp, Offset)> {
    let mut newest: Option<(Timestamp, Offset)> = None;
    for batch in batches_in(proved, &offsets) {
        if newest.is_some_and(|(timestamp, _)| batch.max_timestamp() <= timestamp) {
            continue;
        }
        let in_batch = newest_in(&batch, &offsets, limit_bytes);
        if in_batch.is_some_and(|found| newest.is_none_or(|newest| newest.0 < found.0)) {
            newest = in_batch;
        }
    }
    newest
}

fn newest_in(
    batch: &Batch<'_>,
    offsets: &Range<Offset>,
    limit_bytes: usize,
) -> Option<(Timestamp, Offset)> {
    let whole = (batch.max_timestamp(), batch.base_offset().max(offsets.start));
    let Ok(contents) = Contents::open(batch, limit_bytes) else { return Some(whole) };
    let mut newest: Option<(Timestamp, Offset)> = None;
    for record in contents.records() {
        let Ok(record) = record else { return Some(whole) };
        let is_newer = newest.is_none_or(|(timestamp, _)| timestamp < record.timestamp);
        if is_newer && offsets.contains(&record.offset) {
            newest = Some((record.timestamp, record.offset));
        }
    }
    newest
}

fn batches_in<'a>(
    proved: &'a [u8],
    offsets: &Range<Offset>,
) -> impl Iterator<Item = Batch<'a>> + use<'a> {
    let Range { start, end } = *offsets;
    let mut rest = proved;
    std::iter::from_fn(move || {
        let (batch, behind) = Batch::parse(rest).ok()?;
        rest = behind;
        Some(batch)
    })
    .skip_while(move |batch| batch.next_offset() <= start)
    .take_while(move |batch| batch.base_offset() < end)
}

/// How far batches that follow one another from `start` are sound, each by its own checksum.
fn sound_batches(mut bytes: &[u8], start: Boundary) -> Boundary {
    let mut sound = start;
    while let Some((batch, rest)) = next_sound(bytes, sound.offset, false) {
        sound.position += batch.bytes().len() as u64;
        sound.offset = batch.next_offset();
        bytes = rest;
    }
    sound
}

/// With gaps, offsets may be missing before the batch.
fn next_sound(bytes: &[u8], base_offset: Offset, has_gaps: bool) -> Option<(Batch<'_>, &[u8])> {
    let (batch, rest) = Batch::parse(bytes).ok()?;
    let follows = match has_gaps {
        false => batch.base_offset() == base_offset,
        true => base_offset <= batch.base_offset(),
    };
    (follows && batch.verify_checksum().is_ok()).then_some((batch, rest))
}

#[cfg(test)]
mod tests;
