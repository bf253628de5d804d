//! The lines of a cluster: which is asked, how they are made, heard and given up.

use std::collections::BTreeSet;

use tidemill_net::kafka::ApiKey;

use super::{Action, Address, Ask, Cluster, Heard, LineId, NotSent, Peer};
use crate::connection::{Connection, Event, Trouble};
use crate::time::{Instant, earlier};

#[derive(Debug)]
pub(super) struct Line<A> {
    address: Address,
    /// Whether it is another than the usual one to its address.
    is_aside: bool,
    /// Until when connecting may take; none once connected.
    pub(super) connecting_until: Option<Instant>,
    pub(super) connection: Connection<Ask<A>>,
}

/// What is known of an address beyond its lines.
#[derive(Debug, Default)]
pub(super) struct Place {
    pub(super) line: Option<LineId>,
    /// The one for [`Peer::Aside`].
    aside: Option<LineId>,
    /// Whether the last attempt to be connected to it came to nothing.
    pub(super) is_away: bool,
    failed_tries: u32,
    down_until: Instant,
}

impl Place {
    pub(super) fn has_line(&self) -> bool {
        self.line.is_some() || self.aside.is_some()
    }

    fn line_mut(&mut self, is_aside: bool) -> &mut Option<LineId> {
        if is_aside { &mut self.aside } else { &mut self.line }
    }
}

impl<A> Cluster<A> {
    /// Takes in what happened on a line.
    pub(super) fn listen(&mut self, id: LineId, now: Instant) {
        while let Some(line) = self.lines.get_mut(&id) {
            let Some(event) = line.connection.poll_event() else { return };
            match event {
                Event::Ready => {
                    if let Some(place) = self.places.get_mut(&line.address) {
                        place.failed_tries = 0;
                        place.is_away = false;
                    }
                    self.heard.push_back(Heard::Ready);
                }
                Event::Reply(Ask::Theirs(tag), reply) => {
                    self.heard.push_back(Heard::Reply(tag, reply));
                }
                Event::Reply(Ask::Map { all }, reply) => match reply.decode() {
                    Ok(answer) => self.take_map(answer, all, now),
                    Err(error) => {
                        let api = ApiKey::Metadata;
                        line.connection.close(Trouble::Unreadable { api, error });
                        self.refreshing = false;
                        self.refresh(now);
                    }
                },
                Event::Lost(Ask::Theirs(tag)) => self.heard.push_back(Heard::Lost(tag)),
                Event::Lost(Ask::Map { .. }) => {
                    self.refreshing = false;
                    self.refresh_at = Some(now);
                }
                Event::Closed(trouble) => self.drop_line(id, &trouble, now),
            }
        }
    }

    fn drop_line(&mut self, id: LineId, trouble: &Trouble, now: Instant) {
        let line = self.lines.remove(&id).expect("it has just told of its end");
        self.actions.push_back(Action::Disconnect(id));
        let was_ready = line.connection.versions() != &crate::versions::Versions::UNKNOWN;
        let address = &line.address;
        self.trouble = Some(match trouble {
            Trouble::Ended { cause } if line.connecting_until.is_some() => {
                format!("cannot connect to {address}: {cause}")
            }
            trouble => format!("{address}: {trouble}"),
        });
        let place = self.places.entry(line.address).or_default();
        *place.line_mut(line.is_aside) = None;
        place.is_away = !was_ready;
        place.failed_tries = place.failed_tries.saturating_add(1);
        // A connection that worked may be made again at once: brokers close idle ones.
        let again = place.failed_tries == 1 && was_ready;
        let delay = self.config.reconnect.delay(place.failed_tries, &mut self.random);
        place.down_until = if again { now } else { now.plus(delay) };
        // The leaders may be elsewhere by now.
        self.refresh(now);
    }

    /// The connection to whom to ask, if it can take a request now.
    pub(super) fn connection(
        &mut self,
        to: Peer,
        now: Instant,
    ) -> Result<&mut Connection<Ask<A>>, NotSent> {
        let address = match to {
            Peer::Node(node) | Peer::Aside(node) => self.map.nodes().get(&node).cloned(),
            Peer::Any => self.any_address(now),
        };
        let line = match (address, to) {
            (Some(address), to) => self.line_to(address, matches!(to, Peer::Aside(_)), now),
            (None, Peer::Any) => None,
            (None, Peer::Node(_) | Peer::Aside(_)) => return Err(NotSent::UnknownNode),
        };
        let line = line.and_then(|line| self.lines.get_mut(&line)).ok_or(NotSent::NotNow)?;
        if line.connection.has_room(now) {
            return Ok(&mut line.connection);
        }
        let quiet_until = line.connection.quiet_until();
        if now < quiet_until {
            self.ask_again_at = earlier(self.ask_again_at, Some(quiet_until));
        }
        Err(NotSent::NotNow)
    }

    /// The line to an address; a new one, unless the address has to be left alone for a while.
    fn line_to(&mut self, address: Address, is_aside: bool, now: Instant) -> Option<LineId> {
        let place = self.places.entry(address.clone()).or_default();
        if let Some(line) = *place.line_mut(is_aside) {
            return Some(line);
        }
        if now < place.down_until {
            self.ask_again_at = earlier(self.ask_again_at, Some(place.down_until));
            return None;
        }
        let id = LineId(self.next_line);
        self.next_line += 1;
        *place.line_mut(is_aside) = Some(id);
        let line = Line {
            address: address.clone(),
            is_aside,
            connecting_until: Some(now.plus(self.config.connect_timeout)),
            connection: Connection::new(self.config.connection.clone()),
        };
        self.lines.insert(id, line);
        self.actions.push_back(Action::Connect(id, address));
        Some(id)
    }

    /// Whichever broker is at hand: the least busy that is ready, or one that is being connected
    /// to, or a new one by chance.
    fn any_address(&mut self, now: Instant) -> Option<Address> {
        let usual = || self.lines.values().filter(|line| !line.is_aside);
        let ready = usual().filter(|line| line.connection.is_ready());
        let at_hand = ready
            .min_by_key(|line| (!line.connection.has_room(now), line.connection.in_flight()))
            .or_else(|| usual().next());
        if let Some(line) = at_hand {
            return Some(line.address.clone());
        }
        let all: BTreeSet<&Address> =
            self.map.nodes().values().chain(&self.config.bootstrap).collect();
        let down = |address: &Address| self.places.get(address).map(|place| place.down_until);
        let free = |address: &&&Address| down(address).is_none_or(|until| until <= now);
        let usable: Vec<&Address> = all.iter().filter(free).copied().collect();
        if usable.is_empty() {
            let soonest = all.iter().filter_map(|address| down(address)).min();
            self.ask_again_at = earlier(self.ask_again_at, soonest);
            return None;
        }
        Some(usable[self.random.below(usable.len())].clone())
    }
}
