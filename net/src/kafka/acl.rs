//! What access rules are made of: the numbers that stand for their parts.
//!
//! The messages about them are DescribeAcls, CreateAcls and DeleteAcls, each in a file of its own.
//! A node without an authorizer answers all three with SECURITY_DISABLED.

/// What a rule is about.
pub mod resource_type {
    /// None that we know.
    pub const UNKNOWN: i8 = 0;
    /// In a filter: all.
    pub const ANY: i8 = 1;
    /// A topic.
    pub const TOPIC: i8 = 2;
    /// A group.
    pub const GROUP: i8 = 3;
    /// The cluster, under the one name [`super::CLUSTER_NAME`].
    pub const CLUSTER: i8 = 4;
    /// A transactional id.
    pub const TRANSACTIONAL_ID: i8 = 5;
    /// A delegation token.
    pub const DELEGATION_TOKEN: i8 = 6;
    /// A user.
    pub const USER: i8 = 7;
}

/// The name of the one resource that is a cluster.
pub const CLUSTER_NAME: &str = "kafka-cluster";

/// How a rule's name stands for names.
pub mod pattern_type {
    /// In no way that we know.
    pub const UNKNOWN: i8 = 0;
    /// In a filter: in any way.
    pub const ANY: i8 = 1;
    /// In a filter: in any way that covers the name.
    pub const MATCH: i8 = 2;
    /// For itself; `*` stands for all.
    pub const LITERAL: i8 = 3;
    /// For all names that begin with it.
    pub const PREFIXED: i8 = 4;
}

/// What a rule lets somebody do, or forbids. As bits, they are also what a client may do with
/// what it asked about ([`bit`](operation::bit)).
pub mod operation {
    /// Nothing that we know.
    pub const UNKNOWN: i8 = 0;
    /// In a filter: all.
    pub const ANY: i8 = 1;
    /// Everything.
    pub const ALL: i8 = 2;
    /// To read.
    pub const READ: i8 = 3;
    /// To write.
    pub const WRITE: i8 = 4;
    /// To create.
    pub const CREATE: i8 = 5;
    /// To delete.
    pub const DELETE: i8 = 6;
    /// To change.
    pub const ALTER: i8 = 7;
    /// To ask about.
    pub const DESCRIBE: i8 = 8;
    /// What only brokers do.
    pub const CLUSTER_ACTION: i8 = 9;
    /// To ask for settings.
    pub const DESCRIBE_CONFIGS: i8 = 10;
    /// To change settings.
    pub const ALTER_CONFIGS: i8 = 11;
    /// To produce without duplicates.
    pub const IDEMPOTENT_WRITE: i8 = 12;
    /// To create delegation tokens.
    pub const CREATE_TOKENS: i8 = 13;
    /// To ask about delegation tokens.
    pub const DESCRIBE_TOKENS: i8 = 14;
    /// To run transactions that somebody else decides.
    pub const TWO_PHASE_COMMIT: i8 = 15;

    /// The bit of an operation in a set of allowed ones.
    pub const fn bit(operation: i8) -> i32 {
        1 << operation
    }
}

/// Whether a rule lets or forbids.
pub mod permission {
    /// Neither that we know.
    pub const UNKNOWN: i8 = 0;
    /// In a filter: either.
    pub const ANY: i8 = 1;
    /// It forbids.
    pub const DENY: i8 = 2;
    /// It lets.
    pub const ALLOW: i8 = 3;
}
