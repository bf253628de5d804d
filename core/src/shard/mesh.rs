//! What one shard and the others tell each other: calls on partitions and their answers, changes of
//! the metadata, and the steps of start and stop.
//!
//! A message to another shard waits in this shard's outbox until the mesh takes it; one to itself is
//! handled in the same turn. Shards tell each other things in order, and the outboxes are bounded:
//! while one is held back, no requests are begun.
//!
//! Start reading at [`Shard::call`].

use tidemill_net::kafka::ErrorCode;
use tidemill_record::TopicPartition;
use tidemill_runtime::edge::{Edge, ShardId};

use super::{Shard, Stage};
use crate::controller::{self, Proposal};
use crate::coordinator::Coordinator as GroupCoordinator;
use crate::coordinator::request::Request as GroupRequest;
use crate::job::{JobId, ReplyTo};
use crate::limits::{OUTBOX_MESSAGES_MAX, PROPOSALS_PER_SHARD_MAX};
use crate::message::{Call, Message};
use crate::partition::Times;
use crate::placement;
use crate::share;
use crate::transaction::Coordinator as TransactionCoordinator;

impl Shard {
    /// Asks the home shards of partitions, this one included, on behalf of `job`.
    pub(crate) fn call(
        &mut self,
        job: JobId,
        calls: impl IntoIterator<Item = (u32, TopicPartition, Call)>,
        times: Times,
    ) {
        let shards = self.settings.shards;
        let mut remote: Vec<Vec<(u32, TopicPartition, Call)>> = Vec::new();
        for (index, partition, call) in calls {
            let shard = placement::home(partition, shards);
            if shard == self.id {
                self.carry_out(partition, call, ReplyTo { shard, job, index }, times);
            } else {
                if remote.is_empty() {
                    remote.resize_with(usize::from(shards), Vec::new);
                }
                remote[usize::from(shard.0)].push((index, partition, call));
            }
        }
        for (shard, calls) in remote.into_iter().enumerate() {
            if !calls.is_empty() {
                self.post(shard, Message::Calls { job, calls });
            }
        }
    }

    /// Does what a shard, perhaps this one, asks of a partition at home here.
    fn carry_out(&mut self, partition: TopicPartition, call: Call, to: ReplyTo, times: Times) {
        match call {
            Call::Group(request) => {
                if let GroupRequest::EndTransaction { producer, .. } = *request {
                    self.refuse_late_commits(partition, producer);
                }
                self.ask::<GroupCoordinator>(partition, *request, to, times);
            }
            Call::GroupInTransaction(question) => {
                self.verify_commit(partition, *question, to, times);
            }
            Call::Transaction(request) => {
                self.ask::<TransactionCoordinator>(partition, *request, to, times);
            }
            Call::Share(request) => self.ask::<share::Coordinator>(partition, *request, to, times),
            call => {
                let home = self.home.as_mut().expect("shards call each other after adoption");
                home.call(partition, call, to, times);
            }
        }
    }

    /// Asks the controller for a change, whose outcome `job` is told. It counts as open until then,
    /// even if the job ends before: each request carries the credit for its reply.
    pub(crate) fn propose(
        &mut self,
        job: JobId,
        proposal: Proposal,
        request_bytes: u32,
        times: Times,
    ) {
        if PROPOSALS_PER_SHARD_MAX <= self.proposals_open {
            let outcome = controller::refused(&proposal, ErrorCode::ThrottlingQuotaExceeded);
            return self.proposed(job, outcome, times);
        }
        self.proposals_open += 1;
        self.tell_controller(Message::Propose { job, proposal, request_bytes });
    }

    /// A message for shard 0, which may be this one.
    pub(crate) fn tell_controller(&mut self, message: Message) {
        self.tell(ShardId(0), message);
    }

    /// A message for every shard but this one.
    pub(crate) fn tell_others(&mut self, message: impl Fn() -> Message) {
        let own = usize::from(self.id.0);
        for shard in (0..self.outbox.len()).filter(|shard| *shard != own) {
            self.post(shard, message());
        }
    }

    /// A message for one shard, which may be this one.
    pub(crate) fn tell(&mut self, shard: ShardId, message: Message) {
        if shard == self.id {
            self.own.push_back(message);
        } else {
            self.post(usize::from(shard.0), message);
        }
    }

    pub(super) fn deliver_answers(&mut self, times: Times) -> bool {
        let mut moved = false;
        while let Some(home) = self.home.as_mut().filter(|home| home.has_answers()) {
            moved = true;
            let spare = std::mem::take(&mut self.spare_answers);
            let mut answers = home.take_answers(spare);
            // What they end for their requests has ended for all of them.
            self.stamp();
            for (reply_to, answer) in answers.drain(..) {
                if reply_to.shard == self.id {
                    self.answered(reply_to.job, reply_to.index, answer, times);
                } else {
                    let out = &mut self.answers_out[usize::from(reply_to.shard.0)];
                    out.push((reply_to.job, reply_to.index, answer));
                }
            }
            self.spare_answers = answers;
        }
        moved
    }

    // Messages.

    pub(super) fn handle_message<E: Edge<Message = Message>>(
        &mut self,
        from: ShardId,
        message: Message,
        times: Times,
        edge: &mut E,
    ) {
        match message {
            Message::Calls { job, calls } => {
                for (index, partition, call) in calls {
                    let to = ReplyTo { shard: from, job, index };
                    self.carry_out(partition, call, to, times);
                }
            }
            Message::Answers(answers) => {
                for (job, index, answer) in answers {
                    self.answered(job, index, answer, times);
                }
            }
            Message::Unwatch { job, partitions } => {
                if let Some(home) = &mut self.home {
                    for partition in partitions {
                        home.unwatch(partition, job, from);
                    }
                }
            }
            Message::Propose { job, proposal, request_bytes } => {
                let controller = self.controller.as_mut().expect("proposals go to shard 0");
                let proposed = controller.propose(from, job, proposal, request_bytes);
                if let Err(outcome) = proposed {
                    self.tell(from, Message::Proposed { job, outcome });
                }
            }
            Message::Proposed { job, outcome } => {
                self.proposals_open -= 1;
                self.proposed(job, outcome, times);
            }
            Message::Commit { number, records } => {
                self.replay(&records, times);
                self.tell_controller(Message::Applied { number });
            }
            Message::Applied { number } => {
                let controller = self.controller.as_mut().expect("commits come from shard 0");
                controller.applied(number);
            }
            Message::Dropped(partition) => {
                let controller = self.controller.as_mut().expect("told to shard 0");
                controller.dropped(partition);
            }
            Message::Fence => {
                if let Some(home) = &mut self.home {
                    home.fence();
                }
            }
            Message::Adopt(adoption) => self.adopt(*adoption, times),
            Message::Serve => self.serve(times, edge),
            Message::Adopted => {
                let startup = self.startup.as_mut().expect("told to shard 0 while it starts");
                startup.adopted();
            }
            Message::Spent(told) => {
                self.spending.spent_elsewhere(self.image.quotas(), &told, times.now);
            }
            Message::Ask(question) => self.answer_question(question, times),
            Message::Stop => self.begin_stop(times),
            Message::Stopped => {
                if let Stage::Stopping { others, .. } = &mut self.stage {
                    *others -= 1;
                }
            }
        }
    }

    pub(super) fn send_messages<E: Edge<Message = Message>>(&mut self, edge: &mut E) -> usize {
        let mut all = 0;
        self.held_back = false;
        for (shard, queue) in self.outbox.iter_mut().enumerate() {
            let to = ShardId(shard as u16);
            let mut sent = 0;
            while let Some(message) = queue.pop_front() {
                if let Err(message) = edge.send(to, message) {
                    queue.push_front(message);
                    break;
                }
                sent += 1;
            }
            // All answers of a turn, or of several, are one message.
            let answers = &mut self.answers_out[shard];
            if queue.is_empty() && !answers.is_empty() {
                match edge.send(to, Message::Answers(std::mem::take(answers))) {
                    Ok(()) => sent += 1,
                    Err(Message::Answers(kept)) => *answers = kept,
                    Err(_) => unreachable!("as it was given"),
                }
            }
            if 0 < sent {
                self.measures.meter.mesh.sent(to.0, sent);
                all += sent as usize;
            }
            self.held_back |= !queue.is_empty() || !answers.is_empty();
        }
        all
    }

    /// Whether another shard has not taken all that is for it yet. Until it has, no requests are
    /// begun, so that what waits for it is bounded: see [`OUTBOX_MESSAGES_MAX`].
    pub(crate) fn mesh_is_held_back(&self) -> bool {
        self.held_back
    }

    fn post(&mut self, shard: usize, message: Message) {
        let queue = &mut self.outbox[shard];
        assert!(queue.len() < OUTBOX_MESSAGES_MAX, "requests wait while a shard is behind");
        queue.push_back(message);
    }
}
