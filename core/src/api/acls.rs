//! Access rules: DescribeAcls, CreateAcls, DeleteAcls, and what a client is told it may do.
//!
//! There is no authorizer yet, so nobody is kept from anything: the three are answered with
//! SECURITY_DISABLED, as Kafka answers them without one, and whoever asks what it may do is told
//! everything that can be done.

use tidemill_net::kafka::acl::operation::{self, bit};
use tidemill_net::kafka::create_acls::CreateAclsRequest;
use tidemill_net::kafka::delete_acls::DeleteAclsRequest;
use tidemill_net::kafka::describe_acls::DescribeAclsRequest;
use tidemill_net::kafka::{ErrorCode, Request as _};

use super::ReplyForm;
use crate::shard::Shard;

/// What people are told; Java's tools look for no words of it.
const NO_AUTHORIZER: &str = "No Authorizer is configured.";

/// What can be done with a topic.
pub const TOPIC_OPERATIONS: i32 = bit(operation::READ)
    | bit(operation::WRITE)
    | bit(operation::CREATE)
    | bit(operation::DELETE)
    | bit(operation::ALTER)
    | bit(operation::DESCRIBE)
    | bit(operation::DESCRIBE_CONFIGS)
    | bit(operation::ALTER_CONFIGS);

/// What can be done with the cluster.
pub const CLUSTER_OPERATIONS: i32 = bit(operation::CREATE)
    | bit(operation::ALTER)
    | bit(operation::DESCRIBE)
    | bit(operation::CLUSTER_ACTION)
    | bit(operation::DESCRIBE_CONFIGS)
    | bit(operation::ALTER_CONFIGS)
    | bit(operation::IDEMPOTENT_WRITE);

impl Shard {
    pub(crate) fn handle_describe_acls(&mut self, reply: ReplyForm, request: &DescribeAclsRequest) {
        let mut response = request.error_response(ErrorCode::SecurityDisabled);
        response.error_message = Some(NO_AUTHORIZER.to_owned());
        self.reply_message(reply, &response);
    }

    pub(crate) fn handle_create_acls(&mut self, reply: ReplyForm, request: &CreateAclsRequest) {
        let mut response = request.error_response(ErrorCode::SecurityDisabled);
        for result in &mut response.results {
            result.error_message = Some(NO_AUTHORIZER.to_owned());
        }
        self.reply_message(reply, &response);
    }

    pub(crate) fn handle_delete_acls(&mut self, reply: ReplyForm, request: &DeleteAclsRequest) {
        let mut response = request.error_response(ErrorCode::SecurityDisabled);
        for result in &mut response.filter_results {
            result.error_message = Some(NO_AUTHORIZER.to_owned());
        }
        self.reply_message(reply, &response);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kafka's own sets: `AclEntry.supportedOperations` as bits.
    #[test]
    fn everything_is_what_kafka_calls_everything() {
        assert_eq!(TOPIC_OPERATIONS, 0b1101_1111_1000);
        assert_eq!(CLUSTER_OPERATIONS, 0b1_1111_1010_0000);
        assert_eq!(crate::api::groups::ALLOWED_OPERATIONS, 0b1101_0100_1000);
    }
}
