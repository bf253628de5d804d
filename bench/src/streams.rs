//! The connections of a run: which goes where, with which partitions, and in which process.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use crate::control;
use crate::follow::Following;
use crate::load::{Member, Part};
use crate::plan::Plan;
use crate::produce::Producing;
use crate::settings::{Readers, Settings, Share};
use crate::workload::pool;

/// What one connection of a run does.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Seat {
    address: SocketAddr,
    partitions: Vec<i32>,
    role: Role,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Role {
    /// As this one of those that produce; its producers are numbered from the second number on.
    Produce(Share, u32),
    /// As one of this set of readers.
    Read(usize),
}

/// All connections of a run: the same list in each of its processes.
fn seats(settings: &Settings) -> Vec<Seat> {
    let leaders = &settings.topic.leaders;
    let mut seats = Vec::new();
    let mut first_producer = 0;
    let producers = spread(leaders, settings.producers);
    let of = producers.len();
    for (nth, (address, partitions)) in producers.into_iter().enumerate() {
        let role = Role::Produce(Share { nth, of }, first_producer);
        first_producer += partitions.len() as u32;
        seats.push(Seat { address, partitions, role });
    }
    if let Some(Readers { sets, connections, .. }) = settings.readers {
        for set in 0..sets {
            for (address, partitions) in spread(leaders, connections.min(leaders.len())) {
                seats.push(Seat { address, partitions, role: Role::Read(set) });
            }
        }
    }
    seats
}

/// How many connections a run has in all.
#[must_use]
pub fn count(settings: &Settings) -> usize {
    seats(settings).len()
}

/// The connections of one process, not yet told what to do.
pub struct Streams(Vec<(TcpStream, Seat)>);

impl Streams {
    /// Connects this process's share of them.
    pub fn connect(settings: &Settings, share: Share) -> io::Result<Self> {
        let mine = seats(settings).into_iter().skip(share.nth).step_by(share.of);
        let connect = |seat: Seat| Ok((control::connect(seat.address)?, seat));
        mine.map(connect).collect::<io::Result<Vec<_>>>().map(Self)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// How many of them produce.
    #[must_use]
    pub fn producers(&self) -> usize {
        self.0.iter().filter(|(_, seat)| matches!(seat.role, Role::Produce(..))).count()
    }

    /// With what each is to do.
    #[must_use]
    pub fn into_members(self, settings: &Settings, plan: &Plan) -> Vec<Member> {
        let pool = pool(&settings.shapes());
        let member = |(stream, seat): (TcpStream, Seat)| {
            let partition = seat.partitions[0];
            Member { stream, partition, part: part(&seat, settings, plan, &pool) }
        };
        self.0.into_iter().map(member).collect()
    }
}

fn part(seat: &Seat, settings: &Settings, plan: &Plan, pool: &Arc<[u8]>) -> Part {
    match seat.role {
        Role::Produce(share, first_producer) => {
            let (partitions, pool) = (&seat.partitions, Arc::clone(pool));
            let producing = Producing::new(partitions, first_producer, settings, plan, pool, share);
            Part::Produce(Box::new(producing))
        }
        Role::Read(set) => {
            let readers = settings.readers.expect("a run with such a seat has readers");
            let topic = &settings.topic;
            let from = if readers.from_start { &topic.earliest } else { &topic.latest };
            let from: Vec<(i32, i64)> =
                seat.partitions.iter().map(|number| (*number, from[*number as usize])).collect();
            Part::Follow(Box::new(Following::new(plan.run, set, &from, readers.reading)))
        }
    }
}

/// Which connection goes where, with which partitions. With fewer connections than partitions each
/// has several, all led from its address, and there is at least one for each address; with more,
/// several have the same one.
fn spread(leaders: &[SocketAddr], connections: usize) -> Vec<(SocketAddr, Vec<i32>)> {
    if connections == 0 {
        return Vec::new();
    }
    if leaders.len() <= connections {
        let one = |nth: usize| (leaders[nth % leaders.len()], vec![(nth % leaders.len()) as i32]);
        return (0..connections).map(one).collect();
    }
    let mut led: BTreeMap<SocketAddr, Vec<i32>> = BTreeMap::new();
    for (number, leader) in leaders.iter().enumerate() {
        led.entry(*leader).or_default().push(number as i32);
    }
    let addresses = led.len();
    let mut all = Vec::new();
    for (nth, (address, partitions)) in led.into_iter().enumerate() {
        let extra = usize::from(nth < connections % addresses);
        let mine = (connections / addresses + extra).clamp(1, partitions.len());
        for first in 0..mine {
            let some = partitions.iter().skip(first).step_by(mine).copied().collect();
            all.push((address, some));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// Each partition has a connection, and each connection goes to the leader of all it serves.
    #[test]
    fn connections_go_to_the_leaders() {
        let leaders: Vec<_> = (0..10).map(|n| address(1000 + n % 3)).collect();
        for connections in [1, 2, 3, 4, 7, 10, 25] {
            let spread = spread(&leaders, connections);
            assert!(connections.max(3) <= spread.len(), "{connections}");
            let mut served: Vec<i32> = Vec::new();
            for (address, partitions) in &spread {
                assert!(!partitions.is_empty());
                assert!(partitions.iter().all(|p| leaders[*p as usize] == *address));
                served.extend(partitions);
            }
            served.sort_unstable();
            served.dedup();
            assert_eq!(served, (0..10).collect::<Vec<_>>(), "{connections}");
        }
    }
}
