//! What storage asks of the disk ([`Request`]) and how it is told the end ([`Completion`]).
//!
//! Storage never performs I/O. It names files by what they are ([`FileName`]); the shard opens
//! them, carries requests out in any order, and reports each one exactly once. Requests that must
//! follow another are not handed out before that other has completed.

use std::fmt;

use bytes::Bytes;
use tidemill_record::{Offset, PartitionId, TopicId, TopicPartition};

/// The name storage gives a request; handed back with its completion.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RequestId(pub u64);

/// One thing to be done to the disk.
#[derive(Clone, Debug)]
pub struct Request {
    /// Returned by its completion.
    pub id: RequestId,
    /// What to do.
    pub action: Action,
}

/// What to do to the disk.
#[derive(Clone, Debug)]
pub enum Action {
    /// Make the file if it is missing (its directory exists). Not durable until its directory is
    /// synced.
    Create {
        /// Which file.
        file: FileName,
    },
    /// Write aligned bytes at an aligned position of an existing file.
    Write {
        /// Which file.
        file: FileName,
        /// Byte position.
        position: u64,
        /// A multiple of the block size, in aligned memory.
        bytes: Bytes,
        /// Whether completion means: on stable storage.
        durable: bool,
    },
    /// Read aligned bytes: answered with [`Outcome::Bytes`], shorter only at the file's end.
    Read {
        /// Which file.
        file: FileName,
        /// Byte position, aligned.
        position: u64,
        /// How many bytes, aligned.
        size: u32,
    },
    /// Make completed writes and the size of the file durable.
    Sync {
        /// Which file.
        file: FileName,
    },
    /// Reserve space; the file grows to hold it. The only request that may meet a full disk.
    Allocate {
        /// Which file.
        file: FileName,
        /// From this byte position.
        position: u64,
        /// So many bytes.
        size: u64,
    },
    /// Cut the file to `size` bytes and make that durable.
    Truncate {
        /// Which file.
        file: FileName,
        /// Size afterwards.
        size: u64,
    },
    /// Make a durable file of `size` written zero bytes, replacing an old one.
    Prewrite {
        /// Which file.
        file: FileName,
        /// Its size.
        size: u64,
    },
    /// Remove the file, if it exists. Only after all requests on it have completed.
    Remove {
        /// Which file.
        file: FileName,
    },
    /// Give a file another name.
    Rename {
        /// The name now.
        from: FileName,
        /// The name then.
        to: FileName,
    },
    /// No more requests for this file are near: its descriptor may be closed.
    Close {
        /// Which file.
        file: FileName,
    },
    /// Make a directory, if it is missing (parents exist).
    MakeDir {
        /// Which directory.
        dir: DirName,
    },
    /// Make the entries of a directory durable.
    SyncDir {
        /// Which directory.
        dir: DirName,
    },
    /// List a directory: answered with [`Outcome::Names`].
    ListDir {
        /// Which directory.
        dir: DirName,
    },
    /// Remove an empty directory.
    RemoveDir {
        /// Which directory.
        dir: DirName,
    },
    /// Move a directory nobody knows below `quarantine/`.
    Quarantine {
        /// Which directory.
        dir: DirName,
    },
    /// Make all completed writes of the data directory's file system durable.
    SyncFileSystem,
}

/// The end of one request.
#[derive(Clone, Debug)]
pub struct Completion {
    /// As requested.
    pub id: RequestId,
    /// What came of it.
    pub result: Result<Outcome, Fault>,
}

/// How a request ended well.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Done; nothing else to tell.
    Done,
    /// The bytes read.
    Bytes(Bytes),
    /// The names in a directory and, for files, their sizes in bytes.
    Names(Vec<(String, u64)>),
}

/// How a request ended badly.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// No space is left.
    NoSpace,
    /// The device failed: what it holds now is unknown.
    Device,
    /// No such file or directory.
    NotFound,
    /// Anything else, as errno.
    Other(i32),
}

/// A file, by what it is. `Display` gives its path below the data directory.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum FileName {
    /// `journal/base-<incarnation>`: all partitions, as recovery left them.
    Base {
        /// The node's start that wrote it.
        incarnation: u64,
    },
    /// `journal/shard-<shard>/checkpoint-<slot>`.
    Checkpoint {
        /// Whose.
        shard: u16,
        /// 0 or 1, alternating.
        slot: u8,
    },
    /// `journal/shard-<shard>/<number>.journal`: one file of the ring.
    Journal {
        /// Whose.
        shard: u16,
        /// Its number in the ring, for life; what it holds now is told by its header.
        number: u32,
    },
    /// `partitions/<topic>/<partition>/<base offset>.log`: batches, verbatim. Of a compacted
    /// segment: `<base offset>.<compaction>.log`.
    Log {
        /// Topic.
        topic: TopicId,
        /// Partition.
        partition: PartitionId,
        /// Offset of the first record there was.
        base_offset: Offset,
        /// The compaction that wrote it; 0: as appended.
        compaction: u32,
    },
    /// `…/<base offset>.index`, or `…/<base offset>.<compaction>.index`.
    Index {
        /// Topic.
        topic: TopicId,
        /// Partition.
        partition: PartitionId,
        /// Offset of the first record there was.
        base_offset: Offset,
        /// The compaction that wrote it; 0: as appended.
        compaction: u32,
    },
}

/// A directory, by what it is. `Display` gives its path below the data directory.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum DirName {
    /// The data directory itself.
    Data,
    /// `journal`.
    Journals,
    /// `journal/shard-<shard>`.
    Journal {
        /// Whose.
        shard: u16,
    },
    /// `partitions`.
    Partitions,
    /// `partitions/<topic>`.
    Topic {
        /// Topic.
        topic: TopicId,
    },
    /// `partitions/<topic>/<partition>`.
    Partition {
        /// Topic.
        topic: TopicId,
        /// Partition.
        partition: PartitionId,
    },
    /// A directory below `partitions` whose name storage does not know.
    Unknown {
        /// Path below the data directory.
        path: String,
    },
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Base { incarnation } => write!(f, "{}/base-{incarnation}", DirName::Journals),
            Self::Checkpoint { shard, slot } => {
                write!(f, "{}/checkpoint-{slot}", DirName::Journal { shard })
            }
            Self::Journal { shard, number } => {
                write!(f, "{}/{number:08}.journal", DirName::Journal { shard })
            }
            // Kafka's own names, so that its tools read them: the offset in twenty digits.
            Self::Log { topic, partition, base_offset, compaction } => {
                let dir = DirName::Partition { topic, partition };
                write!(f, "{dir}/{}log", SegmentStem { base_offset, compaction })
            }
            Self::Index { topic, partition, base_offset, compaction } => {
                let dir = DirName::Partition { topic, partition };
                write!(f, "{dir}/{}index", SegmentStem { base_offset, compaction })
            }
        }
    }
}

/// What the names of a segment's files begin with, up to the last dot.
struct SegmentStem {
    base_offset: Offset,
    compaction: u32,
}

impl fmt::Display for SegmentStem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:020}.", self.base_offset.0)?;
        match self.compaction {
            0 => Ok(()),
            number => write!(f, "{number}."),
        }
    }
}

impl fmt::Display for DirName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data => f.write_str("."),
            Self::Journals => f.write_str("journal"),
            Self::Journal { shard } => write!(f, "journal/shard-{shard}"),
            Self::Partitions => f.write_str("partitions"),
            Self::Topic { topic } => write!(f, "partitions/{topic}"),
            Self::Partition { topic, partition } => {
                write!(f, "partitions/{topic}/{}", partition.0)
            }
            Self::Unknown { path } => f.write_str(path),
        }
    }
}

impl FileName {
    /// The directory that holds it.
    #[must_use]
    pub fn dir(&self) -> DirName {
        match *self {
            Self::Base { .. } => DirName::Journals,
            Self::Checkpoint { shard, .. } | Self::Journal { shard, .. } => {
                DirName::Journal { shard }
            }
            Self::Log { topic, partition, .. } | Self::Index { topic, partition, .. } => {
                DirName::Partition { topic, partition }
            }
        }
    }
}

impl FileName {
    /// The file of `partition` with this name, if it is a name of ours.
    #[must_use]
    pub fn parse(owner: TopicPartition, name: &str) -> Option<FileName> {
        let TopicPartition { topic, partition } = owner;
        let (stem, kind) = name.rsplit_once('.')?;
        let (base_offset, compaction) = segment_named(stem)?;
        match kind {
            "log" => Some(Self::Log { topic, partition, base_offset, compaction }),
            "index" => Some(Self::Index { topic, partition, base_offset, compaction }),
            _ => None,
        }
    }
}

/// The base offset and the compaction that the name of a segment's file tells before its last dot,
/// if it is a name of ours.
#[must_use]
pub fn segment_named(stem: &str) -> Option<(Offset, u32)> {
    let (digits, compaction) = match stem.split_once('.') {
        None => (stem, 0),
        // As we write it, and not 0: another name could stand for the same file.
        Some((digits, number)) => (digits, number.parse().ok().filter(|n: &u32| 0 < *n)?),
    };
    let is_ours = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let base_offset = Offset(digits.parse().ok().filter(|_| is_ours)?);
    let again = SegmentStem { base_offset, compaction }.to_string();
    (again.strip_suffix('.') == Some(stem)).then_some((base_offset, compaction))
}

impl DirName {
    /// The directory it is an entry of.
    #[must_use]
    pub fn parent(&self) -> DirName {
        match *self {
            Self::Data | Self::Journals | Self::Partitions | Self::Unknown { .. } => DirName::Data,
            Self::Journal { .. } => DirName::Journals,
            Self::Topic { .. } => DirName::Partitions,
            Self::Partition { topic, .. } => DirName::Topic { topic },
        }
    }
}
