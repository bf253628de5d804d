//! What a decision of a coordinator is made with, and what comes of it.
//!
//! A decision changes what a group is waiting for at once. What must outlive the process goes out
//! as records; the replies of a decision that has records are held until these are durable, and
//! become refusals if they cannot be written. A decision that *blocks* lets nothing else happen to
//! its group until then.

use std::sync::Arc;

use tidemill_net::kafka::ErrorCode;
use tidemill_replication::metadata::Image;

use super::Rules;
use super::classic::Classic;
use super::consumer::Consumer;
use super::record::Record;
use super::request::{Joined, MemberId, Reply, Synced};
use super::share::Share;
use super::timers::Timers;
use crate::job::ReplyTo;
use crate::partition::Times;
use crate::random::Random;

/// What a group does if its records could not be written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum IfRefused {
    /// What was decided stands, or was never done.
    #[default]
    Nothing,
    /// The members must share out again.
    Rebalance,
}

/// One decision in the making.
pub(super) struct Decision<'a> {
    pub(super) group: &'a Arc<str>,
    pub(super) times: Times,
    pub(super) image: &'a Image,
    pub(super) rules: &'a Rules,
    pub(super) timers: &'a mut Timers,
    pub(super) random: &'a mut Random,
    pub(super) outcome: Outcome,
}

/// What a group is to be.
#[derive(Debug)]
pub(super) enum Becomes {
    /// Of the classic kind again, with members.
    Classic(Box<Classic>),
    Consumer(Box<Consumer>),
    Share(Box<Share>),
}

/// What a decision has led to.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) replies: Vec<(ReplyTo, Reply)>,
    pub(super) records: Vec<Record>,
    pub(super) blocks: bool,
    pub(super) if_refused: IfRefused,
    /// The end of the transaction with this number is written with it.
    pub(super) ends_transaction: Option<u64>,
    /// What the group is once the records are durable, if that is not what was changed at once.
    pub(super) becomes: Option<Becomes>,
    /// A part of the records would say something else than all of them: they go out together.
    pub(super) is_whole: bool,
    /// The group is gone once the records are durable.
    pub(super) ends: bool,
}

impl Decision<'_> {
    pub(super) fn reply(&mut self, to: ReplyTo, reply: Reply) {
        self.outcome.replies.push((to, reply));
    }

    /// A time that this group was set to, in milliseconds; none if it has what all have.
    pub(super) fn set_ms(&self, config: &str) -> Option<u64> {
        // Refused when it was set if it were none.
        self.image.group_configs(self.group).get(config)?.trim().parse().ok()
    }

    pub(super) fn refuse_join(&mut self, to: ReplyTo, error: ErrorCode, member: &MemberId) {
        self.reply(to, Reply::Joined(Box::new(Joined::refused(error, member))));
    }

    pub(super) fn refuse_sync(&mut self, to: ReplyTo, error: ErrorCode) {
        self.reply(to, Reply::Synced(Box::new(Synced::refused(error))));
    }

    /// Writes a record; nothing else happens to the group until it is durable.
    pub(super) fn write_and_block(&mut self, record: Record) {
        self.outcome.records.push(record);
        self.outcome.blocks = true;
    }

    /// A new name for a member: what it calls itself, and what makes it the only one of its name.
    pub(super) fn name_member(&mut self, called: &str) -> MemberId {
        format!("{called}-{}", self.uuid()).into()
    }

    /// A new name for a member that calls itself nothing.
    pub(super) fn name_consumer(&mut self) -> MemberId {
        self.uuid().into()
    }

    fn uuid(&mut self) -> String {
        let hex: String = self.random.uuid().iter().map(|byte| format!("{byte:02x}")).collect();
        [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
    }
}
