//! A fetch that has found nothing waits, until there is more in a log, records come back from other
//! members, its time is up or its connection is gone.

use tidemill_record::TopicPartition;
use tidemill_runtime::edge::ShardId;

use super::Stage;
use crate::api::Job;
use crate::connection::ConnectionId;
use crate::job::JobId;
use crate::message::{Call, Message};
use crate::partition::Times;
use crate::placement;
use crate::shard::Shard;
use crate::share::partition::SessionId;
use crate::share::request::Request;

impl Shard {
    /// Waits until there is more in a log, or more can be given out.
    pub(super) fn watch_share(&mut self, job: JobId, times: Times) {
        let Some(Job::ShareFetch(fetch)) = self.jobs.get_mut(job) else { return };
        fetch.stage = Stage::Waiting;
        let (deadline, read_committed) = (fetch.deadline, fetch.rules.read_committed);
        let count = fetch.parts.len();
        let mut calls = Vec::new();
        for (index, part) in fetch.parts.iter().enumerate().filter(|(_, part)| part.is_read) {
            if let (Some(seen_end), Ok(id)) = (part.seen_end, part.id) {
                calls.push((index as u32, id, Call::Watch { seen_end, read_committed }));
            }
            if let (Some(seen), Some(state)) = (part.seen, part.state) {
                let request = Request::Watch { key: part.key.clone(), seen };
                calls.push(((count + index) as u32, state, Call::Share(Box::new(request))));
            }
        }
        self.jobs.set_deadline(job, deadline);
        self.call(job, calls, times);
    }

    /// Ends the watches of a fetch.
    pub(super) fn unwatch_share(&mut self, job: JobId, times: Times) {
        let Some(Job::ShareFetch(fetch)) = self.jobs.get_mut(job) else { return };
        let mut calls = Vec::new();
        let mut watched: Vec<Vec<TopicPartition>> =
            vec![Vec::new(); usize::from(self.settings.shards)];
        for part in fetch.parts.iter().filter(|part| part.is_read) {
            if let (Some(_), Ok(id)) = (part.seen_end, part.id) {
                watched[usize::from(placement::home(id, self.settings.shards).0)].push(id);
            }
            if let (Some(_), Some(state)) = (part.seen, part.state) {
                let request = Request::Unwatch { key: part.key.clone() };
                calls.push((0, state, Call::Share(Box::new(request))));
            }
        }
        for (shard, partitions) in watched.into_iter().enumerate() {
            let shard = ShardId(shard as u16);
            if shard == self.id {
                let Some(home) = &mut self.home else { continue };
                partitions.iter().for_each(|id| home.unwatch(*id, job, shard));
            } else if !partitions.is_empty() {
                self.tell(shard, Message::Unwatch { job, partitions });
            }
        }
        self.call(job, calls, times);
    }

    /// The time a fetch may wait is over.
    pub(crate) fn share_fetch_expired(&mut self, job: JobId, times: Times) {
        // What is being looked at ends by itself, and then finds the deadline passed.
        if let Some(Job::ShareFetch(fetch)) = self.jobs.get_mut(job)
            && fetch.stage == Stage::Waiting
        {
            self.unwatch_share(job, times);
            self.finish_share_fetch(job, times);
        }
    }

    /// A connection is gone: so are the sessions that came by it, and whoever waits for them.
    pub(crate) fn share_connection_gone(&mut self, connection: ConnectionId, times: Times) {
        let ended = self.shares.sessions.end_of(connection);
        if ended.is_empty() {
            return;
        }
        for id in self.jobs.ids() {
            if let Some(Job::ShareFetch(fetch)) = self.jobs.get_mut(id)
                && fetch.reply.slot.connection == connection
                && fetch.stage == Stage::Waiting
            {
                self.unwatch_share(id, times);
                self.jobs.remove(id);
            }
        }
        for (who, number, places) in ended {
            // The member may have come back by another connection: what it gets there is its own.
            let session = SessionId { shard: self.id, number };
            self.release_share(&who, Some(session), &places, times);
        }
    }
}
