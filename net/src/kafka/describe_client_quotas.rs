//! DescribeClientQuotas: how much clients may do.

use super::message::messages;
use super::{ErrorCode, Request};

/// What a quota is for. An entity is one of these, or one of each of the first two.
pub mod entity_type {
    /// A user.
    pub const USER: &str = "user";
    /// A client, by how it calls itself.
    pub const CLIENT_ID: &str = "client-id";
    /// An address.
    pub const IP: &str = "ip";
}

/// Which entities of a type are meant.
pub mod match_type {
    /// The one with this name.
    pub const EXACT: i8 = 0;
    /// The one without a name, for all that have none of their own.
    pub const DEFAULT: i8 = 1;
    /// All that there are.
    pub const SPECIFIED: i8 = 2;
}

messages! {
    /// Asks for quotas.
    struct DescribeClientQuotasRequest of DescribeClientQuotas {
        /// What must hold of an entity; nothing at all for every one.
        components: Vec<ComponentFilter> [0..],
        /// Whether an entity may have no other part than those named.
        strict: bool [0..],
    }

    /// What must hold of one part of an entity.
    struct ComponentFilter {
        /// Its type; see [`entity_type`].
        entity_type: String [0..],
        /// Which of that type; see [`match_type`].
        match_type: i8 [0..],
        /// Its name, if just one is meant.
        matched: Option<String> [0.., null 0],
    }

    /// The quotas.
    struct DescribeClientQuotasResponse of DescribeClientQuotas {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// How it ended.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [0.., null 0],
        /// The entities; null with an error.
        entries: Option<Vec<QuotasOfEntity>> [0.., null 0],
    }

    /// The quotas of one entity.
    struct QuotasOfEntity {
        /// Its parts.
        entity: Vec<QuotaEntity> [0..],
        /// Its quotas.
        values: Vec<QuotaValue> [0..],
    }

    /// One part of an entity.
    struct QuotaEntity {
        /// Its type; see [`entity_type`].
        entity_type: String [0..],
        /// Its name; null for all that have no quotas of their own.
        entity_name: Option<String> [0.., null 0],
    }

    /// One quota.
    struct QuotaValue {
        /// Its name, `producer_byte_rate` for instance.
        key: String [0..],
        /// How much.
        value: f64 [0..],
    }
}

impl Request for DescribeClientQuotasRequest {
    type Response = DescribeClientQuotasResponse;

    fn error_response(&self, error: ErrorCode) -> DescribeClientQuotasResponse {
        DescribeClientQuotasResponse {
            error_code: error,
            ..DescribeClientQuotasResponse::default()
        }
    }
}
