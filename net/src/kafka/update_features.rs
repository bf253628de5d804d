//! UpdateFeatures: the levels of the cluster's features are raised or lowered.

use super::message::messages;
use super::{ErrorCode, Request};

/// Which changes are allowed.
pub mod upgrade_type {
    /// To a higher level.
    pub const UPGRADE: i8 = 1;
    /// To a lower level that loses nothing.
    pub const SAFE_DOWNGRADE: i8 = 2;
    /// To any lower level.
    pub const UNSAFE_DOWNGRADE: i8 = 3;
}

messages! {
    /// Asks for changes.
    struct UpdateFeaturesRequest of UpdateFeatures {
        /// How long it may take.
        timeout_ms: i32 [0.., default 60_000],
        /// The changes.
        feature_updates: Vec<FeatureUpdateKey> [0..],
        /// Whether to say only what would happen.
        validate_only: bool [1..],
    }

    /// One change; see [`FeatureUpdateKey::upgrade_type_of`].
    struct FeatureUpdateKey {
        /// The feature.
        feature: String [0..],
        /// The level it is to have; below 1 to take it out of force.
        max_version_level: i16 [0..],
        /// Whether the level may be lower than it is.
        allow_downgrade: bool [0..=0],
        /// Which changes are allowed; see [`upgrade_type`].
        upgrade_type: i8 [1.., default upgrade_type::UPGRADE],
    }

    /// What became of the changes.
    struct UpdateFeaturesResponse of UpdateFeatures {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// How it ended. From version 2 this is the whole answer: all changes are made or none.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [0.., null 0],
        /// One result for each change.
        results: Vec<UpdatableFeatureResult> [0..=1],
    }

    /// What became of one change.
    struct UpdatableFeatureResult {
        /// The feature.
        feature: String [0..],
        /// How it ended.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [0.., null 0],
    }
}

impl FeatureUpdateKey {
    /// Which changes are allowed, in a request of any version.
    pub fn upgrade_type_of(&self, version: i16) -> i8 {
        match (version, self.allow_downgrade) {
            (0, true) => upgrade_type::SAFE_DOWNGRADE,
            (0, false) => upgrade_type::UPGRADE,
            _ => self.upgrade_type,
        }
    }
}

impl Request for UpdateFeaturesRequest {
    type Response = UpdateFeaturesResponse;

    fn error_response(&self, error: ErrorCode) -> UpdateFeaturesResponse {
        let failed = |update: &FeatureUpdateKey| UpdatableFeatureResult {
            feature: update.feature.clone(),
            error_code: error,
            error_message: None,
        };
        UpdateFeaturesResponse {
            error_code: error,
            results: self.feature_updates.iter().map(failed).collect(),
            ..UpdateFeaturesResponse::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Version 0 says with a flag what later versions say with a number; neither is there in the
    /// other.
    #[test]
    fn a_downgrade_is_allowed_by_flag_or_by_number() {
        let change = |allow_downgrade, upgrade_type| FeatureUpdateKey {
            allow_downgrade,
            upgrade_type,
            ..FeatureUpdateKey::default()
        };
        assert_eq!(change(true, upgrade_type::UPGRADE).upgrade_type_of(0), 2);
        assert_eq!(change(false, upgrade_type::UPGRADE).upgrade_type_of(0), 1);
        assert_eq!(change(false, upgrade_type::UNSAFE_DOWNGRADE).upgrade_type_of(1), 3);
    }
}
