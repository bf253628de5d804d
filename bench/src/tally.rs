//! What was measured: histograms and counts by interval and phase, and at the end what was
//! acknowledged and what was seen.
//!
//! Shards tell it to the thread that reports, processes to the one that started them. Histograms
//! are merged, never averaged.

use std::ops::Range;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tidemill_perf::histogram;

use crate::verify::Seen;

/// What is measured, each in nanoseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Measure {
    /// Of each record: from when it was due to its acknowledgement.
    Ack,
    /// Of each produce request: from when it was sent to its answer.
    Service,
    /// Of each record and reader: from when it was due to when it was read and verified.
    EndToEnd,
    /// Of each fetch with records: from when it was sent to its answer.
    Fetch,
    /// Of each record due while there was room to send it: how much later the generator took it up.
    Late,
}

/// All measures, and their tags in logs.
pub const MEASURES: [(Measure, &str); 5] = [
    (Measure::Ack, "ack"),
    (Measure::Service, "service"),
    (Measure::EndToEnd, "e2e"),
    (Measure::Fetch, "fetch"),
    (Measure::Late, "late"),
];

/// What was measured in one interval, or over all of a phase.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Tally {
    #[serde(with = "histograms_as_text")]
    histograms: [Option<Histogram<u64>>; MEASURES.len()],
    /// Batch bytes acknowledged.
    pub acked_bytes: u64,
    /// Records acknowledged.
    pub acked_records: u64,
    /// Batches acknowledged.
    pub acked_batches: u64,
    /// Batch bytes read.
    pub read_bytes: u64,
    /// Records read and verified.
    pub read_records: u64,
    /// Answers that were errors.
    pub errors: u64,
    /// Records that fell due while no request could be sent: the limit of those in flight was
    /// reached, or the broker was away. Their wait is part of their latency.
    pub held_back: u64,
}

mod histograms_as_text {
    //! Histograms among plain values, as they stand in logs.

    use hdrhistogram::Histogram;
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use tidemill_perf::hlog::{decode_histogram, encode_histogram};

    type Histograms = [Option<Histogram<u64>>; super::MEASURES.len()];

    pub(super) fn serialize<S: Serializer>(all: &Histograms, to: S) -> Result<S::Ok, S::Error> {
        let texts: Vec<Option<String>> =
            all.iter().map(|one| one.as_ref().map(encode_histogram)).collect();
        texts.serialize(to)
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Histograms, D::Error> {
        let texts = Vec::<Option<String>>::deserialize(from)?;
        let mut all = Histograms::default();
        if texts.len() != all.len() {
            return Err(D::Error::custom("another number of measures"));
        }
        for (place, text) in all.iter_mut().zip(texts) {
            let Some(text) = text else { continue };
            let found = decode_histogram(&text).map_err(D::Error::custom)?;
            // Made anew in the range that all have here, so that they can be added.
            let mut histogram = tidemill_perf::histogram::empty();
            histogram.add(found).map_err(D::Error::custom)?;
            *place = Some(histogram);
        }
        Ok(all)
    }
}

impl Tally {
    /// Records the same time `count` times.
    pub fn record(&mut self, measure: Measure, nanos: u64, count: u64) {
        let place = &mut self.histograms[measure as usize];
        place.get_or_insert_with(histogram::empty).saturating_record_n(nanos, count);
    }

    /// The times of one measure; none if it was never met.
    #[must_use]
    pub fn histogram(&self, measure: Measure) -> Option<&Histogram<u64>> {
        self.histograms[measure as usize].as_ref()
    }

    /// Adds another's.
    pub fn merge(&mut self, other: &Self) {
        for (mine, other) in self.histograms.iter_mut().zip(&other.histograms) {
            let Some(other) = other else { continue };
            let mine = mine.get_or_insert_with(histogram::empty);
            mine.add(other).expect("all have the same range");
        }
        self.acked_bytes += other.acked_bytes;
        self.acked_records += other.acked_records;
        self.acked_batches += other.acked_batches;
        self.read_bytes += other.read_bytes;
        self.read_records += other.read_records;
        self.errors += other.errors;
        self.held_back += other.held_back;
    }
}

/// What was measured, by phase.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Tallies(Vec<Tally>);

impl Tallies {
    /// Nothing yet, in so many phases.
    #[must_use]
    pub fn of(phases: usize) -> Self {
        Self(vec![Tally::default(); phases])
    }

    /// That of one phase.
    pub fn phase(&mut self, phase: usize) -> &mut Tally {
        &mut self.0[phase]
    }

    /// That of each phase.
    #[must_use]
    pub fn by_phase(&self) -> &[Tally] {
        &self.0
    }

    /// That of all phases together.
    #[must_use]
    pub fn whole(&self) -> Tally {
        let mut whole = Tally::default();
        self.0.iter().for_each(|tally| whole.merge(tally));
        whole
    }

    /// Adds another's, phase by phase; whether it has as many.
    #[must_use]
    pub fn merge(&mut self, other: &Self) -> bool {
        self.0.iter_mut().zip(&other.0).for_each(|(mine, other)| mine.merge(other));
        self.0.len() == other.0.len()
    }

    /// Takes what is there and begins again.
    #[must_use]
    pub fn take(&mut self) -> Self {
        let fresh = Self::of(self.0.len());
        std::mem::replace(self, fresh)
    }
}

/// What became of one producer's records.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Produced {
    /// The producer.
    pub producer: u32,
    /// Into which partition.
    pub partition: i32,
    /// Sequences below this were sent.
    pub sent: u64,
    /// Sequences of those that were refused, or never answered.
    pub failed: Vec<Range<u64>>,
}

/// What one reader saw of one partition.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ReadBack {
    /// To which of the sets of readers it belongs: each set reads everything.
    pub set: usize,
    /// Which partition.
    pub partition: i32,
    /// Whether it has read to the end.
    pub caught_up: bool,
    /// What it saw of each producer.
    pub seen: Vec<Seen>,
    /// Records that were verified.
    pub records: u64,
    /// Records of somebody else.
    pub foreign: u64,
}

/// Things that happened, in words: the same words are counted, not repeated.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Notes {
    /// How many in all.
    pub count: u64,
    /// The first so many kinds of them.
    kinds: Vec<Note>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
struct Note {
    text: String,
    count: u64,
    /// Seconds after the start of the run, of the first and of the last one.
    first: f64,
    last: f64,
}

/// The most kinds of things that are told in words.
const KINDS_MAX: usize = 10;

impl Notes {
    /// Something happened, so many seconds after the start of the run.
    pub fn note(&mut self, seconds: f64, text: String) {
        self.add(Note { text, count: 1, first: seconds, last: seconds });
    }

    /// Adds another's.
    pub fn merge(&mut self, other: Self) {
        let told: u64 = other.kinds.iter().map(|kind| kind.count).sum();
        self.count += other.count.saturating_sub(told);
        other.kinds.into_iter().for_each(|kind| self.add(kind));
        self.kinds.sort_by(|a, b| a.first.total_cmp(&b.first));
    }

    fn add(&mut self, note: Note) {
        self.count += note.count;
        if let Some(kind) = self.kinds.iter_mut().find(|kind| kind.text == note.text) {
            kind.count += note.count;
            kind.first = kind.first.min(note.first);
            kind.last = kind.last.max(note.last);
        } else if self.kinds.len() < KINDS_MAX {
            self.kinds.push(note);
        }
    }

    /// In words, the earliest first.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        let told: u64 = self.kinds.iter().map(|kind| kind.count).sum();
        let mut texts: Vec<String> = self.kinds.iter().map(Note::to_text).collect();
        if told < self.count {
            texts.push(format!("and {} more", self.count - told));
        }
        texts
    }
}

impl Note {
    fn to_text(&self) -> String {
        let Self { text, count, first, last } = self;
        match count {
            1 => format!("at {first:.2} s: {text}"),
            _ => format!("from {first:.2} s to {last:.2} s, {count} times: {text}"),
        }
    }
}

/// What is known at the end, over all of a run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Ends {
    /// Of each producer.
    pub produced: Vec<Produced>,
    /// Of each reader and partition.
    pub read: Vec<ReadBack>,
    /// Records that were due and for which no answer came. Those due in a phase count in its
    /// latency to the acknowledgement with the time that an answer was awaited.
    pub unanswered: u64,
    /// Records that were refused: they are in no latency.
    pub refused: u64,
    /// How often a broker asked to be left alone for a while (KIP-219) …
    pub throttles: u64,
    /// … and for how long in all.
    pub throttled: Duration,
    /// Records that came twice, out of order or damaged, and answers that contradict each other:
    /// what no broker may do.
    pub damage: Notes,
    /// Refusals, lost connections and the like.
    pub troubles: Notes,
    /// What went well again.
    pub recoveries: Notes,
    /// Why the run ended before its time, if it did.
    pub given_up: Option<String>,
    /// When the last counted answer came, in nanoseconds since the run began.
    pub last_answer_nanos: u64,
}

/// No broker asks to be left alone for longer; a number above it is damage.
const THROTTLE_MS_MAX: u64 = 60_000;

impl Ends {
    /// What an answer says of being left alone: for how long, most often not at all.
    pub fn take_throttle(&mut self, throttle_ms: i32) -> Duration {
        let asked =
            Duration::from_millis(u64::try_from(throttle_ms).unwrap_or(0).min(THROTTLE_MS_MAX));
        self.throttles += u64::from(!asked.is_zero());
        self.throttled += asked;
        asked
    }

    /// Adds another's.
    pub fn merge(&mut self, other: Self) {
        self.produced.extend(other.produced);
        self.read.extend(other.read);
        self.unanswered += other.unanswered;
        self.refused += other.refused;
        self.throttles += other.throttles;
        self.throttled += other.throttled;
        self.damage.merge(other.damage);
        self.troubles.merge(other.troubles);
        self.recoveries.merge(other.recoveries);
        self.given_up = self.given_up.take().or(other.given_up);
        self.last_answer_nanos = self.last_answer_nanos.max(other.last_answer_nanos);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tally that went from one process to another is what it was, and adds up.
    #[test]
    fn tallies_travel_and_add_up() {
        let mut tallies = Tallies::of(2);
        for nanos in [1_000, 2_000, 3_000_000] {
            tallies.phase(1).record(Measure::Ack, nanos, 5);
        }
        tallies.phase(1).acked_records = 15;
        let text = serde_json::to_string(&tallies).unwrap();
        let mut again: Tallies = serde_json::from_str(&text).unwrap();
        assert!(again.merge(&tallies));
        let whole = again.whole();
        let ack = whole.histogram(Measure::Ack).unwrap();
        assert_eq!((ack.len(), whole.acked_records), (30, 30));
        let before = tallies.by_phase()[1].histogram(Measure::Ack).unwrap();
        assert_eq!(ack.value_at_quantile(0.5), before.value_at_quantile(0.5));
        assert!(again.by_phase()[0].histogram(Measure::Ack).is_none());
    }

    /// What happens ten thousand times is told once, with its number.
    #[test]
    fn the_same_words_are_counted() {
        let (mut notes, mut other) = (Notes::default(), Notes::default());
        notes.note(2.0, "refused".to_owned());
        notes.note(3.0, "refused".to_owned());
        other.note(1.0, "lost".to_owned());
        notes.merge(other);
        assert_eq!(notes.count, 3);
        let texts = notes.texts();
        assert_eq!(texts[0], "at 1.00 s: lost");
        assert_eq!(texts[1], "from 2.00 s to 3.00 s, 2 times: refused");
        for kind in 0..100 {
            notes.note(4.0, format!("kind {kind}"));
        }
        assert_eq!((notes.count, notes.texts().len()), (103, KINDS_MAX + 1));
        assert_eq!(notes.texts().last().unwrap(), "and 92 more");
    }
}
