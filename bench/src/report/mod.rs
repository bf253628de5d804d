//! The figures of a run: what came of it, whether it was clean, and whose figures they are.
//!
//! [`text`] tells people, [`json`] tells programs.

pub mod json;
pub mod text;

use std::time::Duration;

use tidemill_perf::histogram::NANOS_MAX;
use tidemill_perf::machine::limits::Limits;
use tidemill_perf::machine::share::{Flow, Share};
use tidemill_perf::outcome::Figure;
use tidemill_perf::units;

use crate::figures::counted;
use crate::listen::{Measured, Part};
use crate::search;
use crate::settings::{Phase, Settings};
use crate::tally::{Ends, MEASURES, Measure, Tally};
use crate::usage::{OwnUse, Usage};
use crate::verdict::Verdict;

/// A generator with a thread this busy is what is measured.
const BUSY: f64 = 0.9;

/// Below this a generator is not late: it is how exactly a sleeping thread is woken.
const LATE_NANOS: u64 = 1_000_000;

/// All that is known of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was done.
    pub settings: Settings,
    /// What was measured in each phase.
    pub parts: Vec<Part>,
    /// All phases together.
    whole: Part,
    /// What was known at the end.
    pub ends: Ends,
    /// Whether every record came through.
    pub verdict: Verdict,
    /// The most memory the broker was seen to have.
    pub peak_bytes: u64,
    /// What this machine can do at most, as far as it was measured.
    pub limits: Limits,
    notes: Vec<String>,
}

impl Report {
    /// What was measured, and what the verification found.
    #[must_use]
    pub fn new(settings: Settings, measured: Measured, verdict: Verdict) -> Self {
        let Measured { parts, ends, peak_bytes, notes, .. } = measured;
        let whole = together(&parts);
        let limits = Limits::default();
        Self { settings, parts, whole, ends, verdict, peak_bytes, limits, notes }
    }

    /// All phases together.
    #[must_use]
    pub fn whole(&self) -> &Part {
        &self.whole
    }

    /// The phases with what was measured in each.
    pub fn phases(&self) -> impl Iterator<Item = (&Phase, &Part)> {
        self.settings.phases.iter().zip(&self.parts)
    }

    /// Whether the broker did what no broker may: lost, repeated, mixed up or damaged something.
    #[must_use]
    pub fn is_harmed(&self) -> bool {
        0 < self.verdict.lost || 0 < self.ends.damage.count
    }

    /// Refusals, lost connections, and records without an answer.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.ends.troubles.count + self.ends.unanswered
    }

    /// Whether a load was to be put on, and nothing of it was answered while it was measured.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let Tally { acked_records, read_records, .. } = self.whole.tally;
        0 < self.settings.producers && acked_records == 0 && read_records == 0
    }

    /// What was not as it should be; nothing if everything that was asked for was answered,
    /// rightly, and every record came through.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints: Vec<String> = self.ends.given_up.iter().cloned().collect();
        let mut add = |count: u64, one: &str, many: &str| {
            if 0 < count {
                let words = if count == 1 { one } else { many };
                complaints.push(format!("{} {words}", units::count(count)));
            }
        };
        let (lost, behind) = (self.verdict.lost, self.verdict.behind);
        if self.settings.acks == 0 {
            add(lost, "record was lost, unacknowledged", "records were lost, unacknowledged");
        } else {
            add(lost, "acknowledged record was lost", "acknowledged records were lost");
        }
        let damage = self.ends.damage.count;
        add(damage, "answer was wrong", "answers were wrong");
        let unanswered = self.ends.unanswered;
        add(unanswered, "record got no answer", "records got no answer");
        let troubles = self.ends.troubles.count;
        add(troubles, "refusal or lost connection", "refusals or lost connections");
        add(
            behind,
            "reader did not come to the end of its partition",
            "readers did not come to the end of their partition",
        );
        // A run that ended before its time may not have come so far.
        if self.is_idle() && self.ends.given_up.is_none() {
            complaints.push("nothing was answered while it was measured".to_owned());
        }
        complaints
    }

    /// Whether there is nothing to complain of.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.complaints().is_empty()
    }

    /// What was missed of the objectives, in words; nothing if all were met, or there are none.
    #[must_use]
    pub fn missed(&self) -> Vec<String> {
        let several = 1 < self.parts.len();
        let mut all = Vec::new();
        for (phase, part) in self.phases() {
            let Some(objective) = &phase.objective else { continue };
            for text in objective.missed(self, phase, part) {
                all.push(if several { format!("{}: {text}", phase.name) } else { text });
            }
        }
        all
    }

    /// Which latency objectives and tables speak of: end to end where somebody reads what is
    /// produced, to the acknowledgement where nobody reads, of fetches where nobody produces.
    #[must_use]
    pub fn measure(&self) -> Measure {
        match (self.settings.producers, self.settings.readers) {
            (0, _) => Measure::Fetch,
            (_, Some(_)) => Measure::EndToEnd,
            (_, None) => Measure::Ack,
        }
    }

    /// Why the load generator, not the broker, may set the figures of a phase, if so.
    #[must_use]
    pub fn generator_bound(&self, part: &Part) -> Option<String> {
        let seconds = part.elapsed.as_secs_f64().max(1e-9);
        let share = |time: Duration| time.as_secs_f64() / seconds * 100.0;
        let busiest = part.generator.busiest;
        if BUSY * 100.0 < share(busiest.awake()) {
            let (awake, waited) = (share(busiest.awake()).min(100.0), share(busiest.waited));
            let more = match waited < awake / 4.0 {
                true => "--shards or --workers give it more",
                false => "other programs have the cores it needs",
            };
            return Some(format!(
                "the load generator may be the limit, not the broker: one of its threads had work \
                 {awake:.0} % of the time, {waited:.0} % of it without a core ({more})"
            ));
        }
        let late = part.tally.histogram(Measure::Late)?.value_at_quantile(0.99);
        let all = part.tally.histogram(Measure::Ack).or(part.tally.histogram(Measure::EndToEnd))?;
        (LATE_NANOS < late && all.value_at_quantile(0.99) < late * 4).then(|| {
            format!(
                "the load generator took up records late, p99 {}: part of the latency is its own",
                units::nanos(late as f64)
            )
        })
    }

    /// What a reader of the figures has to know.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let several = 1 < self.parts.len();
        let mut remarks = self.notes.clone();
        for (phase, part) in self.phases() {
            if let Some(why) = self.generator_bound(part) {
                remarks.push(if several { format!("{}: {why}", phase.name) } else { why });
            }
        }
        for (phase, part) in self.phases() {
            if let Some(short) = fell_short(phase, part).filter(|_| 0 < self.settings.producers) {
                remarks.push(if several { format!("{}: {short}", phase.name) } else { short });
            }
        }
        if self.settings.has_closed_loop() {
            remarks.push(
                "closed loop: latencies are those of a full queue, not of a given load".to_owned(),
            );
        }
        let Tally { held_back, .. } = self.whole.tally;
        if 0 < held_back {
            let mut or_lost =
                if self.ends.troubles.count == 0 { "" } else { " or was lost" }.to_owned();
            or_lost += if self.ends.throttles == 0 { "" } else { " or was throttled" };
            remarks.push(format!(
                "{} due while their connection had {} in flight{or_lost}: their wait is part of \
                 their latency",
                counted(held_back, "record fell", "records fell"),
                counted(self.settings.in_flight_max as u64, "request", "requests")
            ));
        }
        remarks.extend(self.not_in_latencies());
        remarks.extend(self.hidden());
        if self.settings.acks == 0 && 0 < self.settings.producers {
            remarks.push("acks 0: what was sent counts as acknowledged".to_owned());
        }
        remarks.extend(self.ends.troubles.texts());
        remarks.extend(self.ends.recoveries.texts());
        remarks.extend(self.ends.damage.texts().into_iter().map(|text| format!("WRONG: {text}")));
        remarks.extend(self.verdict.texts.iter().map(|text| format!("LOST: {text}")));
        if 0 < self.verdict.foreign {
            let foreign = units::count(self.verdict.foreign);
            remarks.push(format!("{foreign} records of others were read and not verified"));
        }
        if 0 < self.verdict.gone_of_others {
            let gone = units::count(self.verdict.gone_of_others);
            remarks.push(format!(
                "{gone} records of earlier runs are not there: refused then, or lost"
            ));
        }
        remarks
    }

    /// What the latencies do not tell in full, or not at all.
    fn not_in_latencies(&self) -> Vec<String> {
        let Ends { unanswered, refused, throttles, throttled, .. } = self.ends;
        let mut all = Vec::new();
        if 0 < unanswered {
            all.push(format!(
                "{} no answer: ack counts what fell due in the window with the time that an answer \
                 was awaited, which is less than it would have taken",
                counted(unanswered, "record got", "records got")
            ));
        }
        if 0 < refused {
            all.push(format!(
                "{} refused: no latency counts them",
                counted(refused, "record was", "records were")
            ));
        }
        let at_limit =
            |measure| self.whole.tally.histogram(measure).is_some_and(|all| NANOS_MAX <= all.max());
        let tags = MEASURES.iter().filter(|(measure, _)| at_limit(*measure));
        let tags: Vec<&str> = tags.map(|(_, tag)| *tag).collect();
        if !tags.is_empty() {
            let limit = units::nanos(NANOS_MAX as f64);
            all.push(format!(
                "{}: some took {limit} or longer; how much longer is not kept",
                tags.join(", ")
            ));
        }
        if 0 < throttles {
            let seconds = throttled.as_secs_f64();
            all.push(format!(
                "the broker throttled: {} it asked for quiet, {seconds:.1} s in all",
                counted(throttles, "time", "times")
            ));
        }
        all
    }

    /// What a generator that counts from when it sends would not have seen.
    fn hidden(&self) -> Option<String> {
        const TOLD_FROM: f64 = 2.0;
        if self.settings.has_closed_loop() {
            return None;
        }
        let at = |measure| Some(self.whole.tally.histogram(measure)?.value_at_quantile(0.999));
        let (ack, service) = (at(Measure::Ack)? as f64, at(Measure::Service)? as f64);
        let waited = self.settings.linger.as_nanos() as f64 + LATE_NANOS as f64;
        (service * TOLD_FROM + waited < ack).then(|| {
            format!(
                "counted from when requests were sent, p99.9 would look like {}, not {}",
                units::nanos(service),
                units::nanos(ack)
            )
        })
    }

    /// Rates beside the most that this machine was measured to do; none if the broker runs
    /// elsewhere, or nothing was measured.
    #[must_use]
    pub fn shares(&self) -> Vec<Share> {
        let over_loopback = self.settings.topic.leaders.iter().all(|at| at.ip().is_loopback());
        let part = &self.whole;
        let seconds = part.elapsed.as_secs_f64().max(1e-9);
        let Tally { acked_bytes, read_bytes, .. } = part.tally;
        // Without the process to look at, what was acknowledged is the least it has written.
        let written = part.broker.map_or(acked_bytes, |broker| broker.write_bytes);
        let mut rates = Vec::new();
        if over_loopback || self.settings.broker_pid.is_some() {
            rates.push((Flow::DiskWrites, written));
        }
        if over_loopback {
            rates.extend([(Flow::BytesIn, acked_bytes), (Flow::BytesOut, read_bytes)]);
        }
        let rates = rates.into_iter().filter(|(_, bytes)| 0 < *bytes);
        let rates: Vec<_> = rates.map(|(flow, bytes)| (flow, bytes as f64 / seconds)).collect();
        self.limits.shares(&rates)
    }

    /// The figures for a result directory: of each phase, if there are several, and of the whole.
    #[must_use]
    pub fn figures(&self) -> Vec<Figure> {
        let mut figures = Vec::new();
        if 1 < self.parts.len() {
            for (phase, part) in self.phases() {
                let named = |figure: Figure| {
                    let name = format!("{} {}", phase.name, figure.name);
                    Figure { name, ..figure }
                };
                figures.extend(part_figures(part).into_iter().map(named));
            }
        }
        figures.extend(part_figures(&self.whole));
        let mut add = |name: &str, value: f64, unit: &str| {
            figures.push(Figure::new(name, value, unit));
        };
        if 0 < self.peak_bytes {
            add("broker's memory at most", self.peak_bytes as f64, "B");
        }
        add("errors", self.errors() as f64, "");
        add("unanswered", self.ends.unanswered as f64, "");
        add("lost", self.verdict.lost as f64, "");
        add("verified", self.verdict.verified as f64, "");
        figures
    }
}

/// How much less was answered in a phase than fell due in it, if it was noticeably less.
fn fell_short(phase: &Phase, part: &Part) -> Option<String> {
    let seconds = part.elapsed.as_secs_f64().max(1e-9);
    let answered = part.tally.acked_records as f64 / seconds;
    let asked = phase.arrival.rate()?;
    let too_much = if 0 < part.tally.held_back { ": the load was more than was taken" } else { "" };
    (answered < search::least(phase.arrival, seconds)?).then(|| {
        format!(
            "{} records/s fell due, {} were answered in that time{too_much}",
            units::count(asked as u64),
            units::count(answered as u64)
        )
    })
}

fn part_figures(part: &Part) -> Vec<Figure> {
    let seconds = part.elapsed.as_secs_f64().max(1e-9);
    let Tally { acked_bytes, acked_records, read_bytes, read_records, .. } = part.tally;
    let mut figures = Vec::new();
    let mut add = |name: &str, value: f64, unit: &str| {
        figures.push(Figure::new(name, value, unit));
    };
    if 0 < acked_bytes {
        add("produced", acked_bytes as f64 / seconds, "B/s");
        add("acknowledged", acked_records as f64 / seconds, "records/s");
    }
    if 0 < read_bytes {
        add("read", read_bytes as f64 / seconds, "B/s");
        add("read and verified", read_records as f64 / seconds, "records/s");
    }
    let broker = part.broker.map(|usage| usage.cpu);
    for (name, cpu) in [("broker", broker), ("generator", Some(part.generator.cpu))] {
        let Some(cpu) = cpu else { continue };
        add(&format!("{name}'s processor"), cpu.as_secs_f64() / seconds, "cores");
        if let Some(value) = cpu_per_gb(part, cpu) {
            add(&format!("{name}'s processor per GB"), value, "s");
        }
        if let Some(value) = cpu_per_million(part, cpu) {
            add(&format!("{name}'s processor per million records"), value, "s");
        }
    }
    figures
}

/// CPU seconds for each gigabyte that went in or out.
fn cpu_per_gb(part: &Part, cpu: Duration) -> Option<f64> {
    let bytes = part.tally.acked_bytes + part.tally.read_bytes;
    (0 < bytes).then(|| cpu.as_secs_f64() / (bytes as f64 / 1e9))
}

/// CPU seconds for a million records; each counts each time it goes in or out.
fn cpu_per_million(part: &Part, cpu: Duration) -> Option<f64> {
    let records = part.tally.acked_records + part.tally.read_records;
    (0 < records).then(|| cpu.as_secs_f64() / (records as f64 / 1e6))
}

fn together(parts: &[Part]) -> Part {
    let (mut tally, mut generator) = (Tally::default(), OwnUse::default());
    let mut broker: Option<Usage> = None;
    for part in parts {
        tally.merge(&part.tally);
        generator.add_later(part.generator);
        if let Some(used) = part.broker {
            let before = broker.unwrap_or_default();
            broker = Some(Usage {
                cpu: before.cpu + used.cpu,
                write_bytes: before.write_bytes + used.write_bytes,
                resident_bytes: used.resident_bytes,
            });
        }
    }
    let elapsed = parts.iter().map(|part| part.elapsed).sum();
    Part { tally, elapsed, broker, generator }
}
