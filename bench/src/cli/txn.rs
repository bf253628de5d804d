//! `tidemill bench txn`: load of transactions.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tidemill_client::kafka::find_coordinator::key_type;
use tidemill_runtime::clock;

use super::options::{BrokerOptions, MakingOptions, at_least_one, first_of};
use crate::amount::{Rate, seconds, some_seconds};
use crate::asking::Asking;
use crate::control::Topic;
use crate::figures::{Figures, counted};
use crate::stage;
use crate::trouble::Trouble;
use crate::txn::reader::Reader;
use crate::txn::{Flow, MARK_BYTES, Shape, Transactions};

/// What load.
#[derive(Args, Debug)]
pub(super) struct Txn {
    #[command(flatten)]
    broker: BrokerOptions,
    #[command(flatten)]
    making: MakingOptions,
    /// How transactions get their partitions.
    #[arg(long, value_enum, default_value_t = Flow::Newer)]
    flow: Flow,
    /// Producers, each with a transactional id and connections of its own.
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    producers: usize,
    /// Records of each transaction.
    #[arg(long, default_value_t = 100, value_parser = at_least_one)]
    records: usize,
    /// Partitions of each transaction.
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    partitions_each: usize,
    /// Bytes per record's value, at least 17.
    #[arg(long, default_value_t = 100)]
    value_bytes: usize,
    /// Abort every so many-th transaction; 0 for none.
    #[arg(long, default_value_t = 0)]
    abort_every: u64,
    /// Transactions per second of each producer, such as 10 or 2k; 0 or max for one after the other.
    #[arg(long, default_value = "max", value_parser = rate)]
    rate: f64,
    /// How long is measured.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = some_seconds)]
    seconds: Duration,
    /// Seconds before that.
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    warm_up: Duration,
}

/// None is told as zero.
fn rate(text: &str) -> Result<f64, String> {
    if text.trim() == "0" {
        return Ok(0.0);
    }
    match text.parse()? {
        Rate::Max => Ok(0.0),
        Rate::Records(rate) => Ok(rate),
        Rate::Bytes(_) => Err("transactions a second, no bytes".to_owned()),
    }
}

impl Txn {
    /// Measures, and prints the figures.
    pub(super) fn run(&self, json: bool) -> Result<(), Trouble> {
        if self.value_bytes < MARK_BYTES {
            return Err(Trouble::usage(format!("a value has at least {MARK_BYTES} bytes")));
        }
        let topic = Arc::new(self.broker.prepare(&self.making)?);
        let mut is_harmed = false;
        let ended = self.measure(&topic, json, &mut is_harmed);
        first_of(ended, self.broker.clean_up(is_harmed))
    }

    fn measure(&self, topic: &Arc<Topic>, json: bool, is_harmed: &mut bool) -> Result<(), Trouble> {
        let (each, all) = (self.partitions_each, topic.leaders.len());
        if all < each {
            let what = format!("a transaction cannot write to {each} partitions");
            return Err(Trouble::usage(format!("{what}: the topic has {all}")));
        }
        let shape = Shape {
            flow: self.flow,
            producers: self.producers,
            records: self.records,
            partitions: each,
            value_bytes: self.value_bytes,
            abort_every: self.abort_every,
            rate: self.rate,
            warm_up: self.warm_up,
            window: self.seconds,
            broker: self.broker.pid,
        };
        let run = clock::wall_clock_ms().unsigned_abs();
        let ids: Vec<String> =
            (0..self.producers).map(|nth| format!("{}-{run:x}-{nth}", topic.name)).collect();
        let mut asking = Asking::open(topic.leaders[0])?;
        let coordinators = asking.coordinators(key_type::TRANSACTION, &ids)?;
        let reader = Reader::start(&self.broker.broker, topic, run)?;
        let (play, places) = Transactions::new(&shape, topic, &ids, &coordinators, run);
        let (play, losses) = stage::run(topic, places, self.broker.reconnect, play)?;
        let committed = play.counts().committed_records;
        let read = reader.end(committed).inspect_err(|_| *is_harmed = true)?;
        let committed = committed..=committed + play.counts().unknown_records;
        *is_harmed = read.is_harm(&committed);

        let flow = format!("{:?}", self.flow).to_lowercase();
        let mut figures = Figures::of(format!("transactions, {flow} flow"));
        let producers = self.producers;
        figures.tell("producers", counted(producers as u64, "producer", "producers"), producers);
        play.tell(&mut figures);
        read.tell(&committed, &mut figures);
        losses.tell(&mut figures);
        figures.print(json)
    }
}
