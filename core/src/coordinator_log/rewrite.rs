//! Writing all that is remembered once more, so that the log before it can go.
//!
//! A coordinator's log says how each thing was at each time; only how it is now is needed. When
//! much more was written than there is, all of it is written to the end of the log, a batch at a
//! time, and when the last batch is durable, what lies before the first can be dropped. Until then
//! a crash loses nothing: the log just says some things twice.
//!
//! A batch repeats what is durable. So nothing else is on its way when it is written, or it could
//! land behind something newer and undo it.

use tidemill_record::{BatchBuilder, Codec, Offset};

use super::logged::put;
use super::{Append, Coordinate, Logged};
use crate::limits::GROUP_APPEND_BYTES;

/// The log may be so many times larger than what is remembered.
const TIMES_LARGER: usize = 4;

/// A rewrite under way.
#[derive(Debug)]
pub(super) struct Rewrite<P> {
    /// Where it goes on.
    after: Option<P>,
    /// Where the first batch lies.
    first: Option<Offset>,
    /// Others have their turn before the next batch.
    yields: bool,
    /// Bytes of the log when it began: as long as it has not ended, they are still there.
    before_bytes: usize,
}

/// Who may write next.
pub(super) enum Turn {
    /// The rewrite does.
    Mine(Append),
    /// Nobody, until what is under way has ended.
    Waits,
    /// Whoever wants to.
    Others,
}

impl<C: Coordinate> Logged<C> {
    /// The log may go up to here.
    pub fn take_trim(&mut self) -> Option<Offset> {
        self.trim_to.take()
    }

    pub(super) fn begin_rewrite_if_due(&mut self) {
        let allowed = self.rewrite_bytes.max(TIMES_LARGER * self.bytes());
        let allowed = allowed.max(self.again_above_bytes);
        if allowed < self.log_bytes && self.rewrite.is_none() && !self.is_closed {
            self.again_above_bytes = 0;
            let before_bytes = std::mem::take(&mut self.log_bytes);
            let rewrite = Rewrite { after: None, first: None, yields: false, before_bytes };
            self.rewrite = Some(rewrite);
        }
    }

    /// The next batch of a rewrite, if there is one under way.
    pub(super) fn poll_rewrite(&mut self, wall_ms: i64) -> Turn {
        let Some(rewrite) = &mut self.rewrite else { return Turn::Others };
        // A write that was begun is ended first, and nobody is kept waiting for long.
        if 0 < self.begun || (rewrite.yields && !self.unsent.is_empty()) {
            rewrite.yields = false;
            return Turn::Others;
        }
        if !self.in_flight.is_empty() {
            return Turn::Waits;
        }
        let mut builder = BatchBuilder::new(Codec::None);
        let (mut bytes, mut last) = (0, None);
        for (place, records) in self.coordinator.remembered_after(rewrite.after.as_ref()) {
            if GROUP_APPEND_BYTES <= bytes {
                break;
            }
            for record in &records {
                bytes += put(&mut builder, record, wall_ms);
            }
            last = Some(place);
        }
        rewrite.yields = true;
        if last.is_none() {
            // All is written: the log may begin with it.
            self.trim_to = rewrite.first;
            self.rewrite = None;
            return Turn::Others;
        }
        rewrite.after = last;
        Turn::Mine(self.send(builder, Vec::new(), true))
    }

    /// A batch of a rewrite is durable.
    pub(super) fn rewritten(&mut self, base_offset: Offset) {
        if let Some(rewrite) = &mut self.rewrite {
            rewrite.first.get_or_insert(base_offset);
        }
    }

    /// A batch of a rewrite was refused. Nothing can go, so the log is as large as it was; it is
    /// tried again when as much was written as the batch that is tried.
    pub(super) fn give_up_rewrite(&mut self) {
        if let Some(rewrite) = self.rewrite.take() {
            self.log_bytes += rewrite.before_bytes;
            self.again_above_bytes = self.log_bytes + GROUP_APPEND_BYTES;
        }
    }
}
