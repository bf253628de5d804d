//! Objectives, and the search for the highest rate that meets them.

use std::fmt;
use std::str::FromStr;

use tidemill_perf::report::is_told;
use tidemill_perf::units;

use crate::arrival::Arrival;
use crate::listen::Part;
use crate::report::Report;
use crate::settings::Phase;

/// One demand: `p99<5ms`, `errors=0`.
#[derive(Clone, Debug, PartialEq)]
enum Demand {
    /// A quantile of the latency is below so many nanoseconds.
    Quantile(f64, f64),
    /// At most so many errors.
    Errors(u64),
}

/// What a run has to fulfil: all of its demands, and at least 99 % of the rate asked for. Latency
/// is end to end where somebody reads, else to the acknowledgement.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    text: String,
    demands: Vec<Demand>,
}

/// Below this part of the rate asked for a run has not kept up.
const KEPT_UP: f64 = 0.99;

impl FromStr for Objective {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let demands: Result<Vec<Demand>, String> = text.split(',').map(demand).collect();
        Ok(Self { text: text.to_owned(), demands: demands? })
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn demand(text: &str) -> Result<Demand, String> {
    let wrong = || format!("{text:?} is no demand such as p99<5ms or errors=0");
    let text = text.trim();
    if let Some(count) = text.strip_prefix("errors=") {
        return count.parse().map(Demand::Errors).map_err(|_| wrong());
    }
    let (quantile, limit) = text.split_once('<').ok_or_else(wrong)?;
    let quantile = match quantile.strip_prefix('p') {
        Some(percent) => percent.parse::<f64>().map_err(|_| wrong())? / 100.0,
        None if quantile == "max" => 1.0,
        None => return Err(wrong()),
    };
    let steps = [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9)];
    let nanos = steps.iter().find_map(|(unit, size)| {
        let number = limit.strip_suffix(unit)?;
        Some(number.parse::<f64>().ok()? * size)
    });
    let nanos = nanos.filter(|nanos| 0.0 < *nanos).ok_or_else(wrong)?;
    if !(0.0..=1.0).contains(&quantile) {
        return Err(wrong());
    }
    Ok(Demand::Quantile(quantile, nanos))
}

impl Objective {
    /// What a phase of a run has missed, in words; nothing if it met all.
    #[must_use]
    pub fn missed(&self, report: &Report, phase: &Phase, part: &Part) -> Vec<String> {
        let mut missed = Vec::new();
        let histogram = part.tally.histogram(report.measure());
        // What has no time of its own belongs to the run as a whole.
        let errors = if report.parts.len() == 1 { report.errors() } else { part.tally.errors };
        for demand in &self.demands {
            match demand {
                Demand::Errors(limit) if *limit < errors => {
                    missed.push(format!("{errors} errors, not {limit}"));
                }
                Demand::Errors(_) => {}
                Demand::Quantile(quantile, limit) => match histogram {
                    None => missed.push("nothing was measured".to_owned()),
                    Some(histogram) => {
                        let found = histogram.value_at_quantile(*quantile) as f64;
                        if !is_told(histogram, *quantile) {
                            // What checks nothing must not pass.
                            let samples = units::count(histogram.len());
                            let name = name(*quantile);
                            missed.push(format!("{samples} samples are too few for {name}"));
                        } else if *limit <= found {
                            let (found, limit) = (units::nanos(found), units::nanos(*limit));
                            missed.push(format!("{} {found}, not below {limit}", name(*quantile)));
                        }
                    }
                },
            }
        }
        let seconds = part.elapsed.as_secs_f64().max(1e-9);
        let acked = part.tally.acked_records as f64 / seconds;
        if let Some(rate) = least(phase.arrival, seconds)
            && 0 < report.settings.producers
            && acked < rate
        {
            let asked = phase.arrival.rate().unwrap_or_default();
            missed.push(format!("{acked:.0} records/s of {asked:.0}"));
        }
        missed
    }
}

fn name(quantile: f64) -> String {
    if quantile == 1.0 { "max".to_owned() } else { format!("p{}", digits(quantile * 100.0)) }
}

/// A percentage without the noise of binary fractions.
fn digits(percent: f64) -> String {
    format!("{percent:.4}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The records per second that a run which keeps up has answered; chance may have asked for fewer
/// than its mean.
pub(crate) fn least(arrival: Arrival, seconds: f64) -> Option<f64> {
    let rate = arrival.rate()?;
    let events = match arrival {
        Arrival::Bursts(_, size) => rate * seconds / f64::from(size),
        _ => rate * seconds,
    };
    let chance = match arrival {
        Arrival::Poisson(_) => 3.0 / events.sqrt(),
        // One event may fall on either side of each end.
        _ => 1.0 / events,
    };
    Some(rate * (KEPT_UP - chance))
}

/// Where the search stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Search {
    /// The highest rate that met the objective.
    pub met: Option<f64>,
    /// The lowest rate that missed it.
    pub missed: Option<f64>,
    next: f64,
    tries: u32,
}

/// The search ends when the two are this near.
const NEAR: f64 = 1.05;

/// ... or after so many runs.
const TRIES_MAX: u32 = 20;

impl Search {
    /// A search that begins at `rate`.
    #[must_use]
    pub fn from(rate: f64) -> Self {
        Self { met: None, missed: None, next: rate, tries: 0 }
    }

    /// The rate to try next; none when it is found.
    #[must_use]
    pub fn next(&self) -> Option<f64> {
        let near = self.met.zip(self.missed).is_some_and(|(met, missed)| missed <= met * NEAR);
        (!near && self.tries < TRIES_MAX && 1.0 <= self.next).then_some(self.next)
    }

    /// How the try went.
    pub fn tell(&mut self, met: bool) {
        self.tries += 1;
        if met {
            self.met = Some(self.next);
        } else {
            self.missed = Some(self.next);
        }
        self.next = match (self.met, self.missed) {
            (Some(met), Some(missed)) => (met * missed).sqrt(),
            (Some(met), None) => met * 2.0,
            (None, Some(missed)) => missed / 2.0,
            (None, None) => self.next,
        };
    }
}

/// The rates of a sweep: `FROM..TO` doubles, or a list.
pub fn sweep(
    text: &str,
    one: impl Fn(&str) -> Result<Option<f64>, String>,
) -> Result<Vec<f64>, String> {
    let open = |text: &str| one(text)?.ok_or_else(|| "a sweep is over rates, not max".to_owned());
    if let Some((from, to)) = text.split_once("..") {
        let (from, to) = (open(from)?, open(to)?);
        let doubled = std::iter::successors(Some(from), |rate| Some(rate * 2.0));
        let rates: Vec<f64> = doubled.take_while(|rate| *rate <= to * 1.000_001).take(64).collect();
        return if rates.is_empty() { Err(format!("{text} goes backwards")) } else { Ok(rates) };
    }
    text.split(',').map(open).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Demands are read with their units; nonsense is refused.
    #[test]
    fn objectives_are_read() {
        let objective: Objective = "p99<5ms, p99.9<0.5s,errors=0,max<20us".parse().unwrap();
        let close = |left: f64, right: f64| (left - right).abs() < 1e-9 * right.max(1.0);
        assert!(
            matches!(objective.demands[0], Demand::Quantile(q, n) if close(q, 0.99) && n == 5e6)
        );
        assert!(
            matches!(objective.demands[1], Demand::Quantile(q, n) if close(q, 0.999) && n == 5e8)
        );
        assert_eq!(objective.demands[2], Demand::Errors(0));
        for text in ["", "p99", "p99<5", "p200<1ms", "p99>1ms", "errors<1", "p99<-1ms"] {
            text.parse::<Objective>().unwrap_err();
        }
    }

    /// The search finds a limit within five percent, from below and from above.
    #[test]
    fn the_limit_is_found() {
        for limit in [700.0, 12_345.0, 1e6] {
            let mut search = Search::from(10_000.0);
            while let Some(rate) = search.next() {
                search.tell(rate <= limit);
            }
            let met = search.met.unwrap();
            assert!(met <= limit && limit <= met * NEAR, "{limit}: {search:?}");
        }
    }

    /// A sweep is a list, or doubles.
    #[test]
    fn sweeps_are_lists_or_double() {
        let one = |text: &str| text.parse().map(Some).map_err(|_| text.to_owned());
        assert_eq!(sweep("1,5,20", one).unwrap(), [1.0, 5.0, 20.0]);
        assert_eq!(sweep("100..800", one).unwrap(), [100.0, 200.0, 400.0, 800.0]);
        sweep("800..100", one).unwrap_err();
    }
}
