//! Passwords of users: DescribeUserScramCredentials and AlterUserScramCredentials (KIP-554).
//!
//! Nobody has to log in yet (there is no SASL), so there are none and none can be set. Who asks for
//! all is told of none, which `kafka-configs --describe --entity-type users` needs before it is
//! content; who asks for one is answered as Kafka answers for a user that has none.

use std::collections::{BTreeMap, BTreeSet};

use tidemill_net::kafka::alter_user_scram_credentials::AlterUserScramCredentialsRequest;
use tidemill_net::kafka::describe_user_scram_credentials::{
    DescribeUserScramCredentialsRequest, DescribeUserScramCredentialsResponse, DescribedScramUser,
};
use tidemill_net::kafka::{ErrorCode, Request as _};

use super::ReplyForm;
use crate::shard::Shard;

impl Shard {
    pub(crate) fn handle_describe_credentials(
        &mut self,
        reply: ReplyForm,
        request: DescribeUserScramCredentialsRequest,
    ) {
        let mut named: BTreeMap<String, usize> = BTreeMap::new();
        for user in request.users.unwrap_or_default() {
            *named.entry(user.name).or_default() += 1;
        }
        let results = named.into_iter().map(|(user, times)| {
            let (error_code, why) = match times {
                1 => (ErrorCode::ResourceNotFound, "The user has no password."),
                _ => (ErrorCode::DuplicateResource, "The user is named twice."),
            };
            let error_message = Some(why.to_owned());
            DescribedScramUser { user, error_code, error_message, ..Default::default() }
        });
        let response = DescribeUserScramCredentialsResponse {
            results: results.collect(),
            ..DescribeUserScramCredentialsResponse::default()
        };
        self.reply_message(reply, &response);
    }

    pub(crate) fn handle_alter_credentials(
        &mut self,
        reply: ReplyForm,
        request: &AlterUserScramCredentialsRequest,
    ) {
        let given: BTreeSet<&str> = request.upsertions.iter().map(|one| &*one.name).collect();
        let mut response = request.error_response(ErrorCode::SecurityDisabled);
        for result in &mut response.results {
            let why = match given.contains(&*result.user) {
                true => "No password can be set: SASL is not configured, nobody has to log in.",
                false => {
                    result.error_code = ErrorCode::ResourceNotFound;
                    "The user has no password."
                }
            };
            result.error_message = Some(why.to_owned());
        }
        self.reply_message(reply, &response);
    }
}
