//! One member of a group of the classic protocol, and what it waits for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::migration::Migrant;
use super::record::MemberState;
use super::request::{Join, MemberDescription, MemberId, Protocol};
use super::session::Session;
use crate::job::ReplyTo;

/// A member of a group of the classic protocol.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) instance: Option<Arc<str>>,
    client_id: Arc<str>,
    client_host: Arc<str>,
    pub(super) rebalance_timeout: Duration,
    pub(super) session_timeout: Duration,
    /// What it can work with, the one it likes best first; each name once.
    protocols: Vec<Protocol>,
    pub(super) assignment: Bytes,
    /// A join that waits until all have come.
    pub(super) joining: Option<ReplyTo>,
    /// A sync that waits for the leader's.
    pub(super) syncing: Option<ReplyTo>,
    /// It has never been told its name: it cannot send heartbeats.
    pub(super) is_new: bool,
    pub(super) session: Session,
}

impl Member {
    pub(super) fn new(join: &Join) -> Self {
        Self {
            instance: join.instance.clone(),
            client_id: Arc::clone(&join.client_id),
            client_host: Arc::clone(&join.client_host),
            rebalance_timeout: join.rebalance_timeout,
            session_timeout: join.session_timeout,
            protocols: each_once(&join.protocols),
            assignment: Bytes::new(),
            joining: None,
            syncing: None,
            is_new: true,
            session: Session::default(),
        }
    }

    /// As it is remembered, under the protocol its group has chosen.
    pub(super) fn from_state(state: MemberState, protocol: Option<&Arc<str>>) -> Self {
        let ms = |ms: i32| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
        let protocols = protocol
            .map(|name| Protocol { name: Arc::clone(name), metadata: state.subscription.clone() });
        Self {
            instance: state.instance,
            client_id: state.client_id,
            client_host: state.client_host,
            rebalance_timeout: ms(state.rebalance_ms),
            session_timeout: ms(state.session_ms),
            protocols: protocols.into_iter().collect(),
            assignment: state.assignment,
            joining: None,
            syncing: None,
            is_new: false,
            session: Session::default(),
        }
    }

    /// As it comes from a group of the newer kind.
    pub(super) fn from_migrant(migrant: Migrant) -> Self {
        let Migrant { state, protocols } = migrant;
        Self { protocols: each_once(&protocols), ..Self::from_state(state, None) }
    }

    pub(super) fn to_state(&self, id: &MemberId, protocol: Option<&str>) -> MemberState {
        let ms = |time: Duration| i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
        MemberState {
            member: Arc::clone(id),
            instance: self.instance.clone(),
            client_id: Arc::clone(&self.client_id),
            client_host: Arc::clone(&self.client_host),
            rebalance_ms: ms(self.rebalance_timeout),
            session_ms: ms(self.session_timeout),
            subscription: self.metadata(protocol),
            assignment: self.assignment.clone(),
        }
    }

    /// It has come again, with what it has to say now.
    pub(super) fn update(&mut self, join: &Join) {
        self.protocols = each_once(&join.protocols);
        self.rebalance_timeout = join.rebalance_timeout;
        self.session_timeout = join.session_timeout;
    }

    pub(super) fn is_static(&self) -> bool {
        self.instance.is_some()
    }

    pub(super) fn protocols(&self) -> &[Protocol] {
        &self.protocols
    }

    /// Whether it can work with this protocol.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.protocols.iter().any(|protocol| &*protocol.name == name)
    }

    /// Whether it says the same as before.
    pub(super) fn says_the_same(&self, join: &Join) -> bool {
        self.protocols == each_once(&join.protocols)
    }

    /// What it said under a protocol.
    pub(super) fn metadata(&self, protocol: Option<&str>) -> Bytes {
        let chosen = protocol.and_then(|name| self.protocols.iter().find(|p| &*p.name == name));
        chosen.map_or_else(Bytes::new, |protocol| protocol.metadata.clone())
    }

    /// The protocol it likes best of those that all can work with.
    pub(super) fn vote<'a>(
        &'a self,
        supported: &BTreeMap<Arc<str>, usize>,
        by: usize,
    ) -> &'a Arc<str> {
        let mut names = self.protocols.iter().map(|protocol| &protocol.name);
        names
            .find(|name| supported.get(*name) == Some(&by))
            .expect("a member is let in only if there is a protocol that all can work with")
    }

    /// Whether it is waited for, so that it cannot be taken for dead.
    pub(super) fn is_kept_waiting(&self) -> bool {
        !self.is_new && (self.joining.is_some() || self.syncing.is_some())
    }

    /// What it takes in memory and, about, in its group's record.
    pub(super) fn bytes(&self) -> usize {
        let instance = self.instance.as_ref().map_or(0, |instance| instance.len());
        let names = self.client_id.len() + self.client_host.len() + instance;
        size_of::<Self>() + names + said_bytes(&self.protocols) + self.assignment.len()
    }

    /// As tools see it; without what was said and assigned if no protocol is in force.
    pub(super) fn describe(&self, id: &MemberId, protocol: Option<&str>) -> MemberDescription {
        MemberDescription {
            member: Arc::clone(id),
            instance: self.instance.clone(),
            client_id: Arc::clone(&self.client_id),
            client_host: Arc::clone(&self.client_host),
            metadata: self.metadata(protocol),
            assignment: match protocol {
                Some(_) => self.assignment.clone(),
                None => Bytes::new(),
            },
        }
    }

    /// The same member under a new name: what waits under the old one is taken out first.
    pub(super) fn renamed(self) -> Self {
        let session = Session::default();
        Self { joining: None, syncing: None, is_new: false, session, ..self }
    }
}

/// What it takes to remember what a member says.
pub(super) fn said_bytes(protocols: &[Protocol]) -> usize {
    protocols.iter().map(|p| p.name.len() + p.metadata.len() + 32).sum()
}

fn each_once(protocols: &[Protocol]) -> Vec<Protocol> {
    let mut once: Vec<Protocol> = Vec::with_capacity(protocols.len());
    for protocol in protocols {
        if once.iter().all(|known| known.name != protocol.name) {
            once.push(protocol.clone());
        }
    }
    once
}
