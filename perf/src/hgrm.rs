//! The `.hgrm` text: a percentile distribution as HdrHistogram's plotters read it.
//!
//! Its lines are those that HdrHistogram's own processor in Java writes of the same counts. That
//! includes values that reach a line's percentile exactly, so percentiles are counted in steps of
//! `20 / 2^k`, which floating point holds exactly; steps of `1 / 320` it does not.

use std::fmt::Write as _;

use hdrhistogram::Histogram;

/// Lines for each halving of the distance to 100 %, as HdrHistogram's processor writes by default.
const TICKS_PER_HALVING: f64 = 5.0;

/// One histogram of nanoseconds as `.hgrm`, in microseconds.
#[must_use]
pub fn to_hgrm(histogram: &Histogram<u64>) -> String {
    let mut out = String::from("       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
    for line in lines(histogram) {
        let Line { nanos, percentile, below } = line;
        let value = nanos as f64 / 1000.0;
        let quantile = percentile / 100.0;
        let _ = if percentile < 100.0 {
            let odds = 1.0 / (1.0 - quantile);
            writeln!(out, "{value:12.3} {quantile:.12} {below:10} {odds:14.2}")
        } else {
            writeln!(out, "{value:12.3} {quantile:.12} {below:10}")
        };
    }
    let micros = |nanos: f64| nanos / 1000.0;
    let (mean, deviation) = (micros(histogram.mean()), micros(histogram.stdev()));
    let (max, count) = (micros(histogram.max() as f64), histogram.len());
    let _ = writeln!(out, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]");
    let _ = writeln!(out, "#[Max     = {max:12.3}, Total count    = {count:12}]");
    let buckets = histogram.buckets();
    let sub_buckets = 2 * (10u64.pow(u32::from(histogram.sigfig()))).next_power_of_two();
    let _ = writeln!(out, "#[Buckets = {buckets:12}, SubBuckets     = {sub_buckets:12}]");
    out
}

/// So many samples, `below`, are at most `nanos`: at least `percentile` of all.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Line {
    nanos: u64,
    percentile: f64,
    below: u64,
}

/// For each percentile on the way to 100 the first value that reaches it. The largest value has
/// one line more, of 100 %; it skips those between.
fn lines(histogram: &Histogram<u64>) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut percentile = 0.0;
    let mut below = 0;
    for step in histogram.iter_recorded() {
        below += step.count_at_value();
        let nanos = histogram.highest_equivalent(step.value_iterated_to());
        let reached = 100.0 * below as f64 / histogram.len() as f64;
        while percentile <= reached && percentile < 100.0 {
            lines.push(Line { nanos, percentile, below });
            percentile = next(percentile);
            if below == histogram.len() {
                break;
            }
        }
        if below == histogram.len() {
            lines.push(Line { nanos, percentile: 100.0, below });
        }
    }
    lines
}

/// The percentile of the line that follows; 100 where floating point has no more between.
fn next(percentile: f64) -> f64 {
    let halvings = (100.0 / (100.0 - percentile)).log2().floor() as i32 + 1;
    let next = percentile + 100.0 / (TICKS_PER_HALVING * f64::powi(2.0, halvings));
    if percentile < next { next } else { 100.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::empty;

    /// 317 of 320 are 99.0625 %. Steps of 1/320 add up to a little more than that, and the line
    /// told the value above.
    #[test]
    fn a_value_that_reaches_a_percentile_exactly_has_its_line() {
        let mut histogram = empty();
        histogram.record_n(1_000, 317).unwrap();
        histogram.record_n(500_000, 3).unwrap();
        let lines = lines(&histogram);
        let line = lines.iter().find(|line| line.percentile == 99.0625).unwrap();
        assert_eq!((line.nanos, line.below), (histogram.highest_equivalent(1_000), 317));
        let halved = lines.iter().filter(|line| (50.0..75.0).contains(&line.percentile));
        assert_eq!(halved.count(), 5);
    }

    /// The largest value has the line of 100 %, once; no values have no lines.
    #[test]
    fn the_last_line_is_the_whole() {
        let mut histogram = empty();
        assert_eq!(lines(&histogram), []);
        for nanos in 1..=10_000 {
            histogram.record(nanos).unwrap();
        }
        let lines = lines(&histogram);
        assert_eq!(lines.iter().filter(|line| line.percentile == 100.0).count(), 1);
        assert_eq!(lines.last().unwrap().below, 10_000);
        assert!(lines.is_sorted_by(|a, b| a.percentile < b.percentile && a.below <= b.below));
        assert!(to_hgrm(&histogram).contains("Total count    =        10000"));
    }

    /// Where 100 is the next number after a percentile, no line is written twice.
    #[test]
    fn a_sample_among_very_many_ends_the_lines() {
        let mut histogram = empty();
        histogram.record_n(1_000, 1 << 60).unwrap();
        histogram.record(2_000).unwrap();
        assert!(lines(&histogram).len() < 400);
    }
}
