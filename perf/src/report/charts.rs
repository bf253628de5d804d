//! The drawings of a report but for the heat map: percentile curves, waterfall of stages, shares
//! of the limits, strips of busy shards, lines over time. Each is drawn for the width it is given.

use std::fmt::Write as _;

use hdrhistogram::Histogram;

use super::canvas::{Anchor, CHAR_WIDTH, COLOURS, Canvas, LINE_HEIGHT};
use super::heat::floor;
use super::scale::{Axis, LogAxis, round_up};
use super::{Curve, SAMPLES_ABOVE_MIN, is_told};
use crate::machine::share::{Share, percent};
use crate::outcome::Series;
use crate::units;

/// Room for the values beside a vertical axis.
pub(super) const LEFT: f64 = 58.0;

/// Room at the right, so that the last value of an axis is not cut.
pub(super) const RIGHT: f64 = 18.0;

/// Below this a drawing is made for a telephone.
pub(super) const NARROW: f64 = 600.0;

/// Percentile curves: how long the slowest one in 10, 100, 1000 … took. Both axes logarithmic.
pub(super) fn percentiles(width: f64, curves: &[Curve]) -> String {
    let mut canvas = Canvas::new(width);
    let names: Vec<_> = curves.iter().enumerate().map(|(i, (n, _))| (i, n.as_str())).collect();
    let top = canvas.legend((4.0, 10.0), &names) + 12.0;
    let height = top + if width < NARROW { 250.0 } else { 340.0 };
    let bottom = height - 40.0;
    let low = curves.iter().map(|(_, h)| floor(h)).min().unwrap_or(1);
    let high = curves.iter().map(|(_, h)| h.max()).max().unwrap_or(10);
    let largest = curves.iter().map(|(_, h)| h.len()).max().unwrap_or(1).max(10);
    let y = LogAxis::new(low as f64, high as f64, bottom, top);
    let nines = (largest as f64).log10();
    let x = Axis { low: 0.0, high: nines, from: LEFT, to: width - RIGHT };

    latency_axis(&mut canvas, &y, LEFT, width - RIGHT);
    let every = if width < NARROW && 5.0 < nines { 2 } else { 1 };
    for nine in (0..=nines.floor() as i32).step_by(every) {
        let at = x.at(f64::from(nine));
        canvas.line("grid", (at, top), (at, bottom));
        let name = match nine {
            0 => "min".to_owned(),
            1 => "90 %".to_owned(),
            2 => "99 %".to_owned(),
            more => format!("99.{} %", "9".repeat(more as usize - 2)),
        };
        // The last one does not run out of the drawing.
        let over = at + name.chars().count() as f64 * CHAR_WIDTH / 2.0 - width;
        canvas.words("t", (at - over.max(0.0), bottom + 16.0), Anchor::Middle, &name);
    }
    canvas.line("axis", (LEFT, bottom), (width - RIGHT, bottom));
    let below = (width / 2.0, bottom + 33.0);
    let caption = match width < NARROW {
        true => "so many took at most",
        false => "so many took at most (faint: fewer than ten samples lie above)",
    };
    canvas.words("t", below, Anchor::Middle, caption);

    for (i, (name, histogram)) in curves.iter().enumerate() {
        let wide = if name == "total" { " wide" } else { "" };
        let points = percentile_points(histogram, &x, &y);
        // Beyond this fewer than ten samples lie above, and the curve is chance.
        let told = x.at((histogram.len() as f64 / SAMPLES_ABOVE_MIN).max(1.0).log10());
        let (told, chance) = cut(&points, told);
        canvas.curve(&format!("curve{wide} c{}", i % COLOURS), &told);
        canvas.curve(&format!("curve faint c{}", i % COLOURS), &chance);
    }
    canvas.finish(height, "percentile curves")
}

/// Whether a tag is that of whole requests rather than of a stage.
pub(crate) fn is_total(tag: &str) -> bool {
    tag == "total" || tag.ends_with(".total") || !tag.contains('.')
}

fn percentile_points(histogram: &Histogram<u64>, x: &Axis, y: &LogAxis) -> Vec<Point> {
    let total = histogram.len() as f64;
    let mut points: Vec<Point> = Vec::new();
    let mut below = 0;
    for step in histogram.iter_recorded() {
        let value = y.at(step.value_iterated_to() as f64);
        // A value stands from the first to the last of those that have it.
        for count in [below, below + step.count_since_last_iteration()] {
            let left = (total - count as f64).max(1.0);
            let point = (x.at((total / left).log10()), value);
            let near = |last: &(f64, f64)| (last.0 - point.0).hypot(last.1 - point.1) < 0.4;
            if !points.last().is_some_and(near) {
                points.push(point);
            }
        }
        below += step.count_since_last_iteration();
    }
    points
}

/// Where a curve passes.
type Point = (f64, f64);

/// A curve in two: up to an abscissa, and from there.
fn cut(points: &[Point], at: f64) -> (Vec<Point>, Vec<Point>) {
    let first = points.iter().position(|(x, _)| at < *x).unwrap_or(points.len());
    let (before, after) = points.split_at(first);
    let (mut before, mut after) = (before.to_vec(), after.to_vec());
    if let (Some(last), Some(next)) = (before.last().copied(), after.first().copied()) {
        let share = (at - last.0) / (next.0 - last.0).max(1e-9);
        let between = (at, last.1 + (next.1 - last.1) * share.clamp(0.0, 1.0));
        before.push(between);
        after.insert(0, between);
    }
    (before, after)
}

pub(super) fn latency_axis(canvas: &mut Canvas, y: &LogAxis, left: f64, right: f64) {
    for tick in y.ticks() {
        let at = y.at(tick);
        canvas.line("grid", (left, at), (right, at));
        canvas.words("t", (left - 6.0, at + 4.0), Anchor::End, &units::brief_nanos(tick));
    }
}

pub(super) fn time_axis(canvas: &mut Canvas, x: &Axis, top: f64, bottom: f64) {
    let about = if canvas.width() < NARROW { 4 } else { 9 };
    for tick in x.ticks(about) {
        let at = x.at(tick);
        canvas.line("grid", (at, top), (at, bottom));
        let name = format!("{} s", units::brief_digits(tick));
        canvas.words("t", (at, bottom + 16.0), Anchor::Middle, &name);
    }
    canvas.line("axis", (x.from, bottom), (x.to, bottom));
}

/// Where the mean request spends its time: the stages one after the other, as long as their
/// means; together they are the mean total.
pub(super) fn waterfall(width: f64, stages: &[Curve], total: &Histogram<u64>) -> String {
    let mut canvas = Canvas::new(width);
    let requests = (total.len() as f64).max(1.0);
    let whole = total.mean().max(1.0);
    let longest = stages.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let left = longest as f64 * CHAR_WIDTH + 14.0;
    let narrow = width < NARROW;
    // Beside a bar its mean, its share, and its own 99th percentile; below it on a telephone.
    let room = if narrow { 4.0 } else { 230.0 };
    let row = if narrow { 2.0 * LINE_HEIGHT + 6.0 } else { LINE_HEIGHT + 9.0 };
    let x = Axis { low: 0.0, high: whole, from: left, to: width - room };
    let beside = |canvas: &mut Canvas, class: &str, top: f64, words: [String; 3]| {
        if narrow {
            let [mean, share, p99] = words;
            let text = format!("{mean}  ({share})  p99 {p99}");
            canvas.words(class, (left, top + LINE_HEIGHT + 13.0), Anchor::Start, &text);
            return;
        }
        for (column, text) in [70.0, 140.0, 226.0].into_iter().zip(words) {
            canvas.words(class, (x.to + column, top + 13.0), Anchor::End, &text);
        }
    };
    let head = if narrow { 4.0 } else { LINE_HEIGHT + 2.0 };
    if !narrow {
        beside(&mut canvas, "t", -2.0, ["mean", "share", "p99"].map(str::to_owned));
    }
    let p99 = |met: &Histogram<u64>| match is_told(met, 0.99) {
        true => units::nanos(met.value_at_quantile(0.99) as f64),
        false => "–".to_owned(),
    };
    let mut begun = 0.0;
    for (i, (name, histogram)) in stages.iter().enumerate() {
        let top = head + i as f64 * row;
        let mean = histogram.mean() * histogram.len() as f64 / requests;
        let (from, to) = (x.at(begun), x.at(begun + mean));
        canvas.rect("track", (left, top), (x.to - left, LINE_HEIGHT));
        canvas.rect(&format!("f{}", i % COLOURS), (from, top), ((to - from).max(1.5), LINE_HEIGHT));
        canvas.words("s", (left - 8.0, top + 13.0), Anchor::End, name);
        let share = units::figure(mean / whole, "ratio");
        beside(&mut canvas, "s", top, [units::nanos(mean), share, p99(histogram)]);
        begun += mean;
    }
    let top = head + stages.len() as f64 * row;
    let class = "b";
    canvas.words(class, (left - 8.0, top + 13.0), Anchor::End, "total");
    let all = units::figure(begun / whole, "ratio");
    let above = if narrow { top - LINE_HEIGHT } else { top };
    beside(&mut canvas, class, above, [units::nanos(whole), all, p99(total)]);
    canvas.finish(top + LINE_HEIGHT + 9.0, "where the mean request spends its time")
}

/// Rates as parts of the most there can be of them.
pub(super) fn shares(width: f64, shares: &[Share]) -> String {
    let mut canvas = Canvas::new(width);
    let longest = shares.iter().map(|share| share.name.chars().count()).max().unwrap_or(0);
    let left = longest as f64 * CHAR_WIDTH + 14.0;
    let narrow = width < NARROW;
    let room = if narrow { 64.0 } else { 430.0 };
    let row = if narrow { 2.0 * LINE_HEIGHT + 6.0 } else { LINE_HEIGHT + 9.0 };
    let x = Axis { low: 0.0, high: 1.0, from: left, to: width - room };
    for (i, share) in shares.iter().enumerate() {
        let top = 6.0 + i as f64 * row;
        canvas.rect("track", (left, top), (x.to - left, LINE_HEIGHT));
        let filled = (x.at(share.ratio()) - left).max(1.5);
        canvas.rect("f0", (left, top), (filled, LINE_HEIGHT));
        canvas.words("s", (left - 8.0, top + 13.0), Anchor::End, &share.name);
        let beside = x.to + 60.0;
        canvas.words("b", (beside, top + 13.0), Anchor::End, &percent(share.ratio()));
        let rate = units::figure(share.rate, &share.unit);
        let most = units::brief_figure(share.most, &share.unit);
        let (words, at) = if narrow {
            (format!("{rate} of {most}"), (left, top + LINE_HEIGHT + 13.0))
        } else {
            (format!("{rate} of {most} ({})", share.case), (beside + 16.0, top + 13.0))
        };
        canvas.words("t", at, Anchor::Start, &words);
    }
    canvas.finish(6.0 + shares.len() as f64 * row, "shares of what this machine can do")
}

/// The mean of a series, each point for as long as it tells of: the time since the one before.
fn mean_over_time(series: &Series) -> f64 {
    let mut points = series.points.iter();
    let Some(first) = points.next() else { return 0.0 };
    // Nobody says when the first interval began; it is taken for as long as the second.
    let second = series.points.get(1).map_or(first.0, |second| second.0 - first.0);
    let length = second.clamp(1e-9, first.0.max(1e-9));
    let (mut sum, mut seconds, mut last) = (first.1 * length, length, first.0);
    for (at, value) in points {
        let length = (at - last).max(0.0);
        (sum, seconds, last) = (sum + value * length, seconds + length, *at);
    }
    sum / seconds
}

/// One strip for each series, from 0 to 1: how busy each shard is.
pub(super) fn strips(width: f64, seconds: f64, series: &[&Series]) -> String {
    const STRIP: f64 = 34.0;
    let mut canvas = Canvas::new(width);
    let longest = series.iter().map(|s| s.name.chars().count()).max().unwrap_or(0);
    let left = (longest as f64 * CHAR_WIDTH + 14.0).max(24.0);
    let x = Axis { low: 0.0, high: seconds, from: left, to: width - 74.0 };
    for (i, series) in series.iter().enumerate() {
        let top = 4.0 + i as f64 * (STRIP + 8.0);
        let y = Axis { low: 0.0, high: 1.0, from: top + STRIP, to: top };
        canvas.rect("track", (left, top), (x.to - left, STRIP));
        let mut path = format!("M{left:.1} {:.1}", y.from);
        let mut until = 0.0;
        for (at, busy) in &series.points {
            // A point tells of the time up to it.
            let _ = write!(path, "H{:.1}V{:.1}", x.at(until), y.at(*busy));
            until = *at;
        }
        let _ = write!(path, "H{:.1}V{:.1}Z", x.at(until), y.from);
        canvas.path(&format!("area f{}", i % COLOURS), &path);
        canvas.words("s", (left - 8.0, top + STRIP / 2.0 + 4.0), Anchor::End, &series.name);
        let mean = mean_over_time(series);
        let most = series.points.iter().map(|(_, busy)| *busy).fold(0.0, f64::max);
        let beside = x.to + 8.0;
        let percent = |share: f64| format!("{:.0} %", share * 100.0);
        canvas.words("s", (beside, top + 14.0), Anchor::Start, &percent(mean));
        let most = format!("max {}", percent(most));
        canvas.words("t", (beside, top + 30.0), Anchor::Start, &most);
    }
    let bottom = 4.0 + series.len() as f64 * (STRIP + 8.0) - 4.0;
    time_axis(&mut canvas, &x, bottom, bottom);
    canvas.finish(bottom + 22.0, "how busy each shard is")
}

/// Lines over time, from zero.
pub(super) fn lines(width: f64, seconds: f64, series: &[&Series]) -> String {
    let mut canvas = Canvas::new(width);
    // The mean stands beside the name: lines that lie upon each other can still be told.
    let mean = |series: &Series| units::figure(mean_over_time(series), &series.unit);
    let told: Vec<_> = series.iter().map(|s| format!("{}: {}", s.name, mean(s))).collect();
    let names: Vec<_> = told.iter().enumerate().map(|(i, name)| (i, name.as_str())).collect();
    let top = canvas.legend((4.0, 10.0), &names) + 12.0;
    let height = top + if width < NARROW { 170.0 } else { 200.0 };
    let bottom = height - 24.0;
    let values = series.iter().flat_map(|s| &s.points).map(|(_, value)| *value);
    let most = values.fold(0.0, f64::max);
    let unit = series.first().map_or("", |series| series.unit.as_str());
    let most = if most <= 0.0 { 1.0 } else { most * 1.02 };
    let y = Axis { low: 0.0, high: most.min(round_up(most)), from: bottom, to: top };
    let ticks = y.ticks(4);
    let written: Vec<_> = ticks.iter().map(|tick| units::brief_figure(*tick, unit)).collect();
    let longest = written.iter().map(|text| text.chars().count()).max().unwrap_or(0);
    let left = (longest as f64 * CHAR_WIDTH + 12.0).max(LEFT);
    let x = Axis { low: 0.0, high: seconds, from: left, to: width - RIGHT };
    for (tick, text) in ticks.iter().zip(&written) {
        let at = y.at(*tick);
        canvas.line("grid", (left, at), (width - RIGHT, at));
        canvas.words("t", (left - 6.0, at + 4.0), Anchor::End, text);
    }
    time_axis(&mut canvas, &x, top, bottom);
    for (i, series) in series.iter().enumerate() {
        let points: Vec<_> =
            series.points.iter().map(|(at, value)| (x.at(*at), y.at(*value))).collect();
        canvas.curve(&format!("curve c{}", i % COLOURS), &points);
    }
    let name = series.first().map_or("", |series| series.group.as_str());
    canvas.finish(height, &format!("{name} over time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is chance is drawn faint, and begins where the rest ends.
    #[test]
    fn a_curve_is_cut_where_it_becomes_chance() {
        let points = [(0.0, 0.0), (10.0, 10.0), (20.0, 10.0)];
        let (told, chance) = cut(&points, 5.0);
        assert_eq!(told, [(0.0, 0.0), (5.0, 5.0)]);
        assert_eq!(chance, [(5.0, 5.0), (10.0, 10.0), (20.0, 10.0)]);
        assert_eq!(cut(&points, 30.0), (points.to_vec(), Vec::new()));
        assert_eq!(cut(&[], 30.0), (Vec::new(), Vec::new()));
    }

    /// The words at the end of an axis stay inside of the drawing: `99.9999 %` was cut off.
    #[test]
    fn the_last_percentile_is_not_cut_off() {
        let mut met = crate::counts::empty();
        met.record_n(1000, 1_200_000).unwrap();
        let svg = percentiles(1040.0, &[("e2e".to_owned(), met)]);
        let before = svg.split("99.9999 %").next().unwrap();
        let at = before.rsplit("x=\"").next().unwrap().split('"').next().unwrap();
        let at: f64 = at.parse().unwrap();
        assert!(at + 9.0 * CHAR_WIDTH / 2.0 <= 1040.5, "{at}");
    }

    /// The bug: a second of 100 MB/s and a pause of nine that was told as one point made a mean of
    /// 50 MB/s, beside a tile that rightly said 10.
    #[test]
    fn means_are_over_time_not_over_points() {
        let mut series = Series::new("throughput", "in", "B/s");
        series.points = vec![(1.0, 100.0), (2.0, 100.0), (20.0, 0.0)];
        assert!((mean_over_time(&series) - 10.0).abs() < 1e-9);
        series.points.truncate(1);
        assert!((mean_over_time(&series) - 100.0).abs() < 1e-9);
        series.points.clear();
        assert_eq!(mean_over_time(&series), 0.0);
    }

    /// Nothing busier than all there is runs out of its strip, and nothing divides by nothing.
    #[test]
    fn absurd_values_stay_in_their_drawing() {
        let mut busy = Series::busy("shard 0");
        busy.points = vec![(1.0, 7.0), (2.0, 0.0)];
        let share = Share { name: "disk writes".to_owned(), rate: 9e9, ..Share::default() };
        let empty = Series::new("mesh", "0 to 1", "/s");
        let drawings = [
            strips(360.0, 2.0, &[&busy]),
            shares(360.0, &[share]),
            lines(360.0, 0.0, &[&empty]),
            waterfall(360.0, &[], &crate::counts::empty()),
        ];
        for drawing in drawings {
            assert!(!drawing.contains("NaN") && !drawing.contains("inf"), "{drawing}");
        }
    }
}
