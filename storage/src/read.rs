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

use std::ops::Range;

use bytes::Bytes;
use tidemill_record::{
    Batch, BatchError, Contents, HEADER_BYTES, Offset, Timestamp, TopicPartition,
};

use crate::block::{round_down, round_up};
use crate::epochs::LeaderEpochs;
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
    epochs: LeaderEpochs,
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
    /// batch that reaches past `stop_at`. Batches must be of the leader epochs that `epochs` tells.
    ///
    /// Of a compacted segment (an index with gaps) the walk proves each batch, but not its offsets:
    /// that the checksum of the whole index does.
    #[must_use]
    pub fn new(
        index: Index,
        epochs: LeaderEpochs,
        end: u64,
        stop_at: Offset,
        batch_bytes_max: u32,
    ) -> Self {
        assert!(index.size_bytes() <= end, "the index knows more than the segment has");
        let needed_bytes = HEADER_BYTES as u32;
        Self { index, epochs, end, stop_at, batch_bytes_max, needed_bytes, stopped: false }
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
            let sound = next_sound(rest, self.index.next_offset(), self.index.has_gaps())
                .filter(|(batch, _)| self.epochs.agree(batch.base_offset(), batch.leader_epoch()));
            match sound {
                Some((batch, _)) if self.stop_at < batch.next_offset() => {
                    self.stopped = true;
                    return Ok(());
                }
                Some((batch, behind)) => {
                    each(&batch, self.index.size_bytes());
                    self.index.append(&IndexedBatch::of(&batch));
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

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use tidemill_record::{BatchBuilder, Codec, LeaderEpoch, PartitionId, TopicId, stamp};

    use super::*;
    use crate::block::{AlignedBytes, is_aligned};

    const MIB: u32 = 1024 * 1024;
    const ALL: Offset = Offset(i64::MAX);

    fn partition() -> TopicPartition {
        TopicPartition { topic: TopicId([7; 16]), partition: PartitionId(2) }
    }

    fn epochs() -> LeaderEpochs {
        let mut epochs = LeaderEpochs::default();
        epochs.note(LeaderEpoch(1), Offset(0));
        epochs
    }

    fn batch(base_offset: i64, timestamps: &[i64], value_bytes: usize, codec: Codec) -> BytesMut {
        let mut builder = BatchBuilder::new(codec);
        for &timestamp in timestamps {
            builder.append(Timestamp(timestamp), None, Some(&vec![b'v'; value_bytes]));
        }
        let mut bytes = builder.build();
        stamp(&mut bytes, Offset(base_offset), LeaderEpoch(1));
        bytes
    }

    /// A segment on disk, with its index.
    #[derive(Clone)]
    struct Segment {
        bytes: Vec<u8>,
        index: Index,
        /// The boundary before each batch, and the last one.
        boundaries: Vec<Boundary>,
    }

    impl Segment {
        /// Batches of ten records and about these many bytes each, from offset 1000 on.
        fn of(sizes: &[usize]) -> Self {
            let index = Index::new(partition(), Offset(1000));
            let start = Boundary { position: 0, offset: Offset(1000) };
            let mut segment = Self { bytes: Vec::new(), index, boundaries: vec![start] };
            for &size in sizes {
                let end = segment.end();
                let bytes = batch(end.offset.0, &[end.offset.0; 10], size / 10, Codec::None);
                segment.index.append(&IndexedBatch {
                    next_offset: end.offset.plus(10),
                    size_bytes: bytes.len() as u32,
                    raw_crc: tidemill_record::checksum::crc32c(&bytes),
                    max_timestamp: Timestamp(end.offset.0),
                });
                segment.bytes.extend_from_slice(&bytes);
                let position = segment.bytes.len() as u64;
                segment.boundaries.push(Boundary { position, offset: end.offset.plus(10) });
            }
            segment
        }

        /// Two hundred batches of about 1 KiB: six closed spans and an open one.
        fn of_small_batches() -> Self {
            Self::of(&[1024; 200])
        }

        fn end(&self) -> Boundary {
            self.boundaries[self.boundaries.len() - 1]
        }

        fn slice(&self, first: usize, end: usize) -> &[u8] {
            let at = |boundary: usize| self.boundaries[boundary].position as usize;
            &self.bytes[at(first)..at(end)]
        }

        /// What the disk gives for a read.
        fn read(&self, position: u64, size_bytes: u32) -> Bytes {
            assert!(is_aligned(position) && is_aligned(u64::from(size_bytes)));
            let start = (position as usize).min(self.bytes.len());
            let end = (start + size_bytes as usize).min(self.bytes.len());
            AlignedBytes::copy_of(&self.bytes[start..end]).freeze()
        }

        fn fetch(&self, wanted: Wanted) -> Option<Cut> {
            let plan = ReadPlan::new(&self.index, self.end(), wanted, MIB)?;
            Some(plan.cut(&self.read(plan.position(), plan.size_bytes())))
        }

        fn damage(&mut self, batch: usize, at: usize) {
            self.bytes[self.boundaries[batch].position as usize + at] ^= 1;
        }
    }

    fn wanted(from: i64, limit_bytes: u32) -> Wanted {
        Wanted { from: Offset(from), visible_end: ALL, limit_bytes, min_one: true }
    }

    /// Wherever a read begins, it returns the bytes as they were appended, from the batch that
    /// holds the offset on.
    #[test]
    fn a_read_returns_whole_batches_verbatim_from_the_one_that_holds_the_offset() {
        let segment = Segment::of_small_batches();
        for from in (1000..3000).step_by(7) {
            let cut = segment.fetch(wanted(from, 10_000)).unwrap();
            let first = (from as usize - 1000) / 10;
            let count = cut.batches.len() / segment.slice(0, 1).len();
            assert!((1..=9).contains(&count), "{count} batches from {from}");
            assert_eq!(cut.batches, segment.slice(first, first + count));
            assert_eq!(cut.next_offset, segment.boundaries[first + count].offset);
            assert_eq!(cut.damage, None);
        }
    }

    /// Reading on from where the last read ended gives the whole segment, once.
    #[test]
    fn reads_in_a_row_give_the_whole_segment() {
        let segment = Segment::of(&[100, 40_000, 500, 200_000, 33_000, 10, 10, 10]);
        for limit_bytes in [1, 5_000, 70_000, MIB] {
            let mut from = 1000;
            let mut all = Vec::new();
            while let Some(cut) = segment.fetch(wanted(from, limit_bytes)) {
                all.extend_from_slice(&cut.batches);
                assert!(from < cut.next_offset.0, "no progress");
                from = cut.next_offset.0;
            }
            assert_eq!(all, segment.bytes);
        }
    }

    /// A consumer with a small limit gets a large batch all the same, but only as the first.
    #[test]
    fn the_first_batch_is_returned_whatever_its_size() {
        let segment = Segment::of(&[100_000, 100_000]);
        let cut = segment.fetch(wanted(1000, 10)).unwrap();
        assert_eq!(cut.batches, segment.slice(0, 1));

        let strict = Wanted { min_one: false, ..wanted(1000, 10) };
        let cut = segment.fetch(strict).unwrap();
        assert!(cut.batches.is_empty());
        assert_eq!(cut.next_offset, Offset(1000));
    }

    /// What is not committed is not shown.
    #[test]
    fn nothing_at_or_past_the_visible_end_is_returned() {
        let segment = Segment::of_small_batches();
        let until = |visible_end| {
            segment.fetch(Wanted { visible_end: Offset(visible_end), ..wanted(1000, MIB) })
        };
        assert_eq!(until(1050).unwrap().batches, segment.slice(0, 5));
        assert_eq!(until(1059).unwrap().batches, segment.slice(0, 5), "never half a batch");
        assert_eq!(until(1000), None);
    }

    /// A fetch must not read the whole segment for a few bytes, nor more than one read may be.
    #[test]
    fn a_read_is_bounded() {
        let segment = Segment::of(&[1024; 3000]);
        let plan = |limit_bytes| {
            let wanted = wanted(2000, limit_bytes);
            ReadPlan::new(&segment.index, segment.end(), wanted, MIB).unwrap()
        };
        assert!(plan(1000).size_bytes() < 80 * 1024);
        assert!(plan(u32::MAX).size_bytes() <= MIB + 8192);
        assert!(plan(200_000).size_bytes() < 300 * 1024);
    }

    /// The end of the active segment is in memory only; what is there on disk is garbage.
    #[test]
    fn only_what_is_written_is_read() {
        let mut segment = Segment::of_small_batches();
        let written = segment.boundaries[195];
        segment.bytes[written.position as usize..].fill(0xee);
        let plan = |from| ReadPlan::new(&segment.index, written, wanted(from, MIB), MIB);
        let last = plan(2900).unwrap();
        let cut = last.cut(&segment.read(last.position(), last.size_bytes()));
        assert_eq!(cut.batches, segment.slice(190, 195));
        assert_eq!(cut.damage, None);
        assert!(plan(2950).is_none());
    }

    /// A damaged batch is never served and never skipped; those before it and in other spans are.
    #[test]
    fn damage_ends_a_read_and_its_exact_range_is_told() {
        let mut segment = Segment::of_small_batches();
        segment.damage(40, 100);
        let spans: Vec<Span> = segment.index.spans_from(0).collect();
        assert!(spans[1].position < segment.boundaries[40].position);
        let cut = segment.fetch(wanted(1380, MIB)).unwrap();
        let end = Boundary { position: spans[1].end(), offset: spans[1].next_offset };
        let damage = Damage { start: segment.boundaries[40], end };
        assert_eq!(cut.damage, Some(damage));
        assert_eq!(cut.batches, segment.slice(38, 40), "what is sound before it");

        let cut = segment.fetch(wanted(1400, MIB)).unwrap();
        assert!(cut.batches.is_empty());
        assert_eq!(cut.damage, Some(damage));

        let cut = segment.fetch(wanted(end.offset.0, 5000)).unwrap();
        assert_eq!(cut.damage, None, "the span behind it is proved by itself");
        assert!(!cut.batches.is_empty());
    }

    /// Base offset and leader epoch lie outside the batch's own checksum.
    #[test]
    fn a_damaged_offset_or_epoch_is_damage_too() {
        for at in 0..20 {
            let mut segment = Segment::of_small_batches();
            segment.damage(40, at);
            let cut = segment.fetch(wanted(1400, MIB)).unwrap();
            assert!(cut.batches.is_empty(), "byte {at}");
            assert!(cut.damage.is_some(), "byte {at}");
        }
    }

    /// A file that was cut short on the device lacks bytes that were acknowledged.
    #[test]
    fn missing_bytes_are_damage() {
        let mut segment = Segment::of_small_batches();
        segment.bytes.truncate(segment.boundaries[150].position as usize + 10);
        let cut = segment.fetch(wanted(2490, MIB)).unwrap();
        assert_eq!(cut.batches, segment.slice(149, 150));
        assert_eq!(cut.damage.unwrap().start, segment.boundaries[150]);
        segment.bytes.clear();
        let cut = segment.fetch(wanted(2490, MIB)).unwrap();
        assert!(cut.batches.is_empty());
    }

    fn walk(segment: &Segment, mut walk: SegmentWalk) -> (SegmentWalk, Result<(), Damage>, u32) {
        let mut reads = 0;
        while let Some((position, size_bytes)) = walk.next_read() {
            reads += 1;
            let bytes = segment.read(position, size_bytes);
            if let Err(damage) = walk.take(&bytes, |_, _| {}) {
                return (walk, Err(damage), reads);
            }
        }
        (walk, Ok(()), reads)
    }

    fn new_walk(segment: &Segment, stop_at: Offset) -> SegmentWalk {
        let index = Index::new(partition(), Offset(1000));
        SegmentWalk::new(index, epochs(), segment.end().position, stop_at, 2 * MIB)
    }

    /// An index file is a convenience: walking the segment gives the same index.
    #[test]
    fn an_index_is_built_again_from_the_segment() {
        let big = STEP_BYTES as usize + 9_000;
        for sizes in [&[1024; 3000][..], &[100, big, 10, 3 * big, 5000, big], &[10]] {
            let segment = Segment::of(sizes);
            let (walk, result, reads) = walk(&segment, new_walk(&segment, ALL));
            assert_eq!(result, Ok(()));
            assert_eq!(*walk.index(), segment.index);
            assert!(u64::from(reads) <= 2 + segment.end().position / 100_000, "{reads} reads");
        }
    }

    /// Where a truncation cuts: before the batch that reaches past the offset.
    #[test]
    fn a_walk_stops_before_the_batch_that_reaches_past_its_end() {
        let segment = Segment::of_small_batches();
        for (stop_at, batches) in [(1000, 0), (1009, 0), (1010, 1), (1995, 99), (3000, 200)] {
            let (walk, result, _) = walk(&segment, new_walk(&segment, Offset(stop_at)));
            assert_eq!(result, Ok(()));
            assert_eq!(walk.index().size_bytes(), segment.boundaries[batches].position);
        }
    }

    /// After a cut only the last span is walked again.
    #[test]
    fn a_walk_goes_on_from_where_an_index_was_cut() {
        let segment = Segment::of_small_batches();
        let cut_at = segment.boundaries[170];
        let mut index = segment.index.clone();
        let again_from = index.cut(cut_at.position);
        assert!(0 < again_from && again_from < cut_at.position);
        let resumed = SegmentWalk::new(index, epochs(), cut_at.position, ALL, MIB);
        let (resumed, result, _) = walk(&segment, resumed);
        assert_eq!(result, Ok(()));
        assert_eq!(*resumed.index(), Segment::of(&[1024; 170]).index);
    }

    /// Whatever is damaged, the walk ends before it and says where; it reads no endless length.
    #[test]
    fn a_walk_ends_at_damage() {
        for at in [0, 3, 8, 10, 12, 15, 16, 20, 30, 60, 900] {
            let mut segment = Segment::of_small_batches();
            segment.damage(77, at);
            let (walk, result, reads) = walk(&segment, new_walk(&segment, ALL));
            assert_eq!(result.unwrap_err().start, segment.boundaries[77], "byte {at}");
            assert_eq!(walk.index().size_bytes(), segment.boundaries[77].position);
            assert!(reads <= 3);
        }
        let mut short = Segment::of_small_batches();
        short.bytes.truncate(50_000);
        let mut over = new_walk(&short, ALL);
        over.end = Segment::of_small_batches().end().position;
        assert!(walk(&short, over).1.is_err(), "the file ends before the segment");
    }

    #[test]
    fn a_record_is_found_by_its_time_also_in_compressed_batches() {
        for codec in [Codec::None, Codec::Zstd] {
            let mut proved = batch(10, &[100, 300, 200], 20, codec);
            proved.extend_from_slice(&batch(13, &[50, 400, 400], 20, codec));
            let since = |ms, offsets| {
                first_since(&proved, Timestamp(ms), offsets, 10_000)
                    .map(|(timestamp, offset)| (timestamp.0, offset.0))
            };
            let all = Offset(0)..ALL;
            assert_eq!(since(0, all.clone()), Some((100, 10)));
            assert_eq!(since(150, all.clone()), Some((300, 11)));
            assert_eq!(since(301, all.clone()), Some((400, 14)));
            assert_eq!(since(401, all.clone()), None);
            assert_eq!(since(150, Offset(12)..ALL), Some((200, 12)), "trimmed records count not");
            assert_eq!(since(301, Offset(0)..Offset(14)), None, "nor what is not visible");

            let newest = |offsets| newest(&proved, offsets, 10_000).unwrap();
            assert_eq!(newest(all), (Timestamp(400), Offset(14)), "the first of equals");
            assert_eq!(newest(Offset(0)..Offset(14)), (Timestamp(300), Offset(11)));
        }
    }

    /// A producer's nonsense must not hide the records behind it.
    #[test]
    fn a_batch_whose_records_cannot_be_read_counts_as_a_whole() {
        let bomb = batch(10, &[100; 50], 1000, Codec::Gzip);
        let found = first_since(&bomb, Timestamp(60), Offset(0)..ALL, 1000);
        assert_eq!(found, Some((Timestamp(100), Offset(10))));
        assert_eq!(newest(&bomb, Offset(0)..ALL, 1000), Some((Timestamp(100), Offset(10))));
    }
}
