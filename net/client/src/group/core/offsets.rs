//! Where the group left off, and how far it has come since.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
    OffsetCommitResponse,
};
use tidemill_net::kafka::offset_fetch::{
    NO_OFFSET, OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic,
    OffsetFetchResponse,
};
use tidemill_record::TopicId;

use super::super::Share;
use super::joining::NO_GENERATION;
use super::{Ask, GroupCore, Placed, Stage};
use crate::consumer::{Isolation, Start};
use crate::error::{Error, ErrorKind};
use crate::time::Instant;

/// What is to be committed, and what became of it.
#[derive(Debug, Default)]
pub(super) struct Commits {
    /// To be sent.
    queue: BTreeMap<Share, i64>,
    is_sent: bool,
    /// When it is done by itself next.
    pub(super) at: Option<Instant>,
    /// Somebody waits to hear how it ended.
    is_awaited: bool,
    outcome: Option<Result<(), Error>>,
    /// How many partitions were taken away before what was read of them was committed.
    forsaken: usize,
}

impl Commits {
    pub(super) fn are_under_way(&self) -> bool {
        self.is_sent || !self.queue.is_empty()
    }

    /// What is not sent yet never will be.
    pub(super) fn forget(&mut self) {
        self.queue.clear();
    }

    fn settle(&mut self, outcome: Result<(), Error>) {
        if std::mem::take(&mut self.is_awaited) {
            self.outcome = Some(outcome);
        }
    }
}

impl GroupCore {
    /// Commits what was taken so far, as soon as that is possible. How it ended is told by
    /// [`GroupCore::poll_committed`].
    pub fn commit(&mut self, now: Instant) {
        self.commits.is_awaited = true;
        self.commits.outcome = None;
        self.gather();
        if 0 < self.commits.forsaken {
            let count = std::mem::take(&mut self.commits.forsaken);
            let code = ErrorCode::IllegalGeneration;
            let error = Error::refused(self.cannot_commit(), code, None)
                .because(format!("{count} partitions were given to other members meanwhile"))
                .fix("what was read of them is read again; poll more often, or commit more often");
            self.commits.settle(Err(error));
        } else if !self.commits.are_under_way() {
            self.commits.settle(Ok(()));
        }
        self.step(now);
    }

    /// How the commit ended that was asked for.
    pub fn poll_committed(&mut self) -> Option<Result<(), Error>> {
        self.commits.outcome.take()
    }

    /// Puts down how far everything was read that is ours.
    pub(super) fn gather(&mut self) {
        for (topic, partition, offset) in self.reader.positions() {
            let share = (Arc::clone(topic), partition);
            if self.shares.get(&share).is_some_and(|known| known.committed != Some(offset)) {
                self.commits.queue.insert(share, offset);
            }
        }
    }

    pub(super) fn note_forsaken(&mut self, given_up: &[Share]) {
        for share in given_up {
            let read = self.reader.position(&share.0, share.1);
            let known = self.shares.get(share).and_then(|progress| progress.committed);
            let is_put_down = self.commits.queue.contains_key(share);
            if read.is_some() && read != known && !is_put_down {
                self.commits.forsaken += 1;
            }
        }
    }

    pub(super) fn plan_commit(&mut self, now: Instant) {
        self.commits.at = self.config.auto_commit.map(|interval| now.plus(interval));
    }

    pub(super) fn commit_if_due(&mut self, now: Instant) {
        let is_member = matches!(self.stage, Stage::Member);
        if is_member && self.commits.at.is_some_and(|at| at <= now) {
            self.gather();
            self.plan_commit(now);
        }
        if self.generation == NO_GENERATION {
            // As somebody who is no member we would overwrite what the members commit.
            self.commits.forget();
        }
        // Between two generations nothing is accepted.
        let may_be_sent = matches!(self.stage, Stage::Member | Stage::Outside | Stage::Leaving);
        if self.commits.is_sent || self.commits.queue.is_empty() || !may_be_sent {
            return;
        }
        let mut topics: Vec<OffsetCommitRequestTopic> = Vec::new();
        for ((name, partition), offset) in &self.commits.queue {
            let is_new = topics.last().is_none_or(|last| *last.name != **name);
            if is_new {
                let topic_id = self.topic_id(name);
                let name = name.to_string();
                topics.push(OffsetCommitRequestTopic { name, topic_id, partitions: Vec::new() });
            }
            let topic = topics.last_mut().expect("there is one now");
            topic.partitions.push(OffsetCommitRequestPartition {
                partition_index: *partition,
                committed_offset: *offset,
                committed_metadata: Some(String::new()),
                ..OffsetCommitRequestPartition::default()
            });
        }
        let request = OffsetCommitRequest {
            group_id: self.config.group.clone(),
            generation_id_or_member_epoch: self.generation,
            member_id: self.member_id.clone(),
            group_instance_id: self.config.instance.clone(),
            topics,
            ..OffsetCommitRequest::default()
        };
        let sent = self.commits.queue.iter().map(|(share, offset)| (share.clone(), *offset));
        let ask = Ask::Commit(sent.collect());
        if self.ask(self.peer(), &request, Duration::ZERO, ask, now) {
            self.commits.is_sent = true;
            self.commits.queue.clear();
        }
    }

    fn topic_id(&self, name: &str) -> TopicId {
        self.reader.map().topic(name).map_or(TopicId::ZERO, |view| view.id)
    }

    /// It was not kept, as far as we know.
    pub(super) fn keep_for_later(&mut self, sent: Vec<(Share, i64)>) {
        self.commits.is_sent = false;
        for (share, offset) in sent {
            self.commits.queue.entry(share).or_insert(offset);
        }
    }

    pub(super) fn take_kept(
        &mut self,
        sent: &[(Share, i64)],
        answer: &OffsetCommitResponse,
        now: Instant,
    ) {
        self.commits.is_sent = false;
        let mut again = Vec::new();
        let mut refusal = None;
        for (share, offset) in sent {
            let id = self.topic_id(&share.0);
            let mut topics = answer.topics.iter();
            // One of the two is on the wire, and the other empty.
            let topic = topics
                .find(|told| *told.name == *share.0 || told.name.is_empty() && told.topic_id == id);
            let told = topic.and_then(|topic| {
                topic.partitions.iter().find(|told| told.partition_index == share.1)
            });
            match told.map_or(ErrorCode::UnknownServerError, |told| told.error_code) {
                ErrorCode::None => {
                    if let Some(progress) = self.shares.get_mut(share) {
                        progress.committed = Some(*offset);
                    }
                }
                error => {
                    refusal = Some(error);
                    if may_pass(error) {
                        again.push((share.clone(), *offset));
                    }
                }
            }
        }
        match refusal {
            None => {
                self.is_known(now);
                if !self.commits.are_under_way() {
                    self.commits.settle(Ok(()));
                }
            }
            Some(error) if may_pass(error) => {
                self.keep_for_later(again);
                self.take_refusal(error, now);
            }
            Some(error) => {
                let told = Error::refused(self.cannot_commit(), error, None);
                let is_told = !self.commits.is_awaited;
                self.commits.settle(Err(told.clone()));
                match error {
                    ErrorCode::RebalanceInProgress if !matches!(self.stage, Stage::Member) => {}
                    ErrorCode::RebalanceInProgress
                    | ErrorCode::IllegalGeneration
                    | ErrorCode::UnknownMemberId
                    | ErrorCode::FencedInstanceId => {
                        self.take_refusal(error, now);
                        // That has just been told.
                        self.commits.forsaken = 0;
                    }
                    _ if is_told => self.complain(told),
                    _ => {}
                }
            }
        }
    }

    fn cannot_commit(&self) -> String {
        format!("cannot commit offsets of group {}", self.config.group)
    }

    /// What a commit fails with whose time is over.
    pub(in crate::group) fn commit_is_late(&mut self) -> Error {
        self.commits.is_awaited = false;
        let error = Error::new(ErrorKind::TimedOut, self.cannot_commit());
        match &self.trouble {
            Some(trouble) => error.because(trouble.explanation().in_one_line()),
            None => error.because("the group's coordinator has not answered in time"),
        }
    }

    /// Asks where to begin, for all of which that is not known.
    pub(super) fn ask_for_offsets(&mut self, now: Instant) {
        let unknown: Vec<Share> = self
            .shares
            .iter()
            .filter(|(_, progress)| matches!(progress.place, Placed::Unknown))
            .map(|(share, _)| share.clone())
            .collect();
        if unknown.is_empty() {
            return;
        }
        let mut topics: Vec<OffsetFetchRequestTopic> = Vec::new();
        for (name, partition) in &unknown {
            if topics.last().is_none_or(|last| *last.name != **name) {
                let topic_id = self.topic_id(name);
                let name = name.to_string();
                topics.push(OffsetFetchRequestTopic { name, topic_id, partition_indexes: vec![] });
            }
            topics.last_mut().expect("there is one now").partition_indexes.push(*partition);
        }
        let group = OffsetFetchRequestGroup {
            group_id: self.config.group.clone(),
            topics: Some(topics.clone()),
            ..OffsetFetchRequestGroup::default()
        };
        let request = OffsetFetchRequest {
            group_id: self.config.group.clone(),
            topics: Some(topics),
            groups: vec![group],
            require_stable: self.config.reader.isolation == Isolation::ReadCommitted,
        };
        let ask = Ask::Offsets(unknown.clone());
        if self.ask(self.peer(), &request, Duration::ZERO, ask, now) {
            for share in &unknown {
                self.shares.get_mut(share).expect("just listed").place = Placed::Asked;
            }
        }
    }

    pub(super) fn forget_asking(&mut self, asked: &[Share]) {
        for share in asked {
            if let Some(progress) = self.shares.get_mut(share)
                && matches!(progress.place, Placed::Asked)
            {
                progress.place = Placed::Unknown;
            }
        }
    }

    pub(super) fn take_offsets(
        &mut self,
        asked: &[Share],
        mut answer: OffsetFetchResponse,
        now: Instant,
    ) {
        if let Some(group) = answer.groups.pop() {
            (answer.error_code, answer.topics) = (group.error_code, group.topics);
        }
        let mut refusal = Some(answer.error_code).filter(|error| !error.is_none());
        for topic in &answer.topics {
            let map = self.reader.map();
            let by_id = || map.name_of(topic.topic_id).map(|name| &**name);
            let name = Some(&*topic.name).filter(|name| !name.is_empty()).or_else(by_id);
            let Some(name) = name.map(Arc::<str>::from) else { continue };
            for told in &topic.partitions {
                let share = (Arc::clone(&name), told.partition_index);
                let Some(progress) = self.shares.get_mut(&share) else { continue };
                if !matches!(progress.place, Placed::Asked) {
                    continue;
                }
                if !told.error_code.is_none() {
                    refusal = Some(told.error_code);
                    continue;
                }
                progress.committed = Some(told.committed_offset).filter(|at| NO_OFFSET < *at);
                let start = progress.committed.map_or(self.config.start, Start::Offset);
                progress.place = Placed::Known(start);
            }
        }
        // Who was not answered for asks again.
        self.forget_asking(asked);
        if let Some(error) = refusal {
            self.take_refusal(error, now);
        }
        self.place_reader(now);
    }
}

/// Whether committing again may help. What is said not to exist is not waited for: nobody could
/// join again meanwhile.
fn may_pass(error: ErrorCode) -> bool {
    let is_gone = matches!(
        error,
        ErrorCode::UnknownTopicOrPartition
            | ErrorCode::UnknownTopicId
            | ErrorCode::InconsistentTopicId
    );
    error.is_retriable() && !is_gone
}
