//! Whole batches out of aligned disk bytes: what a fetch of older records returns.
//!
//! A read is planned from the index ([`ReadPlan::new`]): whole spans, rounded out to blocks. When
//! the bytes are there, [`ReadPlan::cut`] proves them and cuts out the batches that were asked
//! for. Nothing that fails a checksum is ever returned; the exact range is told instead.
//!
//! [`SegmentWalk`] goes over a whole segment the same way, one bounded step at a time: to build
//! an index again, to find where a truncation cuts, to look inside.
//!
//! Start reading at [`ReadPlan::cut`].

use bytes::Bytes;
use tidemill_record::{Batch, BatchError, HEADER_BYTES, Offset, TopicPartition, checksum};

use crate::block::{round_down, round_up};
use crate::index::{Index, IndexedBatch, Span};

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
        Some(Self { partition: index.partition(), spans, written, wanted })
    }

    /// Plans to read span number `at` of the index, as far as it is on disk.
    #[must_use]
    pub fn of_span(index: &Index, at: usize, written: Boundary) -> Option<Self> {
        let span = index.span(at);
        let wanted = Wanted {
            from: span.base_offset,
            visible_end: span.next_offset,
            limit_bytes: span.size_bytes,
            min_one: true,
        };
        if written.offset <= span.base_offset {
            return None;
        }
        Some(Self { partition: index.partition(), spans: vec![span], written, wanted })
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
        let sound = sound_batches(found, start);
        if sound != end {
            return Err(Damage { start: sound, end });
        }
        if is_whole {
            // Each batch is sound by itself, but its offset, epoch or place is not: which of
            // them cannot be told.
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

/// How far batches that follow one another from `start` are sound, each by its own checksum.
fn sound_batches(mut bytes: &[u8], start: Boundary) -> Boundary {
    let mut sound = start;
    while let Some((batch, rest)) = next_sound(bytes, sound.offset) {
        sound.position += batch.bytes().len() as u64;
        sound.offset = batch.next_offset();
        bytes = rest;
    }
    sound
}

fn next_sound(bytes: &[u8], base_offset: Offset) -> Option<(Batch<'_>, &[u8])> {
    let (batch, rest) = Batch::parse(bytes).ok()?;
    let is_sound = batch.base_offset() == base_offset && batch.verify_checksum().is_ok();
    is_sound.then_some((batch, rest))
}

/// The bytes one step of a [`SegmentWalk`] reads, unless a single batch is longer.
pub const STEP_BYTES: u32 = 256 * 1024;

const _: () = assert!(crate::block::is_aligned(STEP_BYTES as u64));

/// A walk over a segment's bytes, front to back, one bounded step at a time, with its index as
/// the result.
///
/// Ask [`SegmentWalk::next_read`], read that, hand it to [`SegmentWalk::take`], until there is
/// nothing more to read.
#[derive(Clone, Debug)]
pub struct SegmentWalk {
    index: Index,
    /// Where the segment ends.
    end: u64,
    /// No batch that reaches past this is taken.
    stop_at: Offset,
    batch_bytes_max: u32,
    /// The next batch is known to need so many bytes.
    needed_bytes: u32,
    stopped: bool,
}

impl SegmentWalk {
    /// A walk from where `index` ends (a new index: from the front) to `end`, or to the first
    /// batch that reaches past `stop_at`.
    #[must_use]
    pub fn new(index: Index, end: u64, stop_at: Offset, batch_bytes_max: u32) -> Self {
        assert!(index.size_bytes() <= end, "the index knows more than the segment has");
        let needed_bytes = HEADER_BYTES as u32;
        Self { index, end, stop_at, batch_bytes_max, needed_bytes, stopped: false }
    }

    /// What to read next, as aligned position and size; `None` when the walk has ended.
    #[must_use]
    pub fn next_read(&self) -> Option<(u64, u32)> {
        let position = self.index.size_bytes();
        if self.stopped || self.end <= position {
            return None;
        }
        let aligned = round_down(position);
        let needed_end = round_up(position + u64::from(self.needed_bytes));
        let step_end = (aligned + u64::from(STEP_BYTES)).min(round_up(self.end));
        Some((aligned, (needed_end.max(step_end) - aligned) as u32))
    }

    /// Takes the bytes read where [`SegmentWalk::next_read`] said, shorter only at the file's
    /// end. `each` is told of every batch and its position.
    ///
    /// After damage the walk is over; the index holds what lies before it.
    pub fn take(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(&Batch<'_>, u64),
    ) -> Result<(), Damage> {
        let aligned = round_down(self.index.size_bytes());
        let skip = (self.index.size_bytes() - aligned) as usize;
        let known = (self.end - aligned).min(bytes.len() as u64) as usize;
        let mut rest = bytes.get(skip..known).unwrap_or_default();
        let before = self.index.size_bytes();

        while self.index.size_bytes() < self.end {
            match next_sound(rest, self.index.next_offset()) {
                Some((batch, _)) if self.stop_at < batch.next_offset() => {
                    self.stopped = true;
                    return Ok(());
                }
                Some((batch, behind)) => {
                    each(&batch, self.index.size_bytes());
                    self.index.append(&IndexedBatch {
                        next_offset: batch.next_offset(),
                        size_bytes: batch.size_bytes(),
                        raw_crc: checksum::crc32c(batch.bytes()),
                        max_timestamp: batch.max_timestamp(),
                    });
                    self.needed_bytes = HEADER_BYTES as u32;
                    rest = behind;
                }
                None => return self.read_on_or_give_up(rest, before),
            }
        }
        Ok(())
    }

    /// The index of all batches taken.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The index of all batches taken.
    #[must_use]
    pub fn into_index(self) -> Index {
        self.index
    }

    /// The next batch is not there: because the step ended within it, or because it is damaged.
    fn read_on_or_give_up(&mut self, rest: &[u8], before: u64) -> Result<(), Damage> {
        let position = self.index.size_bytes();
        if let Err(BatchError::Truncated { needed_bytes, .. }) = Batch::parse(rest) {
            let asked_already = position == before && needed_bytes <= self.needed_bytes as usize;
            let may_be_right = needed_bytes <= self.batch_bytes_max as usize
                && position + needed_bytes as u64 <= self.end;
            if may_be_right && !asked_already {
                self.needed_bytes = needed_bytes as u32;
                return Ok(());
            }
        }
        self.stopped = true;
        let start = Boundary { position, offset: self.index.next_offset() };
        let end = Boundary { position: self.end, offset: self.stop_at };
        Err(Damage { start, end })
    }
}
