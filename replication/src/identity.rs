//! Who is who for life: the cluster, a data directory, one start of a node.
//!
//! Ids are UUIDs made from seeds the caller draws, so that the simulator draws the same again.

use std::fmt;

use tidemill_record::TopicId;

/// The name of a cluster for life. Shown as Kafka shows it: base64 for URLs.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ClusterId(pub [u8; 16]);

/// The name of a data directory for life. A node whose disk was replaced comes with another one
/// and is not the same voter.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DirectoryId(pub [u8; 16]);

/// Counts the starts of one node, from 1. Each is a record in the metadata log.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NodeEpoch(pub u32);

impl ClusterId {
    /// A random UUID (version 4) from 128 random bits.
    #[must_use]
    pub fn from_seed(seed: u128) -> Self {
        Self(uuid(seed))
    }

    /// Reads the form `Display` writes.
    #[must_use]
    pub fn from_base64(text: &str) -> Option<Self> {
        TopicId::from_base64(text).map(|id| Self(id.0))
    }
}

impl DirectoryId {
    /// A random UUID (version 4) from 128 random bits.
    #[must_use]
    pub fn from_seed(seed: u128) -> Self {
        Self(uuid(seed))
    }
}

/// A topic's id from 128 random bits.
pub(crate) fn topic_id(seed: u128) -> TopicId {
    TopicId(uuid(seed))
}

/// A version 4 UUID whose base64 form does not begin with `-`: command lines would take it for an
/// option (Kafka avoids these too).
fn uuid(seed: u128) -> [u8; 16] {
    let mut bits = seed.to_be_bytes();
    bits[6] = bits[6] & 0x0f | 0x40;
    bits[8] = bits[8] & 0x3f | 0x80;
    if bits[0] >> 2 == 62 {
        bits[0] &= 0x7f;
    }
    bits
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&TopicId(self.0).to_base64())
    }
}

impl fmt::Display for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&TopicId(self.0).to_base64())
    }
}

impl fmt::Display for NodeEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An id never looks like an option of a command line, whatever the seed.
    #[test]
    fn no_id_begins_with_a_dash() {
        for seed in (0..=255u128).map(|byte| byte << 120) {
            assert!(!ClusterId::from_seed(seed).to_string().starts_with('-'));
        }
        assert!(TopicId([0xfb; 16]).to_base64().starts_with('-'), "62 is the dash");
    }

    /// What is printed leads back to the id.
    #[test]
    fn a_cluster_id_is_read_back() {
        let id = ClusterId::from_seed(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        assert_eq!(ClusterId::from_base64(&id.to_string()), Some(id));
        assert_eq!(id.0[6] >> 4, 4, "version 4");
    }
}
