//! Draws the view: a head line, throughput and shards, the table of stages, the heat map.
//!
//! What does not fit is left out from below: the head and the table of stages come first.

use hdrhistogram::Histogram;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table};

use super::Top;
use crate::interval::{Between, ShardBetween};
use crate::units;

/// From few to many: shades of blue of the 256-colour palette, told apart on dark and on light.
const SHADES: [u8; 7] = [24, 25, 31, 38, 44, 80, 159];

/// Two lines of figures in a box.
const RATES_HEIGHT: u16 = 4;

/// Below this a heat map shows nothing.
const HEAT_HEIGHT_MIN: u16 = 6;

/// Room for the latencies beside the heat map.
const AXIS: u16 = 9;

pub(super) fn draw(top: &Top, frame: &mut Frame<'_>) {
    let area = frame.area();
    let shards = top.now().map_or(0, |between| between.shards.len()) as u16;
    let stages = top.tags().len() as u16;
    // The parts above the heat map take what they need; it takes the rest, if that is enough.
    let shards_height = (shards + 2).clamp(3, (area.height / 4).max(3));
    let fixed = 1 + RATES_HEIGHT + shards_height + 1;
    let left = area.height.saturating_sub(fixed);
    let wanted = (stages + 3).clamp(3, (area.height / 2).max(3));
    let stages_height = if left < wanted + HEAT_HEIGHT_MIN { left } else { wanted };
    let [head, rates, busy, table, map, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(RATES_HEIGHT),
        Constraint::Length(shards_height),
        Constraint::Length(stages_height),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(area);
    draw_head(top, frame, head);
    draw_rates(top, frame, rates);
    draw_shards(top, frame, busy);
    draw_stages(top, frame, table);
    if HEAT_HEIGHT_MIN <= map.height {
        draw_heat(top, frame, map);
    }
    let keys = Line::from(" q ends   tab shows the next stage's heat map").style(soft());
    frame.render_widget(Paragraph::new(keys), foot);
}

fn soft() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn draw_head(top: &Top, frame: &mut Frame<'_>, area: Rect) {
    let mut spans = vec![Span::styled(" tidemill ", bold())];
    if let Some(document) = &top.last {
        let node = &document.node;
        let up = document.taken_unix_ms.saturating_sub(document.started_unix_ms) / 1000;
        spans.push(Span::raw(format!(
            "{} node {} at {}, up {}",
            node.version,
            node.id,
            top.address,
            uptime(up)
        )));
    }
    if let Some(why) = &top.trouble {
        spans.push(Span::styled(format!("  {why}"), bold().fg(Color::Red)));
    }
    frame.render_widget(Paragraph::new(Line::from(spans)), area);
}

fn uptime(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes} min {} s", seconds % 60),
        (0, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

fn draw_rates(top: &Top, frame: &mut Frame<'_>, area: Rect) {
    let Some(now) = top.now() else {
        let words = Paragraph::new("waiting for the second reading").block(titled("throughput"));
        frame.render_widget(words, area);
        return;
    };
    let bytes = |figure: fn(&ShardBetween) -> f64| units::figure(now.sum(figure), "B/s");
    let requests = |kind| units::figure(now.requests(kind), "/s");
    let connections = now.shards.iter().map(|shard| shard.connections).sum();
    let moved = told([
        ("in", bytes(|shard| shard.bytes_in)),
        ("out", bytes(|shard| shard.bytes_out)),
        ("disk writes", bytes(|shard| shard.disk_written)),
        ("disk reads", bytes(|shard| shard.disk_read)),
    ]);
    let asked = told([
        ("produce", requests("produce")),
        ("fetch", requests("fetch")),
        ("other", requests("other")),
        ("batches", units::figure(now.sum(|shard| shard.batches), "/s")),
        ("connections", units::count(connections)),
    ]);
    frame.render_widget(Paragraph::new(vec![moved, asked]).block(titled("throughput")), area);
}

/// Figures after their names, in one line.
fn told<const N: usize>(figures: [(&'static str, String); N]) -> Line<'static> {
    let spans = figures.into_iter().flat_map(|(name, value)| {
        let value = format!("{value} ");
        [Span::styled(format!(" {name} "), soft()), Span::styled(value, bold())]
    });
    Line::from(spans.collect::<Vec<_>>())
}

fn titled(title: &str) -> Block<'_> {
    Block::bordered().border_style(soft()).title(Span::styled(format!(" {title} "), bold()))
}

/// A bar for each shard, and beside it its mesh traffic, turns and stalls.
fn draw_shards(top: &Top, frame: &mut Frame<'_>, area: Rect) {
    let block = titled("shards: busy, turns, messages to others");
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let Some(now) = top.now() else { return };
    let room = usize::from(inside.height);
    for (line, shard) in now.shards.iter().take(room).enumerate() {
        let row = Rect { y: inside.y + line as u16, height: 1, ..inside };
        let [name, bar, words] =
            Layout::horizontal([Constraint::Length(5), Constraint::Max(36), Constraint::Min(20)])
                .areas(row);
        frame.render_widget(Paragraph::new(format!(" {:>3}", shard.shard)), name);
        frame.render_widget(Paragraph::new(busy_bar(shard.busy, bar.width)), bar);
        frame.render_widget(Paragraph::new(shard_words(shard, top)), words);
    }
}

/// A bar as long as the share, and the share.
fn busy_bar(busy: f64, width: u16) -> Line<'static> {
    let room = usize::from(width.saturating_sub(6));
    let filled = ((busy.clamp(0.0, 1.0) * room as f64).round() as usize).min(room);
    let colour = if 0.9 <= busy { Color::Red } else { Color::Blue };
    Line::from(vec![
        Span::styled("█".repeat(filled), Style::new().fg(colour)),
        Span::styled("░".repeat(room - filled), soft()),
        Span::raw(format!(" {:>3.0} %", busy * 100.0)),
    ])
}

fn shard_words(shard: &ShardBetween, top: &Top) -> Line<'static> {
    let mut spans = vec![Span::raw(format!("  {} turns", units::figure(shard.turns, "/s")))];
    for (peer, sent) in &shard.mesh {
        spans.push(Span::raw(format!("  →{peer} {}", units::figure(*sent, "/s"))));
    }
    let of_shard = |between: &Between| {
        let found = between.shards.iter().find(|other| other.shard == shard.shard);
        found.map_or(0, |found| found.stalls)
    };
    let stalls: u64 = top.history.iter().map(of_shard).sum();
    if 0 < stalls {
        let words = format!("  {stalls} stalls");
        spans.push(Span::styled(words, Style::new().fg(Color::Red)));
    }
    Line::from(spans)
}

fn draw_stages(top: &Top, frame: &mut Frame<'_>, area: Rect) {
    let heads = ["stage", "per second", "mean", "p50", "p99", "p99.9", "max"];
    let heads = heads.iter().enumerate().map(|(i, head)| {
        let line = Line::from(*head).style(soft());
        Cell::from(if i == 0 { line } else { line.right_aligned() })
    });
    let tags = top.tags();
    let shown = tags.get(top.shown).cloned();
    let mut order = tags;
    // Where not all have room, the totals come first and the others as far as they go.
    if order.len() + 3 <= usize::from(area.height) {
        order.sort_by_key(|tag| stage_order(tag));
    }
    let rows = order.iter().map(|tag| {
        let met = top.recent(tag);
        let rate = top.now().and_then(|now| Some((now.stage(tag)?.len(), now.seconds)));
        let rate = rate.map_or(0.0, |(count, seconds)| count as f64 / seconds.max(1e-9));
        let mut style = if tag.ends_with(".total") { bold() } else { Style::new() };
        if shown.as_ref() == Some(tag) {
            style = style.fg(Color::Cyan);
        }
        let cells = std::iter::once(Cell::from(tag.clone())).chain(
            figures(rate, met.as_ref())
                .into_iter()
                .map(|text| Cell::from(Line::from(text).right_aligned())),
        );
        Row::new(cells).style(style)
    });
    let longest = order.iter().map(|tag| tag.chars().count()).max().unwrap_or(0);
    let widths = [
        Constraint::Length((longest as u16 + 2).max(16)),
        Constraint::Length(11),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(9),
    ];
    let table = Table::new(rows, widths)
        .header(Row::new(heads))
        .block(titled("where the time goes (last ten intervals)"));
    frame.render_widget(table, area);
}

/// Kinds together, stages in their order, each kind's total last.
fn stage_order(tag: &str) -> (usize, usize) {
    use crate::stage::{Kind, Stage};
    let (kind, stage) = tag.split_once('.').unwrap_or((tag, ""));
    let kind = Kind::ALL.iter().position(|other| other.name() == kind);
    let place = Stage::ALL.iter().position(|other| other.name() == stage);
    (kind.unwrap_or(usize::MAX), place.unwrap_or(usize::MAX))
}

fn figures(rate: f64, met: Option<&Histogram<u64>>) -> [String; 6] {
    let Some(met) = met else { return [const { String::new() }; 6] };
    let at = |quantile| units::nanos(met.value_at_quantile(quantile) as f64);
    let rate = units::figure(rate, "/s");
    [rate, units::nanos(met.mean()), at(0.5), at(0.99), at(0.999), at(1.0)]
}

/// Time from left to right, the latest at the right; latency upwards, logarithmic.
fn draw_heat(top: &Top, frame: &mut Frame<'_>, area: Rect) {
    let tags = top.tags();
    let Some(tag) = tags.get(top.shown.min(tags.len().saturating_sub(1))) else { return };
    let seconds = top.every.as_secs_f64();
    let title = format!("{tag} over time, a column every {}", units::figure(seconds, "s"));
    let block = titled(&title);
    let inside = block.inner(area);
    frame.render_widget(block, area);
    if inside.width <= AXIS || inside.height < 2 {
        return;
    }
    let columns = usize::from(inside.width - AXIS).min(top.history.len());
    let shown = || top.history.iter().skip(top.history.len() - columns);
    let met = || shown().filter_map(|between| between.stage(tag));
    let (Some(low), Some(high)) =
        (met().map(|h| h.value_at_quantile(0.0)).min(), met().map(|h| h.max()).max())
    else {
        return;
    };
    let (low, high) = ((low.max(1) as f64).ln(), ((high.max(2) as f64) * 1.05).ln());
    let rows = usize::from(inside.height);
    let row_of = |nanos: u64| {
        let share = ((nanos.max(1) as f64).ln() - low) / (high - low).max(1e-9);
        ((share.clamp(0.0, 1.0) * rows as f64) as usize).min(rows - 1)
    };
    let mut counts = vec![vec![0u64; rows]; columns];
    for (column, between) in counts.iter_mut().zip(shown()) {
        for step in between.stage(tag).iter().flat_map(|histogram| histogram.iter_recorded()) {
            column[row_of(step.value_iterated_to())] += step.count_at_value();
        }
    }
    let most = counts.iter().flatten().copied().max().unwrap_or(1).max(1) as f64;
    let buffer = frame.buffer_mut();
    let right = inside.right() - columns as u16;
    for (column, counts) in counts.iter().enumerate() {
        for (row, count) in counts.iter().enumerate().filter(|(_, count)| 0 < **count) {
            let shade = (*count as f64).ln_1p() / most.ln_1p() * SHADES.len() as f64;
            let shade = SHADES[(shade as usize).min(SHADES.len() - 1)];
            let at = (right + column as u16, inside.bottom() - 1 - row as u16);
            buffer[at].set_symbol("█").set_fg(Color::Indexed(shade));
        }
    }
    // Latencies beside the bottom, the middle and the top; nearer ones would say the same.
    let marks = if 7 <= rows { vec![0, rows / 2, rows - 1] } else { vec![0, rows - 1] };
    for row in marks {
        let nanos = (low + (high - low) * (row as f64 + 0.5) / rows as f64).exp();
        let words = format!("{:>8} ", units::nanos(nanos));
        let y = inside.bottom() - 1 - row as u16;
        buffer.set_string(inside.x, y, words, soft());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interval::tests::readings;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use std::time::Duration;

    fn screen(top: &Top, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(top, frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let rows = 0..height;
        rows.map(|y| (0..width).map(|x| buffer[(x, y)].symbol()).collect()).collect()
    }

    fn top() -> Top {
        let mut top = Top::new("127.0.0.1:9644", Duration::from_secs(1));
        for reading in readings() {
            top.take(Ok(reading));
        }
        top
    }

    /// All that the broker told stands on the screen, with its units.
    #[test]
    fn the_screen_says_what_the_broker_told() {
        let lines = screen(&top(), 120, 40);
        let text = lines.join("\n");
        for words in [
            "20 MB/s",
            "4 MB/s",
            "produce 200 /s",
            "connections 6",
            "50 %",
            "→1 70 /s",
            "→0 70 /s",
            "produce.durable",
            "produce.total",
            "10 ms",
            "produce.total over time",
            "█",
        ] {
            assert!(text.contains(words), "{words} is missing in\n{text}");
        }
        assert!(lines[0].contains("127.0.0.1:9644"));
    }

    /// The stages stand in the order in which a request meets them, however small the terminal.
    #[test]
    fn a_small_terminal_shows_what_fits() {
        let lines = screen(&top(), 80, 24);
        let at = |word: &str| lines.iter().position(|line| line.contains(word)).unwrap();
        assert!(at("produce.append") < at("produce.durable"));
        assert!(at("produce.durable") < at("produce.total"));
        for (width, height) in [(1, 1), (10, 3), (20, 5), (40, 10), (200, 12)] {
            screen(&top(), width, height);
        }
    }

    /// Before there is anything to show, and when the broker does not answer, the screen says so.
    #[test]
    fn trouble_is_told() {
        let mut top = Top::new("here", Duration::from_secs(1));
        assert!(screen(&top, 80, 24).join("\n").contains("waiting"));
        top.take(Err("no broker answers".to_owned()));
        assert!(screen(&top, 80, 24)[0].contains("no broker answers"));
    }

    /// Tab walks through all tags and comes back.
    #[test]
    fn tab_shows_each_stage() {
        let mut top = top();
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.push(top.tags()[top.shown].clone());
            top.show_next(true);
        }
        seen.sort();
        assert_eq!(seen, ["produce.append", "produce.durable", "produce.total"]);
        assert_eq!(top.shown, 0);
        top.show_next(false);
        assert_eq!(top.shown, 2);
    }
}
