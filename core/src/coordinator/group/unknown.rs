//! What is asked of a group that nobody knows: whether that makes it, and what is answered if not.

use tidemill_net::kafka::ErrorCode;

use crate::coordinator::request::{Joined, Reply, Request, Synced};

impl Request {
    /// Whether it may lead to something new being kept.
    pub(in crate::coordinator) fn grows(&self) -> bool {
        matches!(self, Self::Join(_) | Self::Commit(_) | Self::CommitInTransaction(..))
            || matches!(self, Self::MakeShare { .. })
            || matches!(self, Self::ConsumerHeartbeat(heartbeat) if heartbeat.joins())
            || matches!(self, Self::ShareHeartbeat(heartbeat) if heartbeat.joins())
    }

    /// Whether it makes its group if there is none.
    pub(in crate::coordinator) fn makes_group(&self) -> bool {
        match self {
            Self::Join(join) => join.member.is_empty(),
            Self::Commit(commit) | Self::CommitInTransaction(commit, _) => {
                commit.who.generation < 0
            }
            Self::ConsumerHeartbeat(heartbeat) => heartbeat.joins(),
            Self::ShareHeartbeat(heartbeat) => heartbeat.joins(),
            Self::MakeShare { .. } => true,
            _ => false,
        }
    }

    /// What is answered if there is no such group.
    pub(in crate::coordinator) fn of_unknown_group(&self) -> Reply {
        let unknown = ErrorCode::UnknownMemberId;
        match self {
            Self::Join(join) => Reply::Joined(Box::new(Joined::refused(unknown, &join.member))),
            Self::Sync(_) => Reply::Synced(Box::new(Synced::refused(unknown))),
            Self::Heartbeat(_) => Reply::Alive(unknown),
            Self::Leave(leave) => Reply::Left(vec![unknown; leave.members.len()]),
            Self::ConsumerHeartbeat(heartbeat) => {
                let message = format!("Consumer group {} not found.", heartbeat.group);
                Reply::Heard(Err((ErrorCode::GroupIdNotFound, message)))
            }
            Self::ShareHeartbeat(heartbeat) => {
                let message = format!("Share group {} not found.", heartbeat.group);
                Reply::Heard(Err((ErrorCode::GroupIdNotFound, message)))
            }
            Self::Commit(commit) | Self::CommitInTransaction(commit, _) => {
                Reply::Refused(commit.unknown_group)
            }
            Self::DeleteOffsets(_) => Reply::Refused(ErrorCode::GroupIdNotFound),
            Self::Describe { .. } => Reply::Described(None),
            Self::DescribeConsumer { .. } => Reply::ConsumerDescribed(None),
            Self::DescribeShare { .. } | Self::MakeShare { .. } => Reply::ShareDescribed(None),
            Self::Delete { .. } => Reply::Deleted(ErrorCode::GroupIdNotFound),
            Self::FetchOffsets(_) | Self::List(_) | Self::EndTransaction { .. } => {
                unreachable!("answered before")
            }
        }
    }
}
