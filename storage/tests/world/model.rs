//! What one log has promised.

use std::ops::Range;

use bytes::BytesMut;
use tidemill_record::{Batch, LeaderEpoch, Offset, TopicPartition, stamp};

/// What was done to a log, and what of it was reported done.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Every batch that may be there, as stored, in order.
    pub batches: Vec<Stored>,
    /// Everything below was reported durable.
    pub durable_end: Offset,
    /// The start reported durable.
    pub start: Offset,
    /// A start that was asked for: it may be there already.
    pub start_asked: Offset,
    /// A truncation that was asked for and has not been reported.
    pub truncating: Option<Offset>,
}

/// A batch in a log.
#[derive(Clone, Debug)]
pub struct Stored {
    pub base_offset: Offset,
    pub next_offset: Offset,
    pub bytes: Vec<u8>,
    /// What compaction may have left of it.
    pub others: Vec<Vec<u8>>,
    /// Compaction may have removed it.
    pub may_go: bool,
}

impl Model {
    /// The offset after the last record that may be there.
    pub fn end(&self) -> Offset {
        self.batches.last().map_or(Offset::ZERO, |last| last.next_offset)
    }

    pub fn appended(&mut self, mut sent: BytesMut, base_offset: Offset, epoch: LeaderEpoch) {
        assert!(self.truncating.is_none(), "an append to a log that is being cut");
        assert_eq!(base_offset, self.end().max(self.start), "offsets are dense");
        stamp(&mut sent, base_offset, epoch);
        let (batch, _) = Batch::parse(&sent).expect("a batch");
        let next_offset = batch.next_offset();
        let (bytes, others) = (sent.to_vec(), Vec::new());
        self.batches.push(Stored { base_offset, next_offset, bytes, others, may_go: false });
    }

    /// From now on the batch that begins there may be gone.
    pub fn may_go(&mut self, base_offset: Offset) {
        self.batch_at(base_offset).may_go = true;
    }

    /// From now on the batch that begins there may be this.
    pub fn may_be(&mut self, base_offset: Offset, bytes: &[u8]) {
        self.batch_at(base_offset).others.push(bytes.to_vec());
    }

    fn batch_at(&mut self, base_offset: Offset) -> &mut Stored {
        let mut batches = self.batches.iter_mut();
        batches.find(|batch| batch.base_offset == base_offset).expect("it was appended")
    }

    /// Whether all batches there may be gone.
    pub fn may_lack(&self, offsets: Range<Offset>) -> bool {
        let touches =
            |batch: &&Stored| batch.base_offset < offsets.end && offsets.start < batch.next_offset;
        self.batches.iter().filter(touches).all(|batch| batch.may_go)
    }

    pub fn durable(&mut self, end: Offset) {
        assert!(self.durable_end <= end, "the durable end moved back");
        assert!(end <= self.end(), "more is durable than was appended");
        // What is being cut may become durable on its way out.
        self.durable_end = self.truncating.map_or(end, |to| end.min(self.left_by_cut(to)));
    }

    /// The end of what a cut at `to` certainly leaves: whole batches, none that may be gone, and
    /// the log never ends before it starts.
    fn left_by_cut(&self, to: Offset) -> Offset {
        let stays = |batch: &&Stored| batch.next_offset <= to && !batch.may_go;
        let last = self.batches.iter().rfind(stays);
        last.map_or(Offset::ZERO, |last| last.next_offset).max(self.start_asked)
    }

    pub fn trimming(&mut self, before: Offset) {
        self.start_asked = self.start_asked.max(before);
    }

    pub fn trimmed(&mut self, start: Offset) {
        self.start = self.start.max(start);
        self.start_asked = self.start_asked.max(start);
    }

    pub fn truncating(&mut self, to: Offset) {
        self.truncating = Some(to);
        self.durable_end = self.durable_end.min(self.left_by_cut(to));
    }

    pub fn truncated(&mut self, end: Offset) {
        let asked = self.truncating.take().expect("a truncation that was asked for");
        assert!(self.left_by_cut(asked) <= end && end <= asked);
        self.forget_from(end);
        // Nothing was cut if the end was asked for; then the last records may still be on their way.
        self.durable_end = self.durable_end.min(end);
    }

    /// The node has started with these records.
    pub fn recovered(&mut self, tp: TopicPartition, start: Offset, end: Offset) {
        assert!(self.start <= start, "{tp}: deleted records have returned");
        assert!(start <= self.start_asked, "{tp}: records were deleted that nobody asked to");
        assert!(self.durable_end <= end, "{tp}: an acknowledged record is lost");
        assert!(end <= self.end().max(start), "{tp}: records from nowhere");
        if let Some(to) = self.truncating.take() {
            // Durable or not, but nothing half.
            assert!(end <= self.end(), "{tp}: {to}");
        }
        self.forget_from(end);
        self.durable_end = end;
        self.start = start;
        self.start_asked = start;
    }

    /// `found` are the batches from the one that holds `start` up to `end`.
    pub fn check_bytes(&self, tp: TopicPartition, start: Offset, end: Offset, found: &[u8]) {
        let mut rest = found;
        let wanted = self
            .batches
            .iter()
            .filter(|batch| start < batch.next_offset && batch.next_offset <= end);
        for batch in wanted {
            let offset = batch.base_offset;
            let mut whole = batch.others.iter().chain([&batch.bytes]);
            if let Some(found) = whole.find(|whole| rest.starts_with(whole)) {
                rest = &rest[found.len()..];
                continue;
            }
            if batch.may_go {
                continue;
            }
            assert!(batch.bytes.len() <= rest.len(), "{tp}: the batch at {offset} is missing");
            panic!("{tp}: the batch at {offset} is another");
        }
        assert!(rest.is_empty(), "{tp}: batches from nowhere");
    }

    fn forget_from(&mut self, end: Offset) {
        // Of the batch that holds the start nothing stays if it is cut.
        let may_go = |batch: &Stored| batch.may_go || batch.base_offset < self.start_asked;
        let is_gone = |batch: &Stored| may_go(batch) && end < batch.next_offset;
        self.batches.retain(|batch| batch.base_offset < end && !is_gone(batch));
        assert!(
            self.batches.last().is_none_or(|last| last.next_offset <= end),
            "a batch was cut in two at {end}"
        );
    }
}
