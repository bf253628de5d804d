//! Writing all that is remembered once more, so that the log before it can go.
//!
//! As with groups: see `coordinator/rewrite.rs`. A batch repeats what is durable, so nothing else
//! is on its way when it is written, or it could land behind something newer and undo it.

use std::ops::Bound;
use std::sync::Arc;

use tidemill_record::{BatchBuilder, Codec, Offset};

use super::record::Record;
use super::{Append, Coordinator, put};
use crate::limits::GROUP_APPEND_BYTES;

/// The log may be so many times larger than what is remembered.
const TIMES_LARGER: usize = 4;

/// A rewrite under way.
#[derive(Debug, Default)]
pub(super) struct Rewrite {
    /// Where it goes on.
    after: Option<Arc<str>>,
    /// Where the first batch lies.
    first: Option<Offset>,
    /// Others have their turn before the next batch.
    yields: bool,
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

impl Coordinator {
    /// The log may go up to here.
    pub fn take_trim(&mut self) -> Option<Offset> {
        self.trim_to.take()
    }

    pub(super) fn begin_rewrite_if_due(&mut self) {
        let allowed = self.rules.rewrite_bytes.max(TIMES_LARGER * self.bytes());
        if allowed < self.log_bytes && self.rewrite.is_none() && self.closed.is_none() {
            self.log_bytes = 0;
            self.rewrite = Some(Rewrite::default());
        }
    }

    /// The next batch of a rewrite, if there is one under way.
    pub(super) fn poll_rewrite(&mut self, wall_ms: i64) -> Turn {
        let Some(rewrite) = &mut self.rewrite else { return Turn::Others };
        if rewrite.yields && !self.unsent.is_empty() {
            rewrite.yields = false;
            return Turn::Others;
        }
        if !self.in_flight.is_empty() {
            return Turn::Waits;
        }
        let from = rewrite.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut builder = BatchBuilder::new(Codec::None);
        let (mut bytes, mut last) = (0, None);
        for (id, entry) in self.ids.range::<Arc<str>, _>((from, Bound::Unbounded)) {
            if GROUP_APPEND_BYTES <= bytes {
                break;
            }
            let Some(state) = &entry.state else { continue };
            let record = Record { id: Arc::clone(id), state: Some(state.clone()) };
            bytes += put(&mut builder, &record, wall_ms);
            last = Some(Arc::clone(id));
        }
        rewrite.yields = true;
        let Some(last) = last else {
            // All is written: the log may begin with it.
            self.trim_to = rewrite.first;
            self.rewrite = None;
            return Turn::Others;
        };
        rewrite.after = Some(last);
        Turn::Mine(self.send(builder, Vec::new(), true))
    }

    pub(super) fn rewritten(&mut self, base_offset: Offset) {
        if let Some(rewrite) = &mut self.rewrite {
            rewrite.first.get_or_insert(base_offset);
        }
    }
}
