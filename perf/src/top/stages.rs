//! The table of stages: how often, how long, and which part of the mean request each takes, with
//! a bar where it stands in it.
//!
//! A broker records the stages of a sample of its requests: how often a stage is met follows from
//! how often it was among those.

use hdrhistogram::Histogram;
use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table};

use super::Top;
use super::draw::{bold, right, rule, soft};
use crate::histogram::SAMPLED_NAME;
use crate::interval::Between;
use crate::report::is_told;
use crate::stage::{Kind, Stage};
use crate::units;

/// Width of the figures of a row: name, rate, five times, share.
const NAME: u16 = 18;
const RATE: u16 = 10;
const TIME: u16 = 9;
const SHARE: u16 = 7;

/// The longest bar of a whole request; below so much there is none.
const BAR_MAX: u16 = 60;
const BAR_MIN: u16 = 10;

/// Before a bar.
const GAP: u16 = 2;

pub(super) fn draw(top: &Top, tags: &[String], frame: &mut Frame<'_>, area: Rect) {
    let left = area.width.saturating_sub(NAME + RATE + 5 * TIME + SHARE + GAP + 1);
    let bar = if left < BAR_MIN { 0 } else { left.min(BAR_MAX) };
    let title = format!(" stages, last {}", units::brief_figure(top.recent_seconds().round(), "s"));
    let heads = ["rate", "mean", "p50", "p99", "p99.9", "max", "share"].map(right);
    let mut header = vec![Cell::from(Span::styled(title, bold()))];
    header.extend(heads);
    header.push(Cell::from(if 0 < bar { "  of the mean request" } else { "" }));
    let shown = top.shown_tag();
    let rows = tags.iter().map(|tag| {
        let met = top.recent(tag);
        let mut style = if tag.ends_with(".total") { bold() } else { Style::new() };
        let is_shown = shown.as_ref() == Some(tag);
        if is_shown {
            style = style.fg(Color::Cyan);
        } else if met.is_none() {
            style = soft();
        }
        let mark = if is_shown { '▸' } else { ' ' };
        let place = Place::of(tag, met.as_ref(), top);
        let mut cells = vec![Cell::from(format!("{mark}{tag}"))];
        cells.extend(figures(top, tag, met.as_ref()).map(right));
        cells.push(right(place.map_or(String::new(), |place| units::figure(place.share, "ratio"))));
        cells.push(Cell::from(place.map_or_else(Line::default, |place| place.bar(bar))));
        Row::new(cells).style(style)
    });
    let mut widths = vec![Constraint::Length(NAME), Constraint::Length(RATE)];
    widths.extend([Constraint::Length(TIME); 5]);
    widths.extend([
        Constraint::Length(SHARE),
        Constraint::Length(if bar == 0 { 0 } else { bar + GAP }),
    ]);
    let table = Table::new(rows, widths).column_spacing(0).header(Row::new(header).style(soft()));
    frame.render_widget(table, area);
    rule(frame, area);
    if tags.is_empty() && 1 < area.height && top.now().is_some() {
        let line = Rect { y: area.y + 1, height: 1, ..area };
        frame.render_widget(Paragraph::new("  no requests in this time").style(soft()), line);
    }
}

/// Kinds together, stages in their order, each kind's total last.
pub(super) fn order(tag: &str) -> (usize, usize) {
    let (kind, stage) = tag.split_once('.').unwrap_or((tag, ""));
    let kind = Kind::ALL.iter().position(|other| other.name() == kind);
    let place = Stage::ALL.iter().position(|other| other.name() == stage);
    (kind.unwrap_or(usize::MAX), place.unwrap_or(usize::MAX))
}

/// Rate, mean and quantiles; of too few samples a quantile would be chance.
fn figures(top: &Top, tag: &str, met: Option<&Histogram<u64>>) -> [String; 6] {
    const NONE: &str = "–";
    let rate = units::figure(top.now().map_or(0.0, |now| rate(now, tag)), "/s");
    let Some(met) = met else {
        return [rate.as_str(), NONE, NONE, NONE, NONE, NONE].map(str::to_owned);
    };
    let at = |quantile| match is_told(met, quantile) {
        true => units::nanos(met.value_at_quantile(quantile) as f64),
        false => NONE.to_owned(),
    };
    [rate, units::nanos(met.mean()), at(0.5), at(0.99), at(0.999), at(1.0)]
}

/// How often a stage was met per second: among the sampled, times what those stand for.
fn rate(now: &Between, tag: &str) -> f64 {
    let met = |tag: &str| now.stage(tag).map_or(0.0, |met| met.len() as f64);
    let kind = tag.split_once('.').map_or(tag, |(kind, _)| kind);
    let (total, sampled) = (format!("{kind}.total"), met(&format!("{kind}.{SAMPLED_NAME}")));
    let stand_for = if tag == total || sampled == 0.0 { 1.0 } else { met(&total) / sampled };
    met(tag) * stand_for / now.seconds.max(1e-9)
}

/// Where a stage stands in the mean request of its kind.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Place {
    /// The share of the stages before it.
    begins: f64,
    /// Its own share.
    share: f64,
}

impl Place {
    /// None of a total, and none of a stage without one.
    fn of(tag: &str, met: Option<&Histogram<u64>>, top: &Top) -> Option<Self> {
        let (kind, stage) = tag.split_once('.')?;
        if stage == "total" {
            return None;
        }
        let time = |met: &Histogram<u64>| met.mean() * met.len() as f64;
        let sampled = top.recent(&format!("{kind}.{SAMPLED_NAME}"));
        let whole = sampled.or_else(|| top.recent(&format!("{kind}.total")))?;
        let whole = time(&whole).max(1.0);
        let before = Stage::ALL.iter().take_while(|other| other.name() != stage);
        let before = before.filter_map(|other| top.recent(&format!("{kind}.{}", other.name())));
        let begins = before.map(|met| time(&met)).sum::<f64>() / whole;
        Some(Self { begins, share: time(met?) / whole })
    }

    /// The bar of its share, behind the room of those before it.
    fn bar(self, width: u16) -> Line<'static> {
        let width = f64::from(width);
        let begins = (self.begins * width).clamp(0.0, width);
        let ends = ((self.begins + self.share) * width).clamp(begins, width);
        let (from, to) = (begins.floor() as usize, ends.round() as usize);
        // What is too short for a whole cell still is there.
        let bar = if to <= from { "▏".to_owned() } else { "█".repeat(to - from) };
        let bar = if width == 0.0 { String::new() } else { bar };
        Line::from(vec![
            Span::raw(" ".repeat(from + usize::from(GAP))),
            Span::styled(bar, Style::new().fg(Color::Blue)),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hlog::{decode_histogram, encode_histogram};
    use crate::interval::tests::readings;
    use crate::machine::limits::Limits;
    use std::time::Duration;

    /// A stage's bar begins where that of the stage before it ends.
    #[test]
    fn stages_follow_each_other_in_the_mean_request() {
        let mut top = Top::new("here", Duration::from_secs(1), Limits::default());
        readings().into_iter().for_each(|reading| top.take(Ok(reading)));
        let of = |tag: &str| Place::of(tag, top.recent(tag).as_ref(), &top);
        let (append, durable) = (of("produce.append").unwrap(), of("produce.durable").unwrap());
        assert_eq!(append.begins, 0.0);
        assert!((durable.begins - append.share).abs() < 1e-9);
        assert!((append.share - 0.02).abs() < 1e-3 && (durable.share - 0.9).abs() < 1e-2);
        assert_eq!(of("produce.total"), None);
        assert_eq!(of("fetch.wait"), None);
        let bar = |place: Place| place.bar(50).to_string();
        assert_eq!(bar(append), "  █");
        let cells = bar(durable).chars().filter(|c| *c == '█').count();
        assert!((45..=46).contains(&cells), "{cells}");
        assert_eq!(Place { begins: 0.985, share: 0.0001 }.bar(50).to_string().trim(), "▏");
    }

    /// Stages of one request in ten are not shown as a tenth as frequent, or as long, as they are.
    #[test]
    fn stages_of_a_sample_stand_for_all() {
        let mut top = Top::new("here", Duration::from_secs(1), Limits::default());
        for mut reading in readings() {
            for shard in &mut reading.shards {
                // Every tenth was sampled; the readings' stages are those of all.
                let stages = std::mem::take(&mut shard.stages);
                for mut stage in stages {
                    if stage.stage == "total" {
                        let ten = |count: u64| 10 * count;
                        let histogram = decode_histogram(&stage.histogram).unwrap();
                        let mut all = crate::counts::empty();
                        for step in histogram.iter_recorded() {
                            let value = step.value_iterated_to();
                            all.record_n(value, ten(step.count_at_value())).unwrap();
                        }
                        let mut sampled = stage.clone();
                        sampled.stage = SAMPLED_NAME.to_owned();
                        shard.stages.push(sampled);
                        stage.histogram = encode_histogram(&all);
                        stage.count = ten(stage.count);
                    }
                    shard.stages.push(stage);
                }
            }
            top.take(Ok(reading));
        }
        assert!(top.tags().iter().all(|tag| !tag.ends_with(SAMPLED_NAME)), "it is no stage");
        let now = top.now().unwrap();
        assert!((rate(now, "produce.total") - 2000.0).abs() < 1e-6);
        assert!((rate(now, "produce.append") - 2000.0).abs() < 1e-6, "each has one");
        let durable = "produce.durable";
        let place = Place::of(durable, top.recent(durable).as_ref(), &top).unwrap();
        assert!((place.share - 0.9).abs() < 1e-2, "{place:?}");
    }

    /// A quantile that a few requests only tell of is left out.
    #[test]
    fn chance_is_not_told() {
        let mut top = Top::new("here", Duration::from_secs(1), Limits::default());
        readings().into_iter().for_each(|reading| top.take(Ok(reading)));
        let tag = "produce.total";
        let told = figures(&top, tag, top.recent(tag).as_ref());
        assert_eq!(told[4], "–", "600 requests tell no p99.9: {told:?}");
        assert_ne!(told[2], "–");
        assert_eq!(figures(&top, "fetch.wait", None)[1..], ["–"; 5]);
    }
}
