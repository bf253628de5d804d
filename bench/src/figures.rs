//! What a load of requests has come to, for people and for programs: numbers with their units,
//! latencies with their quantiles, and what was not as it should be.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use tidemill_perf::histogram::histogram_json;
use tidemill_perf::units;

use crate::trouble::Trouble;

/// The longest latency that is told apart from longer ones.
const NANOS_MAX: u64 = 600_000_000_000;

/// Fewer than these have no quantiles: they are told one by one.
const TOLD_APART: u64 = 10;

/// From so many on ten lie above the 99th percentile.
const P99_FROM: u64 = 1000;

/// A number of things, with the right word for them.
#[must_use]
pub fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", units::count(count), if count == 1 { one } else { many })
}

/// Latencies of one kind.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, NANOS_MAX, 3).expect("these bounds are fine"))
    }
}

impl Latencies {
    /// One more.
    pub fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(NANOS_MAX);
        self.0.saturating_record(nanos.max(1));
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// Quantiles, for people; so few that there are none, one by one.
    fn to_text(&self) -> String {
        let Self(histogram) = self;
        let times = |nanos: u64| units::nanos(nanos as f64);
        if histogram.len() < TOLD_APART {
            let each = histogram.iter_recorded().flat_map(|told| {
                let count = usize::try_from(told.count_at_value()).unwrap_or(usize::MAX);
                std::iter::repeat_n(times(told.value_iterated_to()), count)
            });
            let each: Vec<String> = each.collect();
            return match each.as_slice() {
                [] => "never".to_owned(),
                [once] => format!("{once} (once)"),
                several => format!("{} ({} times)", several.join(", "), several.len()),
            };
        }
        let at = |quantile: f64| times(histogram.value_at_quantile(quantile));
        let (count, longest) = (units::count(histogram.len()), times(histogram.max()));
        let p50 = at(0.5);
        match histogram.len() < P99_FROM {
            true => {
                let shortest = times(histogram.min());
                format!("shortest {shortest}, p50 {p50}, longest {longest} ({count} times)")
            }
            false => format!("p50 {p50}, p99 {}, longest {longest} ({count} times)", at(0.99)),
        }
    }

    /// The longest.
    #[must_use]
    pub fn longest(&self) -> Duration {
        Duration::from_nanos(self.0.max())
    }
}

/// The figures of a run.
#[derive(Debug)]
pub struct Figures {
    name: String,
    lines: Vec<(&'static str, String, Value)>,
    latencies: Vec<(&'static str, &'static str, Latencies)>,
    complaints: Vec<String>,
}

impl Figures {
    /// None yet.
    #[must_use]
    pub fn of(name: impl Into<String>) -> Self {
        let (lines, latencies) = (Vec::new(), Vec::new());
        Self { name: name.into(), lines, latencies, complaints: Vec::new() }
    }

    /// A number, under its name for programs and as people read it.
    pub fn tell(&mut self, name: &'static str, shown: impl Into<String>, value: impl Into<Value>) {
        self.lines.push((name, shown.into(), value.into()));
    }

    /// Latencies, in words and under their name for programs.
    pub fn tell_latencies(&mut self, words: &'static str, tag: &'static str, of: &Latencies) {
        self.latencies.push((words, tag, of.clone()));
    }

    /// Something was not as it should be.
    pub fn complain(&mut self, what: impl Into<String>) {
        self.complaints.push(what.into());
    }

    /// Prints them, and tells whether all was well.
    pub fn print(&self, as_json: bool) -> Result<(), Trouble> {
        match as_json {
            true => println!("{}", self.to_json()),
            false => print!("{}", self.to_text()),
        }
        match self.complaints.is_empty() {
            true => Ok(()),
            false => Err(Trouble::new(self.complaints.join("; "))),
        }
    }

    /// Some lines, for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!("{}\n", self.name);
        for (_, shown, _) in &self.lines {
            text += &format!("  {shown}\n");
        }
        for (words, _, latencies) in &self.latencies {
            text += &format!("  {words}: {}\n", latencies.to_text());
        }
        for complaint in &self.complaints {
            text += &format!("  NOT CLEAN: {complaint}\n");
        }
        if self.complaints.is_empty() {
            text += "  clean\n";
        }
        text
    }

    /// One line of JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut all = Map::new();
        all.insert("name".to_owned(), json!(self.name));
        for (name, _, value) in &self.lines {
            all.insert((*name).to_owned(), value.clone());
        }
        for (_, tag, Latencies(histogram)) in &self.latencies {
            let told = serde_json::from_str(&histogram_json(histogram));
            let mut told: Value = told.expect("the measuring kit writes JSON");
            told["min"] = json!(histogram.min());
            all.insert(format!("{tag}_ns"), told);
        }
        all.insert("clean".to_owned(), json!(self.complaints.is_empty()));
        all.insert("complaints".to_owned(), json!(self.complaints));
        Value::Object(all).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A quantile of three values would be one of them under another name.
    #[test]
    fn fewer_than_ten_latencies_are_told_one_by_one() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.to_text(), "never");
        [3, 1, 3].iter().for_each(|ms| latencies.record(Duration::from_millis(*ms)));
        assert_eq!(latencies.to_text(), "1.00 ms, 3.00 ms, 3.00 ms (3 times)");
        (0..7).for_each(|_| latencies.record(Duration::from_millis(2)));
        let told = latencies.to_text();
        assert_eq!(told, "shortest 1.00 ms, p50 2.00 ms, longest 3.00 ms (10 times)");
    }

    /// Programs find every figure under its name; what was wrong is the command's failure.
    #[test]
    fn figures_are_told_to_people_and_to_programs() {
        let mut figures = Figures::of("groups");
        figures.tell("members", "100 members", 100);
        let mut latencies = Latencies::default();
        latencies.record(Duration::from_millis(2));
        figures.tell_latencies("after a join", "join", &latencies);
        assert!(
            figures.to_text().contains("after a join: 2.00 ms (once)"),
            "{}",
            figures.to_text()
        );
        let told: Value = serde_json::from_str(&figures.to_json()).unwrap();
        assert_eq!((&told["members"], &told["clean"]), (&json!(100), &json!(true)));
        assert_eq!(told["join_ns"]["count"], json!(1));
        let shortest = told["join_ns"]["min"].as_u64().unwrap();
        assert!((1_990_000..=2_000_000).contains(&shortest), "to three digits: {shortest}");
        assert!(figures.to_text().ends_with("  clean\n"));
        figures.complain("a partition had two owners");
        assert!(figures.to_text().ends_with("  NOT CLEAN: a partition had two owners\n"));
        assert!(figures.print(true).is_err());
    }
}
