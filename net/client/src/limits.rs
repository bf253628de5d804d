//! Every upper bound of the client that is no setting, and how they relate.

/// The largest reply a connection accepts unless told otherwise: a fetch of the largest usual
/// size, and what stands around it.
pub const REPLY_BYTES_MAX: usize = 128 * 1024 * 1024;

/// How much room a receive has at the least.
pub const RECEIVE_BYTES_MIN: usize = 64 * 1024;

/// Batches below this are copied into the request; larger ones are sent from where they lie. A
/// slice of its own costs a reference count and an entry in the list of what is sent: about as
/// much as copying this.
pub const COPY_BELOW_BYTES: usize = 1024;

/// How many requests one connection may have in flight.
pub const IN_FLIGHT_MAX: usize = 65_536;

/// The producer's batches in flight for one partition: as many as brokers remember to tell repeats.
pub const BATCHES_IN_FLIGHT_MAX: usize = 5;

/// How many batches' memory a producer keeps for batches to come.
pub const SPARE_BATCHES_MAX: usize = 64;

/// The most nodes a cluster may tell of.
pub const NODES_MAX: usize = 65_536;

/// The most topics one client works with.
pub const TOPICS_MAX: usize = 65_536;

/// The most partitions a topic may have.
pub const PARTITIONS_MAX: usize = 1 << 20;

/// What a batch may become when decompressed.
pub const BATCH_OPEN_BYTES_MAX: usize = 512 * 1024 * 1024;

const _: () = {
    assert!(COPY_BELOW_BYTES < RECEIVE_BYTES_MIN);
    assert!(RECEIVE_BYTES_MIN < REPLY_BYTES_MAX);
    assert!(BATCHES_IN_FLIGHT_MAX <= IN_FLIGHT_MAX);
};
