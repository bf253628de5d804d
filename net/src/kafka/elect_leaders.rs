//! ElectLeaders: the preferred replica of a partition is to lead it, or one that is not in sync.

use super::message::messages;
use super::topic_partitions::TopicPartitions;
use super::{ErrorCode, Request};

/// Which replica is to lead.
pub mod election_type {
    /// The preferred one, if it is in sync.
    pub const PREFERRED: i8 = 0;
    /// Any, even at the price of records.
    pub const UNCLEAN: i8 = 1;
}

messages! {
    /// Asks for elections.
    struct ElectLeadersRequest of ElectLeaders {
        /// Which replica is to lead; see [`election_type`]. Version 0 means the preferred one.
        election_type: i8 [1..],
        /// The partitions; null for all there are.
        topic_partitions: Option<Vec<TopicPartitions>> [0.., null 0],
        /// How long it may take.
        timeout_ms: i32 [0.., default 60_000],
    }

    /// What became of the elections.
    struct ElectLeadersResponse of ElectLeaders {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// An error with the request as a whole.
        error_code: ErrorCode [1..],
        /// The topics.
        replica_election_results: Vec<ReplicaElectionResult> [0..],
    }

    /// What became of one topic's elections.
    struct ReplicaElectionResult {
        /// Its name.
        topic: String [0..],
        /// Its partitions. Those that asked for nothing new end with ELECTION_NOT_NEEDED, or are
        /// left out if all were asked for.
        partition_result: Vec<ElectionResult> [0..],
    }

    /// What became of one partition's election.
    struct ElectionResult {
        /// Its number.
        partition_id: i32 [0..],
        /// How it ended.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [0.., null 0],
    }
}

impl ElectLeadersRequest {
    /// The answer when every partition that was named ends the same way, such as
    /// ELECTION_NOT_NEEDED on a single node.
    pub fn all(&self, error: ErrorCode) -> Vec<ReplicaElectionResult> {
        let result = |&partition_id: &i32| ElectionResult {
            partition_id,
            error_code: error,
            error_message: None,
        };
        let topics = self.topic_partitions.iter().flatten();
        topics
            .map(|topic| ReplicaElectionResult {
                topic: topic.topic.clone(),
                partition_result: topic.partitions.iter().map(result).collect(),
            })
            .collect()
    }
}

impl Request for ElectLeadersRequest {
    type Response = ElectLeadersResponse;

    fn error_response(&self, error: ErrorCode) -> ElectLeadersResponse {
        ElectLeadersResponse {
            error_code: error,
            replica_election_results: self.all(error),
            ..ElectLeadersResponse::default()
        }
    }
}
