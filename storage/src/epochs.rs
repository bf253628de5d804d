//! Where each leader epoch of a partition began.
//!
//! Consumers and followers that were away ask: "the last I read was of epoch e; where does that
//! epoch end with you?" If it ends below what they have, what they have above was never committed
//! and they drop it (KIP-320). So the table survives truncation, trimming and restart.
//!
//! ```text
//! epoch 0        epoch 3            epoch 4
//! |--------------|------------------|----------> log end
//! start 0        start 120          start 300       (epochs 1 and 2 led nobody to an append)
//! ```
//!
//! Start reading at [`LeaderEpochs::end_of`].

use bytes::{Buf, BufMut};
use tidemill_record::{LeaderEpoch, Offset};

/// The most epochs one log remembers; beyond it the oldest is forgotten.
///
/// An epoch costs a start of a node or an election. Whoever was away for longer than so many is
/// told the start of the oldest one known, and reads from there again.
pub const EPOCHS_MAX: usize = 1024;

/// The first offset of one leader epoch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// Offset of the first record appended under it.
    pub start: Offset,
}

/// The leader epochs of one log, oldest first: epochs and starts both strictly rise.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LeaderEpochs {
    starts: Vec<EpochStart>,
}

/// Bytes that are not a table of leader epochs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EpochsError {
    /// They end in the middle of it.
    TooShort,
    /// They claim more epochs than [`EPOCHS_MAX`].
    TooMany {
        /// How many they claim.
        found: u32,
    },
    /// An epoch or its start is not above the one before.
    OutOfOrder {
        /// The epoch that is not.
        epoch: LeaderEpoch,
    },
}

impl LeaderEpochs {
    /// The newest epoch that appended a record.
    #[must_use]
    pub fn current(&self) -> Option<LeaderEpoch> {
        self.starts.last().map(|last| last.epoch)
    }

    /// All of them, oldest first.
    #[must_use]
    pub fn starts(&self) -> &[EpochStart] {
        &self.starts
    }

    /// Notes that the record at `offset` was appended under `epoch`. Returns whether that began
    /// an epoch not known before.
    ///
    /// The log has refused older epochs before it comes to this.
    pub fn note(&mut self, epoch: LeaderEpoch, offset: Offset) -> bool {
        if let Some(last) = self.starts.last() {
            assert!(last.epoch <= epoch, "an append under an epoch that has ended");
            if last.epoch == epoch {
                return false;
            }
            assert!(last.start <= offset, "an epoch begins below the one before it");
            if last.start == offset {
                // The last record of that epoch has been trimmed away.
                self.starts.pop();
            }
        }
        if self.starts.len() == EPOCHS_MAX {
            self.starts.remove(0);
        }
        self.starts.push(EpochStart { epoch, start: offset });
        true
    }

    /// The epoch of the record at `offset`, if it is not older than all known.
    #[must_use]
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let after = self.starts.partition_point(|entry| entry.start <= offset);
        after.checked_sub(1).map(|at| self.starts[at].epoch)
    }

    /// Whether a batch that begins at `base_offset` may say it is of `epoch`. No checksum of the
    /// batch covers that, so bytes that have rotted are found out here.
    #[must_use]
    pub fn agree(&self, base_offset: Offset, epoch: LeaderEpoch) -> bool {
        match (self.epoch_at(base_offset), self.starts.first()) {
            (Some(known), _) => known == epoch,
            // Its own beginning may have been trimmed away.
            (None, Some(oldest)) => epoch <= oldest.epoch,
            (None, None) => true,
        }
    }

    /// Where `asked` ended, told by who leads in the epoch `leading`: the largest known epoch not
    /// above it, with its end offset (that of the newest is `log_end`). `None` if no such answer is
    /// known: Kafka's undefined.
    ///
    /// An epoch older than all known ended at the start of the oldest known. Who leads has begun its
    /// own at the log's end, whether or not a record was written under it since.
    #[must_use]
    pub fn end_of(
        &self,
        asked: LeaderEpoch,
        leading: LeaderEpoch,
        log_end: Offset,
    ) -> Option<(LeaderEpoch, Offset)> {
        // Above our own: we have not heard of it, so we cannot say.
        if asked < LeaderEpoch(0) || leading < asked {
            return None;
        }
        let after = self.starts.partition_point(|entry| entry.epoch <= asked);
        let end = self.starts.get(after).map_or(log_end, |next| next.start);
        let known = after.checked_sub(1).map_or(asked, |at| self.starts[at].epoch);
        Some((if asked == leading { leading } else { known }, end))
    }

    /// Forgets everything at and above `to`: the log was cut there.
    pub fn truncate(&mut self, to: Offset) {
        let kept = self.starts.partition_point(|entry| entry.start < to);
        self.starts.truncate(kept);
    }

    /// Forgets what lies wholly below `before`: the log starts there now.
    pub fn trim(&mut self, before: Offset) {
        let below = self.starts.partition_point(|entry| entry.start <= before);
        let Some(first_kept) = below.checked_sub(1) else { return };
        self.starts.drain(..first_kept);
        self.starts[0].start = before;
    }

    /// How many bytes [`LeaderEpochs::encode`] writes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        4 + 12 * self.starts.len()
    }

    /// Writes the table: a count, then epoch and start of each, big-endian.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u32(self.starts.len() as u32);
        for entry in &self.starts {
            out.put_i32(entry.epoch.0);
            out.put_i64(entry.start.0);
        }
    }

    /// Reads what [`LeaderEpochs::encode`] wrote and leaves `bytes` behind it.
    pub fn decode(bytes: &mut &[u8]) -> Result<Self, EpochsError> {
        let short = |_| EpochsError::TooShort;
        let count = bytes.try_get_u32().map_err(short)?;
        if EPOCHS_MAX < count as usize {
            return Err(EpochsError::TooMany { found: count });
        }
        let mut epochs = Self::default();
        for _ in 0..count {
            let epoch = LeaderEpoch(bytes.try_get_i32().map_err(short)?);
            let start = Offset(bytes.try_get_i64().map_err(short)?);
            let rises =
                epochs.starts.last().is_none_or(|last| last.epoch < epoch && last.start < start);
            if !rises {
                return Err(EpochsError::OutOfOrder { epoch });
            }
            epochs.starts.push(EpochStart { epoch, start });
        }
        Ok(epochs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Epoch 0 from offset 0, epoch 3 from 120, epoch 4 from 300; the log ends at 500.
    const LOG_END: Offset = Offset(500);

    fn three_epochs() -> LeaderEpochs {
        let mut epochs = LeaderEpochs::default();
        for (epoch, start) in [(0, 0), (3, 120), (4, 300)] {
            assert!(epochs.note(LeaderEpoch(epoch), Offset(start)));
            assert!(!epochs.note(LeaderEpoch(epoch), Offset(start + 1)));
        }
        epochs
    }

    /// Told by who leads in the newest epoch, or after so many that wrote nothing.
    fn end_later(epochs: &LeaderEpochs, asked: i32, later: i32) -> Option<(i32, i64)> {
        let leading = LeaderEpoch(epochs.current().map_or(0, |current| current.0) + later);
        let found = epochs.end_of(LeaderEpoch(asked), leading, LOG_END);
        found.map(|(epoch, end)| (epoch.0, end.0))
    }

    fn end_of(epochs: &LeaderEpochs, asked: i32) -> Option<(i32, i64)> {
        end_later(epochs, asked, 0)
    }

    /// The answer of OffsetForLeaderEpoch: end offset of the largest epoch not above the asked.
    #[test]
    fn an_epoch_ends_where_the_next_one_begins() {
        let epochs = three_epochs();
        assert_eq!(end_of(&epochs, 0), Some((0, 120)));
        assert_eq!(end_of(&epochs, 3), Some((3, 300)));
        assert_eq!(end_of(&epochs, 4), Some((4, 500)), "the newest goes on to the log end");
        assert_eq!(end_of(&epochs, 2), Some((0, 120)), "an epoch without records");
    }

    /// Unknown is undefined, not a guess.
    #[test]
    fn the_end_of_an_epoch_from_the_future_is_not_known() {
        assert_eq!(end_of(&three_epochs(), 5), None);
        assert_eq!(end_of(&three_epochs(), -1), None);
        assert_eq!(end_of(&LeaderEpochs::default(), 1), None);
    }

    /// The bug: readers were told the leader's epoch with the log's end, and when they came back with it
    /// before anything was written, that nobody knew it: they took their log for cut, and read it again.
    #[test]
    fn an_epoch_is_known_before_anything_is_written_in_it() {
        let epochs = three_epochs();
        assert_eq!(end_later(&epochs, 6, 2), Some((6, 500)));
        assert_eq!(end_later(&epochs, 5, 2), Some((4, 500)), "nothing was ever written in it");
        assert_eq!(end_later(&epochs, 4, 2), Some((4, 500)));
        assert_eq!(end_later(&epochs, 3, 2), Some((3, 300)));
        assert_eq!(end_later(&epochs, 7, 2), None);
        let empty = LeaderEpochs::default();
        assert_eq!(end_later(&empty, 0, 0), Some((0, 500)));
        assert_eq!(end_later(&empty, 0, 1), Some((0, 500)));
    }

    /// Whoever follows an epoch that retention has removed must drop all it has of it.
    #[test]
    fn an_epoch_older_than_all_known_ended_at_the_oldest_start() {
        let mut epochs = three_epochs();
        epochs.trim(Offset(200));
        assert_eq!(epochs.starts()[0], EpochStart { epoch: LeaderEpoch(3), start: Offset(200) });
        assert_eq!(end_of(&epochs, 1), Some((1, 200)));
        assert_eq!(end_of(&epochs, 3), Some((3, 300)));
    }

    #[test]
    fn trimming_keeps_the_epoch_that_holds_the_new_start() {
        let mut epochs = three_epochs();
        epochs.trim(Offset(120));
        assert_eq!(epochs.starts().len(), 2);
        epochs.trim(Offset(299));
        assert_eq!(epochs.epoch_at(Offset(299)), Some(LeaderEpoch(3)));
        epochs.trim(LOG_END);
        assert_eq!(epochs.starts(), [EpochStart { epoch: LeaderEpoch(4), start: LOG_END }]);
    }

    /// A log trimmed to its end knows the epoch that ended there until the next one begins.
    #[test]
    fn an_epoch_without_records_left_gives_way_to_the_next() {
        let mut epochs = three_epochs();
        epochs.trim(LOG_END);
        assert!(epochs.note(LeaderEpoch(7), LOG_END));
        assert_eq!(epochs.starts(), [EpochStart { epoch: LeaderEpoch(7), start: LOG_END }]);
    }

    /// After a truncation no epoch may claim records that are gone.
    #[test]
    fn truncating_forgets_epochs_that_began_at_or_above_the_cut() {
        let mut epochs = three_epochs();
        epochs.truncate(Offset(300));
        assert_eq!(epochs.current(), Some(LeaderEpoch(3)));
        epochs.truncate(Offset(121));
        assert_eq!(epochs.current(), Some(LeaderEpoch(3)));
        epochs.truncate(Offset(0));
        assert_eq!(epochs.current(), None);
    }

    #[test]
    fn the_epoch_of_a_record_is_the_last_one_begun_at_or_before_it() {
        let epochs = three_epochs();
        assert_eq!(epochs.epoch_at(Offset(119)), Some(LeaderEpoch(0)));
        assert_eq!(epochs.epoch_at(Offset(120)), Some(LeaderEpoch(3)));
        assert_eq!(epochs.epoch_at(Offset(-1)), None);
    }

    /// A node that restarts for years must not grow its tables for ever.
    #[test]
    fn the_number_of_epochs_is_bounded() {
        let mut epochs = LeaderEpochs::default();
        for epoch in 0..2 * EPOCHS_MAX as i32 {
            epochs.note(LeaderEpoch(epoch), Offset(i64::from(epoch)));
        }
        assert_eq!(epochs.starts().len(), EPOCHS_MAX);
        let oldest = epochs.starts()[0];
        assert_eq!(oldest.epoch, LeaderEpoch(EPOCHS_MAX as i32));
        assert_eq!(end_of(&epochs, 3), Some((3, oldest.start.0)), "read on from the oldest known");
    }

    #[test]
    fn a_table_is_read_back_as_written_and_damage_is_an_error() {
        let epochs = three_epochs();
        let mut bytes = Vec::new();
        epochs.encode(&mut bytes);
        assert_eq!(bytes.len(), epochs.encoded_len());
        bytes.push(77);

        let mut rest = &bytes[..];
        assert_eq!(LeaderEpochs::decode(&mut rest), Ok(epochs));
        assert_eq!(rest, [77]);

        assert_eq!(LeaderEpochs::decode(&mut &bytes[..20]), Err(EpochsError::TooShort));
        let found = u32::MAX;
        assert_eq!(
            LeaderEpochs::decode(&mut &found.to_be_bytes()[..]),
            Err(EpochsError::TooMany { found })
        );
        bytes[4 + 12 + 3] = 0;
        assert_eq!(
            LeaderEpochs::decode(&mut &bytes[..]),
            Err(EpochsError::OutOfOrder { epoch: LeaderEpoch(0) })
        );
    }
}
