//! Writing all that is remembered once more, so that the log before it can go.
//!
//! A coordinator's log says how each thing was at each time; only how it is now is needed. When
//! much more was written than there is, all of it is written to the end of the log, a batch at a
//! time, and when the last batch is durable, what lies before the first can be dropped. Until then
//! a crash loses nothing: the log just says some things twice.
//!
//! A batch repeats what is durable. So nothing else is on its way when it is written, or it could
//! land behind something newer and undo it.

use std::sync::Arc;

use tidemill_record::{BatchBuilder, Codec, Offset, Timestamp};

use super::group::Part;
use super::record::Record;
use super::{Append, Coordinator};
use crate::limits::GROUP_APPEND_BYTES;

/// The log may be so many times larger than what is remembered.
const TIMES_LARGER: usize = 4;

/// A rewrite under way.
#[derive(Debug, Default)]
pub(super) struct Rewrite {
    /// Where it goes on.
    after: Option<Place>,
    /// Where the first batch lies.
    first: Option<Offset>,
    /// Others have their turn before the next batch.
    yields: bool,
}

/// Something that was written: a part of a group.
#[derive(Debug)]
struct Place {
    group: Arc<str>,
    part: Part,
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
        let begun = self.unsent.front().is_some_and(|write| 0 < write.sent);
        let Some(rewrite) = &mut self.rewrite else { return Turn::Others };
        // A write that was begun is ended first, and nobody is kept waiting for long.
        if begun || (rewrite.yields && !self.unsent.is_empty()) {
            rewrite.yields = false;
            return Turn::Others;
        }
        if !self.in_flight.is_empty() {
            return Turn::Waits;
        }
        let mut builder = BatchBuilder::new(Codec::None);
        let (mut bytes, mut last) = (0, None);
        for (place, records) in self.remembered_after(self.rewrite.as_ref()) {
            if GROUP_APPEND_BYTES <= bytes {
                break;
            }
            for (key, value) in records.iter().map(Record::encode) {
                bytes += key.len() + value.as_ref().map_or(0, |value| value.len());
                builder.append(Timestamp(wall_ms), Some(&key), value.as_deref());
            }
            last = Some(place);
        }
        let rewrite = self.rewrite.as_mut().expect("seen above");
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

    /// What is remembered and was not written yet.
    fn remembered_after<'a>(
        &'a self,
        rewrite: Option<&'a Rewrite>,
    ) -> impl Iterator<Item = (Place, Vec<Record>)> + 'a {
        use std::ops::Bound;
        let after = rewrite.and_then(|rewrite| rewrite.after.as_ref());
        let from = after.map_or(Bound::Unbounded, |place| Bound::Included(&place.group));
        let groups = self.groups.range::<Arc<str>, _>((from, Bound::Unbounded));
        groups.flat_map(move |(group, entry)| {
            let begun = after.filter(|place| place.group == *group).map(|place| &place.part);
            let parts = entry.remembered_after(group, begun);
            parts.map(|(part, records)| (Place { group: Arc::clone(group), part }, records))
        })
    }
}
