//! The member of a group for applications: it works while it is polled.

use std::sync::Arc;
use std::time::Duration;

use super::{Change, GroupConfig, GroupCore, Share};
use crate::consumer::{ConsumerRecord, Start, not_assigned, take_records};
use crate::driver::Driver;
use crate::error::Error;
use crate::time::{Instant, earlier};

/// Reads its share of topics, together with the other members of a group.
///
/// ```no_run
/// use std::time::Duration;
/// use tidemill_client::{GroupConfig, GroupConsumer};
///
/// let mut member = GroupConsumer::open(GroupConfig::new("localhost:9092", "readers")?)?;
/// member.subscribe(["greetings"]);
/// loop {
///     for record in member.poll(Duration::from_secs(1))? {
///         println!("{}/{}: {:?}", record.partition, record.offset, record.value);
///     } // what was worked on is committed by the polls to come
/// }
/// # #[allow(unreachable_code)]
/// # Ok::<(), tidemill_client::Error>(())
/// ```
#[derive(Debug)]
pub struct GroupConsumer {
    core: GroupCore,
    driver: Driver,
    poll_records: usize,
    /// Why the batch behind what was polled last could not be read.
    damage: Option<Error>,
}

impl GroupConsumer {
    /// A member of nothing yet. Nothing is connected before it is polled.
    pub fn open(mut config: GroupConfig) -> Result<GroupConsumer, Error> {
        if config.reader.cluster.seed == 0 {
            config.reader.cluster.seed = crate::driver::seed();
        }
        let poll_records = config.reader.poll_records.max(1);
        Ok(GroupConsumer {
            core: GroupCore::new(config)?,
            driver: Driver::new(),
            poll_records,
            damage: None,
        })
    }

    /// Reads its share of these topics from now on, and of no others.
    pub fn subscribe<T: Into<Arc<str>>>(&mut self, topics: impl IntoIterator<Item = T>) {
        self.core.subscribe(topics.into_iter().map(Into::into), self.driver.now());
    }

    /// The next records, some hundred of them; none if there were none within `timeout`.
    ///
    /// What the last poll returned counts as done with. Records of one partition come in order. An
    /// error is told once for each time it occurs, and that no broker was ever reached at the end
    /// of each poll; polling on tries again what may work later.
    pub fn poll(&mut self, timeout: Duration) -> Result<Vec<ConsumerRecord>, Error> {
        if let Some(damage) = self.damage.take() {
            return Err(damage);
        }
        let until = self.driver.now().plus(timeout);
        let mut records = Vec::new();
        // However much there is to read, the coordinator hears of us, and is heard.
        self.go_on(self.driver.now());
        loop {
            let taken = take_records(&mut records, self.poll_records, || self.core.poll_batch());
            match taken {
                Err(damage) if records.is_empty() => return Err(damage),
                taken => self.damage = taken.err(),
            }
            if !records.is_empty() {
                // The next answer can be on its way while these are worked on.
                self.core.read_ahead(self.driver.now());
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

    /// Commits everything that was polled, and waits until the group's coordinator has kept it.
    ///
    /// Needed only by whoever wants to know, or has switched off [`GroupConfig::auto_commit`].
    pub fn commit(&mut self, timeout: Duration) -> Result<(), Error> {
        let until = self.driver.now().plus(timeout);
        self.core.commit(self.driver.now());
        loop {
            if let Some(outcome) = self.core.poll_committed() {
                return outcome;
            }
            if until <= self.driver.now() {
                return Err(self.core.commit_is_late());
            }
            self.go_on(until);
        }
    }

    /// Goes on elsewhere in a partition that is ours; an error if it is not. What is committed next
    /// is that place: so who has not worked on all that was polled goes back to where it stopped.
    pub fn seek(&mut self, topic: &str, partition: i32, start: Start) -> Result<(), Error> {
        let is_ours = self.core.seek(topic, partition, start);
        is_ours.then_some(()).ok_or_else(|| not_assigned(topic, partition))
    }

    /// Leaves the group, so that the others go on with its share at once; what was polled is
    /// committed before, unless [`GroupConfig::auto_commit`] is off. Whoever does not close is
    /// missed by the others only after its session's timeout.
    pub fn close(mut self, timeout: Duration) {
        let until = self.driver.now().plus(timeout);
        self.core.leave(self.driver.now());
        while !self.core.has_left() && self.driver.now() < until {
            self.go_on(until);
        }
    }

    /// What has changed in what is read since this was last asked.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::iter::from_fn(|| self.core.poll_change()).collect()
    }

    /// The partitions that are ours just now.
    pub fn assigned(&self) -> impl Iterator<Item = &Share> {
        self.core.assigned()
    }

    /// The offset of the next record that a poll would return, once that is known.
    pub fn position(&self, topic: &str, partition: i32) -> Option<i64> {
        self.core.reader().position(topic, partition)
    }

    /// The end of what could be read when the broker last said so: with what is committed alone, of
    /// what is stable.
    pub fn readable_end(&self, topic: &str, partition: i32) -> Option<i64> {
        self.core.reader().readable_end(topic, partition)
    }

    /// What keeps records from being read just now, for whoever waits in vain; `None` if there
    /// just are none. Polling on may help, as when a broker is about to come back.
    pub fn trouble(&self) -> Option<Error> {
        self.core.trouble()
    }

    fn turn(&mut self, until: Instant) {
        self.core.tick(self.driver.now());
        if !self.core.has_batches() {
            self.go_on(until);
        }
    }

    /// Lets the connections go on until something was heard, but not beyond `until`.
    fn go_on(&mut self, until: Instant) {
        self.core.tick(self.driver.now());
        let until = earlier(self.core.next_deadline(), Some(until)).expect("one is given");
        self.driver.turn(self.core.cluster(), until);
        self.core.tick(self.driver.now());
    }
}
