//! Share sessions (KIP-932): which partitions a member of a share group reads, so that it need not
//! name them each time.
//!
//! A member has one session on each broker it fetches from, by the name of its group and its own.
//! Each request takes it one step further, so that none is lost or comes twice unseen. It lives as
//! long as the connection it came by: when that goes, what the member has is free for others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::share_acknowledge::{FINAL_EPOCH, INITIAL_EPOCH};
use tidemill_record::TopicId;

use crate::connection::ConnectionId;
use crate::coordinator::request::MemberId;
use crate::limits::{SHARE_SESSION_PARTITIONS_MAX, SHARE_SESSION_PLACES_MAX, SHARE_SESSIONS_MAX};

/// A partition as members name it.
pub type Place = (TopicId, i32);

/// The share sessions of one shard.
#[derive(Debug, Default)]
pub struct ShareSessions {
    all: BTreeMap<Who, Session>,
    by_connection: HashMap<usize, Vec<Who>>,
    places_count: usize,
    /// So many sessions were begun.
    begun: u64,
}

/// A member of a group.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Who {
    /// The group.
    pub group: Arc<str>,
    /// The member.
    pub member: MemberId,
}

#[derive(Debug)]
struct Session {
    /// Tells it from others of this shard.
    number: u64,
    /// The step that comes next.
    epoch: i32,
    places: BTreeSet<Place>,
    /// Which of them is looked at first, so that all get their turn.
    rotation: usize,
    connection: ConnectionId,
}

/// A session as a request finds it.
#[derive(Debug, Eq, PartialEq)]
pub struct Opened {
    /// Tells the session from others of this shard.
    pub number: u64,
    /// What is to be read, or what was read until now if the session ends.
    pub places: Vec<Place>,
    /// It has just begun: the member is told of all partitions.
    pub is_new: bool,
    /// It has ended.
    pub has_ended: bool,
}

/// How a request changes what is read.
#[derive(Debug, Default)]
pub struct Changes {
    /// These too.
    pub added: Vec<Place>,
    /// These no more.
    pub forgotten: Vec<Place>,
}

impl ShareSessions {
    /// Whether nobody reads in a share group here.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Takes a session one step further, or begins or ends it, as the step that is named says.
    pub fn step(
        &mut self,
        who: &Who,
        epoch: i32,
        connection: ConnectionId,
        changes: Changes,
    ) -> Result<Opened, ErrorCode> {
        // Before anything is done with them: the request says how many there are.
        if SHARE_SESSION_PLACES_MAX < changes.added.len().max(changes.forgotten.len()) {
            return Err(ErrorCode::ShareSessionLimitReached);
        }
        match epoch {
            INITIAL_EPOCH => self.begin(who, connection, changes),
            FINAL_EPOCH => {
                let ended = self.remove(who).ok_or(ErrorCode::ShareSessionNotFound)?;
                let (number, places) = (ended.number, ended.places.into_iter().collect());
                Ok(Opened { number, places, is_new: false, has_ended: true })
            }
            epoch => self.go_on(who, epoch, connection, changes),
        }
    }

    fn begin(
        &mut self,
        who: &Who,
        connection: ConnectionId,
        changes: Changes,
    ) -> Result<Opened, ErrorCode> {
        // What the member got by this connection goes with it, whichever session that was in.
        let before = self.remove(who).filter(|before| before.connection == connection);
        if SHARE_SESSIONS_MAX <= self.all.len() {
            return Err(ErrorCode::ShareSessionLimitReached);
        }
        let number = before.map_or(self.begun + 1, |before| before.number);
        self.begun = self.begun.max(number);
        let session =
            Session { number, epoch: 1, places: BTreeSet::new(), rotation: 0, connection };
        self.all.insert(who.clone(), session);
        self.by_connection.entry(connection.index).or_default().push(who.clone());
        let places = self.change(who, changes)?;
        Ok(Opened { number, places, is_new: true, has_ended: false })
    }

    fn go_on(
        &mut self,
        who: &Who,
        epoch: i32,
        connection: ConnectionId,
        changes: Changes,
    ) -> Result<Opened, ErrorCode> {
        let session = self.all.get_mut(who).ok_or(ErrorCode::ShareSessionNotFound)?;
        if session.epoch != epoch {
            return Err(ErrorCode::InvalidShareSessionEpoch);
        }
        let number = session.number;
        session.epoch = epoch.checked_add(1).unwrap_or(1);
        let before = std::mem::replace(&mut session.connection, connection);
        if before != connection {
            self.leave(before, who);
            self.by_connection.entry(connection.index).or_default().push(who.clone());
        }
        let places = self.change(who, changes)?;
        Ok(Opened { number, places, is_new: false, has_ended: false })
    }

    /// Changes what is read; tells all of it, in the order in which it is this time.
    fn change(&mut self, who: &Who, changes: Changes) -> Result<Vec<Place>, ErrorCode> {
        let session = self.all.get_mut(who).expect("the caller has just seen it");
        let before = session.places.len();
        session.places.extend(changes.added);
        for place in changes.forgotten {
            session.places.remove(&place);
        }
        session.rotation = session.rotation.wrapping_add(1);
        let mut places: Vec<Place> = session.places.iter().copied().collect();
        if !places.is_empty() {
            let first = session.rotation % places.len();
            places.rotate_left(first);
        }
        self.places_count = self.places_count - before + places.len();
        if SHARE_SESSION_PLACES_MAX < places.len()
            || SHARE_SESSION_PARTITIONS_MAX < self.places_count
        {
            self.remove(who);
            return Err(ErrorCode::ShareSessionLimitReached);
        }
        Ok(places)
    }

    fn remove(&mut self, who: &Who) -> Option<Session> {
        let session = self.all.remove(who)?;
        self.places_count -= session.places.len();
        self.leave(session.connection, who);
        Some(session)
    }

    fn leave(&mut self, connection: ConnectionId, who: &Who) {
        if let Some(there) = self.by_connection.get_mut(&connection.index) {
            there.retain(|other| other != who);
            if there.is_empty() {
                self.by_connection.remove(&connection.index);
            }
        }
    }

    /// A connection is gone, and with it the sessions that came by it: whose they were, which, and
    /// what was read there.
    pub fn end_of(&mut self, connection: ConnectionId) -> Vec<(Who, u64, Vec<Place>)> {
        let there = self.by_connection.remove(&connection.index).unwrap_or_default();
        let ended = there.into_iter().filter_map(|who| {
            let session = self.all.remove(&who)?;
            self.places_count -= session.places.len();
            Some((who, session.number, session.places.into_iter().collect()))
        });
        ended.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(member: &str) -> Who {
        Who { group: "g".into(), member: member.into() }
    }

    fn connection(index: usize) -> ConnectionId {
        ConnectionId { index, serial: index as u64 }
    }

    fn place(partition: i32) -> Place {
        (TopicId([1; 16]), partition)
    }

    fn reads(partitions: &[i32]) -> Changes {
        let added = partitions.iter().map(|partition| place(*partition)).collect();
        Changes { added, forgotten: Vec::new() }
    }

    /// A session goes step by step: what comes twice, or too early, is refused and changes nothing.
    #[test]
    fn steps_come_one_after_the_other() {
        let mut sessions = ShareSessions::default();
        let at = connection(1);
        let unknown = sessions.step(&who("a"), 1, at, Changes::default());
        assert_eq!(unknown, Err(ErrorCode::ShareSessionNotFound));
        let opened = sessions.step(&who("a"), 0, at, reads(&[0, 1])).unwrap();
        assert_eq!((opened.places.len(), opened.is_new), (2, true));
        assert!(sessions.step(&who("a"), 1, at, Changes::default()).is_ok());
        for wrong in [1, 3] {
            let refused = sessions.step(&who("a"), wrong, at, reads(&[7]));
            assert_eq!(refused, Err(ErrorCode::InvalidShareSessionEpoch));
        }
        let changes = Changes { added: vec![place(2)], forgotten: vec![place(0)] };
        let mut opened = sessions.step(&who("a"), 2, at, changes).unwrap();
        opened.places.sort_unstable();
        assert_eq!(opened.places, [place(1), place(2)]);
    }

    /// Each partition is the first of all in its turn.
    #[test]
    fn partitions_take_turns() {
        let mut sessions = ShareSessions::default();
        let at = connection(1);
        sessions.step(&who("a"), 0, at, reads(&[0, 1, 2])).unwrap();
        let mut firsts: Vec<Place> = (1..4)
            .map(|epoch| sessions.step(&who("a"), epoch, at, Changes::default()).unwrap().places[0])
            .collect();
        firsts.sort_unstable();
        assert_eq!(firsts, [place(0), place(1), place(2)]);
    }

    /// However many partitions a request names, and however often, it is soon dealt with: what is too
    /// much is refused before anything is done, and leaves the session as it is.
    #[test]
    fn a_request_that_names_too_much_changes_nothing() {
        let mut sessions = ShareSessions::default();
        let at = connection(1);
        let many: Vec<i32> = (0..SHARE_SESSION_PLACES_MAX as i32).collect();
        let opened = sessions.step(&who("a"), 0, at, reads(&many)).unwrap();
        assert_eq!(opened.places.len(), SHARE_SESSION_PLACES_MAX);
        let again = vec![0; 2 * SHARE_SESSION_PLACES_MAX];
        for changes in
            [reads(&again), Changes { added: Vec::new(), forgotten: reads(&again).added }]
        {
            let refused = sessions.step(&who("a"), 1, at, changes);
            assert_eq!(refused, Err(ErrorCode::ShareSessionLimitReached));
        }
        let forgotten = reads(&many[1..]).added;
        let changes = Changes { added: vec![place(0)], forgotten };
        assert_eq!(sessions.step(&who("a"), 1, at, changes).unwrap().places, [place(0)]);
        sessions.step(&who("a"), 2, at, reads(&many[1..])).unwrap();
        let grown = sessions.step(&who("a"), 3, at, reads(&[i32::MAX]));
        assert_eq!(grown, Err(ErrorCode::ShareSessionLimitReached));
        assert_eq!((sessions.is_empty(), sessions.places_count), (true, 0));
    }

    /// With its connection a session is gone, and what it read is told.
    #[test]
    fn a_session_ends_with_its_connection() {
        let mut sessions = ShareSessions::default();
        sessions.step(&who("a"), 0, connection(1), reads(&[0, 1])).unwrap();
        sessions.step(&who("b"), 0, connection(2), reads(&[0])).unwrap();
        sessions.step(&who("a"), 1, connection(3), Changes::default()).unwrap();
        assert_eq!(sessions.end_of(connection(1)), []);
        assert_eq!(sessions.end_of(connection(3)), [(who("a"), 1, vec![place(0), place(1)])]);
        let ended = sessions.step(&who("b"), FINAL_EPOCH, connection(2), Changes::default());
        assert_eq!(ended.map(|opened| opened.places), Ok(vec![place(0)]));
        assert!(sessions.is_empty() && sessions.by_connection.is_empty());
        assert_eq!(sessions.places_count, 0);
    }
}
