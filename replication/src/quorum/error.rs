//! Why the metadata log cannot be recovered, in sentences for whoever has to mend it.

use std::fmt;

use tidemill_record::NodeId;

use super::Index;
use super::io::{DirName, Fault, FileName};
use super::layout::{BlockError, FORMAT_VERSION};
use super::log::LogFault;
use crate::identity::ClusterId;
use crate::metadata::{DecodeError, ReplayError};

/// Why the metadata cannot be recovered. Nothing was removed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RecoverError {
    /// The disk failed, or is full.
    Io {
        /// Below the data directory.
        path: String,
        /// How.
        fault: Fault,
    },
    /// A newer program wrote the file.
    NewerFormat {
        /// Which file.
        file: FileName,
        /// Its format version.
        found: u16,
        /// What this program reads.
        supported: u16,
    },
    /// Something that was committed cannot be read back.
    Damaged {
        /// Which file.
        file: FileName,
        /// Where in it.
        position: u64,
        /// The first entry concerned.
        index: Index,
    },
    /// The bytes are as they were written, but this program cannot read them: a newer one wrote
    /// them.
    Undecodable {
        /// Which file.
        file: FileName,
        /// Where in it.
        position: u64,
        /// Why.
        error: DecodeError,
    },
    /// An entry does not follow from those before it.
    Replay {
        /// Which entry.
        index: Index,
        /// Why.
        error: ReplayError,
    },
    /// The directory holds data, but not the file that says whose.
    NodeFileMissing,
    /// A file that every start leaves behind is not there.
    Missing(FileName),
    /// The data belongs to another node.
    OtherNode {
        /// The node that starts.
        configured: NodeId,
        /// The node the data belongs to.
        found: NodeId,
    },
    /// The file `node` and the log tell of different clusters.
    OtherCluster {
        /// What the file says.
        node_file: ClusterId,
        /// What the log says.
        log: ClusterId,
    },
    /// This node with this directory is not one of the quorum's voters.
    NotAVoter,
}

/// What a bad block of `file` means for the start.
pub(super) fn block_error(file: FileName, position: u64, error: BlockError) -> RecoverError {
    match error {
        BlockError::NewerFormat { found } => {
            RecoverError::NewerFormat { file, found, supported: FORMAT_VERSION }
        }
        BlockError::Empty | BlockError::Damaged => {
            RecoverError::Damaged { file, position, index: Index(0) }
        }
    }
}

impl From<LogFault> for RecoverError {
    fn from(fault: LogFault) -> Self {
        let path = fault.file.map_or(DirName::Metadata.to_string(), |file| file.to_string());
        Self::Io { path, fault: fault.fault }
    }
}

impl fmt::Display for RecoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, fault } => write!(f, "{path:?}: {fault}"),
            Self::NewerFormat { file, found, supported } => write!(
                f,
                "{file} has format {found}, this version reads up to {supported}: start the newer \
                 version that wrote it"
            ),
            Self::Damaged { file, position, index } => write!(
                f,
                "{file} is damaged at byte {position} (entry {index}), below what was reported \
                 committed: restore it from a copy; nothing was changed"
            ),
            Self::Undecodable { file, position, error } => {
                write!(f, "{file} at byte {position}: {error}")
            }
            Self::Replay { index, error } => write!(f, "metadata entry {index}: {error}"),
            Self::NodeFileMissing => {
                write!(f, "the data directory holds data but not the file `node` that says whose")
            }
            Self::Missing(file) => write!(f, "{file} is missing"),
            Self::OtherNode { configured, found } => {
                write!(f, "the data directory belongs to node {found}, not {configured}")
            }
            Self::OtherCluster { node_file, log } => {
                write!(f, "`node` names cluster {node_file}, the metadata log {log}")
            }
            Self::NotAVoter => write!(f, "this node with this directory is not a voter"),
        }
    }
}

impl std::error::Error for RecoverError {}
