//! `tidemill bench groups`: load on the coordinators of groups.

use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use tidemill_client::kafka::find_coordinator::key_type;
use tidemill_runtime::clock;

use super::options::{BrokerOptions, MakingOptions, first_of};
use crate::amount::{milliseconds, seconds, some_seconds};
use crate::asking::Asking;
use crate::control::{self, Topic};
use crate::figures::{Figures, counted};
use crate::groups::commits::{Commits, Pace};
use crate::groups::first;
use crate::groups::member::Protocol;
use crate::groups::rebalance::{Course, Rebalance};
use crate::stage::{self, Place};
use crate::trouble::Trouble;

/// What to measure.
#[derive(Debug, Subcommand)]
pub(super) enum Groups {
    /// How long a group takes to settle when members come and go.
    Rebalance {
        #[command(flatten)]
        common: Common,
        /// How many members.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        members: u32,
        /// How often one leaves and one joins.
        #[arg(long, default_value_t = 10)]
        rounds: usize,
        /// By which chance decides when each member's heartbeats fall, and how long it is between
        /// two changes: the same for the same number.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// The longest it may take; if it takes longer, the exit code is 11.
        #[arg(long, value_name = "SECONDS", value_parser = some_seconds)]
        within: Option<Duration>,
    },
    /// What many groups of one member cost that commit their offsets at a rate; with rate 0 they
    /// only say that they live.
    Commit {
        #[command(flatten)]
        common: Common,
        /// How many groups.
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
        groups: u32,
        /// Commits per second of each group.
        #[arg(long, default_value_t = 1.0, value_parser = rate)]
        rate: f64,
        /// How long is measured.
        #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = some_seconds)]
        seconds: Duration,
        /// Seconds before that.
        #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
        warm_up: Duration,
    },
    /// How long a consumer of a new group waits for its first record, from before it connects.
    First {
        #[command(flatten)]
        common: Common,
        /// How many groups, one after the other.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
        times: u32,
        /// The longest it may take; if it takes longer, the exit code is 11.
        #[arg(long, value_name = "SECONDS", value_parser = some_seconds)]
        within: Option<Duration>,
    },
}

/// What all of them take.
#[derive(Args, Debug)]
pub(super) struct Common {
    #[command(flatten)]
    broker: BrokerOptions,
    #[command(flatten)]
    making: MakingOptions,
    /// Which of the two protocols of groups.
    #[arg(long, value_enum, default_value_t = Protocol::Consumer)]
    protocol: Protocol,
    /// Milliseconds between heartbeats in the classic protocol; in the other the broker says.
    #[arg(long, value_name = "MS", default_value = "3000", value_parser = milliseconds)]
    heartbeat: Duration,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.0..=1000.0).contains(rate));
    rate.ok_or_else(|| "a number from 0 to 1000".to_owned())
}

impl Groups {
    /// Measures, and prints the figures.
    pub(super) fn run(&self, json: bool) -> Result<(), Trouble> {
        match self {
            Self::Rebalance { common, members, rounds, seed, within } => {
                let course = Course {
                    members: *members as usize,
                    rounds: *rounds,
                    interval: common.heartbeat,
                    seed: *seed,
                };
                rebalance(common, course, *within, json)
            }
            Self::Commit { common, groups, rate, seconds, warm_up } => {
                let pace = Pace {
                    rate: *rate,
                    warm_up: *warm_up,
                    window: *seconds,
                    interval: common.heartbeat,
                    broker: common.broker.pid,
                };
                commit(common, *groups as usize, pace, json)
            }
            Self::First { common, times, within } => {
                first_record(common, *times as usize, *within, json)
            }
        }
    }
}

impl Common {
    fn prepare(&self) -> Result<Arc<Topic>, Trouble> {
        Ok(Arc::new(self.broker.prepare(&self.making)?))
    }

    /// Names that no earlier run had.
    fn prefix(&self) -> String {
        format!("{}-{:x}", self.broker.topic, clock::wall_clock_ms())
    }

    fn figures(&self, what: &str, topic: &Topic) -> Figures {
        let protocol = format!("{:?}", self.protocol).to_lowercase();
        let mut figures = Figures::of(format!("groups {what}, {protocol} protocol"));
        let partitions = topic.leaders.len();
        figures.tell(
            "partitions",
            counted(partitions as u64, "partition", "partitions"),
            partitions,
        );
        figures
    }
}

fn rebalance(
    common: &Common,
    course: Course,
    within: Option<Duration>,
    json: bool,
) -> Result<(), Trouble> {
    let topic = common.prepare()?;
    let group = common.prefix();
    let measure = || {
        let coordinator = find(&topic, std::slice::from_ref(&group))?[0];
        let play = Rebalance::new(&group, common.protocol, &topic, course);
        let members = course.members;
        let places = vec![(Place::Group(group.clone()), coordinator); members];
        let (play, losses) = stage::run(&topic, places, common.broker.reconnect, play)?;
        let mut figures = common.figures("rebalance", &topic);
        figures.tell("members", counted(members as u64, "member", "members"), members);
        play.tell(&mut figures);
        losses.tell(&mut figures);
        figures.print(json)?;
        judge(play.longest(), within)
    };
    let ended = measure();
    first_of(ended, common.broker.clean_up_groups(std::slice::from_ref(&group)))
}

fn commit(common: &Common, groups: usize, pace: Pace, json: bool) -> Result<(), Trouble> {
    let topic = common.prepare()?;
    let prefix = common.prefix();
    let names: Vec<String> = (0..groups).map(|nth| format!("{prefix}-{nth}")).collect();
    let measure = || {
        let coordinators = find(&topic, &names)?;
        let play = Commits::new(&prefix, groups, common.protocol, &topic, pace);
        let places = names.iter().cloned().map(Place::Group).zip(coordinators).collect();
        let (play, losses) = stage::run(&topic, places, common.broker.reconnect, play)?;
        let mut figures = common.figures("commit", &topic);
        figures.tell("groups", counted(groups as u64, "group", "groups"), groups);
        figures.tell("rate", format!("{} commits a second of each", pace.rate), pace.rate);
        play.tell(&mut figures);
        losses.tell(&mut figures);
        figures.print(json)
    };
    let ended = measure();
    first_of(ended, common.broker.clean_up_groups(&names))
}

fn first_record(
    common: &Common,
    times: usize,
    within: Option<Duration>,
    json: bool,
) -> Result<(), Trouble> {
    let topic = common.prepare()?;
    let prefix = common.prefix();
    let mut made = Vec::new();
    let mut measure = || {
        first::fill(&topic)?;
        let broker = common.broker.broker.split(',').next().unwrap_or_default();
        let bootstrap = control::resolve(broker)?;
        // The first group of all waits for its topic to be made, which is no affair of groups.
        find(&topic, std::slice::from_ref(&prefix))?;
        let (what, reconnect) = (common.protocol, common.broker.reconnect);
        let of = (bootstrap, &*topic);
        let measured = first::measure(of, (&prefix, times), what, reconnect, &mut made)?;
        let mut figures = common.figures("first", &topic);
        measured.tell(&mut figures);
        figures.print(json)?;
        judge(measured.latencies.longest(), within)
    };
    let ended = measure();
    first_of(ended, common.broker.clean_up_groups(&made))
}

fn find(topic: &Topic, groups: &[String]) -> Result<Vec<std::net::SocketAddr>, Trouble> {
    Asking::open(topic.leaders[0])?.coordinators(key_type::GROUP, groups)
}

fn judge(longest: Duration, within: Option<Duration>) -> Result<(), Trouble> {
    match within {
        Some(within) if within < longest => {
            let why = format!("it took {longest:.1?}, {within:.1?} are allowed");
            Err(Trouble::missed(why))
        }
        _ => Ok(()),
    }
}
