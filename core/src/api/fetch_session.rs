//! Fetch sessions (KIP-227): a client names its partitions once, then only what changes.
//!
//! A session belongs to the shard that accepted the connection; elsewhere its id is unknown, and
//! the client begins a new one. In an incremental answer, partitions with nothing new are left
//! out. How many sessions there may be is bounded; the longest unused one makes room.

use std::collections::{BTreeMap, HashMap};

use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::fetch::{FINAL_EPOCH, FetchRequest, NO_SESSION};
use tidemill_record::Offset;
use tidemill_runtime::edge::{Instant, ShardId};

use super::TopicName;
use super::fetch::{News, Wanted};
use crate::partition::Times;
use crate::random::Random;
use crate::shard::{Settings, Shard};

/// The sessions of one shard.
pub struct FetchSessions {
    sessions: HashMap<i32, Session>,
    sessions_max: usize,
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
        if self.sessions_max == 0 {
            return NO_SESSION;
        }
        if self.sessions_max <= self.sessions.len() {
            let oldest = self.sessions.iter().min_by_key(|(_, session)| session.last_used);
            let oldest = oldest.map(|(&id, _)| id).expect("there is one");
            self.sessions.remove(&oldest);
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
        let parts = parts.collect();
        let session = Session { next_epoch: 1, by_id, last_used: now, rotation: 0, parts };
        self.sessions.insert(id, session);
        id
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
            self.sessions.sessions.remove(&id);
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
        let session =
            self.sessions.sessions.get_mut(&id).ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if session.by_id != by_id {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        if session.next_epoch != epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        session.next_epoch = if epoch == i32::MAX { 1 } else { epoch + 1 };
        session.last_used = times.now;
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
        Ok(Opened { session_id: id, incremental: true, parts: session.rotated() })
    }
}
