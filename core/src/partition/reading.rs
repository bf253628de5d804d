//! Reading a partition at home: fetches from its tail or from the disk, watches for what is new, and
//! offsets by time.
//!
//! A reader sees what is durable, or with `read_committed` what is stable. A read of the disk that
//! a trim has passed is refused: which of it was aborted is not known any more. Batches that compaction
//! has emptied are passed over where records come behind them.
//!
//! Start reading at `Home::read`.

use bytes::Bytes;
use tidemill_net::kafka::ErrorCode;
use tidemill_record::{Batch, LeaderEpoch, Offset, Timestamp, TopicPartition};
use tidemill_storage::{Durability, Lookup, Read, ReadError, ReadId};

use super::checks::{offset_answer, refused, refused_read};
use super::{DiskRead, DiskReadKind, Home, Partition, Watcher, transactions};
use crate::job::ReplyTo;
use crate::message::{Answer, ReadAnswer, ReadCall};

impl Home {
    pub(super) fn high_watermark(&self, partition: &Partition) -> Offset {
        let log = self.storage.log(partition.log);
        match partition.rules.log.durability {
            Durability::Durable => log.durable_end(),
            Durability::Relaxed => log.end(),
        }
    }

    /// Where what a reader may see ends.
    pub(super) fn visible_end(&self, partition: &Partition, read_committed: bool) -> Offset {
        let high_watermark = self.high_watermark(partition);
        match read_committed {
            true => self.storage.log(partition.log).last_stable(high_watermark),
            false => high_watermark,
        }
    }

    pub(super) fn read(&mut self, id: TopicPartition, call: ReadCall, reply_to: ReplyTo) {
        let partition = &self.partitions[&id];
        let log = partition.log;
        let diverging = match call.last_fetched_epoch {
            None => None,
            Some(fetched) => {
                match self.storage.epoch_end(log, fetched, partition.rules.leader_epoch) {
                    Some(end) => (end.0 < fetched || end.1 < call.from).then_some(end),
                    // The reader has records of an epoch that this log has never seen.
                    None => {
                        let answer = refused(ErrorCode::OffsetOutOfRange);
                        return self.answers.push((reply_to, answer));
                    }
                }
            }
        };
        let visible_end = self.visible_end(partition, call.read_committed);
        if diverging.is_some() {
            let answer = self.read_answer(id, &call, Vec::new(), diverging, false);
            return self.answers.push((reply_to, answer));
        }
        if call.limit_bytes == 0 && !call.min_one {
            // The bytes of the fetch are used up: only the state is told.
            let (start, end) = (self.storage.log(log).start(), self.storage.log(log).end());
            let answer = if start <= call.from && call.from <= end {
                self.read_answer(id, &call, Vec::new(), None, call.from < visible_end)
            } else {
                refused(ErrorCode::OffsetOutOfRange)
            };
            return self.answers.push((reply_to, answer));
        }
        let read = self.storage.read(log, call.from, visible_end, call.limit_bytes, call.min_one);
        match read {
            Ok(Read::Ready { batches, .. }) => {
                let held_back = batches.is_empty() && call.from < visible_end;
                let answer = self.read_answer(id, &call, batches, None, held_back);
                self.answers.push((reply_to, answer));
            }
            Ok(Read::Disk(read)) => {
                let kind = DiskReadKind::Fetch { diverging, call, emptied: Vec::new() };
                self.reads.insert(read, DiskRead { partition: id, reply_to, kind });
            }
            Err(error) => self.answers.push((reply_to, refused_read(&error))),
        }
    }

    pub(super) fn read_answer(
        &self,
        id: TopicPartition,
        call: &ReadCall,
        batches: Vec<Bytes>,
        diverging: Option<(LeaderEpoch, Offset)>,
        held_back: bool,
    ) -> Answer {
        let Some(partition) = self.partitions.get(&id) else {
            return refused(ErrorCode::UnknownTopicOrPartition);
        };
        let high_watermark = self.high_watermark(partition);
        let log = self.storage.log(partition.log);
        let aborted = match call.read_committed && log.has_aborted() {
            true => transactions::aborted_among(log, call.from, &batches),
            false => Vec::new(),
        };
        Answer::Read(ReadAnswer {
            aborted,
            from_disk: false,
            size_bytes: batches.iter().map(|run| run.len() as u32).sum(),
            batches,
            held_back,
            high_watermark,
            last_stable_offset: log.last_stable(high_watermark),
            log_start_offset: log.start(),
            diverging,
        })
    }

    pub(super) fn read_done(&mut self, read: ReadId, result: Result<Vec<Bytes>, ReadError>) {
        let Some(DiskRead { partition, reply_to, kind }) = self.reads.remove(&read) else { return };
        let DiskReadKind::Fetch { diverging, mut call, emptied } = kind else {
            let error = result.expect_err("a lookup that ends well ends with LookupDone");
            return self.answers.push((reply_to, refused_read(&error)));
        };
        let mut batches = match result {
            Ok(batches) if !batches.is_empty() => batches,
            // Whoever reads gets on by these, and is told of what is behind them when it comes there.
            _ if !emptied.is_empty() => emptied,
            Ok(nothing) => nothing,
            Err(error) => return self.answers.push((reply_to, refused_read(&error))),
        };
        let found = self.partitions.get(&partition);
        let start = found.map(|found| self.storage.log(found.log).start());
        if start.is_some_and(|start| call.from < start) {
            // Trimmed meanwhile: which of it was aborted is not known any more.
            return self.answers.push((reply_to, refused(ErrorCode::OffsetOutOfRange)));
        }
        let end = found.map(|found| self.visible_end(found, call.read_committed));
        if let Some((next, end)) = end_of_emptied(&batches).zip(end)
            && next < end
        {
            call.from = next;
            let log = self.partitions[&partition].log;
            match self.storage.read(log, next, end, call.limit_bytes, true) {
                Ok(Read::Disk(read)) => {
                    let kind = DiskReadKind::Fetch { diverging, call, emptied: batches };
                    self.reads.insert(read, DiskRead { partition, reply_to, kind });
                    return;
                }
                Ok(Read::Ready { batches: behind, .. }) if !behind.is_empty() => batches = behind,
                Ok(Read::Ready { .. }) | Err(_) => {}
            }
        }
        let held_back = batches.is_empty() && end.is_some_and(|end| call.from < end);
        let mut answer = self.read_answer(partition, &call, batches, diverging, held_back);
        if let Answer::Read(read) = &mut answer {
            read.from_disk = true;
        }
        self.answers.push((reply_to, answer));
    }

    pub(super) fn watch(&mut self, id: TopicPartition, watcher: Watcher) {
        let partition = &self.partitions[&id];
        if watcher.seen_end < self.visible_end(partition, watcher.read_committed) {
            return self.answers.push((watcher.reply_to, Answer::Moved));
        }
        let partition = self.partitions.get_mut(&id).expect("seen above");
        partition.watchers.push(watcher);
    }

    /// Tells the watchers for whom there is something new.
    pub(super) fn wake(&mut self, id: TopicPartition) {
        let Some(partition) = self.partitions.get(&id) else { return };
        if partition.watchers.is_empty() {
            return;
        }
        let high_watermark = self.high_watermark(partition);
        let last_stable = self.storage.log(partition.log).last_stable(high_watermark);
        let partition = self.partitions.get_mut(&id).expect("seen above");
        let answers = &mut self.answers;
        partition.watchers.retain(|watcher| {
            let end = if watcher.read_committed { last_stable } else { high_watermark };
            let stays = end <= watcher.seen_end;
            if !stays {
                answers.push((watcher.reply_to, Answer::Moved));
            }
            stays
        });
    }

    // Offsets.

    pub(super) fn list_offset(
        &mut self,
        id: TopicPartition,
        timestamp: i64,
        read_committed: bool,
        reply_to: ReplyTo,
    ) {
        const LATEST: i64 = -1;
        const EARLIEST: i64 = -2;
        const MAX_TIMESTAMP: i64 = -3;
        const EARLIEST_LOCAL: i64 = -4;
        const LATEST_TIERED: i64 = -5;
        const EARLIEST_PENDING_UPLOAD: i64 = -6;

        let partition = &self.partitions[&id];
        let end = self.visible_end(partition, read_committed);
        let log = self.storage.log(partition.log);
        let known = |offset, leader_epoch| Answer::Offset {
            found: Some((offset, Timestamp::NONE)),
            leader_epoch,
        };
        let nothing = Answer::Offset { found: None, leader_epoch: LeaderEpoch::NONE };
        let lookup = match timestamp {
            LATEST => {
                return self.answers.push((reply_to, known(end, partition.rules.leader_epoch)));
            }
            EARLIEST | EARLIEST_LOCAL => {
                let epoch = log.epoch_at(log.start());
                return self.answers.push((reply_to, known(log.start(), epoch)));
            }
            // Nothing is kept anywhere but here.
            LATEST_TIERED | EARLIEST_PENDING_UPLOAD => {
                return self.answers.push((reply_to, nothing));
            }
            MAX_TIMESTAMP => self.storage.max_timestamp(partition.log, end),
            0.. => self.storage.offset_for_timestamp(partition.log, Timestamp(timestamp), end),
            _ => {
                let answer = refused(ErrorCode::InvalidRequest);
                return self.answers.push((reply_to, answer));
            }
        };
        match lookup {
            Ok(Lookup::Ready(found)) => self.answers.push((reply_to, offset_answer(found))),
            Ok(Lookup::Disk(read)) => {
                let kind = DiskReadKind::Lookup;
                self.reads.insert(read, DiskRead { partition: id, reply_to, kind });
            }
            Err(error) => self.answers.push((reply_to, refused_read(&error))),
        }
    }

    pub(super) fn lookup_done(
        &mut self,
        read: ReadId,
        result: Result<Option<tidemill_storage::Found>, ReadError>,
    ) {
        let Some(DiskRead { reply_to, .. }) = self.reads.remove(&read) else { return };
        let answer = match result {
            Ok(found) => offset_answer(found),
            Err(error) => refused_read(&error),
        };
        self.answers.push((reply_to, answer));
    }
}

/// Where batches end of which compaction has left nothing but where they were; none if a record is in
/// them. A client that gets no record for its fetch may think that the next one is too large for what
/// it asks for, and asks for more each time: librdkafka gives up after ten.
fn end_of_emptied(runs: &[Bytes]) -> Option<Offset> {
    let mut end = None;
    for run in runs {
        let mut rest = &run[..];
        while let Ok((batch, behind)) = Batch::parse(rest) {
            if 0 < batch.records_count() {
                return None;
            }
            end = Some(batch.next_offset());
            rest = behind;
        }
    }
    end
}
