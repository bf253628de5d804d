//! DescribeUserScramCredentials: which users have passwords, and how those are kept (KIP-554).

use super::message::messages;
use super::{ErrorCode, Request};

messages! {
    /// Names the users.
    struct DescribeUserScramCredentialsRequest of DescribeUserScramCredentials {
        /// The users; null or empty for all.
        users: Option<Vec<ScramUserName>> [0.., null 0],
    }

    /// One user.
    struct ScramUserName {
        /// Its name.
        name: String [0..],
    }

    /// The users that have passwords.
    struct DescribeUserScramCredentialsResponse of DescribeUserScramCredentials {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// An error with the request as a whole.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [0.., null 0],
        /// The users.
        results: Vec<DescribedScramUser> [0..],
    }

    /// What is known of one user.
    struct DescribedScramUser {
        /// Its name.
        user: String [0..],
        /// How it ended.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [0.., null 0],
        /// How its passwords are kept.
        credential_infos: Vec<ScramCredentialInfo> [0..],
    }

    /// How one password is kept.
    struct ScramCredentialInfo {
        /// By which mechanism: 1 for SCRAM-SHA-256, 2 for SCRAM-SHA-512.
        mechanism: i8 [0..],
        /// How often it was hashed.
        iterations: i32 [0..],
    }
}

impl Request for DescribeUserScramCredentialsRequest {
    type Response = DescribeUserScramCredentialsResponse;

    fn error_response(&self, error: ErrorCode) -> DescribeUserScramCredentialsResponse {
        DescribeUserScramCredentialsResponse {
            error_code: error,
            ..DescribeUserScramCredentialsResponse::default()
        }
    }
}
