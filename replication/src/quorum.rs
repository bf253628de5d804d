//! The metadata quorum: its log on disk, and how it is recovered.
//!
//! ```text
//! node                          cluster id, node id, directory UUID, format version
//! metadata/voters               who votes: node ids with their directories
//! metadata/state                hard state, two alternating blocks: term, vote, commit
//! metadata/<first index>.log    entries, in writes of whole blocks
//! metadata/snapshot-<index>     the image as of that entry
//! ```
//!
//! An entry is a group of records that happen together or not at all. It is committed once the
//! write that holds it is on stable storage: a quorum of one. The byte formats are in [`layout`]
//! and drawn in `docs/formats/metadata.md`.
//!
//! Start at [`Recovery`], which ends in a [`Log`].

mod error;
pub mod io;
pub mod layout;
mod log;
mod recovery;
mod scan;
mod snapshot;

pub use error::RecoverError;
pub use log::{Log, LogFault, ProposeError};
pub use recovery::{Identity, Recovered, Recovery, Start};

use std::fmt;

/// The place of an entry in the metadata log, from 1.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Index(pub u64);

/// An era of the metadata quorum, from 1.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Term(pub u64);

impl Index {
    /// The index after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("indexes stay below 2^64"))
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
