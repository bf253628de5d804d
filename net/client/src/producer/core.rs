//! The producer without I/O: records in, requests out through its [`Cluster`], reports back.
//!
//! ```text
//! send -> Intake: open batches -> Outbox: rows of batches -> requests -> reports
//! ```
//!
//! The [intake](super::intake) is what applications touch, the [outbox](super::outbox) what brokers
//! do; they meet once in each [`ProducerCore::tick`].

use super::intake::Intake;
use super::outbox::{Ask, Outbox};
use super::{Acks, NotTaken, ProducerConfig, Record, Report};
use crate::cluster::Cluster;
use crate::error::{Error, ErrorKind};
use crate::limits;
use crate::time::{Instant, earlier};

/// See the head of this file.
#[derive(Debug)]
pub struct ProducerCore {
    intake: Intake,
    outbox: Outbox,
}

impl ProducerCore {
    /// A producer that has sent nothing yet. Records without a timestamp get
    /// `wall_clock_start_ms` (milliseconds since 1970 at time zero of `now`) plus `now`.
    pub fn new(config: ProducerConfig, wall_clock_start_ms: i64) -> Result<ProducerCore, Error> {
        check(&config)?;
        Ok(ProducerCore {
            intake: Intake::new(config.clone(), wall_clock_start_ms),
            outbox: Outbox::new(config),
        })
    }

    /// Its two sides, for a driver that gives each to a thread of its own.
    pub(super) fn into_sides(self) -> (Intake, Outbox) {
        (self.intake, self.outbox)
    }

    /// The connections, for the driver.
    pub fn cluster(&mut self) -> &mut Cluster<Ask> {
        self.outbox.cluster()
    }

    /// Takes a record, or gives it back. Nothing is sent before [`ProducerCore::tick`].
    pub fn send(&mut self, record: Record, now: Instant) -> Result<(), Box<NotTaken>> {
        self.intake.take(record, now)
    }

    /// Sends what is there without waiting for more, until nothing is under way.
    pub fn flush(&mut self) {
        self.intake.flush();
    }

    /// Whether all that was taken has been told stored or not.
    pub fn is_drained(&self) -> bool {
        self.intake.is_drained()
    }

    /// How much all records take that are under way or not yet reported.
    pub fn held_bytes(&self) -> usize {
        self.intake.held_bytes()
    }

    /// The next report, if [`ProducerConfig::reports`] are wanted. Room is free again only when a
    /// report has been taken.
    pub fn poll_report(&mut self) -> Option<Report> {
        self.intake.poll_report()
    }

    /// How many records were given up since this was last asked, and why the first of them.
    pub fn take_failures(&mut self) -> Option<(u64, Error)> {
        self.intake.take_failures()
    }

    /// What keeps records from being stored just now, for whoever waits in vain: what the oldest
    /// of them would be given up with. `None` if nothing is known to.
    pub fn trouble(&self) -> Option<Error> {
        self.outbox.trouble(&self.intake)
    }

    /// When [`ProducerCore::tick`] has something to do, if nothing is heard before.
    pub fn next_deadline(&self) -> Option<Instant> {
        earlier(self.outbox.next_deadline(), self.intake.next_deadline())
    }

    /// Takes in what was heard, gives up what has taken too long, and sends what can be sent.
    pub fn tick(&mut self, now: Instant) {
        self.outbox.hear(now);
        self.outbox.exchange(&mut self.intake, now);
        self.outbox.send(now);
        self.outbox.tell(&mut self.intake);
    }
}

/// Refuses settings that contradict one another.
fn check(config: &ProducerConfig) -> Result<(), Error> {
    let invalid = |cause: &str, fix: &str| {
        Err(Error::new(ErrorKind::Invalid, "cannot make a producer").because(cause).fix(fix))
    };
    if config.idempotent && config.acks != Acks::All {
        return invalid(
            "numbered batches need the acknowledgement of all replicas",
            "set acks to All, or idempotent to false",
        );
    }
    if config.idempotent && limits::BATCHES_IN_FLIGHT_MAX < config.in_flight_max {
        return invalid(
            "brokers tell repeats only among a producer's last 5 batches",
            "set in_flight_max to 5 or less, or idempotent to false",
        );
    }
    if config.in_flight_max == 0 || limits::IN_FLIGHT_MAX < config.in_flight_max {
        return invalid("in_flight_max is out of range", "set it to 1 or more");
    }
    if config.cluster.bootstrap.is_empty() {
        return invalid("no broker is named", "name at least one, as HOST:PORT");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
