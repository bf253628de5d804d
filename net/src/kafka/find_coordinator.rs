//! FindCoordinator: which node looks after a group, a transactional id, or a share partition.
//!
//! Up to version 3 a request asks for one key and the answer is in fields of its own; from
//! version 4 both are lists (KIP-699). [`FindCoordinatorRequest::keys`] and
//! [`FindCoordinatorResponse::of`] make one shape of the two.

use super::message::messages;
use super::{ErrorCode, Request};

/// What a key stands for.
pub mod key_type {
    /// A group.
    pub const GROUP: i8 = 0;
    /// A transactional id.
    pub const TRANSACTION: i8 = 1;
    /// A partition of a share group, written `group:topic id:partition` (from version 6).
    pub const SHARE: i8 = 2;
}

messages! {
    /// Asks who looks after the keys.
    struct FindCoordinatorRequest of FindCoordinator {
        /// The one key; see [`FindCoordinatorRequest::keys`].
        key: String [0..=3],
        /// What the keys stand for; see [`key_type`]. Version 0 knows groups only.
        key_type: i8 [1..],
        /// The keys.
        coordinator_keys: Vec<String> [4..],
    }

    /// Who looks after the keys.
    struct FindCoordinatorResponse of FindCoordinator {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [1..],
        /// How it ended for the one key.
        error_code: ErrorCode [0..=3],
        /// What went wrong, for people.
        error_message: Option<String> [1..=3, null 1],
        /// The node; -1 with an error.
        node_id: i32 [0..=3],
        /// Its host name or address.
        host: String [0..=3],
        /// Its port; -1 with an error.
        port: i32 [0..=3],
        /// One answer for each key.
        coordinators: Vec<Coordinator> [4..],
    }

    /// Who looks after one key.
    struct Coordinator {
        /// The key.
        key: String [4..],
        /// The node; -1 with an error.
        node_id: i32 [4..],
        /// Its host name or address.
        host: String [4..],
        /// Its port; -1 with an error.
        port: i32 [4..],
        /// How it ended.
        error_code: ErrorCode [4..],
        /// What went wrong, for people.
        error_message: Option<String> [4.., null 4],
    }
}

impl FindCoordinatorRequest {
    /// The keys asked for in a request of this version.
    pub fn keys(&self, version: i16) -> &[String] {
        if version < 4 { std::slice::from_ref(&self.key) } else { &self.coordinator_keys }
    }
}

impl FindCoordinatorResponse {
    /// One answer for each key, in the fields of any version: before version 4 there was one key,
    /// and the first answer is it.
    pub fn of(coordinators: Vec<Coordinator>) -> FindCoordinatorResponse {
        let first = coordinators.first().cloned().unwrap_or_default();
        FindCoordinatorResponse {
            throttle_time_ms: 0,
            error_code: first.error_code,
            error_message: first.error_message,
            node_id: first.node_id,
            host: first.host,
            port: first.port,
            coordinators,
        }
    }
}

impl Coordinator {
    /// Nobody looks after this key.
    pub fn failed(key: String, error: ErrorCode) -> Coordinator {
        Coordinator { key, node_id: -1, port: -1, error_code: error, ..Coordinator::default() }
    }
}

impl Request for FindCoordinatorRequest {
    type Response = FindCoordinatorResponse;

    fn error_response(&self, error: ErrorCode) -> FindCoordinatorResponse {
        let keys = self.coordinator_keys.iter().cloned();
        FindCoordinatorResponse {
            error_code: error,
            node_id: -1,
            port: -1,
            ..FindCoordinatorResponse::of(keys.map(|key| Coordinator::failed(key, error)).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::Message;
    use bytes::BytesMut;

    fn sent_and_received(version: i16, response: &FindCoordinatorResponse) -> Vec<Coordinator> {
        let mut out = BytesMut::new();
        response.encode(version, &mut out);
        let read = FindCoordinatorResponse::decode(version, &out).unwrap();
        if 4 <= version {
            return read.coordinators;
        }
        let FindCoordinatorResponse { error_code, node_id, host, port, .. } = read;
        vec![Coordinator { node_id, host, port, error_code, ..Coordinator::default() }]
    }

    /// From version 4 a client asks for many keys at once, and one that fails must not hide the
    /// others: each has an error of its own. Before, the one key's error is the message's.
    #[test]
    fn many_keys_have_an_error_each_from_version_4() {
        let found = Coordinator {
            key: "g".to_owned(),
            node_id: 1,
            host: "here".to_owned(),
            port: 9092,
            ..Coordinator::default()
        };
        let refused = Coordinator::failed(String::new(), ErrorCode::InvalidGroupId);
        let both = FindCoordinatorResponse::of(vec![found.clone(), refused.clone()]);
        assert_eq!(sent_and_received(4, &both), [found.clone(), refused.clone()]);
        assert_eq!(sent_and_received(6, &both), [found.clone(), refused.clone()]);
        let nameless = Coordinator { key: String::new(), ..found.clone() };
        assert_eq!(sent_and_received(3, &FindCoordinatorResponse::of(vec![found])), [nameless]);
        assert_eq!(
            sent_and_received(0, &FindCoordinatorResponse::of(vec![refused.clone()])),
            [refused]
        );
    }

    /// kafka-go asks in version 0, Java in 6; the broker sees a list of keys.
    #[test]
    fn keys_are_a_list_in_every_version() {
        let keys = ["a".to_owned(), "b".to_owned()];
        for version in 0..=6 {
            let asked = FindCoordinatorRequest {
                key: keys[0].clone(),
                coordinator_keys: keys.to_vec(),
                ..FindCoordinatorRequest::default()
            };
            let mut out = BytesMut::new();
            asked.encode(version, &mut out);
            let read = FindCoordinatorRequest::decode(version, &out).unwrap();
            assert_eq!(read.keys(version), &keys[..if version < 4 { 1 } else { 2 }]);
        }
        assert!(FindCoordinatorRequest::default().keys(4).is_empty());
    }
}
