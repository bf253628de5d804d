//! What storage is told about itself: sizes, budgets and each log's rules.
//!
//! Every queue and buffer of this crate is bounded by a number found here.

use crate::block::BLOCK_BYTES;

/// Bytes in a KiB.
const KIB: usize = 1024;
/// Bytes in a MiB.
const MIB: usize = 1024 * KIB;

/// Sizes and budgets of one shard's storage.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// With writes in flight, a window closes once it holds so many bytes.
    pub window_bytes_close: usize,
    /// No window is longer, unless a single batch is.
    pub window_bytes_max: usize,
    /// With writes in flight, a window closes after this time even if it is small.
    pub window_delay_ns: u64,
    /// So many journal writes are under way at most.
    pub windows_in_flight_max: usize,
    /// Once all is durable and nothing was appended for this time, an empty window says so.
    pub idle_mark_ns: u64,
    /// Size of one journal file.
    pub journal_file_bytes: u64,
    /// All journal files of this shard together.
    pub journal_bytes_max: u64,
    /// A start may have so many bytes to replay before a checkpoint spares it them: of windows, and
    /// of the runs they refer to.
    pub replay_bytes_max: u64,
    /// The index of an active segment is written whenever the segment has grown by so much, with
    /// the next checkpoint: a read after a crash goes over no more than that to find its place.
    pub index_step_bytes: u64,
    /// Replay writes what it has found to the segments once so many bytes wait for it.
    pub replay_pending_bytes_max: u64,
    /// Batches of one log that wait for their segment are written once they are so many bytes.
    pub flush_bytes: usize,
    /// Bytes on their way into segments at most.
    pub flush_in_flight_bytes_max: usize,
    /// Batches kept in memory, written to their segments or not.
    pub tail_bytes_max: usize,
    /// One disk read at most, unless a single batch is longer.
    pub read_bytes_max: usize,
    /// Disk reads under way at most; more wait.
    pub reads_in_flight_max: usize,
    /// Bytes of disk reads under way at most, unless a single read is longer; more wait. What the
    /// journal writes is behind no more than these in the device.
    pub read_bytes_in_flight_max: usize,
    /// Indexes of sealed segments kept in memory.
    pub index_bytes_max: usize,
    /// A run of one log so long goes to its segment first and only its reference to the journal.
    pub large_run_bytes: usize,
    /// The first piece of space a segment takes.
    pub allocate_bytes_min: u64,
    /// The largest piece of space a segment takes at once.
    pub allocate_bytes_max: u64,
    /// Above so many files to sync before a checkpoint, the whole file system is synced instead.
    pub sync_files_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            window_bytes_close: 128 * KIB,
            window_bytes_max: MIB,
            window_delay_ns: 1_000_000,
            windows_in_flight_max: 4,
            idle_mark_ns: 20_000_000,
            journal_file_bytes: 16 * MIB as u64,
            journal_bytes_max: 512 * MIB as u64,
            replay_bytes_max: 128 * MIB as u64,
            replay_pending_bytes_max: 64 * MIB as u64,
            index_step_bytes: 64 * MIB as u64,
            flush_bytes: 256 * KIB,
            flush_in_flight_bytes_max: 8 * MIB,
            tail_bytes_max: 256 * MIB,
            read_bytes_max: MIB,
            reads_in_flight_max: 64,
            read_bytes_in_flight_max: 4 * MIB,
            index_bytes_max: 32 * MIB,
            large_run_bytes: 256 * KIB,
            allocate_bytes_min: 64 * KIB as u64,
            allocate_bytes_max: 16 * MIB as u64,
            sync_files_max: 16,
        }
    }
}

impl Config {
    /// The most journal files this shard may have; never fewer than three, so that one can fill
    /// while another is being freed.
    #[must_use]
    pub fn journal_files_max(&self) -> u32 {
        let files = self.journal_bytes_max / self.journal_file_bytes;
        files.clamp(u64::from(JOURNAL_FILES_MIN), u64::from(u32::MAX)) as u32
    }

    /// Our own mistake if these do not hold: nothing else in this crate checks them again.
    pub(crate) fn check(&self) {
        let block = BLOCK_BYTES as u64;
        assert!(self.window_bytes_close <= self.window_bytes_max);
        assert!(self.journal_file_bytes.is_multiple_of(block));
        assert!(
            4 * self.window_bytes_max as u64 <= self.journal_file_bytes,
            "a window is a small part of a file, or most of each file would be left empty"
        );
        assert!(1 <= self.windows_in_flight_max);
        assert!(3 * BLOCK_BYTES <= self.large_run_bytes, "a run fills a block of its own");
        assert!(
            self.large_run_bytes as u64 <= self.journal_file_bytes / 4,
            "what is too long for a window is a run"
        );
        assert!(self.allocate_bytes_min.is_multiple_of(block));
        assert!(self.allocate_bytes_min <= self.allocate_bytes_max);
        assert!(self.flush_bytes.is_multiple_of(BLOCK_BYTES));
        assert!(self.flush_bytes <= self.flush_in_flight_bytes_max);
    }
}

/// The fewest journal files a shard needs.
pub const JOURNAL_FILES_MIN: u32 = 3;

/// When an append counts as acknowledged. Storage writes both alike; the broker asks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Durability {
    /// Once it is on disk.
    #[default]
    Durable,
    /// Once it is in memory and on its way.
    Relaxed,
}

/// Whose clock a record's timestamp comes from.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum TimestampPolicy {
    /// The producer's, verbatim.
    #[default]
    CreateTime,
    /// Ours: batches are stamped when they are appended.
    LogAppendTime,
}

/// The rules of one log. They may change while it is in use.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogConfig {
    /// A segment that would grow beyond this is sealed and a new one begun.
    pub segment_bytes: u64,
    /// A segment whose first batch was appended so long ago is sealed at the next append.
    pub segment_ms: i64,
    /// Sealed segments whose newest record is older are deleted; `None` keeps them.
    pub retention_ms: Option<i64>,
    /// Oldest segments are deleted while the rest still holds so much; `None` keeps them.
    pub retention_bytes: Option<u64>,
    /// Whose timestamps records carry.
    pub timestamps: TimestampPolicy,
    /// When an append counts.
    pub durability: Durability,
    /// A producer silent for so long is forgotten.
    pub producer_expiration_ms: i64,
}

impl Default for LogConfig {
    fn default() -> Self {
        const DAY_MS: i64 = 24 * 60 * 60 * 1000;
        Self {
            segment_bytes: 1 << 30,
            segment_ms: 7 * DAY_MS,
            retention_ms: Some(7 * DAY_MS),
            retention_bytes: None,
            timestamps: TimestampPolicy::CreateTime,
            durability: Durability::Durable,
            producer_expiration_ms: DAY_MS,
        }
    }
}
