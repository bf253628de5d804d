//! A group becomes of another kind for who asks it: see [`crate::coordinator::migration`] for groups
//! that have members.

use std::sync::Arc;

use tidemill_net::kafka::ErrorCode;

use super::{Group, Kind};
use crate::coordinator::classic::Classic;
use crate::coordinator::consumer::{Consumer, Upgraded};
use crate::coordinator::decision::{Becomes, Decision};
use crate::coordinator::record::Record;
use crate::coordinator::request::{ConsumerHeartbeat, Reply};

impl Group {
    /// A group of the newer kind that nobody is in is one of the classic kind to who joins it.
    pub(super) fn become_classic_if_empty(&mut self, decision: &mut Decision<'_>) {
        if let Kind::Consumer(consumer) = &self.kind
            && consumer.is_empty()
        {
            let classic = Classic::after(consumer.epoch(), decision.times.wall_ms);
            // If this cannot be written, what follows overwrites it at the next start.
            decision.outcome.records.push(classic.to_record(decision.group));
            decision.outcome.records.extend(Consumer::removal(decision.group));
            self.kind = Kind::Classic(Box::new(classic));
        }
    }

    pub(super) fn consumer_heartbeat(
        &mut self,
        asked: &ConsumerHeartbeat,
        decision: &mut Decision<'_>,
    ) -> Reply {
        let nobody;
        let consumer: &Consumer = match &self.kind {
            Kind::Consumer(consumer) => consumer,
            Kind::Classic(classic) if asked.joins() && classic.was_never_shared() => {
                nobody = Consumer::default();
                &nobody
            }
            Kind::Classic(_) => return self.upgrade(asked, decision),
            Kind::Share(_) => return no_consumer_group(asked),
        };
        if self.remembered.is_some() {
            let group = Arc::clone(decision.group);
            decision.outcome.records.push(Record::GroupRemoved { group });
        }
        let heard = consumer.heartbeat(asked, &mut self.watch, decision);
        let heard = heard.map_err(|refusal| {
            // It stays what it was.
            decision.outcome.records.clear();
            (refusal.error, refusal.message)
        });
        Reply::Heard(heard)
    }

    /// A member of the newer kind asks a classic group: if it joins, the group becomes of that kind.
    fn upgrade(&mut self, asked: &ConsumerHeartbeat, decision: &mut Decision<'_>) -> Reply {
        let Kind::Classic(classic) = &mut self.kind else { return no_consumer_group(asked) };
        let may_change = decision.rules.upgrades && classic.can_upgrade();
        if !classic.is_empty() && !may_change {
            return no_consumer_group(asked);
        }
        if !asked.joins() {
            // It was in the group, and is out. Told that there is none, clients would end for good.
            let message = format!("Member {} is not a member.", asked.member);
            return Reply::Heard(Err((ErrorCode::UnknownMemberId, message)));
        }
        let group = decision.group;
        let bytes_max = decision.rules.record_bytes_max;
        let upgraded = match Upgraded::of(classic, group, decision.image, bytes_max) {
            Ok(upgraded) => upgraded,
            Err(error) => {
                tracing::debug!(group = &**group, %error, "a group is not upgraded");
                let message = format!("Group {group} is not a consumer group: {error}.");
                return Reply::Heard(Err((ErrorCode::GroupIdNotFound, message)));
            }
        };
        let mut records = upgraded.records;
        if self.remembered.is_some() {
            // Behind its epoch: the first record of a group says of which kind it is.
            records.insert(1, Record::GroupRemoved { group: Arc::clone(group) });
        }
        decision.outcome.records = records;
        match upgraded.group.heartbeat(asked, &mut self.watch, decision) {
            Err(refusal) => {
                decision.outcome.records.clear();
                Reply::Heard(Err((refusal.error, refusal.message)))
            }
            Ok(heard) => {
                tracing::info!(group = &**group, epoch = heard.epoch, "a group is upgraded");
                let becomes = decision.outcome.becomes.take();
                if let Some(Becomes::Consumer(consumer)) = &becomes {
                    consumer.expect_all(&mut self.watch, decision);
                }
                assert!(becomes.is_some(), "somebody who speaks the newer protocol has come");
                (decision.outcome.becomes, decision.outcome.is_whole) = (becomes, true);
                classic.interrupt(decision);
                Reply::Heard(Ok(heard))
            }
        }
    }
}

fn no_consumer_group(asked: &ConsumerHeartbeat) -> Reply {
    let message = format!("Group {} is not a consumer group.", asked.group);
    Reply::Heard(Err((ErrorCode::GroupIdNotFound, message)))
}
