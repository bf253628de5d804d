//! Two runs compared: by tag and percentile, with the number of samples, and a verdict.
//!
//! A verdict says whether a difference is more than chance would make: the 95 % interval of a
//! quantile (by the ranks between which it lies) of one run does not touch the other's. Requests
//! that queue behind each other are slow together, so true intervals are wider than these: "no
//! difference" is safe, a small difference should be seen in a second pair of runs.
//!
//! A [`Condition`] fails a comparison: `p99>+5%`, `produce.total:p99.9>+2ms`, `bytes in<-3%`. One
//! that cannot be judged (no such tag, too few samples) fails, too: a check that checks nothing
//! must not pass.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::histogram::QUANTILES;
use crate::hlog::LogError;
use crate::outcome::{Figure, Found};
use crate::report::{is_told, is_total};
use crate::units;

/// Standard deviations on each side of a rank: 95 % of chance.
const DEVIATIONS: f64 = 1.96;

/// A limit on how much the second run may differ from the first.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    text: String,
    /// Which tag; every tag of whole requests if none is named.
    tag: Option<String>,
    subject: String,
    above: bool,
    limit: Limit,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Limit {
    /// Of the first run's value.
    Percent(f64),
    /// In the value's unit.
    Absolute(f64),
}

/// Why a text is no condition.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NotACondition(String);

impl fmt::Display for NotACondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no condition; one is like 'p99>+5%', 'produce.total:p99.9>+2ms', 'mean<-10%'",
            self.0
        )
    }
}

impl std::error::Error for NotACondition {}

impl FromStr for Condition {
    type Err = NotACondition;

    fn from_str(text: &str) -> Result<Self, NotACondition> {
        let wrong = || NotACondition(text.to_owned());
        let at = text.find(['>', '<']).ok_or_else(wrong)?;
        let (left, right) = (text[..at].trim(), text[at + 1..].trim());
        let (tag, subject) = match left.split_once(':') {
            Some((tag, subject)) => (Some(tag.trim().to_owned()), subject.trim()),
            None => (None, left),
        };
        if subject.is_empty() || !right.starts_with(['+', '-']) {
            return Err(wrong());
        }
        Ok(Self {
            text: text.to_owned(),
            tag,
            subject: subject.to_owned(),
            above: text[at..].starts_with('>'),
            limit: limit(right).ok_or_else(wrong)?,
        })
    }
}

fn limit(text: &str) -> Option<Limit> {
    let units = [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9), ("", 1.0)];
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|n| n.is_finite());
    if let Some(percent) = text.strip_suffix('%') {
        return number(percent).map(Limit::Percent);
    }
    let absolute = |(unit, size): (&str, f64)| Some(number(text.strip_suffix(unit)?)? * size);
    units.into_iter().find_map(absolute).map(Limit::Absolute)
}

/// What a difference means.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The second run is faster than chance would make it.
    Faster,
    /// The second run is slower than chance would make it.
    Slower,
    /// Nothing that chance would not make.
    NoDifference,
    /// Too few samples of either run.
    TooFewSamples,
}

impl Verdict {
    fn words(self) -> &'static str {
        match self {
            Self::Faster => "faster",
            Self::Slower => "SLOWER",
            Self::NoDifference => "",
            Self::TooFewSamples => "too few samples",
        }
    }
}

/// One figure of a tag, in both runs, in nanoseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// `mean`, `p50` … `max`.
    pub figure: &'static str,
    /// Of the first run.
    pub before: f64,
    /// Of the second run.
    pub after: f64,
    /// What it means.
    pub verdict: Verdict,
}

/// A tag that both runs have.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TagLines {
    /// The tag.
    pub tag: String,
    /// Samples in the first run.
    pub count_before: u64,
    /// Samples in the second run.
    pub count_after: u64,
    /// Its figures.
    pub lines: Vec<Line>,
}

/// Two runs side by side.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Comparison {
    /// `tidemill.diff/1`.
    pub schema: &'static str,
    /// Tags of both.
    pub tags: Vec<TagLines>,
    /// Figures of both results: name, unit, before, after.
    pub figures: Vec<(String, String, f64, f64)>,
    /// Tags of one run only.
    pub unmatched: Vec<String>,
    /// Conditions that failed, with the reason.
    pub failed: Vec<String>,
}

impl Comparison {
    /// Compares two runs under some conditions.
    pub fn of(before: &Found, after: &Found, conditions: &[Condition]) -> Result<Self, LogError> {
        let (tags_before, tags_after) = (before.log.tags(), after.log.tags());
        let mut comparison = Self { schema: "tidemill.diff/1", ..Self::default() };
        for tag in &tags_before {
            let (Some(first), Some(second)) = (before.log.merged(tag)?, after.log.merged(tag)?)
            else {
                comparison.unmatched.push(format!("{tag} (first run only)"));
                continue;
            };
            comparison.tags.push(TagLines::of(tag, &first, &second));
        }
        let new = tags_after.iter().filter(|tag| !tags_before.contains(tag));
        comparison.unmatched.extend(new.map(|tag| format!("{tag} (second run only)")));
        comparison.figures = figures(before, after);
        for condition in conditions {
            let failed = condition.judge(&comparison);
            comparison.failed.extend(failed);
        }
        Ok(comparison)
    }

    /// Whether every condition holds.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.failed.is_empty()
    }

    /// A table for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        for tag in &self.tags {
            let (before, after) = (units::count(tag.count_before), units::count(tag.count_after));
            let _ = writeln!(out, "{}   samples {before} → {after}", tag.tag);
            for line in &tag.lines {
                let (a, b) = (units::nanos(line.before), units::nanos(line.after));
                let change = change(line.before, line.after);
                let text = format!(
                    "  {:<8} {a:>10} → {b:>10}  {change:>8}  {}",
                    line.figure,
                    line.verdict.words()
                );
                let _ = writeln!(out, "{}", text.trim_end());
            }
        }
        let longest = self.figures.iter().map(|(name, ..)| name.chars().count()).max().unwrap_or(0);
        for (name, unit, before, after) in &self.figures {
            let (a, b) = (units::figure(*before, unit), units::figure(*after, unit));
            let change = change(*before, *after);
            let _ = writeln!(out, "{name:<longest$}  {a:>16} → {b:>16}  {change:>8}");
        }
        for tag in &self.unmatched {
            let _ = writeln!(out, "not compared: {tag}");
        }
        for failed in &self.failed {
            let _ = writeln!(out, "FAILED {failed}");
        }
        out
    }
}

fn change(before: f64, after: f64) -> String {
    if before == 0.0 {
        return if after == 0.0 { "–".to_owned() } else { "new".to_owned() };
    }
    if before == after {
        return "–".to_owned();
    }
    format!("{:+.1} %", (after / before - 1.0) * 100.0)
}

fn figures(before: &Found, after: &Found) -> Vec<(String, String, f64, f64)> {
    let of = |found: &Found| found.outcome.as_ref().map_or(Vec::new(), |o| o.figures.clone());
    let second = of(after);
    let pair = |first: Figure| {
        let other = second.iter().find(|o| o.name == first.name && o.unit == first.unit)?;
        Some((first.name, first.unit, first.value, other.value))
    };
    of(before).into_iter().filter_map(pair).collect()
}

impl TagLines {
    fn of(tag: &str, before: &Histogram<u64>, after: &Histogram<u64>) -> Self {
        let mean = Line {
            figure: "mean",
            before: before.mean(),
            after: after.mean(),
            verdict: mean_verdict(before, after),
        };
        let quantiles = QUANTILES.iter().map(|(figure, quantile)| Line {
            figure,
            before: before.value_at_quantile(*quantile) as f64,
            after: after.value_at_quantile(*quantile) as f64,
            verdict: verdict(before, after, *quantile),
        });
        Self {
            tag: tag.to_owned(),
            count_before: before.len(),
            count_after: after.len(),
            lines: std::iter::once(mean).chain(quantiles).collect(),
        }
    }
}

/// The values between which a quantile lies, as far as chance goes.
fn bounds(histogram: &Histogram<u64>, quantile: f64) -> (f64, f64) {
    let count = histogram.len() as f64;
    let spread = DEVIATIONS * (quantile * (1.0 - quantile) / count).sqrt();
    let at = |quantile: f64| histogram.value_at_quantile(quantile.clamp(0.0, 1.0)) as f64;
    (at(quantile - spread), at(quantile + spread))
}

fn verdict(before: &Histogram<u64>, after: &Histogram<u64>, quantile: f64) -> Verdict {
    // The largest of all says nothing about the next run's largest.
    if 1.0 <= quantile {
        return Verdict::NoDifference;
    }
    if !is_told(before, quantile) || !is_told(after, quantile) {
        return Verdict::TooFewSamples;
    }
    apart(bounds(before, quantile), bounds(after, quantile))
}

fn mean_verdict(before: &Histogram<u64>, after: &Histogram<u64>) -> Verdict {
    if before.len() < 30 || after.len() < 30 {
        return Verdict::TooFewSamples;
    }
    let of = |histogram: &Histogram<u64>| {
        let spread = DEVIATIONS * histogram.stdev() / (histogram.len() as f64).sqrt();
        (histogram.mean() - spread, histogram.mean() + spread)
    };
    apart(of(before), of(after))
}

fn apart(before: (f64, f64), after: (f64, f64)) -> Verdict {
    // Buckets are 1 % wide: what is nearer is the same value.
    if before.1 * 1.01 < after.0 {
        Verdict::Slower
    } else if after.1 * 1.01 < before.0 {
        Verdict::Faster
    } else {
        Verdict::NoDifference
    }
}

/// The tag of how late a load generator took records up: its own doing, not the broker's.
pub const LATE_TAG: &str = "late";

/// Whether a tag is that of whole requests: a total, or one whose kind has no total.
fn is_whole(tag: &str, comparison: &Comparison) -> bool {
    if tag == LATE_TAG {
        return false;
    }
    let Some((kind, _)) = tag.rsplit_once('.') else { return true };
    let total = format!("{kind}.total");
    is_total(tag) || comparison.tags.iter().all(|other| other.tag != total)
}

impl Condition {
    /// What is wrong with the second run, if anything.
    fn judge(&self, comparison: &Comparison) -> Vec<String> {
        let wanted = |tag: &&TagLines| match &self.tag {
            Some(wanted) => *wanted == tag.tag,
            None => is_whole(&tag.tag, comparison),
        };
        let mut judged = false;
        let mut failed = Vec::new();
        for tag in comparison.tags.iter().filter(wanted) {
            let line = tag.lines.iter().find(|line| line.figure == self.subject);
            let counts = (self.subject == "count")
                .then_some((tag.count_before as f64, tag.count_after as f64));
            match (line, counts) {
                (Some(line), _) if line.verdict == Verdict::TooFewSamples => {
                    judged = true;
                    failed.push(format!("{}: too few samples of {}", self.text, tag.tag));
                }
                (Some(line), _) => {
                    judged = true;
                    let told = (units::nanos(line.before), units::nanos(line.after));
                    failed.extend(self.exceeded(&tag.tag, line.before, line.after, told));
                }
                (None, Some((before, after))) => {
                    judged = true;
                    let told = (units::count(before as u64), units::count(after as u64));
                    failed.extend(self.exceeded(&tag.tag, before, after, told));
                }
                (None, None) => {}
            }
        }
        for (name, unit, before, after) in &comparison.figures {
            if self.tag.is_none() && *name == self.subject {
                judged = true;
                let told = (units::figure(*before, unit), units::figure(*after, unit));
                failed.extend(self.exceeded(name, *before, *after, told));
            }
        }
        if !judged {
            failed.push(format!("{}: the runs have no such figure in common", self.text));
        }
        failed
    }

    fn exceeded(
        &self,
        whose: &str,
        before: f64,
        after: f64,
        told: (String, String),
    ) -> Option<String> {
        let bound = match self.limit {
            Limit::Percent(percent) => before * (1.0 + percent / 100.0),
            Limit::Absolute(more) => before + more,
        };
        let is_beyond = if self.above { bound < after } else { after < bound };
        let change = change(before, after);
        is_beyond.then(|| format!("{}: {whose} {} → {} ({change})", self.text, told.0, told.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hlog::{Log, Writer};
    use crate::outcome::Outcome;
    use std::time::{Duration, SystemTime};

    /// A run of so many requests whose times are those of a fixed spread, times `factor`.
    fn run(requests: u64, factor: f64) -> Found {
        let mut log = Writer::new(Vec::new(), SystemTime::UNIX_EPOCH, &[]).unwrap();
        let mut histogram = crate::counts::empty();
        for i in 0..requests {
            let micros = 100.0 + (i * 7919 % 1000) as f64;
            histogram.record((micros * 1000.0 * factor) as u64).unwrap();
        }
        let second = Duration::from_secs(1);
        log.write("produce.total", Duration::ZERO, second, &histogram).unwrap();
        log.write("produce.append", Duration::ZERO, second, &histogram).unwrap();
        let log = Log::read(log.into_inner().as_slice()).unwrap();
        let mut outcome = Outcome::new("", SystemTime::UNIX_EPOCH);
        outcome.figures.push(Figure::new("bytes in", 100.0 / factor, "B/s"));
        Found { log, outcome: Some(outcome), environment: None }
    }

    fn failed(before: &Found, after: &Found, condition: &str) -> Vec<String> {
        let conditions = [condition.parse().unwrap()];
        Comparison::of(before, after, &conditions).unwrap().failed
    }

    /// A run a tenth slower fails a limit of 5 %, not one of 15 %; and is called slower.
    #[test]
    fn a_slower_run_fails() {
        let (first, second) = (run(100_000, 1.0), run(100_000, 1.1));
        assert!(failed(&first, &second, "p99>+15%").is_empty());
        let told = failed(&first, &second, "p99>+5%");
        assert!(told.len() == 1 && told[0].contains("produce.total"), "{told:?}");
        assert_eq!(failed(&first, &second, "produce.append:p50>+1us").len(), 1);
        assert_eq!(failed(&first, &second, "bytes in<-5%").len(), 1);
        assert!(failed(&first, &second, "mean<-5%").is_empty());
        let comparison = Comparison::of(&first, &second, &[]).unwrap();
        assert_eq!(comparison.tags[0].lines[1].verdict, Verdict::Slower);
        let back = Comparison::of(&second, &first, &[]).unwrap();
        assert_eq!(back.tags[0].lines[1].verdict, Verdict::Faster);
    }

    /// Two runs of the same thing show no difference, and few samples show nothing at all.
    #[test]
    fn chance_is_not_called_a_difference() {
        let comparison = Comparison::of(&run(10_000, 1.0), &run(11_000, 1.0), &[]).unwrap();
        let lines = &comparison.tags[0].lines;
        assert!(lines.iter().all(|line| line.verdict != Verdict::Slower), "{lines:?}");
        assert_eq!(lines[5].verdict, Verdict::TooFewSamples, "p99.99 of ten thousand");
    }

    /// A condition about something that is not there must not pass.
    #[test]
    fn what_cannot_be_judged_fails() {
        let found = run(100, 1.0);
        for condition in ["fetch.total:p50>+5%", "p99.9>+5%", "nonsense>+5%"] {
            assert_eq!(failed(&found, &found, condition).len(), 1, "{condition}");
        }
        assert!(failed(&found, &found, "p50>+5%").is_empty());
        let mut parts = found.clone();
        parts.log.intervals.retain(|interval| interval.tag == "produce.append");
        assert!(failed(&parts, &parts, "p50>+5%").is_empty(), "no total: each is a whole");
        for text in ["p99", "p99>5%", ">+5%", "p99>+", "p99>+fast"] {
            assert!(text.parse::<Condition>().is_err(), "{text}");
        }
    }
}
