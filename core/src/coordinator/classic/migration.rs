//! A classic group that becomes one of the newer kind, or was one: see [`crate::coordinator::migration`].

use std::sync::Arc;

use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::consumer_protocol::PROTOCOL_TYPE;

use super::{Classic, Phase};
use crate::coordinator::decision::Decision;
use crate::coordinator::member::Member;
use crate::coordinator::migration::Migrant;
use crate::coordinator::request::MemberId;

impl Classic {
    /// Whether all its members are consumers, so that others than its leader can share out.
    pub(in crate::coordinator) fn can_upgrade(&self) -> bool {
        self.is_of_consumers()
    }

    /// Whether all members have their shares of this generation.
    pub(in crate::coordinator) fn is_settled(&self) -> bool {
        self.phase == Phase::Stable
    }

    /// The last generation that members were told of, or are waited for to make.
    pub(in crate::coordinator) fn generation(&self) -> i32 {
        self.generation
    }

    /// What they work with.
    pub(in crate::coordinator) fn protocol(&self) -> Option<Arc<str>> {
        self.protocol.clone()
    }

    /// Whether nobody is in it, and no generation of it was ever begun.
    pub(in crate::coordinator) fn was_never_shared(&self) -> bool {
        self.is_empty() && self.generation == 0
    }

    /// A group without members behind a generation, or an epoch.
    pub(in crate::coordinator) fn after(generation: i32, now_ms: i64) -> Self {
        Self { generation, since_ms: Some(now_ms), ..Self::default() }
    }

    /// Its members, with what they last said and were given.
    pub(in crate::coordinator) fn migrants(&self) -> impl Iterator<Item = Migrant> {
        // Who joins already for the next generation may not know the protocol of this one any more.
        let is_known = |name: &&Arc<str>| self.members.values().all(|member| member.knows(name));
        let chosen = self.protocol.as_ref().filter(is_known);
        let chosen = chosen.or_else(|| (!self.is_empty()).then(|| self.select_protocol()));
        self.members.iter().map(move |(id, member)| {
            let state = member.to_state(id, chosen.map(|name| &**name));
            Migrant { state, protocols: member.protocols().to_vec() }
        })
    }

    /// A group of these members in this generation, with the shares they bring. Without a leader:
    /// that is, it is to share out anew.
    pub(in crate::coordinator) fn of_migrants(
        migrants: Vec<Migrant>,
        generation: i32,
        now_ms: i64,
    ) -> Self {
        let mut group = Self {
            phase: Phase::Stable,
            since_ms: Some(now_ms),
            protocol_type: Some(PROTOCOL_TYPE.into()),
            generation,
            ..Self::default()
        };
        for migrant in migrants {
            let id = MemberId::clone(&migrant.state.member);
            group.insert(id, Member::from_migrant(migrant));
        }
        group.protocol = Some(group.select_protocol().clone());
        group.subscribed = group.find_subscribed();
        group.leader = None;
        group
    }

    /// What its members share stands, if each was told that of the group as its protocol: the first
    /// of them leads.
    pub(in crate::coordinator) fn stands(&mut self) {
        let chosen = self.protocol.as_ref();
        let were_told = |member: &Member| member.protocols().first().map(|one| &one.name) == chosen;
        if self.members.values().all(were_told) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    /// Everybody who waits is told to join again.
    pub(in crate::coordinator) fn interrupt(&mut self, decision: &mut Decision<'_>) {
        let error = ErrorCode::RebalanceInProgress;
        for (id, member) in &mut self.members {
            if let Some(waiting) = member.joining.take() {
                decision.refuse_join(waiting, error, id);
            }
            if let Some(waiting) = member.syncing.take() {
                decision.refuse_sync(waiting, error);
            }
        }
        self.joining = 0;
    }
}
