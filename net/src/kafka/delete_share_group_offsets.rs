//! DeleteShareGroupOffsets: a share group without members forgets topics.

use super::message::messages;
use super::{ErrorCode, Request};
use tidemill_record::TopicId;

messages! {
    /// Names the topics.
    struct DeleteShareGroupOffsetsRequest of DeleteShareGroupOffsets {
        /// The group.
        group_id: String [0..],
        /// The topics.
        topics: Vec<ShareGroupTopicToDelete> [0..],
    }

    /// One topic.
    struct ShareGroupTopicToDelete {
        /// Its name.
        topic_name: String [0..],
    }

    /// What became of the topics.
    struct DeleteShareGroupOffsetsResponse of DeleteShareGroupOffsets {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// An error with the request as a whole.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [0.., null 0],
        /// The topics.
        responses: Vec<DeletedShareGroupTopic> [0..],
    }

    /// What became of one topic.
    struct DeletedShareGroupTopic {
        /// Its name.
        topic_name: String [0..],
        /// Its id.
        topic_id: TopicId [0..],
        /// How it ended.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [0.., null 0],
    }
}

impl Request for DeleteShareGroupOffsetsRequest {
    type Response = DeleteShareGroupOffsetsResponse;

    fn error_response(&self, error: ErrorCode) -> DeleteShareGroupOffsetsResponse {
        let failed = |topic: &ShareGroupTopicToDelete| DeletedShareGroupTopic {
            topic_name: topic.topic_name.clone(),
            error_code: error,
            ..DeletedShareGroupTopic::default()
        };
        DeleteShareGroupOffsetsResponse {
            error_code: error,
            responses: self.topics.iter().map(failed).collect(),
            ..DeleteShareGroupOffsetsResponse::default()
        }
    }
}
