//! Draws the view: a head line, throughput beside the machine's limits, the shards, the table of
//! stages, the heat map.
//!
//! Each part begins with a ruled line that names it and its columns; figures stand below each
//! other and keep their width while they change. What does not fit is left out from below: where
//! not all stages have room, whole requests and the stages of the kind chosen are shown.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table};

use super::{Top, heat, stages};
use crate::interval::{Between, ShardBetween};
use crate::machine::share::{Flow, percent};
use crate::stage::Kind;
use crate::units;

/// A ruled line, what flows now, its share of the limits, requests.
const RATES_HEIGHT: u16 = 4;

/// From this height on an empty line stands between the parts.
const AIRY: u16 = 32;

/// Width of a figure with its unit, and the room before it.
pub(super) const FIGURE: u16 = 11;

pub(super) fn draw(top: &Top, frame: &mut Frame<'_>) {
    let area = frame.area();
    let gap = u16::from(AIRY <= area.height);
    let shards = top.now().map_or(1, |between| between.shards.len()) as u16;
    let shards_height = 1 + shards.clamp(1, (area.height / 6).max(2));
    let fixed = 1 + RATES_HEIGHT + shards_height + 3 * gap;
    let left = area.height.saturating_sub(fixed);
    let (rows, heat_height) = divide(top, left);
    let stages_height = if heat_height == 0 { left } else { left - heat_height };
    let gapped = |height| Constraint::Length(height + gap);
    let [head, rates, busy, table, map] = Layout::vertical([
        Constraint::Length(1),
        gapped(RATES_HEIGHT),
        gapped(shards_height),
        gapped(stages_height),
        Constraint::Min(0),
    ])
    .areas(area);
    draw_head(top, frame, head);
    draw_rates(top, frame, rates);
    draw_shards(top, frame, Rect { height: shards_height.min(busy.height), ..busy });
    stages::draw(top, &rows, frame, Rect { height: stages_height.min(table.height), ..table });
    if 0 < heat_height {
        heat::draw(top, frame, map);
    }
}

/// Which stages are shown in so many lines, and how many of them the heat map takes.
fn divide(top: &Top, left: u16) -> (Vec<String>, u16) {
    let has_map = heat::has_something(top) && heat::HEIGHT_MIN + 3 <= left;
    let for_map = if has_map { heat::HEIGHT_MIN } else { 0 };
    let room = usize::from((left - for_map.min(left)).saturating_sub(1));
    let mut rows = top.tags();
    if room < rows.len() {
        let kind = top.shown_tag().and_then(|tag| Some(tag.split_once('.')?.0.to_owned()));
        let kind = kind.unwrap_or_default();
        rows.retain(|tag| tag.ends_with(".total") || tag.split('.').next() == Some(&kind));
        // Whole requests lead; the stages follow as far as they go.
        rows.truncate(room);
    } else {
        rows.sort_by_key(|tag| stages::order(tag));
    }
    let taken = rows.len() as u16 + 1;
    (rows, if has_map { left.saturating_sub(taken) } else { 0 })
}

pub(super) fn soft() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

pub(super) fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

/// The line that begins a part is ruled over its whole width.
pub(super) fn rule(frame: &mut Frame<'_>, area: Rect) {
    let line = Rect { height: area.height.min(1), ..area };
    frame.buffer_mut().set_style(line, Style::new().add_modifier(Modifier::UNDERLINED));
}

/// A cell whose text ends at its right.
pub(super) fn right(text: impl Into<String>) -> Cell<'static> {
    Cell::from(Line::from(text.into()).right_aligned())
}

fn draw_head(top: &Top, frame: &mut Frame<'_>, area: Rect) {
    let mut spans = vec![Span::styled(" tidemill ", bold())];
    if let Some(why) = &top.trouble {
        spans.push(Span::styled(why.clone(), bold().fg(Color::Red)));
        frame.render_widget(Paragraph::new(Line::from(spans)), area);
        return;
    }
    if let Some(document) = &top.last {
        let node = &document.node;
        let up = document.taken_unix_ms.saturating_sub(document.started_unix_ms) / 1000;
        let connections: u64 = document.shards.iter().map(|shard| shard.connections).sum();
        let connections = match connections {
            1 => "1 connection".to_owned(),
            many => format!("{} connections", units::count(many)),
        };
        spans.push(Span::raw(format!(
            "{}, node {} at {}, up {}, {connections}",
            node.version,
            node.id,
            top.address,
            uptime(up)
        )));
    }
    frame.render_widget(Paragraph::new(Line::from(spans)), area);
}

fn uptime(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

fn draw_rates(top: &Top, frame: &mut Frame<'_>, area: Rect) {
    let Some(now) = top.now() else {
        let lines = vec![
            Line::from(Span::styled(" throughput", bold())),
            Line::from("  waiting for the second reading").style(soft()),
        ];
        frame.render_widget(Paragraph::new(lines), area);
        rule(frame, area);
        return;
    };
    let flows = now.flows();
    let width = if area.width < 100 { FIGURE } else { FIGURE + 3 };
    let mut widths = vec![Constraint::Length(13)];
    widths.extend(flows.iter().map(|_| Constraint::Length(width)));
    let heads = flows.iter().map(|(flow, _)| {
        right(match flow {
            Flow::BytesIn => "in",
            Flow::BytesOut => "out",
            Flow::DiskWrites => "disk write",
            Flow::DiskReads => "disk read",
            Flow::MeshMessages => "mesh",
            Flow::Checksums => "checksum",
        })
    });
    let first = |words: &'static str| std::iter::once(Cell::from(words));
    let header =
        Row::new(std::iter::once(Cell::from(Span::styled(" throughput", bold()))).chain(heads));
    let figures =
        flows.iter().map(|(flow, rate)| right(units::figure(*rate, flow.unit())).style(bold()));
    let shares: Vec<_> = flows.iter().map(|(flow, rate)| top.limits.share(*flow, *rate)).collect();
    let mut rows = vec![Row::new(first("  now").chain(figures))];
    let is_measured = shares.iter().any(Option::is_some);
    if is_measured {
        let shares = shares.iter().map(|share| match share {
            Some(share) => right(percent(share.ratio())),
            None => right("–").style(soft()),
        });
        rows.push(Row::new(first("  of limit").chain(shares)));
    }
    let table = Table::new(rows, widths).column_spacing(0).header(header.style(soft()));
    frame.render_widget(table, area);
    rule(frame, area);
    let line = |nth: u16| Rect { y: area.y + nth, height: u16::from(nth < area.height), ..area };
    if !is_measured {
        let words =
            "  of limit   not measured: tidemill perf disk, net, mesh, cpu; or --limits FILE";
        frame.render_widget(Paragraph::new(words).style(soft()), line(2));
    }
    frame.render_widget(Paragraph::new(requests(now)), line(3));
}

/// Requests of each kind and what they appended, each in a place of its own.
fn requests(now: &Between) -> Line<'static> {
    let rate = |kind: Kind| (kind.name(), now.requests(kind.name()));
    let batches = ("batches", now.sum(|shard| shard.batches));
    // What there is most of first: a narrow screen has no room for all.
    let rates = [
        rate(Kind::Produce),
        batches,
        rate(Kind::Fetch),
        rate(Kind::Group),
        rate(Kind::Other),
        rate(Kind::Transaction),
    ];
    let mut spans = vec![Span::raw("  requests   ")];
    for (name, rate) in rates {
        spans.push(Span::styled(format!("{name} "), soft()));
        spans.push(Span::styled(format!("{:>8}  ", units::figure(rate, "/s")), bold()));
    }
    Line::from(spans)
}

/// A bar for each shard, and beside it what it moved.
fn draw_shards(top: &Top, frame: &mut Frame<'_>, area: Rect) {
    const FIGURES: u16 = 7 + 4 * FIGURE + 8;
    let Some(now) = top.now() else { return };
    let bar = area.width.saturating_sub(6 + FIGURES).clamp(4, 40);
    let header = Row::new([
        Cell::from(Span::styled(" shard", bold())),
        Cell::from(""),
        right("busy"),
        right("turns"),
        right("in"),
        right("out"),
        right("to others"),
        right("stalls"),
        Cell::from("  messages to each"),
    ])
    .style(soft());
    let room = usize::from(area.height.saturating_sub(1));
    let rows = now.shards.iter().take(room).map(|shard| {
        let sent = shard.mesh.iter().map(|(_, sent)| sent).sum();
        let stalls = top.stalls(shard.shard);
        let is_stalling = if 0 < stalls { bold().fg(Color::Red) } else { Style::new() };
        Row::new([
            right(format!("{} ", shard.shard)),
            Cell::from(busy_bar(shard.busy, bar)),
            right(format!("{:.0} %", shard.busy * 100.0)).style(bold()),
            right(units::figure(shard.turns, "/s")),
            right(units::figure(shard.bytes_in, "B/s")),
            right(units::figure(shard.bytes_out, "B/s")),
            right(units::figure(sent, "/s")),
            right(units::count(stalls)).style(is_stalling),
            Cell::from(pairs(shard)),
        ])
    });
    // Of two shards the messages to others are those to the other one.
    let has_pairs = 2 < now.shards.len();
    let widths = [
        Constraint::Length(6),
        Constraint::Length(bar),
        Constraint::Length(7),
        Constraint::Length(FIGURE),
        Constraint::Length(FIGURE),
        Constraint::Length(FIGURE),
        Constraint::Length(FIGURE),
        Constraint::Length(8),
        if has_pairs { Constraint::Fill(1) } else { Constraint::Length(0) },
    ];
    let table = Table::new(rows, widths).column_spacing(0).header(header);
    frame.render_widget(table, area);
    rule(frame, area);
}

fn pairs(shard: &ShardBetween) -> String {
    let pair = |(peer, sent): &(u16, f64)| format!("  →{peer} {:>8}", units::figure(*sent, "/s"));
    shard.mesh.iter().map(pair).collect()
}

/// A bar as long as the share.
fn busy_bar(busy: f64, width: u16) -> Line<'static> {
    let room = usize::from(width);
    let filled = ((busy.clamp(0.0, 1.0) * room as f64).round() as usize).min(room);
    let colour = if 0.9 <= busy { Color::Red } else { Color::Blue };
    Line::from(vec![
        Span::styled("█".repeat(filled), Style::new().fg(colour)),
        Span::styled("░".repeat(room - filled), soft()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interval::tests::readings;
    use crate::machine::limits::{CaseLimits, Limits, ProbeLimits};
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

    fn limits() -> Limits {
        let name = "stream 1 MiB x 1".to_owned();
        let case = CaseLimits { name, bytes_per_second: 2e8, ..CaseLimits::default() };
        let mut limits = Limits::default();
        let probe = ProbeLimits { cases: vec![case], ..ProbeLimits::default() };
        limits.probes.insert("net".to_owned(), probe);
        limits
    }

    fn top() -> Top {
        let mut top = Top::new("127.0.0.1:9644", Duration::from_secs(1), limits());
        for reading in readings() {
            top.take(Ok(reading));
        }
        top
    }

    /// All that the broker told stands on the screen, with its units, and beside what the machine
    /// can do.
    #[test]
    fn the_screen_says_what_the_broker_told() {
        let lines = screen(&top(), 120, 40);
        let text = lines.join("\n");
        for words in [
            "20.0 MB/s",
            "4.00 MB/s",
            "10 %",
            "produce   200 /s",
            "6 connections",
            "50 %",
            "70.0 /s",
            "produce.durable",
            "produce.total",
            "10.0 ms",
            "heat map of produce.total",
            "▀",
            "now",
            "1 ms",
        ] {
            assert!(text.contains(words), "{words} is missing in\n{text}");
        }
        assert!(lines[0].contains("127.0.0.1:9644"));
    }

    /// On the smallest usual terminal there is room for everything: throughput, shards, whole
    /// requests with the stages of one kind, and the heat map.
    #[test]
    fn a_small_terminal_shows_every_part() {
        let lines = screen(&top(), 80, 24);
        let at = |word: &str| {
            let found = lines.iter().position(|line| line.contains(word));
            found.unwrap_or_else(|| panic!("{word} is missing in\n{}", lines.join("\n")))
        };
        let places = [
            at("throughput"),
            at("of limit"),
            at("requests"),
            at("shard "),
            at("stages"),
            at("produce.append"),
            at("produce.durable"),
            at("produce.total"),
            at("heat map of"),
            at("-30 s"),
        ];
        assert!(places.is_sorted(), "{places:?}\n{}", lines.join("\n"));
        for (width, height) in [(1, 1), (10, 3), (20, 5), (40, 10), (80, 14), (200, 12)] {
            screen(&top(), width, height);
        }
    }

    /// Where not all stages have room, those of the kind chosen are shown, below whole requests.
    #[test]
    fn a_full_terminal_shows_the_kind_chosen() {
        let mut top = top();
        let stages = top.history[0].stages.clone();
        let of_fetch =
            stages.iter().map(|(tag, met)| (tag.replace("produce", "fetch"), met.clone()));
        let of_fetch: Vec<_> = of_fetch.collect();
        top.history[0].stages.extend(of_fetch);
        let lines = screen(&top, 80, 18).join("\n");
        assert!(lines.contains("fetch.total") && lines.contains("produce.append"), "{lines}");
        assert!(!lines.contains("fetch.append"), "{lines}");
        top.show_next(true);
        let lines = screen(&top, 80, 18).join("\n");
        assert!(lines.contains("fetch.append") && !lines.contains("produce.append"), "{lines}");
    }

    /// Before there is anything to show, and when the broker does not answer, the screen says so.
    #[test]
    fn trouble_is_told() {
        let mut top = Top::new("here", Duration::from_secs(1), Limits::default());
        assert!(screen(&top, 80, 24).join("\n").contains("waiting"));
        top.take(Err("no broker answers".to_owned()));
        assert!(screen(&top, 80, 24)[0].contains("no broker answers"));
    }

    /// A broker without clients, on a machine that was not measured: it says so instead of
    /// showing empty tables.
    #[test]
    fn nothing_is_told_as_such() {
        let mut top = Top::new("here", Duration::from_secs(1), Limits::default());
        for mut reading in readings() {
            reading.shards.iter_mut().for_each(|shard| shard.stages.clear());
            top.take(Ok(reading));
        }
        let text = screen(&top, 80, 24).join("\n");
        assert!(text.contains("no requests in this time"), "{text}");
        assert!(text.contains("not measured: tidemill perf disk"), "{text}");
    }

    /// Tab walks through all tags and comes back.
    #[test]
    fn tab_shows_each_stage() {
        let mut top = top();
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.push(top.shown_tag().unwrap());
            top.show_next(true);
        }
        seen.sort();
        assert_eq!(seen, ["produce.append", "produce.durable", "produce.total"]);
        assert_eq!(top.shown, 0);
        top.show_next(false);
        assert_eq!(top.shown, 2);
    }
}
