//! The topics that the members of a group read: by name, and by pattern.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use regex::{Regex, RegexBuilder};
use tidemill_record::TopicId;
use tidemill_replication::metadata::{Image, Topic};

use super::Consumer;
use crate::coordinator::record::Subscription;
use crate::coordinator::request::MemberId;

/// How much memory a pattern of topics may take when it is made ready.
const REGEX_BYTES_MAX: usize = 1 << 20;

impl Consumer {
    /// A number that changes with the topics that are read, and when the pattern of a member that
    /// was `early` comes to count.
    pub(super) fn hash_topics(&self, early: Option<&MemberId>, image: &Image) -> i64 {
        let hash = hash_of_topics(&self.topics_read(early, image));
        if early.is_some() { !hash } else { hash }
    }

    /// All topics that are read and that there are; the pattern of `early` not counted.
    pub(super) fn topics_read<'a>(
        &self,
        early: Option<&MemberId>,
        image: &'a Image,
    ) -> BTreeMap<TopicId, &'a Arc<Topic>> {
        let named = self.tally.topics.keys().filter_map(|name| image.topic_named(name));
        let early = early.and_then(|id| self.members.get(id)?.wants.pattern());
        let counts = |regex: &str, givers: usize| early != Some(regex) || 1 < givers;
        let patterns = self.tally.patterns.iter().filter(|(regex, givers)| counts(regex, **givers));
        let matching = patterns.flat_map(|(regex, _)| matching(regex, image));
        named.chain(matching).map(|topic| (topic.id, topic)).collect()
    }

    /// Whether there is a member for each partition of the topics that are read.
    pub(super) fn reads_all(&self, image: &Image) -> bool {
        let shared: usize =
            self.targets.values().flat_map(|share| share.values()).map(BTreeSet::len).sum();
        let topics = self.topics_read(None, image);
        shared == topics.values().map(|topic| topic.partitions.len()).sum::<usize>()
    }

    /// Tells of topics whether a member reads them.
    pub(in crate::coordinator) fn readers(&self) -> impl Fn(&str) -> bool {
        let patterns = self.tally.patterns.keys();
        let patterns: Vec<Regex> = patterns.filter_map(|regex| compile(regex).ok()).collect();
        let names = &self.tally.topics;
        move |topic| names.contains_key(topic) || patterns.iter().any(|regex| regex.is_match(topic))
    }

    /// Whether a pattern does not count yet: it comes with names, and nobody has given it.
    pub(super) fn is_early(&self, wants: &Subscription) -> bool {
        let is_new = wants.pattern().is_some_and(|it| !self.tally.patterns.contains_key(it));
        is_new && !wants.topics.is_empty()
    }
}

/// A number that changes when one of these topics comes, goes or grows.
pub(in crate::coordinator) fn hash_of_topics(topics: &BTreeMap<TopicId, &Arc<Topic>>) -> i64 {
    // FNV-1a, by Fowler, Noll and Vo. Nobody is to be deceived: only changes must show.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for (id, topic) in topics {
        let partitions = topic.partitions.len() as u32;
        for byte in id.0.into_iter().chain(partitions.to_be_bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    if topics.is_empty() { 0 } else { hash as i64 }
}

/// All topics whose whole name matches.
pub(super) fn matching<'a>(regex: &str, image: &'a Image) -> Vec<&'a Arc<Topic>> {
    let Ok(regex) = compile(regex) else { return Vec::new() };
    image.topics().filter(|topic| regex.is_match(&topic.name)).collect()
}

/// Makes a pattern of topics ready. As in Kafka it must match the whole name.
pub(super) fn compile(regex: &str) -> Result<Regex, regex::Error> {
    let build = |regex: &str| RegexBuilder::new(regex).size_limit(REGEX_BYTES_MAX).build();
    // It must be one by itself: `a)|(?:b` would close what is put around it here.
    build(regex)?;
    build(&format!("^(?:{regex})$"))
}
