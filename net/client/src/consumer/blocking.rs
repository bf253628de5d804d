//! The consumer for applications: it works while it is polled.

use std::sync::Arc;
use std::time::Duration;

use super::core::ConsumerCore;
use super::{ConsumerConfig, ConsumerRecord, FetchedBatch, Start};
use crate::driver::Driver;
use crate::error::{Error, ErrorKind};
use crate::time::{Instant, earlier};

/// Reads records of the partitions one names.
///
/// ```no_run
/// use std::time::Duration;
/// use tidemill_client::{Consumer, ConsumerConfig, Start};
///
/// let mut consumer = Consumer::open(ConsumerConfig::new("localhost:9092")?)?;
/// consumer.assign_topic("greetings", Start::Earliest, Duration::from_secs(10))?;
/// loop {
///     for record in consumer.poll(Duration::from_secs(1))? {
///         println!("{}: {:?}", record.offset, record.value);
///     }
/// }
/// # #[allow(unreachable_code)]
/// # Ok::<(), tidemill_client::Error>(())
/// ```
#[derive(Debug)]
pub struct Consumer {
    core: ConsumerCore,
    driver: Driver,
    poll_records: usize,
    /// Why the batch behind what was polled last could not be read.
    damage: Option<Error>,
}

impl Consumer {
    /// A consumer of nothing yet. Nothing is connected before it is polled.
    pub fn open(mut config: ConsumerConfig) -> Result<Consumer, Error> {
        if config.cluster.seed == 0 {
            config.cluster.seed = crate::driver::seed();
        }
        let poll_records = config.poll_records.max(1);
        Ok(Consumer {
            core: ConsumerCore::new(config)?,
            driver: Driver::new(),
            poll_records,
            damage: None,
        })
    }

    /// Reads these partitions from now on, and no others.
    pub fn assign<T: Into<Arc<str>>>(
        &mut self,
        partitions: impl IntoIterator<Item = (T, i32, Start)>,
    ) {
        let partitions = partitions
            .into_iter()
            .map(|(topic, partition, start)| (topic.into(), partition, start));
        self.damage = None;
        self.core.assign(partitions, self.driver.now());
    }

    /// Reads all partitions that a topic has now, and nothing else.
    pub fn assign_topic(
        &mut self,
        topic: &str,
        start: Start,
        timeout: Duration,
    ) -> Result<(), Error> {
        let name: Arc<str> = Arc::from(topic);
        let until = self.driver.now().plus(timeout);
        self.core.cluster().want_topic(&name, self.driver.now());
        loop {
            let map = self.core.cluster().map();
            let found = map.topic(topic).map(|view| (view.error, view.partitions.len() as i32));
            match found {
                Some((error, count)) if error.is_none() && 0 < count => {
                    self.assign((0..count).map(|partition| (Arc::clone(&name), partition, start)));
                    return Ok(());
                }
                Some((error, _)) if !error.is_none() && !error.is_retriable() => {
                    return Err(Error::refused(format!("cannot read topic {topic}"), error, None));
                }
                found if until <= self.driver.now() => {
                    let what = format!("cannot read topic {topic}");
                    return Err(match found {
                        Some((error, _)) if !error.is_none() => Error::refused(what, error, None),
                        _ => self.core.unreachable(what),
                    });
                }
                _ => self.turn(until),
            }
        }
    }

    /// The next records, some hundred of them; none if there were none within `timeout`.
    ///
    /// Records of one partition come in order. An error is told once for each time it occurs, and
    /// that no broker was ever reached at the end of each poll; polling on tries again what may work
    /// later.
    pub fn poll(&mut self, timeout: Duration) -> Result<Vec<ConsumerRecord>, Error> {
        if let Some(damage) = self.damage.take() {
            return Err(damage);
        }
        let until = self.driver.now().plus(timeout);
        let mut records = Vec::new();
        loop {
            let taken = take_records(&mut records, self.poll_records, || self.core.poll_batch());
            match taken {
                Err(damage) if records.is_empty() => return Err(damage),
                taken => self.damage = taken.err(),
            }
            if !records.is_empty() {
                // The next answer can be on its way while these are worked on.
                self.core.tick(self.driver.now());
                self.driver.prepare(self.core.cluster());
                return Ok(records);
            }
            if let Some(problem) = self.core.poll_problem() {
                return Err(problem);
            }
            if until <= self.driver.now() {
                if self.core.cluster().is_sought_in_vain() {
                    return Err(self.core.unreachable("cannot read records"));
                }
                return Ok(records);
            }
            self.turn(until);
        }
    }

    /// Goes on elsewhere in a partition; an error if it is not assigned.
    pub fn seek(&mut self, topic: &str, partition: i32, start: Start) -> Result<(), Error> {
        let assigned = self.core.seek(topic, partition, start);
        assigned.then_some(()).ok_or_else(|| not_assigned(topic, partition))
    }

    /// Stops asking for a partition, until [`Consumer::resume`].
    pub fn pause(&mut self, topic: &str, partition: i32) -> Result<(), Error> {
        let assigned = self.core.pause(topic, partition, true);
        assigned.then_some(()).ok_or_else(|| not_assigned(topic, partition))
    }

    /// Asks again for a partition.
    pub fn resume(&mut self, topic: &str, partition: i32) -> Result<(), Error> {
        let assigned = self.core.pause(topic, partition, false);
        assigned.then_some(()).ok_or_else(|| not_assigned(topic, partition))
    }

    /// The offset of the next record that a poll would return, once that is known.
    pub fn position(&self, topic: &str, partition: i32) -> Option<i64> {
        self.core.position(topic, partition)
    }

    /// The end of what could be read when the broker last said so: with what is committed alone, of
    /// what is stable.
    pub fn readable_end(&self, topic: &str, partition: i32) -> Option<i64> {
        self.core.readable_end(topic, partition)
    }

    /// What keeps records from being read just now, for whoever waits in vain; `None` if there
    /// just are none. Polling on may help, as when a broker is about to come back.
    pub fn trouble(&self) -> Option<Error> {
        self.core.trouble()
    }

    fn turn(&mut self, until: Instant) {
        self.core.tick(self.driver.now());
        if self.core.has_batches() {
            return;
        }
        let until = earlier(self.core.next_deadline(), Some(until)).expect("one is given");
        self.driver.turn(self.core.cluster(), until);
        self.core.tick(self.driver.now());
    }
}

/// Takes out batches until there are `count` records, or no more. With an error the records are
/// there that came before it.
pub(crate) fn take_records(
    records: &mut Vec<ConsumerRecord>,
    count: usize,
    mut poll_batch: impl FnMut() -> Option<FetchedBatch>,
) -> Result<(), Error> {
    while records.len() < count
        && let Some(batch) = poll_batch()
    {
        let before = records.len();
        batch.append_to(records).map_err(|error| {
            records.truncate(before);
            let (partition, topic) = (batch.partition, &batch.topic);
            let what = format!("cannot read partition {partition} of {topic}");
            let from = batch.from;
            Error::new(ErrorKind::Damaged, what)
                .because(format!("the batch at {from} is damaged: {error}"))
                .fix("go on behind it, or restore the partition")
        })?;
    }
    Ok(())
}

pub(crate) fn not_assigned(topic: &str, partition: i32) -> Error {
    Error::new(ErrorKind::Invalid, format!("partition {partition} of {topic} is not assigned"))
        .fix("assign it first")
}
