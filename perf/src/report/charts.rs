//! The drawings of a report: percentile curves, heat map over time, waterfall of stages, strips
//! of busy shards, lines over time. Each is drawn for the width it is given.

use std::fmt::Write as _;

use hdrhistogram::Histogram;

use super::Curve;
use super::canvas::{Anchor, CHAR_WIDTH, COLOURS, Canvas, LINE_HEIGHT, SHADES};
use super::scale::{Axis, LogAxis, round_up};
use crate::machine::share::{Share, percent};
use crate::outcome::Series;
use crate::units;

/// Room for the values beside a vertical axis.
const LEFT: f64 = 58.0;

/// Room at the right, so that the last value of an axis is not cut.
const RIGHT: f64 = 18.0;

/// Below this a drawing is made for a telephone.
const NARROW: f64 = 600.0;

/// Percentile curves: how long the slowest one in 10, 100, 1000 … took. Both axes logarithmic.
pub(super) fn percentiles(width: f64, curves: &[Curve]) -> String {
    let mut canvas = Canvas::new(width);
    let names: Vec<_> = curves.iter().enumerate().map(|(i, (n, _))| (i, n.as_str())).collect();
    let top = canvas.legend((4.0, 10.0), &names) + 12.0;
    let height = top + if width < NARROW { 250.0 } else { 340.0 };
    let bottom = height - 40.0;
    let low = curves.iter().map(|(_, h)| h.value_at_quantile(0.0)).min().unwrap_or(1).max(1);
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
        canvas.words("t", (at, bottom + 16.0), Anchor::Middle, &name);
    }
    canvas.line("axis", (LEFT, bottom), (width - RIGHT, bottom));
    let below = (width / 2.0, bottom + 33.0);
    canvas.words("t", below, Anchor::Middle, "so many took at most");

    for (i, (name, histogram)) in curves.iter().enumerate() {
        let wide = if name == "total" { " wide" } else { "" };
        let points = percentile_points(histogram, &x, &y);
        canvas.curve(&format!("curve{wide} c{}", i % COLOURS), &points);
    }
    canvas.finish(height, "percentile curves")
}

/// Whether a tag is that of whole requests rather than of a stage.
pub(crate) fn is_total(tag: &str) -> bool {
    tag == "total" || tag.ends_with(".total") || !tag.contains('.')
}

fn percentile_points(histogram: &Histogram<u64>, x: &Axis, y: &LogAxis) -> Vec<(f64, f64)> {
    let total = histogram.len() as f64;
    let mut points: Vec<(f64, f64)> = Vec::new();
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

fn latency_axis(canvas: &mut Canvas, y: &LogAxis, left: f64, right: f64) {
    for tick in y.ticks() {
        let at = y.at(tick);
        canvas.line("grid", (left, at), (right, at));
        canvas.words("t", (left - 6.0, at + 4.0), Anchor::End, &units::nanos(tick));
    }
}

fn time_axis(canvas: &mut Canvas, x: &Axis, top: f64, bottom: f64) {
    let about = if canvas.width() < NARROW { 4 } else { 9 };
    for tick in x.ticks(about) {
        let at = x.at(tick);
        canvas.line("grid", (at, top), (at, bottom));
        let name = format!("{} s", units::digits(tick));
        canvas.words("t", (at, bottom + 16.0), Anchor::Middle, &name);
    }
    canvas.line("axis", (x.from, bottom), (x.to, bottom));
}

/// Histograms over time: the intervals of one tag, gathered into columns of equal length.
#[derive(Clone, Debug)]
pub(super) struct Columns {
    /// Seconds from the start to the end.
    pub(super) seconds: f64,
    /// One histogram for each, none where nothing happened.
    pub(super) columns: Vec<Option<Histogram<u64>>>,
}

impl Columns {
    /// Whether there is anything to see over time.
    pub(super) fn is_history(&self) -> bool {
        2 < self.columns.iter().flatten().count()
    }
}

/// A heat map: time from left to right, latency upwards, the darker (lighter in the dark) the
/// more. The dashed line is the median, the other one the 99th percentile of each column.
pub(super) fn heat_map(width: f64, tag: &str, columns: &Columns) -> String {
    let mut canvas = Canvas::new(width);
    let met = || columns.columns.iter().flatten();
    let low = met().map(|h| h.value_at_quantile(0.0)).min().unwrap_or(1).max(1) as f64;
    let high = met().map(|h| h.max()).max().unwrap_or(10) as f64;
    // The median runs where the map is densest, so its colour is chosen against that.
    canvas.rect("h6", (3.0, 4.0), (20.0, 12.0));
    canvas.line("median", (4.0, 10.0), (22.0, 10.0));
    canvas.words("t", (26.0, 14.0), Anchor::Start, "median");
    canvas.line("mark", (86.0, 10.0), (104.0, 10.0));
    canvas.words("t", (108.0, 14.0), Anchor::Start, "99th percentile");
    let top = 26.0;
    let height = top + if width < NARROW { 210.0 } else { 260.0 };
    let bottom = height - 24.0;
    let y = LogAxis::new(low, high, bottom, top);
    let x = Axis { low: 0.0, high: columns.seconds, from: LEFT, to: width - RIGHT };
    latency_axis(&mut canvas, &y, LEFT, width - RIGHT);
    time_axis(&mut canvas, &x, top, bottom);
    cells(&mut canvas, columns, &x, (top, bottom), &y);
    let column = columns.seconds / columns.columns.len().max(1) as f64;
    for (class, quantile) in [("median", 0.5), ("mark", 0.99)] {
        let mut path = String::new();
        let mut pen = "M";
        for (i, histogram) in columns.columns.iter().enumerate() {
            let Some(histogram) = histogram else {
                pen = "M";
                continue;
            };
            let at = x.at((i as f64 + 0.5) * column);
            let value = y.at(histogram.value_at_quantile(quantile) as f64);
            let _ = write!(path, "{pen}{at:.1} {value:.1}");
            pen = "L";
        }
        canvas.path(class, &path);
    }
    canvas.finish(height, &format!("latency of {tag} over time"))
}

fn cells(canvas: &mut Canvas, columns: &Columns, x: &Axis, (top, bottom): (f64, f64), y: &LogAxis) {
    const ROW: f64 = 6.0;
    let rows = ((bottom - top) / ROW).ceil().max(1.0) as usize;
    let mut counts = vec![vec![0u64; rows]; columns.columns.len()];
    for (row_counts, histogram) in counts.iter_mut().zip(&columns.columns) {
        for step in histogram.iter().flat_map(|histogram| histogram.iter_recorded()) {
            let at = (y.at(step.value_iterated_to() as f64) - top) / ROW;
            row_counts[(at as usize).min(rows - 1)] += step.count_at_value();
        }
    }
    let most = counts.iter().flatten().copied().max().unwrap_or(1).max(1);
    let shade = |count: u64| {
        let share = (count as f64).ln_1p() / (most as f64).ln_1p();
        ((share * SHADES as f64) as usize).min(SHADES - 1)
    };
    let width = (x.to - x.from) / columns.columns.len().max(1) as f64;
    let mut paths = vec![String::new(); SHADES];
    for (column, counts) in counts.iter().enumerate() {
        let left = x.from + column as f64 * width;
        for (row, count) in counts.iter().enumerate().filter(|(_, count)| 0 < **count) {
            let from = top + row as f64 * ROW;
            let size = ROW.min(bottom - from);
            // A little wider than a column: no gaps where the edges are smoothed.
            let _ = write!(
                paths[shade(*count)],
                "M{left:.1} {from:.0}h{:.1}v{size:.0}h-{:.1}z",
                width + 0.3,
                width + 0.3
            );
        }
    }
    for (shade, path) in paths.iter().enumerate() {
        canvas.path(&format!("h{shade}"), path);
    }
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
    // The words beside a bar: its mean, its share, and its own 99th percentile.
    let room = if narrow { 4.0 } else { 250.0 };
    let row = if narrow { 2.0 * LINE_HEIGHT + 6.0 } else { LINE_HEIGHT + 9.0 };
    let x = Axis { low: 0.0, high: whole, from: left, to: width - room };
    let mut begun = 0.0;
    for (i, (name, histogram)) in stages.iter().enumerate() {
        let top = 6.0 + i as f64 * row;
        let mean = histogram.mean() * histogram.len() as f64 / requests;
        let (from, to) = (x.at(begun), x.at(begun + mean));
        canvas.rect("track", (left, top), (x.to - left, LINE_HEIGHT));
        canvas.rect(&format!("f{}", i % COLOURS), (from, top), ((to - from).max(1.5), LINE_HEIGHT));
        canvas.words("s", (left - 8.0, top + 13.0), Anchor::End, name);
        let share = units::figure(mean / whole, "ratio");
        let p99 = units::nanos(histogram.value_at_quantile(0.99) as f64);
        let words = format!("{} ({share}), p99 {p99}", units::nanos(mean));
        let at = if narrow { (left, top + LINE_HEIGHT + 13.0) } else { (x.to + 10.0, top + 13.0) };
        canvas.words("t", at, Anchor::Start, &words);
        begun += mean;
    }
    let top = 6.0 + stages.len() as f64 * row;
    canvas.words("b", (left - 8.0, top + 13.0), Anchor::End, "total");
    let p99 = units::nanos(total.value_at_quantile(0.99) as f64);
    let words = format!("{}, p99 {p99}", units::nanos(whole));
    let at = if narrow { left } else { x.to + 10.0 };
    canvas.words("b", (at, top + 13.0), Anchor::Start, &words);
    canvas.finish(top + LINE_HEIGHT + 9.0, "where the mean request spends its time")
}

/// Rates as parts of the most there can be of them.
pub(super) fn shares(width: f64, shares: &[Share]) -> String {
    let mut canvas = Canvas::new(width);
    let longest = shares.iter().map(|share| share.name.chars().count()).max().unwrap_or(0);
    let left = longest as f64 * CHAR_WIDTH + 14.0;
    let narrow = width < NARROW;
    let room = if narrow { 56.0 } else { 400.0 };
    let row = if narrow { 2.0 * LINE_HEIGHT + 6.0 } else { LINE_HEIGHT + 9.0 };
    let x = Axis { low: 0.0, high: 1.0, from: left, to: width - room };
    for (i, share) in shares.iter().enumerate() {
        let top = 6.0 + i as f64 * row;
        canvas.rect("track", (left, top), (x.to - left, LINE_HEIGHT));
        let filled = (x.at(share.ratio()) - left).max(1.5);
        canvas.rect("f0", (left, top), (filled, LINE_HEIGHT));
        canvas.words("s", (left - 8.0, top + 13.0), Anchor::End, &share.name);
        let beside = x.to + 48.0;
        canvas.words("b", (beside, top + 13.0), Anchor::End, &percent(share.ratio()));
        let rate = units::figure(share.rate, &share.unit);
        let most = units::figure(share.most, &share.unit);
        let (words, at) = if narrow {
            (format!("{rate} of {most}"), (left, top + LINE_HEIGHT + 13.0))
        } else {
            (format!("{rate} of {most} ({})", share.case), (beside + 10.0, top + 13.0))
        };
        canvas.words("t", at, Anchor::Start, &words);
    }
    canvas.finish(6.0 + shares.len() as f64 * row, "shares of what this machine can do")
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
        let count = series.points.len().max(1) as f64;
        let mean = series.points.iter().map(|(_, busy)| busy).sum::<f64>() / count;
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
    let names: Vec<_> = series.iter().enumerate().map(|(i, s)| (i, s.name.as_str())).collect();
    let top = canvas.legend((4.0, 10.0), &names) + 12.0;
    let height = top + if width < NARROW { 170.0 } else { 200.0 };
    let bottom = height - 24.0;
    let values = series.iter().flat_map(|s| &s.points).map(|(_, value)| *value);
    let most = values.fold(0.0, f64::max);
    let unit = series.first().map_or("", |series| series.unit.as_str());
    let most = if most <= 0.0 { 1.0 } else { most * 1.02 };
    let y = Axis { low: 0.0, high: most.min(round_up(most)), from: bottom, to: top };
    let ticks = y.ticks(4);
    let written: Vec<_> = ticks.iter().map(|tick| units::figure(*tick, unit)).collect();
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
