//! Looking inside files for people: what lies in a segment or a journal file, sound or not.
//!
//! Recovery and reads stop at the first thing that is wrong. Whoever inspects wants to see it, and
//! what lies behind it. So these walks go on as far as any sense can be made of the bytes, and
//! say of each thing whether it is as it should be. They change nothing and trust nothing.
//!
//! Both work in bounded steps: ask `next_read`, read that (no alignment is needed), hand the bytes
//! to `take`, until there is nothing more to read. See [`SegmentInspection`] and
//! [`JournalInspection`].

use tidemill_record::{Batch, BatchError, Offset};

use crate::block::BLOCK_BYTES;
use crate::layout::{Entry, HEADER_BYTES, WindowError, WindowHeader};
use crate::read::STEP_BYTES;

/// The longest batch or window that is read as a whole; a length above it is taken for damage.
pub const THING_BYTES_MAX: u32 = 256 * 1024 * 1024;

/// So many zero bytes are space that was reserved or padded, not the beginning of a batch.
const ZEROS_MIN: usize = tidemill_record::HEADER_BYTES;

/// What was found in a segment.
#[derive(Clone, Debug)]
pub enum SegmentThing<'a> {
    /// A batch.
    Batch {
        /// Where it begins.
        position: u64,
        /// The batch.
        batch: Batch<'a>,
        /// Whether its bytes match its checksum.
        checksum_is_right: bool,
        /// Whether its first offset follows on from what is before it; in a compacted segment,
        /// whether it is not below that.
        follows: bool,
    },
    /// Zeros: space reserved, or the padding of a parked block.
    Zeros {
        /// Where they begin.
        position: u64,
        /// How many.
        size_bytes: u64,
    },
    /// Bytes no sense can be made of. Nothing behind them can be found.
    Unreadable {
        /// Where they begin.
        position: u64,
        /// How many there are up to the end of the file.
        size_bytes: u64,
        /// Why they are not a batch.
        reason: BatchError,
    },
}

/// A walk over a segment file.
#[derive(Clone, Debug)]
pub struct SegmentInspection {
    position: u64,
    /// What the next batch should begin with.
    next_offset: Offset,
    /// Compaction has taken offsets out.
    has_gaps: bool,
    file_bytes: u64,
    needed_bytes: u32,
    zeros_from: Option<u64>,
}

impl SegmentInspection {
    /// A walk over a segment file of `file_bytes` bytes, named after `base_offset`.
    #[must_use]
    pub fn new(base_offset: Offset, file_bytes: u64) -> Self {
        Self {
            position: 0,
            next_offset: base_offset,
            has_gaps: false,
            file_bytes,
            needed_bytes: 0,
            zeros_from: None,
        }
    }

    /// A walk over the file of a compacted segment.
    #[must_use]
    pub fn with_gaps(base_offset: Offset, file_bytes: u64) -> Self {
        Self { has_gaps: true, ..Self::new(base_offset, file_bytes) }
    }

    /// What to read next, as position and size; `None` at the end.
    #[must_use]
    pub fn next_read(&self) -> Option<(u64, u32)> {
        step(self.position, self.file_bytes, self.needed_bytes)
    }

    /// Takes the bytes read where [`SegmentInspection::next_read`] said and tells `each` of
    /// everything in them.
    pub fn take(&mut self, bytes: &[u8], mut each: impl FnMut(SegmentThing<'_>)) {
        if self.next_read().is_some_and(|(_, asked)| bytes.len() < asked as usize) {
            // The file has become shorter.
            self.file_bytes = self.position + bytes.len() as u64;
        }
        self.needed_bytes = 0;
        let mut rest = bytes;
        while !rest.is_empty() {
            let zeros = leading_zeros(rest);
            let at_end = self.file_bytes <= self.position + zeros as u64;
            if ZEROS_MIN <= zeros || at_end {
                self.zeros_from.get_or_insert(self.position);
                rest = &rest[zeros..];
                self.position += zeros as u64;
                continue;
            }
            self.end_zeros(&mut each);
            match self.take_batch(rest, &mut each) {
                Some(behind) => rest = behind,
                None => break,
            }
        }
        if self.file_bytes <= self.position {
            self.end_zeros(&mut each);
        }
    }

    /// `None` if `rest` does not begin with a whole batch; it is then read again, or given up.
    fn take_batch<'a>(
        &mut self,
        rest: &'a [u8],
        each: &mut impl FnMut(SegmentThing<'_>),
    ) -> Option<&'a [u8]> {
        let position = self.position;
        match Batch::parse(rest) {
            Ok((batch, behind)) => {
                let checksum_is_right = batch.verify_checksum().is_ok();
                let follows = match self.has_gaps {
                    false => batch.base_offset() == self.next_offset,
                    true => self.next_offset <= batch.base_offset(),
                };
                self.next_offset = batch.next_offset();
                self.position += batch.bytes().len() as u64;
                each(SegmentThing::Batch { position, batch, checksum_is_right, follows });
                Some(behind)
            }
            Err(BatchError::Truncated { needed_bytes, .. })
                if needed_bytes <= THING_BYTES_MAX as usize
                    && position + needed_bytes as u64 <= self.file_bytes
                    && position + (rest.len() as u64) < self.file_bytes =>
            {
                self.needed_bytes = needed_bytes as u32;
                None
            }
            Err(reason) => {
                let size_bytes = self.file_bytes - position;
                each(SegmentThing::Unreadable { position, size_bytes, reason });
                self.position = self.file_bytes;
                None
            }
        }
    }

    fn end_zeros(&mut self, each: &mut impl FnMut(SegmentThing<'_>)) {
        if let Some(position) = self.zeros_from.take() {
            each(SegmentThing::Zeros { position, size_bytes: self.position - position });
        }
    }
}

/// What was found in a journal file.
#[derive(Clone, Debug)]
pub enum JournalThing<'a> {
    /// A commit window whose header and list of entries are sound.
    Window(InspectedWindow<'a>),
    /// Blocks that do not begin with a window: free, torn, or the rest of a recycled file.
    NoWindow {
        /// Where they begin.
        position: u64,
        /// How many bytes.
        size_bytes: u64,
    },
    /// A window of a newer version of this program.
    NewerFormat {
        /// Where it begins.
        position: u64,
        /// Its version.
        found: u16,
    },
}

/// A commit window, as found.
#[derive(Clone, Debug)]
pub struct InspectedWindow<'a> {
    /// Where it begins in the file.
    pub position: u64,
    /// Its header.
    pub header: WindowHeader,
    /// The checksum of header and entries.
    pub checksum: u32,
    /// What it lists.
    pub entries: Vec<Entry>,
    /// All its bytes; fewer than the header says if the file ends before.
    pub bytes: &'a [u8],
}

impl<'a> InspectedWindow<'a> {
    /// Whether its trailer is there and agrees with its header.
    #[must_use]
    pub fn trailer_is_sound(&self) -> bool {
        self.bytes.len() as u64 == self.header.window_bytes()
            && self.header.trailer_is_sound(self.bytes, self.checksum)
    }

    /// Each entry with its payload, empty where the file ends before it, and whether that is what
    /// was written.
    pub fn payloads(&self) -> impl Iterator<Item = (&Entry, &'a [u8], bool)> {
        let bytes = self.bytes;
        let mut at = self.header.payload_at();
        self.entries.iter().map(move |entry| {
            let size_bytes = entry.payload_bytes() as usize;
            let payload = bytes.get(at..at + size_bytes).unwrap_or_default();
            at += size_bytes;
            (entry, payload, entry.payload_is_sound(payload))
        })
    }
}

/// A walk over a journal file.
#[derive(Clone, Debug)]
pub struct JournalInspection {
    position: u64,
    file_bytes: u64,
    needed_bytes: u32,
    nothing_from: Option<u64>,
}

impl JournalInspection {
    /// A walk over a journal file of `file_bytes` bytes.
    #[must_use]
    pub fn new(file_bytes: u64) -> Self {
        Self { position: 0, file_bytes, needed_bytes: 0, nothing_from: None }
    }

    /// What to read next, as position and size; `None` at the end.
    #[must_use]
    pub fn next_read(&self) -> Option<(u64, u32)> {
        step(self.position, self.file_bytes, self.needed_bytes)
    }

    /// Takes the bytes read where [`JournalInspection::next_read`] said and tells `each` of
    /// everything in them.
    pub fn take(&mut self, bytes: &[u8], mut each: impl FnMut(JournalThing<'_>)) {
        if self.next_read().is_some_and(|(_, asked)| bytes.len() < asked as usize) {
            self.file_bytes = self.position + bytes.len() as u64;
        }
        self.needed_bytes = 0;
        let mut rest = bytes;
        while !rest.is_empty() {
            let at_end = self.file_bytes <= self.position + rest.len() as u64;
            let size_bytes = match WindowHeader::decode(rest, u64::from(THING_BYTES_MAX)) {
                Ok((header, ..)) if (rest.len() as u64) < header.window_bytes() && !at_end => {
                    self.needed_bytes = header.window_bytes() as u32;
                    return;
                }
                Err(WindowError::NeedsBytes(needed)) if !at_end => {
                    self.needed_bytes = needed.max(HEADER_BYTES as u64) as u32;
                    return;
                }
                Ok((header, entries, checksum)) => {
                    self.end_nothing(&mut each);
                    let size_bytes = header.window_bytes().min(rest.len() as u64) as usize;
                    let (position, bytes) = (self.position, &rest[..size_bytes]);
                    let window = InspectedWindow { position, header, checksum, entries, bytes };
                    each(JournalThing::Window(window));
                    size_bytes
                }
                Err(WindowError::NewerFormat { found }) => {
                    self.end_nothing(&mut each);
                    each(JournalThing::NewerFormat { position: self.position, found });
                    rest.len().min(BLOCK_BYTES)
                }
                Err(WindowError::NotAWindow | WindowError::NeedsBytes(_)) => {
                    self.nothing_from.get_or_insert(self.position);
                    rest.len().min(BLOCK_BYTES)
                }
            };
            rest = &rest[size_bytes..];
            self.position += size_bytes as u64;
        }
        if self.file_bytes <= self.position {
            self.end_nothing(&mut each);
        }
    }

    fn end_nothing(&mut self, each: &mut impl FnMut(JournalThing<'_>)) {
        if let Some(position) = self.nothing_from.take() {
            let size_bytes = self.position - position;
            if 0 < size_bytes {
                each(JournalThing::NoWindow { position, size_bytes });
            }
        }
    }
}

/// How many zeros are before the next batch, if one can be found: its offset may begin with zeros.
fn leading_zeros(bytes: &[u8]) -> usize {
    const OFFSET_AND_LENGTH_BYTES: usize = 12;
    let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
    (zeros.saturating_sub(OFFSET_AND_LENGTH_BYTES)..zeros)
        .rev()
        .find(|&at| Batch::parse(&bytes[at..]).is_ok())
        .unwrap_or(zeros)
}

fn step(position: u64, file_bytes: u64, needed_bytes: u32) -> Option<(u64, u32)> {
    let left_bytes = file_bytes.checked_sub(position).filter(|left| 0 < *left)?;
    let size_bytes = u64::from(needed_bytes.max(STEP_BYTES)).min(left_bytes);
    Some((position, size_bytes as u32))
}

#[cfg(test)]
mod tests {
    use tidemill_record::{
        BatchBuilder, Codec, LeaderEpoch, PartitionId, Timestamp, TopicId, TopicPartition,
        checksum, stamp,
    };

    use super::*;
    use crate::layout::{EntryKind, window_bytes};

    /// What an inspection tells, in short.
    fn look_into_segment(bytes: &[u8]) -> Vec<String> {
        let mut told = Vec::new();
        let mut inspection = SegmentInspection::new(Offset(5), bytes.len() as u64);
        while let Some((position, size_bytes)) = inspection.next_read() {
            let end = position as usize + size_bytes as usize;
            inspection.take(&bytes[position as usize..end], |thing| {
                told.push(match thing {
                    SegmentThing::Batch { batch, checksum_is_right, follows, .. } => {
                        format!("batch {} {checksum_is_right} {follows}", batch.base_offset())
                    }
                    SegmentThing::Zeros { size_bytes, .. } => format!("zeros {size_bytes}"),
                    SegmentThing::Unreadable { size_bytes, .. } => format!("junk {size_bytes}"),
                });
            });
        }
        told
    }

    fn batch(base_offset: i64, value_bytes: usize) -> Vec<u8> {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.append(Timestamp(1), None, Some(&vec![7; value_bytes]));
        let mut bytes = builder.build();
        stamp(&mut bytes, Offset(base_offset), LeaderEpoch(0));
        bytes.to_vec()
    }

    #[test]
    fn a_sound_segment_is_its_batches_and_the_space_behind_them() {
        let big = STEP_BYTES as usize + 1;
        let mut segment = [batch(5, 10), batch(6, big), batch(7, 2 * big), batch(8, 1)].concat();
        segment.extend_from_slice(&[0; 1_000_000]);
        assert_eq!(
            look_into_segment(&segment),
            [
                "batch 5 true true",
                "batch 6 true true",
                "batch 7 true true",
                "batch 8 true true",
                "zeros 1000000"
            ]
        );
        assert!(look_into_segment(&[]).is_empty());
    }

    /// Unlike a read, it goes on behind what is wrong, as far as the lengths lead.
    #[test]
    fn damage_is_shown_and_what_lies_behind_it_too() {
        let mut damaged = batch(6, 10);
        damaged[70] ^= 1;
        let segment =
            [batch(5, 10), damaged, batch(9, 10), vec![0; 500], batch(10, 3), vec![0xee; 99]]
                .concat();
        assert_eq!(
            look_into_segment(&segment),
            [
                "batch 5 true true",
                "batch 6 false true",
                "batch 9 true false",
                "zeros 500",
                "batch 10 true true",
                "junk 99"
            ]
        );
        let cut = batch(5, 10);
        assert_eq!(look_into_segment(&cut[..cut.len() - 1]), [format!("junk {}", cut.len() - 1)]);
    }

    /// What compaction has taken out is not damage; what lies below the batch before it is.
    #[test]
    fn a_compacted_segment_may_have_gaps() {
        let segment = [batch(7, 10), batch(9, 10), batch(8, 10)].concat();
        let mut follow = Vec::new();
        SegmentInspection::with_gaps(Offset(5), segment.len() as u64).take(&segment, |thing| {
            if let SegmentThing::Batch { follows, .. } = thing {
                follow.push(follows);
            }
        });
        assert_eq!(follow, [true, true, false]);
    }

    /// Batches of many sizes, so that steps end at every place in a batch.
    #[test]
    fn no_batch_is_lost_where_a_step_ends() {
        let count = 3 * STEP_BYTES as i64 / 100;
        let segment: Vec<u8> = (0..count).flat_map(|i| batch(5 + i, (i % 97) as usize)).collect();
        let told = look_into_segment(&segment);
        assert_eq!(told.len() as i64, count);
        assert!(told.iter().all(|line| line.ends_with("true true")));
    }

    fn window(sequence: u64, batch: &[u8]) -> Vec<u8> {
        let entry = Entry {
            kind: EntryKind::Append,
            partition: TopicPartition { topic: TopicId([1; 16]), partition: PartitionId(0) },
            generation: 0,
            epoch: LeaderEpoch(0),
            segment: Offset(0),
            position: 0,
            base_offset: Offset(0),
            next_offset: Offset(1),
            wall_ms: 0,
            data_bytes: batch.len() as u32,
            prefix_bytes: 0,
            data_crc: checksum::crc32c(batch),
            prefix_crc: 0,
            last_bytes: 0,
        };
        let size_bytes = window_bytes(1, batch.len() as u64);
        let header = WindowHeader {
            shard: 0,
            incarnation: 1,
            sequence,
            mark: 0,
            file_number: 0,
            file_use: 0,
            previous_checksum: 0,
            entries_count: 1,
            payload_bytes: batch.len() as u64,
            blocks: (size_bytes / BLOCK_BYTES as u64) as u32,
        };
        let mut bytes = Vec::new();
        let checksum = header.encode([&entry], &mut bytes);
        bytes.extend_from_slice(batch);
        let trailer = header.trailer(checksum);
        bytes.resize(size_bytes as usize - trailer.len(), 0);
        bytes.extend_from_slice(&trailer);
        bytes
    }

    fn look_into_journal(bytes: &[u8]) -> Vec<String> {
        let mut told = Vec::new();
        let mut inspection = JournalInspection::new(bytes.len() as u64);
        while let Some((position, size_bytes)) = inspection.next_read() {
            let end = position as usize + size_bytes as usize;
            inspection.take(&bytes[position as usize..end], |thing| {
                told.push(match thing {
                    JournalThing::Window(window) => {
                        let (_, _, payload_is_sound) = window.payloads().next().unwrap();
                        let trailer_is_sound = window.trailer_is_sound();
                        let sequence = window.header.sequence;
                        format!("window {sequence} {payload_is_sound} {trailer_is_sound}")
                    }
                    JournalThing::NoWindow { size_bytes, .. } => format!("nothing {size_bytes}"),
                    JournalThing::NewerFormat { found, .. } => format!("version {found}"),
                });
            });
        }
        told
    }

    #[test]
    fn a_journal_file_is_its_windows_and_the_blocks_between_them() {
        let big = batch(0, 3 * STEP_BYTES as usize);
        let file =
            [window(1, &batch(0, 10)), window(2, &big), vec![0; 700 * 4096], window(3, &big)];
        assert_eq!(
            look_into_journal(&file.concat()),
            ["window 1 true true", "window 2 true true", "nothing 2867200", "window 3 true true"]
        );
    }

    #[test]
    fn a_torn_window_is_shown_with_what_is_wrong_in_it() {
        let small = batch(0, 10);
        let mut damaged = window(1, &small);
        damaged[64 + 96 + 20] ^= 1;
        let mut torn = window(2, &batch(0, 9000));
        let torn_end = torn.len() - 512;
        torn[torn_end..].fill(0);
        let mut headless = window(3, &small);
        headless[30] ^= 1;
        let cut = window(4, &batch(0, 9000));
        let file = [damaged, torn, headless, cut[..4096].to_vec()].concat();
        assert_eq!(
            look_into_journal(&file),
            ["window 1 false true", "window 2 true false", "nothing 4096", "window 4 false false"]
        );
    }
}
