//! ListConfigResources: what has settings of its own (KIP-1142).
//!
//! Version 0 was called ListClientMetricsResources, and means just those.

use super::describe_configs::resource;
use super::message::messages;
use super::{ErrorCode, Request};

messages! {
    /// Asks for resources.
    struct ListConfigResourcesRequest of ListConfigResources {
        /// Of which kinds; see [`ListConfigResourcesRequest::kinds`].
        resource_types: Vec<i8> [1..],
    }

    /// The resources.
    struct ListConfigResourcesResponse of ListConfigResources {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// How it ended.
        error_code: ErrorCode [0..],
        /// The resources.
        config_resources: Vec<ConfigResource> [0..],
    }

    /// One resource.
    struct ConfigResource {
        /// Its name.
        resource_name: String [0..],
        /// Which kind; see [`resource`].
        resource_type: i8 [1.., default resource::CLIENT_METRICS],
    }
}

impl ListConfigResourcesRequest {
    /// Which kinds a request of this version asks for; `None` for all.
    pub fn kinds(&self, version: i16) -> Option<&[i8]> {
        match (version, &self.resource_types[..]) {
            (0, _) => Some(&[resource::CLIENT_METRICS]),
            (_, []) => None,
            (_, kinds) => Some(kinds),
        }
    }
}

impl Request for ListConfigResourcesRequest {
    type Response = ListConfigResourcesResponse;

    fn error_response(&self, error: ErrorCode) -> ListConfigResourcesResponse {
        ListConfigResourcesResponse { error_code: error, ..ListConfigResourcesResponse::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An old client reads every name it gets for one of client metrics, so it must get no other.
    #[test]
    fn version_0_asks_for_client_metrics_only() {
        let all = ListConfigResourcesRequest::default();
        assert_eq!(all.kinds(0), Some(&[resource::CLIENT_METRICS][..]));
        assert_eq!(all.kinds(1), None);
        let groups = ListConfigResourcesRequest { resource_types: vec![resource::GROUP] };
        assert_eq!(groups.kinds(1), Some(&[resource::GROUP][..]));
    }
}
