//! What is asked of a coordinator of share partitions and what it answers, without any version of
//! the wire.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidemill_net::kafka::ErrorCode;
use tidemill_record::TopicId;

use super::partition::{Acknowledgement, Given, SessionId, Want};
use super::record::Key;
use crate::coordinator::request::MemberId;

/// Something asked of the coordinator of one partition.
#[derive(Clone, Debug)]
pub enum Request {
    /// From where on can records be given out?
    Next {
        /// Of what.
        key: Key,
    },
    /// The group begins to read, unless it has begun.
    Begin {
        /// What.
        key: Key,
        /// From here on.
        start: i64,
    },
    /// The log begins here now.
    BeginsAt {
        /// Which.
        key: Key,
        /// What lay before is gone.
        log_start: i64,
    },
    /// The log ends here now: a crash has cut it.
    EndsAt {
        /// Which.
        key: Key,
        /// What was given out of what lay behind is gone, and others come in its place.
        log_end: i64,
    },
    /// A member wants some of what was read.
    Acquire {
        /// Of what.
        key: Key,
        /// What.
        want: Box<Want>,
    },
    /// A member says what became of records.
    Acknowledge {
        /// Of what.
        key: Key,
        /// Who.
        member: MemberId,
        /// What it says.
        told: Vec<Acknowledgement>,
    },
    /// A member is gone: what it has others may have.
    Release {
        /// Of what.
        key: Key,
        /// Who.
        member: MemberId,
        /// What it got in this session; none: whatever it has.
        session: Option<SessionId>,
    },
    /// Tell when more can be given out than was told last.
    Watch {
        /// Of what.
        key: Key,
        /// When that was.
        seen: u64,
    },
    /// Whoever asks does not wait any more; nothing is answered.
    Unwatch {
        /// For what.
        key: Key,
    },
    /// All of a group.
    List {
        /// Which group.
        group: Arc<str>,
    },
    /// The group is to begin here, whatever it has read.
    Reset {
        /// What.
        key: Key,
        /// Where.
        start: i64,
    },
    /// What a group has read is forgotten.
    Forget {
        /// Which group.
        group: Arc<str>,
        /// Of which topics; none for all.
        topics: Option<Arc<BTreeSet<TopicId>>>,
    },
}

/// What came of a [`Request`].
#[derive(Clone, Debug)]
pub enum Reply {
    /// Nothing was done.
    Refused(ErrorCode),
    /// The group has not begun to read this.
    Unbegun,
    /// Records from here on can be given out; none: nothing until some are done with.
    Next {
        /// From where on.
        from: Option<i64>,
        /// When this was so, for [`Request::Watch`].
        seen: u64,
    },
    /// These are the member's now.
    Given(Vec<Given>),
    /// It is done, and durable if that matters.
    Done,
    /// More can be given out than was told last.
    Moved,
    /// What there is of a group.
    Listed(Vec<Listed>),
}

/// How far a group has come in a partition.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listed {
    /// In which topic.
    pub topic: TopicId,
    /// In which partition.
    pub partition: i32,
    /// Everything below is done with.
    pub start: i64,
    /// So many records past it are done with.
    pub done_past_start: i64,
}
