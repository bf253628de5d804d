//! How a call of [`Admin`] is carried out: asked, waited for, asked again while that may help.

use std::sync::Arc;
use std::time::Duration;

use tidemill_net::kafka::{ErrorCode, Message, Request};

use super::Admin;
use crate::cluster::{Heard, Map, NotSent, Peer, TopicView};
use crate::connection::Reply;
use crate::error::{Error, ErrorKind};
use crate::time::Instant;

/// How long nodes take at most to hear of a new topic, or of new partitions.
pub(super) const NEWS_TAKES: Duration = Duration::from_millis(500);

/// How long a topic that asking for it may create can be unknown: a broker that makes topics at
/// all has begun by then.
const MAKING_TAKES: Duration = Duration::from_secs(2);

/// How often whoever waits is told what for.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// One call: what it is for, how long it may take, what has gone wrong so far.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) what: String,
    pub(super) start: Instant,
    until: Instant,
    tell_at: Instant,
    failed_tries: u32,
    refusal: Option<Error>,
}

impl Call {
    pub(super) fn what(&self) -> &str {
        &self.what
    }
}

impl Admin {
    pub(super) fn begin(&self, what: impl Into<String>) -> Call {
        let start = self.driver.now();
        Call {
            what: what.into(),
            start,
            until: start.plus(self.timeout),
            tell_at: start.plus(TELL_EVERY),
            failed_tries: 0,
            refusal: None,
        }
    }

    /// Sends a request until the answer's first part is no error, or one that will not pass.
    pub(super) fn call<R: Request, T>(
        &mut self,
        what: String,
        to: impl Fn(&Map) -> Peer,
        request: &R,
        read: impl Fn(&R::Response) -> Option<(ErrorCode, Option<String>, T)>,
    ) -> Result<T, Error> {
        let mut call = self.begin(what);
        if !self.cluster.knows_the_cluster() {
            self.next_map(&mut call)?;
        }
        loop {
            let to = to(self.cluster.map());
            let Some(reply) = self.ask(&mut call, to, request)? else { continue };
            let answer = decode::<R::Response>(&call, &reply)?;
            let (code, words, result) = read(&answer).ok_or_else(|| unanswered(&call))?;
            if code.is_none() {
                return Ok(result);
            }
            let error = Error::refused(&*call.what, code, words.as_deref());
            if !is_passing(code) {
                return Err(error);
            }
            self.pause(&mut call, error)?;
        }
    }

    /// A broker has refused for now: waits before the next try.
    pub(super) fn pause(&mut self, call: &mut Call, refusal: Error) -> Result<(), Error> {
        call.refusal = Some(refusal);
        call.failed_tries += 1;
        self.cluster.refresh(self.driver.now());
        let wait = Duration::from_millis(50).saturating_mul(call.failed_tries.min(20));
        let pause_until = self.driver.now().plus(wait);
        while self.driver.now() < pause_until {
            self.turn(call, Some(pause_until), Peer::Any)?;
        }
        while self.cluster.poll_heard().is_some() {}
        Ok(())
    }

    /// Asks once; `None` if the question was lost and can be asked again.
    pub(super) fn ask<R: Request>(
        &mut self,
        call: &mut Call,
        to: Peer,
        request: &R,
    ) -> Result<Option<Reply>, Error> {
        self.next_tag += 1;
        let tag = self.next_tag;
        loop {
            let now = self.driver.now();
            match self.cluster.send(to, request, Duration::ZERO, tag, now) {
                Ok(()) => break,
                Err(NotSent::NotNow) => {}
                Err(NotSent::UnknownNode) => self.cluster.refresh(now),
                Err(NotSent::NoCommonVersion { api, theirs }) => {
                    return Err(Error::unsupported(&*call.what, api, theirs));
                }
            }
            self.turn(call, None, to)?;
            while self.cluster.poll_heard().is_some() {}
        }
        loop {
            self.turn(call, None, to)?;
            while let Some(heard) = self.cluster.poll_heard() {
                match heard {
                    Heard::Reply(found, reply) if found == tag => return Ok(Some(reply)),
                    Heard::Lost(found) if found == tag => return Ok(None),
                    _ => {}
                }
            }
        }
    }

    /// Waits for the next map.
    pub(super) fn next_map(&mut self, call: &mut Call) -> Result<(), Error> {
        loop {
            self.turn(call, None, Peer::Any)?;
            while let Some(heard) = self.cluster.poll_heard() {
                if matches!(heard, Heard::Map) {
                    return Ok(());
                }
            }
        }
    }

    /// One topic as it is now, once all its partitions have leaders.
    pub(super) fn look_at(&mut self, call: &mut Call, name: &str) -> Result<TopicView, Error> {
        let start = self.driver.now();
        self.cluster.want_topic(&Arc::from(name), start);
        self.cluster.refresh_now(start);
        let being_made =
            if self.cluster.config().create_topics { MAKING_TAKES } else { NEWS_TAKES };
        loop {
            self.next_map(call)?;
            let now = self.driver.now();
            let seen = match self.cluster.map().topic(name) {
                // A map of all topics has no word for one that is not there.
                None if self.cluster.shows_all_topics() => ErrorCode::UnknownTopicOrPartition,
                // Heard before this was asked for.
                None => ErrorCode::LeaderNotAvailable,
                Some(view) if !view.error.is_none() => view.error,
                Some(view) if view.partitions.iter().any(|p| p.leader.is_none()) => {
                    ErrorCode::LeaderNotAvailable
                }
                Some(view) => return Ok(view.clone()),
            };
            let error = Error::refused(&*call.what, seen, None);
            // What has just been made is not known to all nodes at once.
            if !seen.is_retriable() || !is_passing(seen) && being_made <= now.since(start) {
                return Err(error);
            }
            call.refusal = Some(error);
            self.cluster.refresh(now);
        }
    }

    /// Lets the connections go on, until something was heard or `until` has come. Fails when the
    /// call's time is over, or `to` is out of reach and that is reason enough.
    fn turn(&mut self, call: &mut Call, until: Option<Instant>, to: Peer) -> Result<(), Error> {
        let wakes = call.until.min(call.tell_at);
        self.driver.turn(&mut self.cluster, until.map_or(wakes, |until| until.min(wakes)));
        let now = self.driver.now();
        let is_away = match to {
            Peer::Any => self.cluster.is_out_of_reach(),
            Peer::Node(node) | Peer::Aside(node) => self.cluster.is_node_out_of_reach(node),
        };
        if call.until <= now || self.gives_up_early && is_away {
            return Err(self.failure(call, to, is_away));
        }
        if call.tell_at <= now {
            call.tell_at = now.plus(TELL_EVERY);
            let failure = self.failure(call, to, is_away);
            if let Some(listener) = &mut self.listener {
                listener(&failure);
            }
        }
        Ok(())
    }

    /// What a call fails with if it ends now.
    fn failure(&self, call: &Call, to: Peer, is_away: bool) -> Error {
        let trouble = self.cluster.trouble();
        match (to, &call.refusal) {
            (Peer::Node(node) | Peer::Aside(node), _) if is_away => {
                Error::unreachable(ErrorKind::NodeUnreachable(node), &*call.what, trouble)
            }
            (Peer::Any, _) if is_away => {
                Error::unreachable(ErrorKind::Unreachable, &*call.what, trouble)
            }
            (_, Some(refusal)) => refusal.clone(),
            (_, None) => Error::new(ErrorKind::TimedOut, &*call.what)
                .because("the broker has not answered in time")
                .fix("see whether the broker is overloaded or stopped, and what its log says"),
        }
    }
}

/// Reads an answer.
pub(super) fn decode<M: Message>(call: &Call, reply: &Reply) -> Result<M, Error> {
    reply.decode::<M>().map_err(|error| {
        Error::new(ErrorKind::Damaged, &*call.what).because(format!("unreadable answer: {error}"))
    })
}

/// A broker has answered, but not for what it was asked.
pub(super) fn unanswered(call: &Call) -> Error {
    Error::new(ErrorKind::Damaged, &*call.what).because("the broker did not answer for it")
}

/// Whether trying again may help. A topic that is said not to exist most likely does not.
pub(super) fn is_passing(error: ErrorCode) -> bool {
    error.is_retriable()
        && !matches!(
            error,
            ErrorCode::UnknownTopicOrPartition
                | ErrorCode::UnknownTopicId
                | ErrorCode::InconsistentTopicId
        )
}
