//! DeleteTopics: topics to be gone, by name or by id.

use super::message::messages;
use super::{ErrorCode, Request};
use tidemill_record::TopicId;

messages! {
    /// Asks for topics to be deleted.
    struct DeleteTopicsRequest of DeleteTopics {
        /// The topics, by name or by id.
        topics: Vec<DeleteTopicState> [6..],
        /// The topics, by name.
        topic_names: Vec<String> [0..=5],
        /// How long it may take.
        timeout_ms: i32 [0..],
    }

    /// One topic to delete.
    struct DeleteTopicState {
        /// Its name; null if it is named by id.
        name: Option<String> [6.., null 6],
        /// Its id; zero if it is named by name.
        topic_id: TopicId [6..],
    }

    /// What became of the topics.
    struct DeleteTopicsResponse of DeleteTopics {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [1..],
        /// One result for each topic.
        responses: Vec<DeletableTopicResult> [0..],
    }

    /// What became of one topic.
    struct DeletableTopicResult {
        /// Its name; null if it was named by an id that is unknown.
        name: Option<String> [0.., null 6],
        /// Its id; zero if it was named by a name that is unknown.
        topic_id: TopicId [6..],
        /// How it ended.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [5.., null 5],
    }
}

impl DeleteTopicsRequest {
    /// The topics, in whichever of the two lists this version has put them.
    pub fn all_topics(&self) -> impl Iterator<Item = DeleteTopicState> + '_ {
        let named = self
            .topic_names
            .iter()
            .map(|name| DeleteTopicState { name: Some(name.clone()), topic_id: TopicId::ZERO });
        self.topics.iter().cloned().chain(named)
    }
}

impl Request for DeleteTopicsRequest {
    type Response = DeleteTopicsResponse;

    fn error_response(&self, error: ErrorCode) -> DeleteTopicsResponse {
        let failed = |topic: DeleteTopicState| DeletableTopicResult {
            name: topic.name,
            topic_id: topic.topic_id,
            error_code: error,
            error_message: None,
        };
        DeleteTopicsResponse {
            responses: self.all_topics().map(failed).collect(),
            ..DeleteTopicsResponse::default()
        }
    }
}
