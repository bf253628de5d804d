//! How transactions ended, as far as it decides what compaction keeps.
//!
//! Records of an aborted transaction are nobody's: they are dropped, and are no key's last word.
//! A marker is kept while anything of its transaction is left, since readers on their way need it;
//! after that it gets a delete horizon as a deletion mark does.
//!
//! Which transactions were aborted the log knows ([`Aborted`], each with its first offset and its
//! marker's): so what belongs to one is decided by offsets, and a marker that is gone misleads
//! nobody.

use std::collections::{HashMap, HashSet, VecDeque};

use tidemill_record::{Batch, Marker, Offset, Outcome, ProducerId};

use crate::transactions::Aborted;

/// The transactions on a way through a log, from its start on.
#[derive(Clone, Debug, Default)]
pub struct EndedTransactions {
    /// Of each producer, in the order of their markers.
    aborted: HashMap<ProducerId, VecDeque<Aborted>>,
    /// The first one of these whose batches were met.
    met_aborted: HashMap<ProducerId, Offset>,
    /// Whose transactional batches were met since their last marker, and are not aborted.
    met_others: HashSet<ProducerId>,
    /// Markers of aborted transactions of which a batch was met.
    still_there: HashSet<Offset>,
}

impl EndedTransactions {
    /// At a log's start; `aborted` are all that were aborted in what will be walked.
    #[must_use]
    pub fn new(aborted: &[Aborted]) -> EndedTransactions {
        let mut ended = EndedTransactions::default();
        for one in aborted {
            ended.aborted.entry(one.producer_id).or_default().push_back(*one);
        }
        ended
    }

    /// The next batch of records; says whether it belongs to an aborted transaction.
    pub fn handle_batch(&mut self, batch: &Batch<'_>) -> bool {
        let Some(producer) = batch.producer().filter(|_| batch.is_transactional()) else {
            return false;
        };
        let at = batch.base_offset();
        if let Some(aborted) = self.aborted.get_mut(&producer.id) {
            while aborted.front().is_some_and(|one| one.last < at) {
                aborted.pop_front();
            }
            if let Some(one) = aborted.front().filter(|one| one.first <= at) {
                self.met_aborted.insert(producer.id, one.last);
                self.still_there.insert(one.last);
                return true;
            }
        }
        self.met_others.insert(producer.id);
        false
    }

    /// The next control batch; says whether nothing is left of what it ends.
    pub fn handle_marker(&mut self, batch: &Batch<'_>) -> bool {
        // Its record is gone already: it is kept for what it says of its producer, if at all.
        if batch.records_count() == 0 {
            return true;
        }
        let Some(producer) = batch.producer() else { return false };
        match Marker::read(batch) {
            Ok(Marker { outcome: Outcome::Abort, .. }) => {
                let met = self.met_aborted.remove(&producer.id);
                // Of a transaction that the log does not know as aborted, nothing may be lost.
                let met_others = self.met_others.remove(&producer.id);
                met != Some(batch.base_offset()) && !met_others
            }
            Ok(Marker { outcome: Outcome::Commit, .. }) => !self.met_others.remove(&producer.id),
            // Another kind of control batch, of a newer version perhaps: it is not ours to drop.
            Err(_) => false,
        }
    }

    /// Whether a batch was met of the aborted transaction whose marker is here.
    #[must_use]
    pub fn is_still_there(&self, marker: Offset) -> bool {
        self.still_there.contains(&marker)
    }
}
