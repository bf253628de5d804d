//! Fetch sessions (KIP-227): a client names its partitions once, then only what changes.
//!
//! A session belongs to the shard that accepted the connection; elsewhere its id is unknown, and
//! the client begins a new one. In an incremental answer, partitions with nothing new are left
//! out. How many sessions there may be is bounded, and how many partitions they remember together.
//! When all is used up, the longest unused session makes room if nobody has used it for a while, as
//! in Kafka; otherwise the client is told session 0 and goes on naming all its partitions.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::fetch::{FINAL_EPOCH, FetchRequest, NO_SESSION};
use tidemill_record::Offset;
use tidemill_runtime::edge::{Instant, ShardId};

use super::TopicName;
use super::fetch::{News, Wanted};
use crate::limits::{FETCH_SESSION_PARTITIONS_MAX, FETCH_SESSION_UNUSED_MS};
use crate::partition::Times;
use crate::random::Random;
use crate::shard::{Settings, Shard};

/// A session unused for so long makes room for another.
const UNUSED: Duration = Duration::from_millis(FETCH_SESSION_UNUSED_MS);

/// The sessions of one shard.
pub struct FetchSessions {
    sessions: HashMap<i32, Session>,
    sessions_max: usize,
    /// Of all sessions together.
    parts_count: usize,
    parts_max: usize,
    /// Before this time no session has been unused for long enough to make room.
    evicts_from: Instant,
    random: Random,
}

/// One client's partitions.
pub struct Session {
    /// The epoch the next request must carry.
    next_epoch: i32,
    by_id: bool,
    last_used: Instant,
    /// Where the next answer starts, so that the last partitions do not starve.
    rotation: usize,
    parts: BTreeMap<(TopicName, i32), State>,
}

struct State {
    wanted: Wanted,
    told: Option<(Offset, Offset)>,
}

/// One partition of a request, with what the session remembers of it.
pub struct SessionPart {
    /// Its topic.
    pub topic: TopicName,
    /// Its number.
    pub partition: i32,
    /// What the client wants of it.
    pub wanted: Wanted,
}

/// What a request asks for, session and all.
pub struct Opened {
    /// To be told in the answer; 0 for none.
    pub session_id: i32,
    /// Whether partitions without news are left out of the answer.
    pub incremental: bool,
    /// What to read, in this order.
    pub parts: Vec<SessionPart>,
}

impl FetchSessions {
    /// No sessions yet.
    pub fn new(settings: &Settings, shard: ShardId) -> Self {
        let share = settings.config.fetch_sessions_max.div_ceil(u32::from(settings.shards));
        Self {
            sessions: HashMap::new(),
            sessions_max: share as usize,
            parts_count: 0,
            parts_max: FETCH_SESSION_PARTITIONS_MAX,
            evicts_from: Instant::default(),
            random: Random::new(settings.seed ^ (u128::from(shard.0) << 64) ^ 1),
        }
    }

    /// Lets `session_id` say what it has told the client now, if it still exists.
    pub fn tell(&mut self, session_id: i32, now: Instant, tell: impl FnOnce(&mut Session)) {
        if let Some(session) = self.sessions.get_mut(&session_id) {
            session.last_used = now;
            tell(session);
        }
    }

    fn begin(&mut self, by_id: bool, parts: &[SessionPart], now: Instant) -> i32 {
        if !self.make_room(1, parts.len(), now) {
            return NO_SESSION;
        }
        let id = loop {
            let id = (self.random.next_u64() & 0x7fff_ffff) as i32;
            if id != NO_SESSION && !self.sessions.contains_key(&id) {
                break id;
            }
        };
        let parts = parts.iter().map(|part| {
            let state = State { wanted: part.wanted, told: None };
            ((part.topic.clone(), part.partition), state)
        });
        let parts: BTreeMap<_, _> = parts.collect();
        self.parts_count += parts.len();
        let session = Session { next_epoch: 1, by_id, last_used: now, rotation: 0, parts };
        self.sessions.insert(id, session);
        id
    }

    fn end(&mut self, id: i32) {
        if let Some(session) = self.sessions.remove(&id) {
            self.parts_count -= session.parts.len();
        }
    }

    /// Whether so many more sessions and partitions fit, once those unused for long are gone.
    fn make_room(&mut self, sessions: usize, parts: usize, now: Instant) -> bool {
        loop {
            let fits = self.sessions.len() + sessions <= self.sessions_max
                && self.parts_count + parts <= self.parts_max;
            if fits || now < self.evicts_from {
                return fits;
            }
            let oldest = self.sessions.iter().min_by_key(|(_, session)| session.last_used);
            let Some((&oldest, session)) = oldest else { return false };
            let evicts_from = session.last_used.after(UNUSED);
            if now < evicts_from {
                // It is not looked for again before it can be found.
                self.evicts_from = evicts_from;
                return false;
            }
            self.end(oldest);
        }
    }

    /// Lets a session go on with what a request says of its partitions.
    fn go_on(
        &mut self,
        (id, epoch): (i32, i32),
        by_id: bool,
        named: Vec<SessionPart>,
        forgotten: Vec<(TopicName, i32)>,
        now: Instant,
    ) -> Result<Vec<SessionPart>, ErrorCode> {
        let session = self.sessions.get_mut(&id).ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if session.by_id != by_id {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        if session.next_epoch != epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        session.next_epoch = if epoch == i32::MAX { 1 } else { epoch + 1 };
        session.last_used = now;
        let before = session.parts.len();
        for part in named {
            let key = (part.topic, part.partition);
            match session.parts.get_mut(&key) {
                Some(state) => state.wanted = part.wanted,
                None => {
                    session.parts.insert(key, State { wanted: part.wanted, told: None });
                }
            }
        }
        for key in forgotten {
            session.parts.remove(&key);
        }
        let parts = session.rotated();
        self.parts_count = self.parts_count - before + parts.len();
        if !self.make_room(0, 0, now) {
            // It has grown too large: its client begins anew, and will be told session 0.
            self.end(id);
            return Err(ErrorCode::FetchSessionIdNotFound);
        }
        Ok(parts)
    }
}

impl Session {
    /// Notes what the client is told of a partition; false if that is nothing new.
    pub fn told(&mut self, topic: &TopicName, partition: i32, news: News) -> bool {
        let Some(state) = self.parts.get_mut(&(topic.clone(), partition)) else { return true };
        let changed = state.told != news.state || news.state.is_none();
        state.told = news.state;
        news.always || changed
    }

    /// All partitions, each time beginning one further on.
    fn rotated(&mut self) -> Vec<SessionPart> {
        let start = if self.parts.is_empty() { 0 } else { self.rotation % self.parts.len() };
        self.rotation = self.rotation.wrapping_add(1);
        let part = |((topic, partition), state): (&(TopicName, i32), &State)| SessionPart {
            topic: topic.clone(),
            partition: *partition,
            wanted: state.wanted,
        };
        let behind = self.parts.iter().skip(start);
        behind.chain(self.parts.iter().take(start)).map(part).collect()
    }
}

impl Shard {
    /// Finds or makes the session a request speaks of, and what it wants to read.
    pub(super) fn open_fetch_session(
        &mut self,
        version: i16,
        request: &FetchRequest<'_>,
        times: Times,
    ) -> Result<Opened, ErrorCode> {
        let by_id = 13 <= version;
        let named: Vec<SessionPart> = request
            .partitions()
            .map(|partition| SessionPart {
                topic: self.own_topic(partition.topic),
                partition: partition.partition,
                wanted: Wanted::of(&partition),
            })
            .collect();
        let (id, epoch) = (request.session_id, request.session_epoch);
        if epoch == FINAL_EPOCH || epoch == 0 {
            // A full fetch ends the session it names, and begins another with epoch 0.
            self.sessions.end(id);
            let session_id = match epoch {
                0 => self.sessions.begin(by_id, &named, times.now),
                _ => NO_SESSION,
            };
            return Ok(Opened { session_id, incremental: false, parts: named });
        }
        let forgotten: Vec<_> = request
            .forgotten()
            .map(|partition| (self.own_topic(partition.topic), partition.partition))
            .collect();
        let parts = self.sessions.go_on((id, epoch), by_id, named, forgotten, times.now)?;
        Ok(Opened { session_id: id, incremental: true, parts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Instant = Instant { nanos: 1 };

    fn sessions(sessions_max: usize, parts_max: usize) -> FetchSessions {
        FetchSessions {
            sessions: HashMap::new(),
            sessions_max,
            parts_count: 0,
            parts_max,
            evicts_from: Instant::default(),
            random: Random::new(7),
        }
    }

    fn parts(count: i32) -> Vec<SessionPart> {
        let wanted = Wanted {
            from: Offset(0),
            limit_bytes: 1,
            current_leader_epoch: None,
            last_fetched_epoch: None,
        };
        let topic = TopicName::Name("topic".into());
        (0..count)
            .map(|partition| SessionPart { topic: topic.clone(), partition, wanted })
            .collect()
    }

    /// The bug: sessions were counted, the partitions they remember were not.
    #[test]
    fn sessions_of_many_partitions_do_not_grow_without_a_bound() {
        let mut sessions = sessions(1000, 10);
        assert_eq!(sessions.begin(false, &parts(11), SOON), NO_SESSION);
        assert_ne!(sessions.begin(false, &parts(6), SOON), NO_SESSION);
        assert_eq!(sessions.begin(false, &parts(6), SOON), NO_SESSION);
        let small = sessions.begin(false, &parts(4), SOON);
        assert_ne!(small, NO_SESSION);

        let grown = sessions.go_on((small, 1), false, parts(5), Vec::new(), SOON);
        assert_eq!(grown.err(), Some(ErrorCode::FetchSessionIdNotFound));
        assert_eq!(sessions.parts_count, 6, "it has ended");
    }

    /// What a client forgets makes room for others.
    #[test]
    fn a_partition_that_is_forgotten_counts_no_more() {
        let mut sessions = sessions(10, 4);
        let first = sessions.begin(false, &parts(4), SOON);
        let forgotten = vec![(TopicName::Name("topic".into()), 0)];
        let rest = sessions.go_on((first, 1), false, Vec::new(), forgotten, SOON).unwrap();
        assert_eq!(rest.len(), 3);
        assert_ne!(sessions.begin(false, &parts(1), SOON), NO_SESSION);
        sessions.end(first);
        assert_eq!(sessions.parts_count, 1);
    }

    /// As in Kafka: clients that are active keep their sessions, or all would begin anew all the
    /// time; one that is gone makes room after two minutes.
    #[test]
    fn only_a_session_long_unused_makes_room() {
        let mut sessions = sessions(2, 100);
        let gone = sessions.begin(false, &parts(1), SOON);
        let active = sessions.begin(false, &parts(1), SOON);
        assert_eq!(sessions.begin(false, &parts(1), SOON), NO_SESSION);

        let later = SOON.after(UNUSED);
        sessions.tell(active, later, |_| {});
        assert_ne!(sessions.begin(false, &parts(1), later), NO_SESSION);
        let unknown = sessions.go_on((gone, 1), false, Vec::new(), Vec::new(), later);
        assert_eq!(unknown.err(), Some(ErrorCode::FetchSessionIdNotFound));
        assert!(sessions.go_on((active, 1), false, Vec::new(), Vec::new(), later).is_ok());
    }
}
