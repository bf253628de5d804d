//! What the members of a group want and have said, counted: so that what concerns all of them is
//! known without asking each one.
//!
//! It changes with each member that comes, goes or wants something else ([`Tally::comes`],
//! [`Tally::goes`]), and follows from the members alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::coordinator::assignment::Assignor;
use crate::coordinator::fork_map::ForkMap;
use crate::coordinator::member::said_bytes;
use crate::coordinator::record::{ClassicMember, Subscription};

/// The members of a group, counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Tally {
    /// How many name each topic.
    pub(super) topics: ForkMap<Arc<str>, usize>,
    /// How many give each pattern.
    pub(super) patterns: ForkMap<Arc<str>, usize>,
    /// How many ask for each assignor, in the order of [`Assignor::ALL`].
    assignors: [usize; Assignor::ALL.len()],
    /// How many speak the classic protocol.
    classic: usize,
    /// How many of those can work with each protocol.
    protocols: ForkMap<Arc<str>, usize>,
    /// What those have said, in bytes.
    said: usize,
}

impl Tally {
    /// One more wants this.
    pub(super) fn comes(&mut self, wants: &Subscription) {
        for topic in once(&wants.topics) {
            self.topics.count_up(topic);
        }
        if let Some(pattern) = pattern(wants) {
            self.patterns.count_up(pattern);
        }
        if let Some(asked) = assignor(wants) {
            self.assignors[asked] += 1;
        }
        if let Some(classic) = &wants.classic {
            self.classic += 1;
            self.said += said_bytes(&classic.protocols);
            for protocol in names(classic) {
                self.protocols.count_up(protocol);
            }
        }
    }

    /// One less wants this.
    pub(super) fn goes(&mut self, wants: &Subscription) {
        for topic in once(&wants.topics) {
            self.topics.count_down(topic);
        }
        if let Some(pattern) = pattern(wants) {
            self.patterns.count_down(pattern);
        }
        if let Some(asked) = assignor(wants) {
            self.assignors[asked] -= 1;
        }
        if let Some(classic) = &wants.classic {
            self.classic -= 1;
            self.said -= said_bytes(&classic.protocols);
            for protocol in names(classic) {
                self.protocols.count_down(protocol);
            }
        }
    }

    /// Its copies are gone: see [`ForkMap::settle`].
    pub(super) fn settle(&mut self) -> bool {
        [self.topics.settle(), self.patterns.settle(), self.protocols.settle()] == [true; 3]
    }

    /// How many speak the classic protocol.
    pub(super) fn classic(&self) -> usize {
        self.classic
    }

    /// What classic members have said, in bytes; but for one, if it is one of them.
    pub(super) fn said_by_others(&self, than: Option<&ClassicMember>) -> usize {
        self.said - than.map_or(0, |classic| said_bytes(&classic.protocols))
    }

    /// Whether all classic members can work with a protocol; but for one, if it is one of them.
    pub(super) fn others_know(&self, protocol: &str, than: Option<&ClassicMember>) -> bool {
        let knows = |classic: &ClassicMember| names(classic).any(|name| **name == *protocol);
        let others = self.classic - usize::from(than.is_some());
        self.protocols.count(protocol) - usize::from(than.is_some_and(knows)) == others
    }

    /// Whether there is a protocol that all classic members can work with.
    pub(super) fn has_protocol_in_common(&self) -> bool {
        self.protocols.values().any(|count| *count == self.classic)
    }

    /// The first of those assignors that most ask for: if nobody asks, the default.
    pub(super) fn assignor(&self) -> Assignor {
        let votes = |assignor: Assignor| {
            Assignor::ALL.iter().position(|one| *one == assignor).map(|at| self.assignors[at])
        };
        let mut best = Assignor::default();
        for assignor in Assignor::ALL {
            if votes(best) < votes(assignor) {
                best = assignor;
            }
        }
        best
    }

    /// What it takes in memory that a member wants this, about.
    pub(super) fn bytes_of(wants: &Subscription) -> usize {
        let topics: usize = wants.topics.iter().map(|topic| topic.len() + 16).sum();
        let said = wants.classic.as_ref().map_or(0, |classic| said_bytes(&classic.protocols));
        wants.client_id.len() + wants.client_host.len() + topics + said
    }
}

/// Each of these, once. They are in order, as a rule.
fn once(topics: &[Arc<str>]) -> impl Iterator<Item = &Arc<str>> {
    let is_sorted = topics.is_sorted_by(|one, next| one < next);
    let sorted = is_sorted.then(|| topics.iter());
    let set = (!is_sorted).then(|| topics.iter().collect::<BTreeSet<_>>().into_iter());
    sorted.into_iter().flatten().chain(set.into_iter().flatten())
}

/// The protocols that a member can work with, each once.
fn names(classic: &ClassicMember) -> impl Iterator<Item = &Arc<str>> {
    let names: BTreeSet<&Arc<str>> = classic.protocols.iter().map(|one| &one.name).collect();
    names.into_iter()
}

fn pattern(wants: &Subscription) -> Option<&Arc<str>> {
    wants.regex.as_ref().filter(|regex| !regex.is_empty())
}

fn assignor(wants: &Subscription) -> Option<usize> {
    let asked = Assignor::from_name(wants.assignor.as_deref()?)?;
    Assignor::ALL.iter().position(|assignor| *assignor == asked)
}
