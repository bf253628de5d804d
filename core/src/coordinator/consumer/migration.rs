//! A group of the newer kind that was a classic one, or becomes one: see
//! [`crate::coordinator::migration`].

use std::sync::Arc;

use tidemill_replication::metadata::Image;
use tidemill_storage::mistake::{self, Mistake};

use super::heartbeat::Draft;
use super::{Consumer, record};
use crate::coordinator::assignment::Partitions;
use crate::coordinator::classic::Classic;
use crate::coordinator::decision::{Becomes, Decision};
use crate::coordinator::migration::{CannotUpgrade, Migrant, Said, share_of, told};
use crate::coordinator::record::{
    ClassicMember, ConsumerRecord, Current, MemberState, Record, State, Subscription,
};
use crate::coordinator::request::MemberId;
use crate::coordinator_log::LogRecord as _;
use crate::limits::GROUP_NAME_BYTES_MAX;

/// What a record that writes something of a member off takes beside the names in it, at most.
const REMOVAL_BYTES: usize = 64;

/// A classic group as one of the newer kind.
pub(in crate::coordinator) struct Upgraded {
    pub(in crate::coordinator) group: Consumer,
    /// What makes it one. The first of them tells its epoch.
    pub(in crate::coordinator) records: Vec<Record>,
}

impl Upgraded {
    /// What a classic group is as one of the newer kind, in records of so many bytes at most.
    pub(in crate::coordinator) fn of(
        classic: &Classic,
        group: &Arc<str>,
        image: &Image,
        bytes_max: usize,
    ) -> Result<Self, CannotUpgrade> {
        // Nobody is told of a generation before the first. An epoch of 0 is that of who joins.
        let begins_anew = mistake::is_made(Mistake::BeginAnew);
        let epoch = if begins_anew { 1 } else { classic.generation().max(1) };
        let mut draft = Draft::of(&Consumer::default());
        draft.write(ConsumerRecord::Epoch(Some((epoch, 0))));
        draft.write(ConsumerRecord::TargetEpoch(Some(epoch)));
        let protocol = classic.protocol().unwrap_or_default();
        for migrant in classic.migrants() {
            settle(&mut draft, migrant, &protocol, epoch, image)?;
        }
        // What is shared out stands until topics or members change; in a rebalance nothing does. Nor
        // if something is read by nobody: the leader may not have seen yet that a topic has grown.
        if classic.is_settled() && draft.group.reads_all(image) {
            let hash = draft.group.hash_topics(None, image);
            draft.write_first(ConsumerRecord::Epoch(Some((epoch, hash))));
        }
        let changes = draft.changes.into_iter();
        let records: Vec<Record> = changes.map(|change| record(group, change)).collect();
        // Who joins may have all shares made anew.
        if bytes_max < 2 * records.iter().map(encoded_len).sum::<usize>() {
            return Err(CannotUpgrade::TooLarge);
        }
        Ok(Self { group: draft.group, records })
    }
}

fn encoded_len(record: &Record) -> usize {
    let (key, value) = record.encode();
    key.len() + value.map_or(0, |value| value.len())
}

/// A classic member has, and is to have, what its leader has given it.
fn settle(
    draft: &mut Draft,
    migrant: Migrant,
    protocol: &str,
    epoch: i32,
    image: &Image,
) -> Result<(), CannotUpgrade> {
    let Migrant { state: was, protocols } = migrant;
    let said = Said::read(&was.subscription, image)?;
    // In a rebalance that has failed nobody has a share, and some still read what they had.
    let share = if was.assignment.is_empty() {
        said.owned
    } else {
        share_of(&was.assignment, protocol, image)?
    };
    let id = was.member;
    let wants = Subscription {
        instance: was.instance,
        rack: said.rack,
        client_id: was.client_id,
        client_host: was.client_host,
        topics: said.topics,
        regex: None,
        rebalance_ms: was.rebalance_ms,
        assignor: None,
        classic: Some(ClassicMember { session_ms: was.session_ms, protocols }),
    };
    let has = Current {
        epoch,
        previous_epoch: epoch,
        state: State::Stable,
        assigned: if mistake::is_made(Mistake::GiveWhatIsRead) {
            Partitions::new()
        } else {
            share.clone()
        },
        revoking: Partitions::new(),
    };
    draft.write(ConsumerRecord::Member(Arc::clone(&id), Some(wants)));
    draft.write(ConsumerRecord::Target(Arc::clone(&id), Some(share)));
    draft.write(ConsumerRecord::Current(id, Some(has)));
    Ok(())
}

impl Draft {
    /// Writes a change in the place of the first one, which was of the same thing.
    fn write_first(&mut self, change: ConsumerRecord) {
        self.group.replay(&change);
        self.changes[0] = change;
    }

    /// Has the group, which was as `before` says, become this classic one.
    pub(super) fn finish_as(classic: Classic, before: &Consumer, decision: &mut Decision<'_>) {
        let group = decision.group;
        tracing::info!(
            group = &**group,
            generation = classic.generation(),
            "a group is of the classic kind again"
        );
        let records = &mut decision.outcome.records;
        records.push(classic.to_record(group));
        let removed = before.members.keys().flat_map(|id| {
            [
                ConsumerRecord::Current(Arc::clone(id), None),
                ConsumerRecord::Target(Arc::clone(id), None),
                ConsumerRecord::Member(Arc::clone(id), None),
            ]
        });
        records.extend(removed.map(|change| record(group, change)));
        records.extend(Consumer::removal(group));
        (decision.outcome.blocks, decision.outcome.is_whole) = (true, true);
        decision.outcome.becomes = Some(Becomes::Classic(Box::new(classic)));
    }
}

impl Consumer {
    /// As a classic group that is to share out anew, if it may become one: all its members are
    /// classic ones.
    pub(super) fn downgraded(&self, decision: &Decision<'_>) -> Option<Classic> {
        let rules = decision.rules;
        if !rules.downgrades || !self.is_classic() || !self.tally.has_protocol_in_common() {
            return None;
        }
        if rules.members_max < self.members.len() {
            return None;
        }
        let migrants: Vec<Migrant> = self
            .members
            .iter()
            .map(|(id, member)| self.migrant(id, &member.wants, decision.image))
            .collect::<Option<_>>()?;
        let classic = Classic::of_migrants(migrants, self.epoch, decision.times.wall_ms);
        // All members, one that has just gone too, are written off in three records each.
        let group = decision.group.len();
        let names = self.members.keys().map(|id| id.len() + group + REMOVAL_BYTES);
        let removals = 3 * (names.sum::<usize>() + GROUP_NAME_BYTES_MAX + group + REMOVAL_BYTES);
        (classic.bytes() + removals <= rules.record_bytes_max).then_some(classic)
    }

    /// The group's epoch.
    pub(in crate::coordinator) fn epoch(&self) -> i32 {
        self.epoch
    }

    /// Whether it has members, and all speak the classic protocol.
    pub(super) fn is_classic(&self) -> bool {
        !self.members.is_empty() && self.tally.classic() == self.members.len()
    }

    /// Whether all members have their shares of the group's epoch.
    pub(super) fn is_settled(&self) -> bool {
        let (members, epoch) = (&self.members, self.epoch);
        epoch == self.assignment_epoch && members.values().all(|member| member.is_settled(epoch))
    }

    fn migrant(&self, id: &MemberId, wants: &Subscription, image: &Image) -> Option<Migrant> {
        let classic = wants.classic.as_ref()?;
        let none = Partitions::new();
        let share = self.targets.get(id).map_or(&none, |share| share);
        let said = &classic.protocols.first()?.metadata;
        let state = MemberState {
            member: Arc::clone(id),
            instance: wants.instance.clone(),
            client_id: Arc::clone(&wants.client_id),
            client_host: Arc::clone(&wants.client_host),
            rebalance_ms: wants.rebalance_ms,
            session_ms: classic.session_ms,
            subscription: said.clone(),
            assignment: told(share, said, image),
        };
        Some(Migrant { state, protocols: classic.protocols.clone() })
    }
}
