//! One compaction of one log, from its plan to the last segment that was put in: what is to be read,
//! worked on and written, one after the other.
//!
//! ```text
//! first pass    read ─ work ─ read ─ work …                      dirty segments
//! second pass   begin ─ read ─ work ─ write ─ … ─ seal ─ swap     for each group of segments, oldest first
//! ```
//!
//! A group of one segment is begun where the first batch of it changes: then what lies before that is
//! read again and copied. So of a segment that stays by itself and as it is nothing is written.
//!
//! The work (checksums, decompression, looking up keys) is done in [`Round::step`], piece by piece,
//! away from the shard; everything else is asked for by [`Round::poll_need`] and costs nothing here.
//! A group's new file is swapped in when it is durable, and before the next group is begun: a crash
//! or an error leaves what was swapped in, and everything behind it as it was.
//!
//! Start reading at [`Round::step`].

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use tidemill_record::{Batch, BatchError, Offset, RecordError};

use super::offset_map::OffsetMap;
use super::plan::{CompactionPlan, SealedReader};
use super::policy::{self, SegmentFacts};
use super::sieve::{Keys, Sieve, SiftedBatch, Terms};
use crate::block::AlignedBytes;
use crate::index::{Index, IndexedBatch};
use crate::io::FileName;
use crate::log::ProducerState;
use crate::mistake::{self, Mistake};
use crate::shard::Swap;
use crate::transactions::Aborted;

/// What is written is written in pieces of this size.
const WRITE_BYTES: usize = 1 << 20;

/// After so many bytes of batches, compressed or not, a step ends.
const STEP_BYTES: usize = 1 << 20;

/// What a round needs next.
#[derive(Clone, Debug)]
pub enum Need {
    /// Bytes of a file: [`Round::handle_read`].
    Read {
        /// Which file.
        file: FileName,
        /// Byte position, aligned.
        position: u64,
        /// How many bytes, aligned.
        size: u32,
    },
    /// [`Round::step`], away from the shard.
    Step,
    /// New, empty files for a segment and its index; others of these names are left over, and what
    /// is in them is worth nothing.
    Begin {
        /// The segment's and its index's.
        files: [FileName; 2],
    },
    /// A write at the end of the new file.
    Write {
        /// Which file.
        file: FileName,
        /// Byte position, aligned.
        position: u64,
        /// Whole blocks.
        bytes: Bytes,
    },
    /// The file cut to this size and all of it durable.
    Seal {
        /// Which file.
        file: FileName,
        /// Its size.
        size: u64,
    },
    /// The names of the new files durable.
    SyncDir {
        /// A file of that directory.
        file: FileName,
    },
    /// The new segment put in the place of those it was made of.
    Swap(Swap),
    /// Nothing: the round is over.
    End(End),
}

/// How a round ended well.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct End {
    /// How far the log is compacted now.
    pub compacted_to: Offset,
    /// Markers of aborted transactions of which nothing is left.
    pub forgotten: Vec<Offset>,
}

/// What a round did so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Done {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Records met in the second pass.
    pub records_before: u64,
    /// Records that stayed.
    pub records_after: u64,
    /// Keys in the map.
    pub keys: u64,
}

/// Why a round cannot go on. The log is as good as before.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum GivenUp {
    /// Bytes do not match their checksum, or make no sense.
    Damaged {
        /// Where, as far as is known.
        offsets: Range<Offset>,
    },
    /// A batch whose records cannot be read, or are too large uncompressed.
    Unreadable {
        /// Its first offset.
        at: Offset,
        /// Why.
        error: RecordError,
    },
    /// Bytes that should be a batch are not.
    NotABatch(BatchError),
    /// What stays of a segment would not fit into one.
    TooLarge {
        /// Where the segment begins.
        at: Offset,
    },
    /// No memory for the map of keys.
    NoMemory,
}

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged { offsets } => {
                write!(f, "offsets {} to {} are damaged", offsets.start.0, offsets.end.0)
            }
            Self::Unreadable { at, error } => write!(f, "the batch at offset {}: {error}", at.0),
            Self::NotABatch(error) => error.fmt(f),
            Self::TooLarge { at } => {
                write!(f, "what stays of the segment at offset {} does not fit into one", at.0)
            }
            Self::NoMemory => write!(f, "there is no memory for the map of keys"),
        }
    }
}

impl std::error::Error for GivenUp {}

/// What a round is told beside its plan.
#[derive(Clone, Debug)]
pub struct Order {
    /// What stays how long.
    pub terms: Terms,
    /// `segment.bytes`: neighbours become one segment up to this size.
    pub segment_bytes: u64,
    /// How large the map of keys may be.
    pub map_bytes_max: usize,
    /// How much of it is used at most.
    pub map_load_max: f64,
    /// For the hashes of keys: nobody may know it.
    pub seed: [u64; 2],
    /// The log's aborted transactions in what the plan covers.
    pub aborted: Vec<Aborted>,
    /// The producers that the log remembers.
    pub producers: Vec<ProducerState>,
}

/// One compaction of one log.
#[derive(Debug)]
pub struct Round {
    plan: CompactionPlan,
    order: Order,
    pass: Pass,
    /// The segment that is read.
    at: usize,
    reader: Option<SealedReader>,
    /// What was read: none if there is no such file.
    arrived: Option<Option<Bytes>>,
    /// Batches that were not worked on yet.
    input: Bytes,
    groups: VecDeque<Range<usize>>,
    making: Option<Making>,
    aside: Option<Aside>,
    needs: VecDeque<Need>,
    done: Done,
}

#[derive(Debug)]
enum Pass {
    /// Nothing was done yet.
    Begun,
    First(Keys),
    Second(Sieve),
    Over,
}

/// A new segment in the making.
#[derive(Debug)]
struct Making {
    group: Range<usize>,
    file: FileName,
    index_file: FileName,
    index: Index,
    bytes: AlignedBytes,
    written: u64,
    /// Its files were begun: it is not what the segment was that it is made of.
    begun: bool,
    /// A batch was met that stays as it is, and the files are not begun.
    owes: bool,
}

/// What waits while the batches before the first one that changes are copied.
#[derive(Debug)]
struct Aside {
    /// Where reading goes on then.
    reader: Option<SealedReader>,
    input: Bytes,
    /// Where that batch begins.
    until: Offset,
    /// What is written in its place.
    made: Option<BytesMut>,
}

impl Round {
    /// A round that carries out `plan`.
    #[must_use]
    pub fn new(plan: CompactionPlan, order: Order) -> Round {
        assert!(!plan.segments.is_empty(), "there is something to compact");
        Round {
            plan,
            order,
            pass: Pass::Begun,
            at: 0,
            reader: None,
            arrived: None,
            input: Bytes::new(),
            groups: VecDeque::new(),
            making: None,
            aside: None,
            needs: VecDeque::new(),
            done: Done::default(),
        }
    }

    /// What it needs next. Each need is met before the next one is asked for.
    pub fn poll_need(&mut self) -> Need {
        let need = self.needs.pop_front().unwrap_or(Need::Step);
        if let Need::Write { bytes, .. } = &need {
            self.done.written_bytes += bytes.len() as u64;
        }
        need
    }

    /// The bytes asked for by [`Need::Read`]; none if there is no such file.
    pub fn handle_read(&mut self, bytes: Option<Bytes>) {
        self.done.read_bytes += bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        self.arrived = Some(bytes);
    }

    /// What it did so far.
    #[must_use]
    pub fn done(&self) -> Done {
        self.done
    }

    /// Memory that it takes: the map of keys, what was read and is not worked on, and what is not
    /// written yet. When it needs no more but its end, the map is given back.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let map = match &self.pass {
            Pass::First(keys) => keys.memory_bytes(),
            Pass::Second(sieve) => sieve.memory_bytes(),
            Pass::Begun | Pass::Over => 0,
        };
        let aside = self.aside.as_ref().map_or(0, |aside| aside.input.len());
        let making = self.making.as_ref();
        let made = making.map_or(0, |making| making.bytes.len() + making.index.memory_bytes());
        let needs = self.needs.iter().map(|need| match need {
            Need::Write { bytes, .. } => bytes.len(),
            _ => 0,
        });
        map + self.input.len() + aside + made + needs.sum::<usize>()
    }

    /// Its plan.
    #[must_use]
    pub fn plan(&self) -> &CompactionPlan {
        &self.plan
    }

    /// Works on what was read, about `STEP_BYTES` of it, and finds out what is needed next.
    ///
    /// # Errors
    /// If the log cannot be compacted; then the round is over.
    pub fn step(&mut self) -> Result<(), GivenUp> {
        let result = self.try_step();
        if result.is_err() {
            self.pass = Pass::Over;
        }
        result
    }

    fn try_step(&mut self) -> Result<(), GivenUp> {
        if let Pass::Begun = self.pass {
            self.begin()?;
        }
        if let Some(bytes) = self.arrived.take() {
            let reader = self.reader.as_mut().expect("it asked for these bytes");
            self.input = reader.take(bytes.as_ref()).map_err(|damage| GivenUp::Damaged {
                offsets: damage.start.offset..damage.end.offset,
            })?;
        }
        let mut left_bytes = STEP_BYTES;
        while !self.input.is_empty() && 0 < left_bytes {
            let input = self.input.clone();
            let (batch, rest) = Batch::parse(&input).map_err(GivenUp::NotABatch)?;
            self.input = input.slice(input.len() - rest.len()..);
            left_bytes = left_bytes.saturating_sub(self.take(&batch)?);
        }
        if self.input.is_empty() && self.needs.is_empty() {
            self.go_on()?;
        }
        Ok(())
    }

    /// The first pass begins where the log is not compacted yet.
    fn begin(&mut self) -> Result<(), GivenUp> {
        let CompactionPlan { start, compacted_to, segments, .. } = &self.plan;
        let from = (*start).max(*compacted_to).max(segments[0].base_offset);
        let below = segments.last().expect("seen in new").next_offset;
        let keys_max = below.distance_from(from.min(below)).unsigned_abs();
        let Order { map_bytes_max, map_load_max, seed, .. } = self.order;
        let map = OffsetMap::new(map_bytes_max, keys_max, map_load_max, seed);
        let map = map.map_err(|_| GivenUp::NoMemory)?;
        let terms = self.order.terms.clone();
        self.at = segments.partition_point(|segment| segment.next_offset <= from);
        self.pass = Pass::First(Keys::new(terms, map, from, below, &self.order.aborted));
        self.open();
        Ok(())
    }

    fn open(&mut self) {
        self.reader = (self.at < self.plan.segments.len()).then(|| self.plan.reader(self.at));
    }

    /// Takes the next batch; tells about how many bytes of work that was.
    fn take(&mut self, batch: &Batch<'_>) -> Result<usize, GivenUp> {
        let unreadable = |error| GivenUp::Unreadable { at: batch.base_offset(), error };
        let bytes = batch.bytes().len();
        // How large the records are that were compressed is not known; most often a few times.
        let worked =
            if batch.compression() == tidemill_record::Codec::None { bytes } else { 4 * bytes };
        match &mut self.pass {
            Pass::First(keys) => keys.take(batch).map_err(unreadable)?,
            Pass::Second(_) if self.aside.is_some() => self.copy(batch)?,
            Pass::Second(sieve) => {
                let making = self.making.as_mut().expect("a group is read");
                let end = self.plan.segments[making.group.end - 1].next_offset;
                let sifted = sieve.sift(batch, batch.next_offset() == end).map_err(unreadable)?;
                self.done.records_before += u64::from(sifted.before);
                self.done.records_after += u64::from(sifted.after);
                match sifted.batch {
                    SiftedBatch::AsItWas if making.begun => making.put(batch, &mut self.needs)?,
                    SiftedBatch::AsItWas => making.owes = true,
                    SiftedBatch::Gone => self.change(batch.base_offset(), None)?,
                    SiftedBatch::Rewritten(made) => self.change(batch.base_offset(), Some(made))?,
                }
            }
            Pass::Begun | Pass::Over => unreachable!("nothing is read"),
        }
        Ok(worked)
    }

    /// Puts `made` in the place of the batch at `at`, if anything, and before that all that stays as
    /// it was and is not copied yet.
    fn change(&mut self, at: Offset, made: Option<BytesMut>) -> Result<(), GivenUp> {
        let making = self.making.as_mut().expect("a group is read");
        if !making.begun {
            making.begin(&mut self.needs);
        }
        if std::mem::take(&mut making.owes) {
            let reader = self.reader.replace(self.plan.reader(self.at));
            let input = std::mem::take(&mut self.input);
            self.aside = Some(Aside { reader, input, until: at, made });
            return Ok(());
        }
        let Some(made) = made else { return Ok(()) };
        let (made, _) = Batch::parse(&made).expect("made just now");
        making.put(&made, &mut self.needs)
    }

    /// Copies a batch that was met before; at the one that changes all goes on where it was left.
    fn copy(&mut self, batch: &Batch<'_>) -> Result<(), GivenUp> {
        let making = self.making.as_mut().expect("a group is read");
        let aside = self.aside.take_if(|aside| aside.until <= batch.base_offset());
        let Some(Aside { reader, input, until, made }) = aside else {
            return making.put(batch, &mut self.needs);
        };
        self.reader = reader;
        self.input = input;
        self.change(until, made)
    }

    /// All that was read is worked on: more is read, or what comes after is done.
    fn go_on(&mut self) -> Result<(), GivenUp> {
        let is_known = matches!(&self.pass, Pass::First(keys) if keys.is_done());
        if let Some(reader) = self.reader.as_ref().filter(|_| !is_known)
            && let Some((file, position, size)) = reader.next_read()
        {
            self.needs.push_back(Need::Read { file, position, size });
            return Ok(());
        }
        if let Some(aside) = &self.aside {
            // What could be read before cannot be any more.
            return Err(GivenUp::Damaged {
                offsets: self.plan.segments[self.at].base_offset..aside.until,
            });
        }
        self.reader = None;
        match std::mem::replace(&mut self.pass, Pass::Over) {
            Pass::First(keys) if !keys.is_done() && self.at + 1 < self.plan.segments.len() => {
                self.pass = Pass::First(keys);
                self.at += 1;
                self.open();
            }
            Pass::First(keys) => {
                self.done.keys = keys.keys_count() as u64;
                self.begin_second(keys);
            }
            Pass::Second(sieve) => self.after_segment(sieve),
            Pass::Begun | Pass::Over => unreachable!("a round that is over is not gone on with"),
        }
        Ok(())
    }

    fn begin_second(&mut self, keys: Keys) {
        let sieve = keys.into_sieve(&self.order.aborted, &self.order.producers);
        let facts: Vec<SegmentFacts> = self.plan.segments.iter().map(SegmentFacts::from).collect();
        let touched = facts.partition_point(|segment| segment.base_offset < sieve.below());
        self.groups = policy::group(&facts[..touched], self.order.segment_bytes).into();
        self.begin_group(sieve);
    }

    fn begin_group(&mut self, sieve: Sieve) {
        let Some(group) = self.groups.pop_front() else {
            let forgotten = sieve.forgotten(&self.order.aborted);
            self.needs.push_back(Need::End(End { compacted_to: sieve.below(), forgotten }));
            return;
        };
        let base_offset = self.plan.segments[group.start].base_offset;
        let (file, index_file) = self.plan.files(base_offset);
        self.at = group.start;
        let mut making = Making {
            group,
            file,
            index_file,
            index: self.plan.new_index(base_offset),
            bytes: AlignedBytes::default(),
            written: 0,
            begun: false,
            owes: false,
        };
        if 1 < making.group.len() {
            making.begin(&mut self.needs);
        }
        self.making = Some(making);
        self.pass = Pass::Second(sieve);
        self.open();
    }

    fn after_segment(&mut self, sieve: Sieve) {
        let group = &self.making.as_ref().expect("a group was read").group;
        if self.at + 1 < group.end {
            self.at += 1;
            self.open();
            self.pass = Pass::Second(sieve);
            return;
        }
        if let Some(making) = self.making.take() {
            self.end_group(making);
        }
        self.begin_group(sieve);
    }

    fn end_group(&mut self, making: Making) {
        let Making { group, file, index_file, index, bytes, written, begun, .. } = making;
        if !begun {
            return;
        }
        let size = index.size_bytes();
        if !bytes.is_empty() {
            let bytes = bytes.into_blocks();
            self.needs.push_back(Need::Write { file: file.clone(), position: written, bytes });
        }
        let bytes = self.plan.index_bytes(&index);
        let index_bytes = bytes.len() as u64;
        let sources = &self.plan.segments[group];
        let first = sources[0].base_offset;
        let end = sources[sources.len() - 1].next_offset;
        assert_eq!(index.next_offset(), end, "the last batch stays");
        let swap = Need::Swap(Swap { number: self.plan.number, sources: first..end, index });
        if mistake::is_made(Mistake::SwapEarly) {
            self.needs.extend([Need::Write { file: index_file, position: 0, bytes }, swap]);
            return;
        }
        self.needs.extend([
            Need::Seal { file: file.clone(), size },
            Need::Write { file: index_file.clone(), position: 0, bytes },
            Need::Seal { file: index_file, size: index_bytes },
            Need::SyncDir { file },
            swap,
        ]);
    }
}

impl Making {
    fn begin(&mut self, needs: &mut VecDeque<Need>) {
        self.begun = true;
        needs.push_back(Need::Begin { files: [self.file.clone(), self.index_file.clone()] });
    }

    fn put(&mut self, batch: &Batch<'_>, needs: &mut VecDeque<Need>) -> Result<(), GivenUp> {
        let size = self.index.size_bytes() + batch.bytes().len() as u64;
        if crate::retention::SEGMENT_BYTES_MAX < size {
            return Err(GivenUp::TooLarge { at: self.index.base_offset() });
        }
        self.index.append(&IndexedBatch::of(batch));
        let mut rest = batch.bytes();
        while !rest.is_empty() {
            let room = WRITE_BYTES - self.bytes.len();
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.bytes.put(now);
            rest = later;
            if self.bytes.len() == WRITE_BYTES {
                let bytes = std::mem::take(&mut self.bytes).into_blocks();
                let (file, position) = (self.file.clone(), self.written);
                self.written += bytes.len() as u64;
                needs.push_back(Need::Write { file, position, bytes });
            }
        }
        Ok(())
    }
}
