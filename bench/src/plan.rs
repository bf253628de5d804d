//! What all shards of a run are to do, with its times fixed.

use std::time::Duration;

use tidemill_client::Connection;
use tidemill_client::kafka::{ApiKey, TopicRef};
use tidemill_client::record::TopicId;
use tidemill_runtime::edge::Instant;

use crate::settings::Settings;

/// What all shards are to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The run's number, in every record.
    pub run: u64,
    /// The topic.
    pub topic: String,
    /// Its id, if the broker has told one.
    pub topic_id: TopicId,
    /// Kafka's acks: 0, 1 or -1.
    pub acks: i16,
    /// The most requests in flight on one connection.
    pub in_flight_max: usize,
    /// A batch is full at this size.
    pub batch_bytes: usize,
    /// How long a batch that is not full waits for more.
    pub linger: Duration,
    /// When the load begins.
    pub start: Instant,
    /// The wall clock at the start, in milliseconds.
    pub start_unix_ms: i64,
    /// From when on it counts: when the first phase begins.
    pub measure_from: Instant,
    /// When each phase ends, and the next one begins.
    ends: Vec<Instant>,
    /// How long answers are awaited after the end, and readers may take to catch up.
    pub drain: Duration,
    /// How long a broker that was lost is awaited.
    pub reconnect: Duration,
    /// Whether what is read counts until all is read, not only until the end.
    pub until_caught_up: bool,
}

impl Plan {
    /// These settings, from `start` on.
    #[must_use]
    pub fn of(settings: &Settings, run: u64, start: Instant, start_unix_ms: i64) -> Self {
        let measure_from = start.after(settings.warm_up);
        let mut end = measure_from;
        let ends = settings.phases.iter().map(|phase| {
            end = end.after(phase.duration);
            end
        });
        let ends: Vec<Instant> = ends.collect();
        assert!(!ends.is_empty(), "a run has at least one phase");
        Self {
            run,
            topic: settings.topic.name.clone(),
            topic_id: settings.topic.id,
            acks: settings.acks,
            in_flight_max: settings.in_flight_max,
            batch_bytes: settings.batch_bytes,
            linger: settings.linger,
            start,
            start_unix_ms,
            measure_from,
            ends,
            drain: settings.drain,
            reconnect: settings.reconnect,
            until_caught_up: settings.until_caught_up,
        }
    }

    /// Ends all phases before their time: nothing falls due from then on.
    pub fn cut(&mut self, at: Instant) {
        self.measure_from = self.measure_from.min(at);
        self.ends.iter_mut().for_each(|end| *end = at.min(*end));
    }

    /// When each phase ends.
    #[must_use]
    pub fn ends(&self) -> &[Instant] {
        &self.ends
    }

    /// When the last phase ends.
    #[must_use]
    pub fn end(&self) -> Instant {
        self.ends[self.ends.len() - 1]
    }

    /// The phase that it is then; none before the first and after the last one.
    #[must_use]
    pub fn phase_of(&self, at: Instant) -> Option<usize> {
        if at < self.measure_from {
            return None;
        }
        self.ends.iter().position(|end| at < *end)
    }

    /// Whether what was due then counts.
    #[must_use]
    pub fn counts(&self, due: Instant) -> bool {
        self.measure_from <= due && due < self.end()
    }

    /// For which phase what is answered now counts, if it does.
    #[must_use]
    pub fn measuring(&self, now: Instant) -> Option<usize> {
        let late = self.until_caught_up && self.end() <= now;
        if late { Some(self.ends.len() - 1) } else { self.phase_of(now) }
    }

    /// The topic as this broker wants it called.
    #[must_use]
    pub fn topic_for<A>(&self, connection: &Connection<A>, api: ApiKey) -> TopicRef<'_> {
        if !self.topic_id.is_zero() && connection.takes_topic_ids(api) {
            TopicRef::Id(self.topic_id)
        } else {
            TopicRef::Name(&self.topic)
        }
    }

    /// The time that records are stamped with.
    #[must_use]
    pub fn wall_clock_ms(&self, now: Instant) -> i64 {
        self.start_unix_ms + now.since(self.start).as_millis() as i64
    }

    /// Seconds since the load began.
    #[must_use]
    pub fn seconds(&self, now: Instant) -> f64 {
        now.since(self.start).as_secs_f64()
    }
}
