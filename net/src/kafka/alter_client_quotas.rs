//! AlterClientQuotas: clients may do more or less from now on.

use super::describe_client_quotas::QuotaEntity;
use super::message::messages;
use super::{ErrorCode, Request};

messages! {
    /// Asks for changes.
    struct AlterClientQuotasRequest of AlterClientQuotas {
        /// The entities.
        entries: Vec<QuotaChanges> [0..],
        /// Whether to say only what would happen.
        validate_only: bool [0..],
    }

    /// The changes for one entity.
    struct QuotaChanges {
        /// Its parts.
        entity: Vec<QuotaEntity> [0..],
        /// The changes.
        ops: Vec<QuotaChange> [0..],
    }

    /// One change.
    struct QuotaChange {
        /// The quota's name.
        key: String [0..],
        /// How much; of no meaning if it goes.
        value: f64 [0..],
        /// Whether it goes.
        remove: bool [0..],
    }

    /// What became of the changes.
    struct AlterClientQuotasResponse of AlterClientQuotas {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// One result for each entity.
        entries: Vec<QuotaChangesResult> [0..],
    }

    /// What became of the changes for one entity.
    struct QuotaChangesResult {
        /// How it ended.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [0.., null 0],
        /// Its parts.
        entity: Vec<QuotaEntity> [0..],
    }
}

impl Request for AlterClientQuotasRequest {
    type Response = AlterClientQuotasResponse;

    fn error_response(&self, error: ErrorCode) -> AlterClientQuotasResponse {
        let failed = |changes: &QuotaChanges| QuotaChangesResult {
            error_code: error,
            error_message: None,
            entity: changes.entity.clone(),
        };
        AlterClientQuotasResponse {
            entries: self.entries.iter().map(failed).collect(),
            ..AlterClientQuotasResponse::default()
        }
    }
}
