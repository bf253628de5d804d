//! Which groups the end of a transaction concerns, known without looking at all there are.
//!
//! Those in which it has committed offsets, and those of which something is to be known only
//! later: that may be of this transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidemill_record::ProducerId;

use super::group::Group;

/// The groups of a coordinator that the end of a transaction may concern.
#[derive(Default)]
pub(super) struct Concerned {
    /// Those with offsets that are committed when a transaction of the producer is.
    pending: BTreeMap<ProducerId, BTreeSet<Arc<str>>>,
    /// Those that are busy.
    busy: BTreeSet<Arc<str>>,
}

impl Concerned {
    /// The groups that the end of a producer's transaction concerns, in order.
    pub(super) fn by(&self, producer: ProducerId) -> Vec<Arc<str>> {
        let pending = self.pending.get(&producer).into_iter().flatten();
        let all: BTreeSet<&Arc<str>> = pending.chain(&self.busy).collect();
        all.into_iter().cloned().collect()
    }

    /// Looks whether a producer has offsets in a group that wait for the end of its transaction.
    pub(super) fn look_for(&mut self, producer: ProducerId, group: &Arc<str>, entry: &Group) {
        if entry.offsets.has_pending_of(producer) {
            self.pending.entry(producer).or_default().insert(Arc::clone(group));
        } else if let Some(groups) = self.pending.get_mut(&producer) {
            groups.remove(group);
            if groups.is_empty() {
                self.pending.remove(&producer);
            }
        }
    }

    /// Something of a group is to be known only later.
    pub(super) fn is_busy(&mut self, group: &Arc<str>) {
        self.busy.insert(Arc::clone(group));
    }

    /// All of a group is known, or it is gone.
    pub(super) fn is_quiet(&mut self, group: &Arc<str>) {
        self.busy.remove(group);
    }
}
