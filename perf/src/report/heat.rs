//! The heat map of a report: time from left to right, latency upwards, logarithmic; and the columns
//! of histograms that it is drawn from.
//!
//! A column stands where its intervals were, and is as wide as they were long: an interval that is
//! a little longer than the others leaves no gap, and one that is missing does.

use std::fmt::Write as _;

use hdrhistogram::{AdditionError, Histogram};

use super::canvas::{Anchor, Canvas, SHADES};
use super::charts::{LEFT, NARROW, RIGHT, latency_axis, time_axis};
use super::scale::{Axis, LogAxis};

/// How many columns a heat map has at most, about.
const COLUMNS_MAX: f64 = 120.0;

/// Histograms over time: the intervals of one tag, where they were; several to a column if there
/// are many.
#[derive(Clone, Debug)]
pub(super) struct Columns {
    /// Seconds from the start to the end of all.
    seconds: f64,
    /// By time; nothing was measured between those that do not touch.
    columns: Vec<Column>,
}

#[derive(Clone, Debug)]
struct Column {
    from: f64,
    to: f64,
    met: Histogram<u64>,
}

impl Columns {
    pub(super) fn new(seconds: f64) -> Self {
        Self { seconds, columns: Vec::new() }
    }

    /// One more interval, not earlier than the one before.
    pub(super) fn add(
        &mut self,
        from: f64,
        to: f64,
        met: Histogram<u64>,
    ) -> Result<(), AdditionError> {
        let narrowest = self.seconds / COLUMNS_MAX * 0.99;
        if let Some(last) = self.columns.last_mut() {
            // Two programs measured at the same time, or the column is too narrow to be seen.
            let is_same = from + (to - from) / 2.0 < last.to;
            let is_next = last.to - last.from < narrowest && from - last.to < narrowest;
            if is_same || is_next {
                last.to = last.to.max(to);
                return last.met.add(met);
            }
        }
        let mut met = met;
        met.auto(true);
        self.columns.push(Column { from, to, met });
        Ok(())
    }

    fn met(&self) -> impl Iterator<Item = &Histogram<u64>> {
        self.columns.iter().map(|column| &column.met).filter(|met| !met.is_empty())
    }

    /// Whether there is anything to see over time.
    pub(super) fn is_history(&self) -> bool {
        2 < self.met().count()
    }
}

/// Below the axis lies one in a thousand at most: a single 1 ns would take half of the drawing.
pub(super) fn floor(met: &Histogram<u64>) -> u64 {
    met.value_at_quantile(0.001).max(1)
}

/// A heat map: time from left to right, latency upwards, the darker (lighter in the dark) the
/// more. The dashed line is the median, the other one the 99th percentile of each column.
pub(super) fn heat_map(width: f64, tag: &str, columns: &Columns) -> String {
    let mut canvas = Canvas::new(width);
    let low = columns.met().map(floor).min().unwrap_or(1) as f64;
    let high = columns.met().map(|h| h.max()).max().unwrap_or(10) as f64;
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
    for (class, quantile) in [("median", 0.5), ("mark", 0.99)] {
        let mut path = String::new();
        let mut last = f64::NEG_INFINITY;
        for Column { from, to, met } in columns.columns.iter().filter(|c| !c.met.is_empty()) {
            let at = x.at((from + to) / 2.0);
            let value = y.at(met.value_at_quantile(quantile) as f64);
            // No line across a time of which nothing is known.
            let pen = if from - last < (to - from) / 2.0 { 'L' } else { 'M' };
            let _ = write!(path, "{pen}{at:.1} {value:.1}");
            last = *to;
        }
        canvas.path(class, &path);
    }
    canvas.finish(height, &format!("latency of {tag} over time"))
}

fn cells(canvas: &mut Canvas, columns: &Columns, x: &Axis, (top, bottom): (f64, f64), y: &LogAxis) {
    const ROW: f64 = 6.0;
    let rows = ((bottom - top) / ROW).ceil().max(1.0) as usize;
    let mut counts = vec![vec![0u64; rows]; columns.columns.len()];
    for (row_counts, column) in counts.iter_mut().zip(&columns.columns) {
        for step in column.met.iter_recorded() {
            let at = (y.at(step.value_iterated_to() as f64) - top) / ROW;
            row_counts[(at as usize).min(rows - 1)] += step.count_at_value();
        }
    }
    let most = counts.iter().flatten().copied().max().unwrap_or(1).max(1);
    let shade = |count: u64| {
        let share = (count as f64).ln_1p() / (most as f64).ln_1p();
        ((share * SHADES as f64) as usize).min(SHADES - 1)
    };
    let mut paths = vec![String::new(); SHADES];
    for (column, counts) in columns.columns.iter().zip(&counts) {
        // A little wider than a column: no gaps where the edges are smoothed.
        let (left, width) = (x.at(column.from), x.at(column.to) - x.at(column.from) + 0.3);
        for (row, count) in counts.iter().enumerate().filter(|(_, count)| 0 < **count) {
            let from = top + row as f64 * ROW;
            let size = ROW.min(bottom - from);
            let path = &mut paths[shade(*count)];
            let _ = write!(path, "M{left:.1} {from:.0}h{width:.1}v{size:.0}h-{width:.1}z");
        }
    }
    for (shade, path) in paths.iter().enumerate() {
        canvas.path(&format!("h{shade}"), path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(nanos: u64) -> Histogram<u64> {
        let mut met = crate::counts::empty();
        met.record(nanos).unwrap();
        met
    }

    fn spans(columns: &Columns) -> Vec<(f64, f64)> {
        columns.columns.iter().map(|column| (column.from, column.to)).collect()
    }

    /// Intervals of a recording are never quite a second long: forty of them left an empty column
    /// in the middle of the map, and two of them shared one.
    #[test]
    fn intervals_that_are_not_equal_leave_no_gap() {
        let mut columns = Columns::new(40.0);
        let mut at = 0.0;
        for second in 0..40 {
            let to = at + if second % 3 == 0 { 1.02 } else { 0.99 };
            columns.add(at, to, met(1000)).unwrap();
            at = to;
        }
        let spans = spans(&columns);
        assert_eq!(spans.len(), 40);
        assert!(spans.windows(2).all(|two| two[0].1 == two[1].0), "{spans:?}");
    }

    /// Of a long run several intervals share a column; a time of which nothing is known stays
    /// empty, and programs that measured side by side fill the same columns.
    #[test]
    fn columns_are_wide_enough_to_be_seen() {
        let mut columns = Columns::new(1200.0);
        for second in (0..600).chain(700..1200) {
            let from = f64::from(second);
            columns.add(from, from + 1.0, met(1000)).unwrap();
            columns.add(from, from + 1.0, met(2000)).unwrap();
        }
        let spans = spans(&columns);
        assert!((100..=120).contains(&spans.len()), "{}", spans.len());
        assert!(spans.iter().all(|(from, to)| *to <= 600.0 || 700.0 <= *from));
        assert_eq!(columns.met().map(Histogram::len).sum::<u64>(), 2200);
    }

    /// One request of a nanosecond does not push all others to the upper edge.
    #[test]
    fn the_fastest_in_a_thousand_sets_no_axis() {
        let mut all = crate::counts::empty();
        all.record(1).unwrap();
        all.record_n(1_000_000, 9999).unwrap();
        assert!(990_000 <= floor(&all), "{}", floor(&all));
    }
}
