//! What the metadata log asks of the disk ([`Request`]) and how it is told the end
//! ([`Completion`]): the same shape as storage's, with the files of this crate.
//!
//! Requests that must follow another are not handed out before that other has completed, so they
//! may be carried out in any order. Each is reported exactly once.

use std::fmt;

use bytes::Bytes;

use super::Index;

/// The name the log gives a request; handed back with its completion.
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

/// What to do to the disk. Files are opened by whoever carries it out.
#[derive(Clone, Debug)]
pub enum Action {
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
    /// Make a durable file of `size` written zero bytes, replacing an old one. The only request
    /// that makes a file, and the only one that may meet a full disk. The file's name is durable
    /// only after its directory is synced.
    Prewrite {
        /// Which file.
        file: FileName,
        /// Its size.
        size: u64,
    },
    /// Remove the file, if it exists. All requests on it have completed.
    Remove {
        /// Which file.
        file: FileName,
    },
    /// Give a file another name, replacing a file of that name.
    Rename {
        /// The name now.
        from: FileName,
        /// The name then.
        to: FileName,
    },
    /// No more requests for this file are near: its descriptor, if it is open, may be closed.
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
    /// The names of the files in a directory and their sizes in bytes.
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
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum FileName {
    /// `node`: whose data directory this is.
    Node,
    /// `node.new`: written whole, then renamed to [`FileName::Node`].
    NodeNew,
    /// `metadata/voters`: who votes.
    Voters,
    /// `metadata/state`: the hard state, two alternating blocks.
    State,
    /// `metadata/spare`: a prewritten log file kept for the day the disk is full.
    Spare,
    /// `metadata/<first index>.log`: entries from there on.
    Log {
        /// The index of the first entry the file may hold.
        first: Index,
    },
    /// `metadata/snapshot-<index>`: the image as of that entry.
    Snapshot {
        /// The last entry it includes.
        index: Index,
    },
}

/// A directory, by what it is. `Display` gives its path below the data directory.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum DirName {
    /// The data directory itself; its path is empty.
    Data,
    /// `metadata`.
    Metadata,
}

impl FileName {
    /// The file of this name below `metadata/`; none if the name is not one of ours.
    #[must_use]
    pub fn in_metadata(name: &str) -> Option<Self> {
        let file = match name {
            "voters" => Self::Voters,
            "state" => Self::State,
            "spare" => Self::Spare,
            _ => {
                if let Some(digits) = name.strip_suffix(".log") {
                    Self::Log { first: Index(digits.parse().ok()?) }
                } else {
                    let digits = name.strip_prefix("snapshot-")?;
                    Self::Snapshot { index: Index(digits.parse().ok()?) }
                }
            }
        };
        // Each file has one spelling.
        (file.to_string().strip_prefix("metadata/")? == name).then_some(file)
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => write!(f, "node"),
            Self::NodeNew => write!(f, "node.new"),
            Self::Voters => write!(f, "metadata/voters"),
            Self::State => write!(f, "metadata/state"),
            Self::Spare => write!(f, "metadata/spare"),
            Self::Log { first } => write!(f, "metadata/{:020}.log", first.0),
            Self::Snapshot { index } => write!(f, "metadata/snapshot-{:020}", index.0),
        }
    }
}

impl fmt::Display for DirName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data => Ok(()),
            Self::Metadata => write!(f, "metadata"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSpace => write!(f, "no space is left"),
            Self::Device => write!(f, "the device failed"),
            Self::NotFound => write!(f, "there is no such file"),
            Self::Other(errno) => write!(f, "error number {errno}"),
        }
    }
}
