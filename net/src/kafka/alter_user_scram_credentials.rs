//! AlterUserScramCredentials: users get, change and lose passwords (KIP-554).

use super::message::messages;
use super::{ErrorCode, Request};
use bytes::Bytes;

messages! {
    /// Asks for changes.
    struct AlterUserScramCredentialsRequest of AlterUserScramCredentials {
        /// Passwords to delete.
        deletions: Vec<ScramCredentialDeletion> [0..],
        /// Passwords that are new, or take the place of others.
        upsertions: Vec<ScramCredentialUpsertion> [0..],
    }

    /// A password to delete.
    struct ScramCredentialDeletion {
        /// The user's name.
        name: String [0..],
        /// Its mechanism: 1 for SCRAM-SHA-256, 2 for SCRAM-SHA-512.
        mechanism: i8 [0..],
    }

    /// A new password.
    struct ScramCredentialUpsertion {
        /// The user's name.
        name: String [0..],
        /// Its mechanism: 1 for SCRAM-SHA-256, 2 for SCRAM-SHA-512.
        mechanism: i8 [0..],
        /// How often it was hashed.
        iterations: i32 [0..],
        /// What was put to it before that.
        salt: Bytes [0..],
        /// What came of it.
        salted_password: Bytes [0..],
    }

    /// What became of the users.
    struct AlterUserScramCredentialsResponse of AlterUserScramCredentials {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// Each user that was named, once.
        results: Vec<AlteredScramUser> [0..],
    }

    /// What became of one user.
    struct AlteredScramUser {
        /// Its name.
        user: String [0..],
        /// How it ended.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [0.., null 0],
    }
}

impl Request for AlterUserScramCredentialsRequest {
    type Response = AlterUserScramCredentialsResponse;

    fn error_response(&self, error: ErrorCode) -> AlterUserScramCredentialsResponse {
        let deleted = self.deletions.iter().map(|one| &one.name);
        let named = deleted.chain(self.upsertions.iter().map(|one| &one.name));
        let mut users: Vec<&String> = named.collect();
        users.sort_unstable();
        users.dedup();
        let failed = |user: &String| AlteredScramUser {
            user: user.clone(),
            error_code: error,
            ..AlteredScramUser::default()
        };
        AlterUserScramCredentialsResponse {
            results: users.into_iter().map(failed).collect(),
            ..AlterUserScramCredentialsResponse::default()
        }
    }
}
