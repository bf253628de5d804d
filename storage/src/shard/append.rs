//! Appending: offsets are given, the batch goes into the tail and into the journal's queue.
//!
//! An append is taken only if everything it will need is reserved: its segment's space and its
//! journal room. So it cannot fail afterwards for want of space, and a log that cannot grow stops
//! itself alone.

use bytes::{Bytes, BytesMut};
use tidemill_record::{
    Batch, LeaderEpoch, Marker, Offset, Producer, Sequence, Timestamp, Validated, checksum, stamp,
    stamp_log_append_time,
};

use super::{AppendKind, Appended, Event, Purpose, ShardStorage};
use crate::block::{AlignedBytes, BLOCK_BYTES, round_down};
use crate::checkpoint::SegmentName;
use crate::config::TimestampPolicy;
use crate::error::AppendError;
use crate::index::IndexedBatch;
use crate::io::{Action, DirName, Fault, Outcome};
use crate::journal::Pending;
use crate::layout::{Entry, EntryKind};
use crate::log::{Closing, Log, LogId, Preparing};
use crate::producers::{NotedBatch, NumberedBatch, ProducerError, Verdict};
use crate::retention::{RollLimits, SEGMENT_BYTES_MAX, SegmentFacts, roll_is_due};
use crate::segment::{IndexSlot, Seal, Segment};
use crate::tail::{TailBatch, keep};
use crate::transactions::{
    NO_COORDINATOR, PRODUCERS_MAX, TRANSACTIONS_MAX, TransactionError, Transactions,
};

/// After so many batches, each time, the index of a segment from an earlier start is got into
/// memory: what is appended to it meanwhile is noted one by one.
const INDEX_WANTED_BATCHES: usize = 1024;

/// If that fails for so long, the segment is left as it is, and a new one begun.
const INDEX_LAG_BATCHES_MAX: usize = 65_536;

/// Where a batch's own checksum begins; what lies before is stamped by us.
const STAMPED_BYTES: usize = checksum::COVERED_FROM;

impl ShardStorage {
    /// Appends one batch: gives it offsets and puts it into the open commit window.
    ///
    /// `wall_ms` is the time of day, `now` the monotonic time in nanoseconds. The batch is taken
    /// only if it is appended (or a duplicate); when it is refused it stays where it is, so that
    /// the caller can try again once there is room.
    pub fn append(
        &mut self,
        log: LogId,
        batch: &mut BytesMut,
        validated: &Validated,
        epoch: LeaderEpoch,
        wall_ms: i64,
        now: u64,
    ) -> Result<Appended, AppendError> {
        self.now = self.now.max(now);
        self.check_open(log, epoch)?;
        let numbered = numbered(validated);
        if let Some(numbered) = &numbered
            && let Some(original) = self.check_producer(log, numbered, wall_ms)?
        {
            return Ok(duplicate(&original));
        }
        self.check_transaction(log, batch, validated, wall_ms)?;
        self.make_room(log, batch.len() as u64, wall_ms)?;
        Ok(self.append_new(log, std::mem::take(batch), validated, numbered, epoch, wall_ms))
    }

    fn check_open(&self, id: LogId, epoch: LeaderEpoch) -> Result<(), AppendError> {
        let log = self.log(id);
        if self.fenced {
            return Err(AppendError::Fenced);
        }
        if self.stopping || log.closing.is_some() {
            return Err(AppendError::Closing);
        }
        if let Some(from) = log.broken_at {
            return Err(AppendError::Damaged { from });
        }
        let current = log.leader_epoch();
        if epoch < current {
            return Err(AppendError::FencedLeaderEpoch { current, found: epoch });
        }
        Ok(())
    }

    /// The original of a batch that was appended before.
    fn check_producer(
        &mut self,
        id: LogId,
        batch: &NumberedBatch,
        wall_ms: i64,
    ) -> Result<Option<NotedBatch>, AppendError> {
        let log = self.log_mut(id);
        let (producers, transactions) = (&mut log.producers, &mut log.transactions);
        producers.expire(transactions, log.config.producer_expiration_ms, wall_ms);
        match producers.check(batch, transactions, wall_ms) {
            Ok(Verdict::New) => Ok(None),
            Ok(Verdict::Duplicate(original)) => Ok(Some(original)),
            Err(ProducerError::FencedProducerEpoch { producer_id, current, found }) => {
                Err(AppendError::InvalidProducerEpoch { producer: producer_id, current, found })
            }
            Err(ProducerError::OutOfOrderSequence { producer_id, expected, found }) => {
                Err(AppendError::OutOfOrderSequence { producer: producer_id, expected, found })
            }
            Err(ProducerError::TooManyProducers { limit }) => {
                Err(AppendError::TooManyProducers { limit })
            }
        }
    }

    /// Whether the batch fits what is known of its producer's transactions.
    fn check_transaction(
        &mut self,
        id: LogId,
        batch: &[u8],
        header: &Validated,
        wall_ms: i64,
    ) -> Result<(), AppendError> {
        let Some(producer) = header.producer() else { return Ok(()) };
        let log = self.log_mut(id);
        let is_transactional = header.is_transactional();
        if !is_transactional && log.transactions.is_empty() {
            return Ok(());
        }
        let mut coordinator_epoch = NO_COORDINATOR;
        let checked = if header.is_control() {
            let marker = marker_in(batch).ok_or(AppendError::NotAMarker)?;
            coordinator_epoch = marker.coordinator_epoch;
            log.transactions.check_marker(producer, coordinator_epoch)
        } else {
            let begins_at_zero = header.base_sequence() == Some(Sequence::ZERO);
            let is_numbered = log.producers.knows(producer.id);
            let expiration_ms = log.config.producer_expiration_ms;
            log.transactions.check_batch(
                producer,
                is_transactional,
                begins_at_zero,
                is_numbered,
                expiration_ms,
                wall_ms,
            )
        };
        checked.map_err(|error| refused_transaction(error, header, producer, coordinator_epoch))
    }

    /// Reserves everything an append of so many bytes will need.
    fn make_room(&mut self, id: LogId, bytes: u64, wall_ms: i64) -> Result<(), AppendError> {
        let limit_bytes = SEGMENT_BYTES_MAX;
        if limit_bytes < bytes {
            return Err(AppendError::BatchTooLarge { size_bytes: bytes, limit_bytes });
        }
        self.roll_if_due(id, bytes, wall_ms);
        if !self.prepare(id, bytes) {
            self.log_mut(id).waited_for = true;
            return Err(AppendError::SpaceNotReserved);
        }
        if !self.has_room(bytes) {
            self.room_wanted.insert(id, bytes);
            return Err(AppendError::SpaceNotReserved);
        }
        Ok(())
    }

    fn append_new(
        &mut self,
        id: LogId,
        mut batch: BytesMut,
        validated: &Validated,
        numbered: Option<NumberedBatch>,
        epoch: LeaderEpoch,
        wall_ms: i64,
    ) -> Appended {
        let next_sequence = self.journal.next_sequence();
        let log = self.log_mut(id);
        let base_offset = log.end;
        let is_transactional = validated.is_transactional();
        stamp(&mut batch, base_offset, epoch);
        let log_append_time = match log.config.timestamps {
            TimestampPolicy::CreateTime => None,
            TimestampPolicy::LogAppendTime => {
                stamp_log_append_time(&mut batch, Timestamp(wall_ms));
                Some(Timestamp(wall_ms))
            }
        };
        let (next_offset, max_timestamp, raw_crc) = stamped(&batch);
        let bytes = keep(batch);
        let starts_anew = log.carries;
        let prefix = log.take_prefix();

        let active = log.segments.last_mut().expect("a prepared log has an active segment");
        let (segment, position) = (active.state.base_offset, active.state.size_bytes);
        let size_bytes = bytes.len() as u32;
        active.append(&IndexedBatch { next_offset, size_bytes, raw_crc, max_timestamp }, wall_ms);
        let newest = TailBatch {
            base_offset,
            next_offset,
            segment,
            position,
            max_timestamp,
            bytes: bytes.clone(),
        };
        let cost_bytes = newest.cost_bytes();
        log.tail.push(newest);
        let lacking = log.active().map_or(0, Segment::batches_without_index);
        let wants_index = lacking != 0 && lacking.is_multiple_of(INDEX_WANTED_BATCHES);
        log.epochs.note(epoch, base_offset);
        if let Some(numbered) = &numbered {
            let timestamp = log_append_time.unwrap_or(Timestamp::NONE);
            log.producers.note(numbered, base_offset, timestamp, wall_ms);
        }
        if is_transactional {
            note_transaction(&mut log.transactions, &bytes, base_offset, wall_ms);
        }
        log.end = next_offset;
        log.changed = true;
        log.unsynced_since.get_or_insert(next_sequence);
        let entry = Entry {
            segment,
            position,
            base_offset,
            next_offset,
            epoch,
            wall_ms,
            data_bytes: size_bytes,
            data_crc: raw_crc,
            prefix_bytes: prefix.len() as u32,
            prefix_crc: checksum::crc32c(&prefix),
            ..log.entry(EntryKind::Append)
        };
        if wants_index {
            self.want_index(id, segment, None);
        }
        self.tail_bytes += cost_bytes;
        self.tail_order.push_back(id);
        self.enqueue(id, Pending { log: id, entry, prefix, data: bytes, starts_anew });
        let last_offset = next_offset.plus(-1);
        Appended { base_offset, last_offset, log_append_time, kind: AppendKind::New }
    }

    /// Puts an entry without payload into the journal.
    pub(super) fn journal_entry(&mut self, id: LogId, entry: Entry) {
        self.journal_with(id, entry, Bytes::new());
    }

    /// Puts an entry with this payload into the journal.
    pub(super) fn journal_with(&mut self, id: LogId, entry: Entry, data: Bytes) {
        self.log_mut(id).changed = true;
        let (data_bytes, data_crc) = (data.len() as u32, checksum::crc32c(&data));
        let entry = Entry { data_bytes, data_crc, ..entry };
        self.enqueue(
            id,
            Pending { log: id, entry, prefix: Bytes::new(), data, starts_anew: false },
        );
    }

    // --- rolling ---

    fn roll_if_due(&mut self, id: LogId, bytes: u64, wall_ms: i64) {
        let log = self.log(id);
        let Some(active) = log.active().filter(|_| log.preparing.is_none()) else { return };
        let limits = RollLimits {
            segment_bytes: log.config.segment_bytes,
            segment_ms: log.config.segment_ms,
        };
        let lags = INDEX_LAG_BATCHES_MAX <= active.batches_without_index();
        if lags || roll_is_due(&active.facts(), active.state.opened_ms, bytes, limits, wall_ms) {
            self.roll(id, wall_ms);
        }
    }

    /// Seals the active segment and begins a new one behind it.
    pub(super) fn roll(&mut self, id: LogId, wall_ms: i64) {
        let log = self.log_mut(id);
        let (partition, end, generation) = (log.partition, log.end, log.generation);
        // What is being prepared is meant for the segment that is active now.
        assert!(log.preparing.is_none(), "a roll in the middle of a preparation");
        let active = log.segments.last_mut().expect("there is something to roll");
        assert!(0 < active.state.size_bytes, "the next segment would have the same name");
        active.seal = Seal::Draining;
        active.park_to = active.state.size_bytes;
        let (segment, position) = (active.state.base_offset, active.state.size_bytes);
        log.segments.push(Segment::new(partition, end, generation));
        log.carries = false;
        let entry = Entry {
            segment,
            position,
            base_offset: end,
            next_offset: end,
            wall_ms,
            ..log.entry(EntryKind::Roll)
        };
        self.journal_entry(id, entry);
        self.want_flush(id);
        self.step_seal(id, segment);
    }

    // --- getting ready to append ---

    /// Whether the log can take `bytes` now. If not, the next step towards that is under way.
    fn prepare(&mut self, id: LogId, bytes: u64) -> bool {
        if self.log(id).preparing.is_some() {
            return false;
        }
        let log = self.log(id);
        if log.active().is_some_and(|active| !active.made)
            && log.doomed.contains(&SegmentName::appended(log.end))
        {
            // A deleted segment of the same name must be gone first; its removal tells.
            return false;
        }
        let Some((preparing, action)) = self.next_preparation(id, bytes) else { return true };
        self.log_mut(id).preparing = Some(preparing);
        self.requests.ask(Purpose::Prepare(id), action);
        false
    }

    fn next_preparation(&mut self, id: LogId, bytes: u64) -> Option<(Preparing, Action)> {
        let log = self.logs[id.0 as usize].as_mut().expect("it was looked up");
        if !log.dirs_made {
            let dir = DirName::Topic { topic: log.partition.topic };
            return Some((Preparing::TopicDir, Action::MakeDir { dir }));
        }
        if log.segments.is_empty() {
            log.segments.push(Segment::new(log.partition, log.end, log.generation));
        }
        let partition = log.partition;
        let active = log.segments.last().expect("one was made");
        let file = active.file(partition);
        if !active.made {
            return Some((Preparing::File, Action::Create { file }));
        }
        if active.front.is_none() {
            let position = round_down(active.written);
            let size = BLOCK_BYTES as u32;
            return Some((Preparing::Front, Action::Read { file, position, size }));
        }
        let (position, size) = active.space_wanted(&self.config, bytes)?;
        let to = position + size;
        Some((Preparing::Space { to }, Action::Allocate { file, position, size }))
    }

    pub(super) fn handle_prepared(&mut self, id: LogId, result: Result<Outcome, Fault>) {
        let Some(log) = self.find_log_mut(id) else { return };
        let preparing = log.preparing.take().expect("a step was under way");
        let partition = log.partition;
        match (preparing, result) {
            (Preparing::Space { .. }, Err(Fault::NoSpace))
            | (
                Preparing::TopicDir | Preparing::PartitionDir | Preparing::File,
                Err(Fault::NoSpace),
            ) => {
                log.waited_for = false;
                let is_waited_for = log.closing.is_some();
                self.events.push_back(Event::NoSpace { log: id });
                if is_waited_for {
                    self.after_last_request(id);
                }
                return;
            }
            (Preparing::PartitionDir, Err(Fault::NotFound)) => {
                // Another partition of the topic was dropped, and took the empty directory along.
                // The next preparation begins with that.
                return self.go_on_preparing(id);
            }
            (_, Err(_)) => return self.fence(),
            (Preparing::TopicDir, Ok(_)) => {
                self.sync_later(DirName::Partitions);
                let log = self.log_mut(id);
                if log.closing.is_some() {
                    return self.after_last_request(id);
                }
                log.preparing = Some(Preparing::PartitionDir);
                let action = Action::MakeDir { dir: log.dir() };
                self.requests.ask(Purpose::Prepare(id), action);
                return;
            }
            (Preparing::PartitionDir, Ok(_)) => {
                log.dirs_made = true;
                self.sync_later(DirName::Topic { topic: partition.topic });
            }
            (Preparing::File, Ok(_)) => {
                if let Some(active) = log.active_mut() {
                    active.made = true;
                }
                let dir = log.dir();
                self.sync_later(dir);
            }
            (Preparing::Front, Ok(Outcome::Bytes(bytes))) => self.take_front(id, &bytes),
            (Preparing::Space { to }, Ok(_)) => {
                if let Some(active) = log.active_mut() {
                    active.allocated = active.allocated.max(to);
                }
            }
            (Preparing::Front, Ok(_)) => panic!("a read ends with bytes"),
        }
        self.go_on_preparing(id);
    }

    /// Takes the next step, or tells whoever waits that there is none left.
    fn go_on_preparing(&mut self, id: LogId) {
        if self.log(id).closing.is_some() {
            return self.after_last_request(id);
        }
        // One byte: the step after this one is asked for by the append itself.
        if self.prepare(id, 1) {
            let log = self.log_mut(id);
            if std::mem::take(&mut log.waited_for) {
                self.events.push_back(Event::Admitted { log: id });
            }
        }
    }

    fn take_front(&mut self, id: LogId, bytes: &Bytes) {
        let log = self.log_mut(id);
        let Some(active) = log.active_mut() else { return };
        let size = (active.written - round_down(active.written)) as usize;
        match bytes.get(..size) {
            Some(front) => active.front = Some(Bytes::copy_from_slice(front)),
            // Recovery has synced it, and now the file is shorter: it cannot be appended to.
            None => {
                let from = log.end;
                log.broken_at = Some(from);
                self.events.push_back(Event::Damaged { log: id, offsets: from..from });
            }
        }
    }
}

impl Log {
    /// An entry about this log, with nothing said yet.
    pub(crate) fn entry(&self, kind: EntryKind) -> Entry {
        Entry {
            kind,
            partition: self.partition,
            generation: self.generation,
            epoch: self.leader_epoch(),
            segment: Offset::ZERO,
            position: 0,
            base_offset: self.end,
            next_offset: self.end,
            wall_ms: 0,
            data_bytes: 0,
            prefix_bytes: 0,
            data_crc: 0,
            prefix_crc: 0,
            last_bytes: 0,
        }
    }

    /// The bytes of the partial block before the log's end, if the log is parked.
    fn take_prefix(&mut self) -> Bytes {
        if !std::mem::take(&mut self.carries) {
            return Bytes::new();
        }
        let Some(active) = self.segments.last() else { return Bytes::new() };
        let end = active.state.size_bytes;
        self.gather(active, round_down(end), end).freeze()
    }

    /// Bytes `from..to` of `segment`, out of memory. `from` is a block boundary.
    pub(crate) fn gather(&self, segment: &Segment, from: u64, to: u64) -> AlignedBytes {
        let mut out = AlignedBytes::with_capacity((to - from) as usize);
        let mut position = from;
        if from < segment.written {
            let front = segment.front.as_ref().expect("the partial block is in memory");
            assert!(from == round_down(segment.written));
            out.put(front);
            position = segment.written;
        }
        if position < to {
            self.tail.gather(segment.state.base_offset, position, to, &mut out);
        }
        out
    }
}

impl Segment {
    /// Batches noted one by one, because the index before them is not in memory.
    fn batches_without_index(&self) -> usize {
        match &self.index {
            IndexSlot::Ready(_) => 0,
            IndexSlot::Absent { since, .. } => since.len(),
        }
    }

    /// What retention and rolling look at.
    pub(crate) fn facts(&self) -> SegmentFacts {
        SegmentFacts {
            base_offset: self.state.base_offset,
            next_offset: self.state.next_offset,
            size_bytes: self.state.size_bytes,
            max_timestamp: self.state.max_timestamp,
            appended_ms: self.state.appended_ms,
        }
    }
}

/// What a stamped batch says of itself: next offset, newest timestamp, and the CRC32C of all its
/// bytes, from the CRC it carries and the few bytes before that.
fn stamped(batch: &[u8]) -> (Offset, Timestamp, u32) {
    let (parsed, _) = Batch::parse(batch).expect("it was validated");
    let (head, covered) = batch.split_at(STAMPED_BYTES);
    let raw_crc = checksum::combine(checksum::crc32c(head), parsed.crc(), covered.len());
    (parsed.next_offset(), parsed.max_timestamp(), raw_crc)
}

/// That part of `header` which tells a producer's batches apart; `None` if its producer does not number
/// its batches, and for markers.
pub(crate) fn numbered(header: &tidemill_record::ArchivedBatchHeader) -> Option<NumberedBatch> {
    let producer = header.producer()?;
    // Markers carry a producer but no number.
    let base_sequence = header.base_sequence()?;
    Some(NumberedBatch {
        producer_id: producer.id,
        producer_epoch: producer.epoch,
        base_sequence,
        records_count: header.records_count() as i32,
    })
}

/// The marker that a control batch carries.
fn marker_in(batch: &[u8]) -> Option<Marker> {
    let (batch, _) = Batch::parse(batch).ok()?;
    Marker::read(&batch).ok()
}

/// Notes what a transactional batch that entered the log means for its transaction.
pub(crate) fn note_transaction(
    transactions: &mut Transactions,
    bytes: &[u8],
    base_offset: Offset,
    now_ms: i64,
) {
    let Ok((batch, _)) = Batch::parse(bytes) else { return };
    let Some(producer) = batch.producer() else { return };
    if !batch.is_control() {
        return transactions.note_batch(producer, base_offset, now_ms);
    }
    if let Ok(marker) = Marker::read(&batch) {
        transactions.note_marker(producer, marker, base_offset, now_ms);
    }
}

fn refused_transaction(
    error: TransactionError,
    header: &Validated,
    producer: Producer,
    coordinator_epoch: i32,
) -> AppendError {
    let Producer { id, epoch } = producer;
    match error {
        TransactionError::FencedProducerEpoch { current } => {
            AppendError::InvalidProducerEpoch { producer: id, current, found: epoch }
        }
        TransactionError::NotFromZero => AppendError::OutOfOrderSequence {
            producer: id,
            expected: Sequence::ZERO,
            found: header.base_sequence().unwrap_or(Sequence::ZERO),
        },
        TransactionError::NotTransactional => AppendError::NotTransactional { producer: id },
        TransactionError::FencedCoordinator { current } => {
            AppendError::FencedCoordinator { current, found: coordinator_epoch }
        }
        TransactionError::TooManyProducers => {
            AppendError::TooManyProducers { limit: PRODUCERS_MAX as u32 }
        }
        TransactionError::TooManyTransactions => {
            AppendError::TooManyTransactions { limit: TRANSACTIONS_MAX as u32 }
        }
    }
}

fn duplicate(original: &NotedBatch) -> Appended {
    Appended {
        base_offset: original.base_offset,
        last_offset: original.last_offset,
        log_append_time: Some(original.timestamp).filter(|at| *at != Timestamp::NONE),
        kind: AppendKind::Duplicate,
    }
}

/// Whether a log is on its way to be no more.
pub(super) fn is_dropping(log: &Log) -> bool {
    log.closing == Some(Closing::Dropping)
}
