//! The heat map: all requests of the last minutes, time from left to right with now at the right,
//! latency upwards on a logarithmic axis. A cell holds two latencies, one above the other.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::Top;
use super::draw::{bold, rule, soft};
use crate::interval::Between;
use crate::units;

/// Below this a heat map shows nothing: its ruled line, four lines of latencies, the axis of time.
pub(super) const HEIGHT_MIN: u16 = 6;

/// Room for the latencies beside the map.
const AXIS: u16 = 8;

/// From few to many, of the 256-colour palette: told apart on dark and on light.
const SHADES: [u8; 7] = [55, 91, 127, 162, 203, 209, 215];

/// Whether there is more than one moment to compare.
pub(super) fn has_something(top: &Top) -> bool {
    2 <= top.history.len() && !top.tags().is_empty()
}

pub(super) fn draw(top: &Top, frame: &mut Frame<'_>, area: Rect) {
    let Some(tag) = top.shown_tag() else { return };
    draw_title(top, &tag, frame, area);
    let map = Rect {
        x: area.x + AXIS.min(area.width),
        y: area.y + 1,
        width: area.width.saturating_sub(AXIS + 1),
        height: area.height.saturating_sub(2),
    };
    let columns = usize::from(map.width).min(top.history.len());
    let shown: Vec<&Between> = top.history.iter().skip(top.history.len() - columns).collect();
    let Some(axis) = LatencyAxis::of(&shown, &tag, usize::from(map.height) * 2) else { return };
    let buffer = frame.buffer_mut();
    draw_cells(&counts(&shown, &tag, &axis), map, buffer);
    for (row, words) in axis.marks() {
        let words = format!("{words:>width$} ", width = usize::from(AXIS) - 1);
        buffer.set_string(area.x, map.bottom() - 1 - row, words, soft());
    }
    draw_time(top, map, buffer);
}

fn draw_title(top: &Top, tag: &str, frame: &mut Frame<'_>, area: Rect) {
    let every = units::brief_figure(top.every.as_secs_f64(), "s");
    let mut spans = vec![
        Span::styled(format!(" heat map of {tag}"), bold()),
        Span::styled(format!(", {every} a column   few "), soft()),
    ];
    let shade = |shade: &u8| Span::styled("█", Style::new().fg(Color::Indexed(*shade)));
    spans.extend(SHADES.iter().map(shade));
    spans.push(Span::styled(" many", soft()));
    frame.render_widget(Paragraph::new(Line::from(spans)), Rect { height: 1, ..area });
    const KEYS: &str = "tab: next  q: end ";
    let taken = 44 + tag.len() + every.len();
    if taken + KEYS.len() < usize::from(area.width) {
        let keys = Line::from(KEYS).style(soft()).right_aligned();
        frame.render_widget(keys, Rect { height: 1, ..area });
    }
    rule(frame, area);
}

/// Latencies upwards, logarithmic, in so many steps.
struct LatencyAxis {
    low: f64,
    high: f64,
    steps: usize,
}

impl LatencyAxis {
    /// Wide enough for all that is shown, but for the fastest one in a thousand.
    fn of(shown: &[&Between], tag: &str, steps: usize) -> Option<Self> {
        let met = || shown.iter().filter_map(|between| between.stage(tag));
        let low = met().map(|met| met.value_at_quantile(0.001)).min()?.max(1) as f64;
        let high = met().map(|met| met.max()).max()?.max(2) as f64 * 1.01;
        // At least from a value to its double: else a single latency would fill the map.
        let high = high.max(low * 2.0);
        Some(Self { low: low.ln(), high: high.ln(), steps })
    }

    fn step_of(&self, nanos: f64) -> usize {
        let share = (nanos.max(1.0).ln() - self.low) / (self.high - self.low);
        ((share.clamp(0.0, 1.0) * self.steps as f64) as usize).min(self.steps - 1)
    }

    /// Round latencies, each with its row from below: powers of ten, and 2 and 5 between them
    /// where they have room.
    fn marks(&self) -> Vec<(u16, String)> {
        let inside = |nanos: &f64| (self.low..self.high).contains(&nanos.ln());
        let marks = |steps: &[f64]| -> Vec<f64> {
            let powers = (0..12).map(|power| 10f64.powi(power));
            powers.flat_map(|ten| steps.iter().map(move |step| step * ten)).filter(inside).collect()
        };
        let row = |nanos: &f64| (self.step_of(*nanos) / 2) as u16;
        let are_apart =
            |marks: &[f64]| marks.windows(2).all(|two| row(&two[0]) + 2 <= row(&two[1]));
        let fine = marks(&[1.0, 2.0, 5.0]);
        let tens = marks(&[1.0]);
        // A map of less than a power of ten has at least one mark.
        let marks = match (are_apart(&fine), tens.is_empty()) {
            (true, _) => fine,
            (false, false) => tens,
            (false, true) => fine.into_iter().take(1).collect(),
        };
        marks.iter().map(|nanos| (row(nanos), units::brief_nanos(*nanos))).collect()
    }
}

/// How many requests took how long, by moment and step.
fn counts(shown: &[&Between], tag: &str, axis: &LatencyAxis) -> Vec<Vec<u64>> {
    let mut counts = vec![vec![0u64; axis.steps]; shown.len()];
    for (column, between) in counts.iter_mut().zip(shown) {
        for step in between.stage(tag).iter().flat_map(|met| met.iter_recorded()) {
            column[axis.step_of(step.value_iterated_to() as f64)] += step.count_at_value();
        }
    }
    counts
}

fn draw_cells(counts: &[Vec<u64>], map: Rect, buffer: &mut Buffer) {
    let most = counts.iter().flatten().copied().max().unwrap_or(1).max(1) as f64;
    let shade = |count: u64| {
        let shade = (count as f64).ln_1p() / most.ln_1p() * SHADES.len() as f64;
        Color::Indexed(SHADES[(shade as usize).min(SHADES.len() - 1)])
    };
    let left = map.right() - counts.len() as u16;
    for (column, counts) in counts.iter().enumerate() {
        for (row, two) in counts.chunks(2).enumerate() {
            let (lower, upper) = (two[0], two.get(1).copied().unwrap_or(0));
            let (symbol, style) = match (upper, lower) {
                (0, 0) => continue,
                (0, lower) => ("▄", Style::new().fg(shade(lower))),
                (upper, 0) => ("▀", Style::new().fg(shade(upper))),
                (upper, lower) => ("▀", Style::new().fg(shade(upper)).bg(shade(lower))),
            };
            let at = (left + column as u16, map.bottom() - 1 - row as u16);
            buffer[at].set_symbol(symbol).set_style(style);
        }
    }
}

/// How long ago, below the map: the words end where the column is.
fn draw_time(top: &Top, map: Rect, buffer: &mut Buffer) {
    const ROUND: [(f64, f64, &str); 9] = [
        (1.0, 1.0, "s"),
        (5.0, 1.0, "s"),
        (10.0, 1.0, "s"),
        (30.0, 1.0, "s"),
        (60.0, 60.0, "min"),
        (300.0, 60.0, "min"),
        (600.0, 60.0, "min"),
        (1800.0, 60.0, "min"),
        (3600.0, 3600.0, "h"),
    ];
    /// Columns from one mark to the next, at least.
    const APART: f64 = 14.0;
    let y = map.bottom();
    let every = top.every.as_secs_f64().max(1e-3);
    let found = ROUND.into_iter().find(|(step, ..)| APART * every <= *step);
    let Some((step, size, unit)) = found else { return };
    let mut ago = 0.0;
    loop {
        let words = if ago == 0.0 { "now".to_owned() } else { format!("-{} {unit}", ago / size) };
        let back = (ago / every).round() as u16 + words.chars().count() as u16;
        if map.width < back {
            return;
        }
        buffer.set_string(map.right() - back, y, words, soft());
        ago += step;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands beside the map are round latencies, each where it belongs, and none so near to
    /// the next that they run together.
    #[test]
    fn marks_are_round_and_apart() {
        let words = |low: f64, high: f64, steps: usize| {
            let axis = LatencyAxis { low: low.ln(), high: high.ln(), steps };
            axis.marks()
                .into_iter()
                .map(|(row, words)| format!("{row}: {words}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(words(120e3, 80e6, 16), ["2: 1 ms", "5: 10 ms"]);
        assert_eq!(words(300e3, 900e3, 8), ["1: 500 µs"]);
        let fine = words(0.9e6, 11e6, 40);
        assert_eq!(fine, ["0: 1 ms", "6: 2 ms", "13: 5 ms", "19: 10 ms"]);
    }
}
