//! `tidemill txn`: list, describe and find transactions, and end by hand those that hang.
//!
//! A transaction hangs if a partition waits for its end and no coordinator knows of it any more.
//! Consumers that read only what is committed then wait, too. The names are those of Kafka's own
//! `kafka-transactions`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use serde_json::json;
use tidemill_client::{Admin, ProducerView, TransactionFilter, TransactionView};

use super::brokers::Bootstrap;
use super::failure::Failure;
use super::{Output, counted, print_line, print_table};

/// What is shown where there is nothing.
const NOTHING: &str = "-";

/// `tidemill txn …`
#[derive(Debug, Subcommand)]
pub(super) enum TxnCommand {
    /// List transactional ids with their states.
    List(List),
    /// Show how a transactional id stands, and what its open transaction writes to.
    Describe(Describe),
    /// Show the producers that the partitions of a topic know, and what they have open.
    DescribeProducers(DescribeProducers),
    /// End the transaction that begins at an offset, as aborted, in one partition: for one that
    /// hangs. One that its coordinator knows of ends by itself.
    Abort(Abort),
    /// Find open transactions that no coordinator will ever end.
    FindHanging(FindHanging),
}

/// `tidemill txn list …`
#[derive(Args, Debug)]
pub(super) struct List {
    /// Only those in this state, such as Ongoing; may be repeated [default: all]
    #[arg(long = "state", value_name = "STATE")]
    states: Vec<String>,
    /// Only those of this producer; may be repeated [default: all]
    #[arg(long = "producer-id", value_name = "ID")]
    producers: Vec<i64>,
    /// Only those open for more than so many milliseconds
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(i64).range(0..))]
    duration_filter: Option<i64>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    bootstrap: Bootstrap,
}

/// `tidemill txn describe …`
#[derive(Args, Debug)]
pub(super) struct Describe {
    /// The transactional id.
    id: String,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    bootstrap: Bootstrap,
}

/// `tidemill txn describe-producers …`
#[derive(Args, Debug)]
pub(super) struct DescribeProducers {
    /// The topic.
    topic: String,
    /// Of which partition; may be repeated [default: all]
    #[arg(short, long = "partition", value_name = "PARTITION")]
    partitions: Vec<i32>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    bootstrap: Bootstrap,
}

/// `tidemill txn abort …`
#[derive(Args, Debug)]
pub(super) struct Abort {
    /// The topic.
    topic: String,
    /// The partition.
    partition: i32,
    /// Where the transaction begins, as `find-hanging` and `describe-producers` tell
    #[arg(long, value_name = "OFFSET")]
    start_offset: i64,
    /// Even if its coordinator knows of it. Its producer is not told: what it has written here is
    /// lost, though its commit succeeds
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    bootstrap: Bootstrap,
}

/// `tidemill txn find-hanging …`
#[derive(Args, Debug)]
pub(super) struct FindHanging {
    /// Of which topic; may be repeated [default: all]
    #[arg(short, long = "topic", value_name = "TOPIC")]
    topics: Vec<String>,
    /// Only those that nothing was written to for so many minutes: give it what the longest
    /// transaction may take
    #[arg(long, value_name = "MINUTES", default_value_t = 15)]
    max_transaction_timeout: u64,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    bootstrap: Bootstrap,
}

impl TxnCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::List(list) => list.run(),
            Self::Describe(describe) => describe.run(),
            Self::DescribeProducers(describe) => describe.run(),
            Self::Abort(abort) => abort.run(),
            Self::FindHanging(find) => find.run(),
        }
    }
}

impl List {
    fn run(self) -> Result<(), Failure> {
        let mut admin = self.bootstrap.admin(false)?;
        let filter = TransactionFilter {
            states: self.states,
            producers: self.producers,
            open_for_ms: self.duration_filter,
        };
        let listed = admin.transactions(&filter).map_err(|error| self.bootstrap.failure(error))?;
        if self.output.is_json() {
            let rows = listed.iter().map(|listed| {
                json!({
                    "transactional_id": listed.id,
                    "producer_id": listed.producer_id,
                    "state": listed.state,
                })
            });
            return print_line(&json!(rows.collect::<Vec<_>>()).to_string());
        }
        let rows = listed
            .into_iter()
            .map(|listed| vec![listed.id, listed.producer_id.to_string(), listed.state]);
        print_table(&["TRANSACTIONAL_ID", "PRODUCER_ID", "STATE"], rows.collect())
    }
}

impl Describe {
    fn run(self) -> Result<(), Failure> {
        let mut admin = self.bootstrap.admin(false)?;
        let Self { id, .. } = &self;
        let found = admin.transaction(id).map_err(|error| self.bootstrap.failure(error))?;
        let Some(found) = found else {
            let fix = format!("`tidemill txn list{}` names those there are", self.bootstrap.flag());
            return Err(Failure::new(format!("no transactional id {id}")).fix(fix));
        };
        let open_ms = found.start_ms.map(|at| (now_ms() - at).max(0));
        let TransactionView { coordinator, producer_id, producer_epoch, state, .. } = &found;
        if self.output.is_json() {
            let partitions = found.partitions.iter();
            let partitions = partitions
                .map(|(topic, number)| json!({ "topic": topic, "partition": number }))
                .collect::<Vec<_>>();
            let told = json!({
                "transactional_id": id,
                "coordinator": coordinator,
                "producer_id": producer_id,
                "producer_epoch": producer_epoch,
                "state": state,
                "timeout_ms": found.timeout_ms,
                "open_ms": open_ms,
                "partitions": partitions,
            });
            return print_line(&told.to_string());
        }
        let open = open_ms.map(|ms| format!("  open for {}", seconds(ms))).unwrap_or_default();
        print_line(&format!(
            "{id}  {state}{open}  timeout {}  producer {producer_id} epoch {producer_epoch}  \
             coordinator {coordinator}",
            seconds(i64::from(found.timeout_ms))
        ))?;
        let rows = found.partitions.into_iter();
        let rows = rows.map(|(topic, number)| vec![topic, number.to_string()]);
        print_table(&["TOPIC", "PARTITION"], rows.collect())
    }
}

impl DescribeProducers {
    fn run(self) -> Result<(), Failure> {
        let mut admin = self.bootstrap.admin(false)?;
        let numbers = self.bootstrap.partitions(&mut admin, &self.topic, &self.partitions)?;
        let mut told: Vec<(i32, ProducerView)> = Vec::new();
        for number in numbers {
            let producers = admin.producers(&self.topic, number);
            let producers = producers.map_err(|error| self.bootstrap.failure(error))?;
            told.extend(producers.into_iter().map(|producer| (number, producer)));
        }
        if self.output.is_json() {
            let rows = told.iter().map(|(number, producer)| {
                json!({
                    "partition": number,
                    "producer_id": producer.id,
                    "producer_epoch": producer.epoch,
                    "coordinator_epoch": producer.coordinator_epoch,
                    "last_sequence": producer.last_sequence,
                    "last_timestamp_ms": producer.last_timestamp_ms,
                    "start_offset": producer.open_from,
                })
            });
            return print_line(&json!(rows.collect::<Vec<_>>()).to_string());
        }
        let rows = told.iter().map(|(number, producer)| {
            vec![
                number.to_string(),
                producer.id.to_string(),
                producer.epoch.to_string(),
                number_or_nothing(i64::from(producer.coordinator_epoch)),
                number_or_nothing(i64::from(producer.last_sequence)),
                seconds((now_ms() - producer.last_timestamp_ms).max(0)),
                producer.open_from.map_or_else(|| NOTHING.to_owned(), |at| at.to_string()),
            ]
        });
        let heads = [
            "PARTITION",
            "PRODUCER_ID",
            "EPOCH",
            "COORDINATOR_EPOCH",
            "SEQUENCE",
            "SILENT_FOR",
            "START_OFFSET",
        ];
        print_table(&heads, rows.collect())
    }
}

impl Abort {
    fn run(self) -> Result<(), Failure> {
        let mut admin = self.bootstrap.admin(false)?;
        let Self { topic, partition, start_offset, .. } = &self;
        self.bootstrap.partitions(&mut admin, topic, &[*partition])?;
        let producers = admin.producers(topic, *partition);
        let producers = producers.map_err(|error| self.bootstrap.failure(error))?;
        let Some(producer) = producers.iter().find(|it| it.open_from == Some(*start_offset)) else {
            let what =
                format!("no open transaction begins at {start_offset} of {topic}-{partition}");
            let flag = self.bootstrap.flag();
            return Err(Failure::new(what).fix(format!(
                "`tidemill txn describe-producers {topic}{flag}` tells where those that are open begin"
            )));
        };
        if !self.force {
            self.check_that_it_hangs(&mut admin, producer)?;
        }
        let ended = admin.abort_transaction(topic, *partition, producer);
        ended.map_err(|error| self.bootstrap.failure(error))?;
        let ProducerView { id, epoch, .. } = producer;
        print_line(&format!(
            "aborted the transaction of producer {id} epoch {epoch} in {topic}-{partition}"
        ))
    }

    /// Whose coordinator knows of it ends it by itself; if it is ended here before, its producer
    /// commits without learning that these records are lost.
    fn check_that_it_hangs(
        &self,
        admin: &mut Admin,
        producer: &ProducerView,
    ) -> Result<(), Failure> {
        let Self { topic, partition, .. } = self;
        let known = known_of(&self.bootstrap, admin, vec![producer.id])?;
        let Some((id, view)) = known.get(&producer.id) else { return Ok(()) };
        if !writes_to(view, topic, *partition) {
            return Ok(());
        }
        let cause = match (view.state.as_str(), view.start_ms) {
            ("Ongoing", Some(at)) => format!(
                "{id} has it open for {}; it ends by itself after its timeout of {}",
                seconds((now_ms() - at).max(0)),
                seconds(i64::from(view.timeout_ms))
            ),
            (state, _) => format!("{id} is ending it: its coordinator says {state}"),
        };
        Err(Failure::new(format!("the transaction in {topic}-{partition} does not hang"))
            .because(cause)
            .fix("wait, or --force: what it has written here is lost then, though its commit succeeds"))
    }
}

/// What the coordinators know of the transactions of these producers.
fn known_of(
    bootstrap: &Bootstrap,
    admin: &mut Admin,
    producers: Vec<i64>,
) -> Result<BTreeMap<i64, (String, TransactionView)>, Failure> {
    let filter = TransactionFilter { producers, ..TransactionFilter::default() };
    let listed = admin.transactions(&filter).map_err(|error| bootstrap.failure(error))?;
    let mut known = BTreeMap::new();
    for listed in listed {
        let view = admin.transaction(&listed.id);
        if let Some(view) = view.map_err(|error| bootstrap.failure(error))? {
            known.insert(listed.producer_id, (listed.id, view));
        }
    }
    Ok(known)
}

fn writes_to(view: &TransactionView, topic: &str, partition: i32) -> bool {
    view.partitions.iter().any(|part| part.0 == topic && part.1 == partition)
}

/// A transaction that hangs.
struct Hanging {
    topic: String,
    partition: i32,
    producer: ProducerView,
    start_offset: i64,
    /// The transactional id, if its producer still has one.
    id: Option<String>,
}

impl FindHanging {
    fn run(self) -> Result<(), Failure> {
        let mut admin = self.bootstrap.admin(false)?;
        let hanging = self.find(&mut admin)?;
        if self.output.is_json() {
            let rows = hanging.iter().map(|found| {
                json!({
                    "topic": found.topic,
                    "partition": found.partition,
                    "producer_id": found.producer.id,
                    "producer_epoch": found.producer.epoch,
                    "start_offset": found.start_offset,
                    "silent_ms": (now_ms() - found.producer.last_timestamp_ms).max(0),
                    "transactional_id": found.id,
                })
            });
            return print_line(&json!(rows.collect::<Vec<_>>()).to_string());
        }
        let rows = hanging.iter().map(|found| {
            vec![
                found.topic.clone(),
                found.partition.to_string(),
                found.producer.id.to_string(),
                found.producer.epoch.to_string(),
                found.start_offset.to_string(),
                seconds((now_ms() - found.producer.last_timestamp_ms).max(0)),
                found.id.clone().unwrap_or_else(|| NOTHING.to_owned()),
            ]
        });
        let heads = [
            "TOPIC",
            "PARTITION",
            "PRODUCER_ID",
            "EPOCH",
            "START_OFFSET",
            "SILENT_FOR",
            "TRANSACTIONAL_ID",
        ];
        print_table(&heads, rows.collect())?;
        let Some(first) = hanging.first() else { return Ok(()) };
        let Hanging { topic, partition, start_offset, .. } = first;
        let (count, flag) = (hanging.len() as u64, self.bootstrap.flag());
        print_line(&format!(
            "{}; end the first with `tidemill txn abort {topic} {partition} --start-offset \
             {start_offset}{flag}`",
            counted(count, "transaction hangs", "transactions hang")
        ))
    }

    /// The open transactions that are old enough, but those that their coordinators know of.
    fn find(&self, admin: &mut Admin) -> Result<Vec<Hanging>, Failure> {
        let mut found = self.open(admin)?;
        let mut producers: Vec<i64> = found.iter().map(|found| found.producer.id).collect();
        producers.sort_unstable();
        producers.dedup();
        if producers.is_empty() {
            return Ok(found);
        }
        let known = known_of(&self.bootstrap, admin, producers)?;
        found.retain_mut(|found| {
            let Some((id, view)) = known.get(&found.producer.id) else { return true };
            found.id = Some(id.clone());
            !writes_to(view, &found.topic, found.partition)
        });
        Ok(found)
    }

    fn open(&self, admin: &mut Admin) -> Result<Vec<Hanging>, Failure> {
        let minutes = Duration::from_secs(60)
            .saturating_mul(u32::try_from(self.max_transaction_timeout).unwrap_or(u32::MAX));
        let since_ms =
            now_ms().saturating_sub(i64::try_from(minutes.as_millis()).unwrap_or(i64::MAX));
        let mut open = Vec::new();
        for topic in self.topics(admin)? {
            for partition in self.bootstrap.partitions(admin, &topic, &[])? {
                let producers = admin.producers(&topic, partition);
                let producers = producers.map_err(|error| self.bootstrap.failure(error))?;
                let old = producers.into_iter().filter(|it| it.last_timestamp_ms <= since_ms);
                open.extend(old.filter_map(|producer| {
                    let start_offset = producer.open_from?;
                    let topic = topic.clone();
                    Some(Hanging { topic, partition, producer, start_offset, id: None })
                }));
            }
        }
        Ok(open)
    }

    fn topics(&self, admin: &mut Admin) -> Result<Vec<String>, Failure> {
        if !self.topics.is_empty() {
            return Ok(self.topics.clone());
        }
        let all = admin.topics().map_err(|error| self.bootstrap.failure(error))?;
        let all = all.into_iter().filter(|(_, topic)| !topic.is_internal);
        Ok(all.map(|(name, _)| name.to_string()).collect())
    }
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

fn seconds(ms: i64) -> String {
    format!("{:.1}s", ms as f64 / 1e3)
}

fn number_or_nothing(number: i64) -> String {
    if number < 0 { NOTHING.to_owned() } else { number.to_string() }
}
