//! The page of a report: its parts in reading order, and the style around the drawings.

use std::fmt::Write as _;
use std::time::Duration;

use super::canvas::{STYLE, escaped};
use super::{Group, Report, charts, heat, is_told};
use crate::histogram::QUANTILES;
use crate::outcome::{BUSY, Outcome, Series};
use crate::units;

/// Drawings are made for these widths; below a window of 720 the narrow one is shown.
const WIDE: f64 = 1040.0;
const NARROW: f64 = 360.0;

const PAGE_STYLE: &str = "\
*{box-sizing:border-box}html{color-scheme:light dark}\
body{margin:0;background:var(--paper);color:var(--ink);\
font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}\
main{max-width:1104px;margin:0 auto;padding:28px 32px 64px}\
h1{font-size:26px;line-height:1.25;margin:0 0 4px;overflow-wrap:anywhere}\
h2{font-size:19px;margin:44px 0 10px;padding-top:14px;border-top:1px solid var(--grid)}\
h3{font-size:15px;margin:26px 0 4px}p{margin:4px 0 10px;overflow-wrap:anywhere}\
code{font:13px ui-monospace,'DejaVu Sans Mono',monospace}.soft{color:var(--soft)}\
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(172px,1fr));gap:10px;\
margin:20px 0}.tile{background:var(--card);border:1px solid var(--grid);border-radius:8px;\
padding:10px 12px}.tile b{display:block;font-size:18px;font-weight:600;\
line-height:1.3;overflow-wrap:anywhere}\
.tile span{color:var(--soft);font-size:13px}\
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:14px;\
font-variant-numeric:tabular-nums}th,td{padding:5px 10px;text-align:right;white-space:nowrap;\
border-bottom:1px solid var(--grid)}th{color:var(--soft);font-weight:600}\
th:first-child,td:first-child{text-align:left;padding-left:0}\
.scroll th:first-child,.scroll td:first-child{position:sticky;left:0;background:var(--paper)}\
tr.total td{font-weight:600}table.env td{white-space:normal;text-align:left;\
overflow-wrap:anywhere}table.env td:first-child{color:var(--soft);width:150px;\
white-space:nowrap;vertical-align:top}\
svg{display:block;width:100%;height:auto;max-width:1040px}.phone{display:none}\
details{margin:12px 0}summary{cursor:pointer;color:var(--soft)}\
@media (max-width:720px){main{padding:18px 18px 48px}h1{font-size:22px}\
.desk{display:none}.phone{display:block}.phone svg{max-width:480px}\
.tiles{grid-template-columns:repeat(auto-fill,minmax(140px,1fr))}.tile b{font-size:16px}\
table.env td:first-child{width:96px;white-space:normal}.scroll th,.scroll td{padding:5px 6px;\
font-size:13px}}";

pub(super) fn page(report: &Report) -> String {
    let title = escaped(&report.title);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{title}</title><style>{STYLE}{PAGE_STYLE}</style></head><body><main>\n\
         <h1>{title}</h1>\n<p class=\"soft\">{}</p>\n",
        when(report)
    );
    if let Some(environment) = &report.environment {
        let command = escaped(&environment.command.join(" "));
        let _ = writeln!(out, "<p class=\"soft\"><code>{command}</code></p>");
    }
    if let Some(outcome) = &report.outcome {
        tiles(&mut out, outcome);
    }
    summary(&mut out, report);
    if let Some(outcome) = &report.outcome {
        shares(&mut out, outcome);
    }
    for group in report.groups() {
        section(&mut out, &group, report.groups().len());
    }
    if let Some(outcome) = &report.outcome {
        over_time(&mut out, outcome, report.seconds);
        notes(&mut out, outcome);
    }
    environment(&mut out, report);
    out.push_str("</main></body></html>\n");
    out
}

fn when(report: &Report) -> String {
    let lasted = units::brief_figure(report.seconds, "s");
    let began = utc(report.start_seconds);
    let version = env!("CARGO_PKG_VERSION");
    format!("{began}, over {lasted}; drawn by tidemill {version}")
}

/// Date and time of a second of the Unix epoch, in UTC.
fn utc(seconds: f64) -> String {
    let whole = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default().as_secs();
    let (days, rest) = ((whole / 86_400) as i64, whole % 86_400);
    // Civil date from days: years begin in March, so that the leap day is a year's last.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

fn tiles(out: &mut String, outcome: &Outcome) {
    if outcome.figures.is_empty() {
        return;
    }
    out.push_str("<div class=\"tiles\">");
    for figure in &outcome.figures {
        let _ = write!(
            out,
            "<div class=\"tile\"><b>{}</b><span>{}</span></div>",
            escaped(&units::figure(figure.value, &figure.unit)),
            escaped(&figure.name)
        );
    }
    out.push_str("</div>\n");
}

fn summary(out: &mut String, report: &Report) {
    if report.tags.is_empty() {
        let has_figures = report.outcome.as_ref().is_some_and(|o| !o.figures.is_empty());
        out.push_str(match has_figures {
            true => "<p>Single latencies were not recorded.</p>\n",
            false => "<p>Nothing was recorded.</p>\n",
        });
        return;
    }
    out.push_str(
        "<h2>Summary</h2><div class=\"scroll\"><table><tr><th></th><th>count</th><th>mean</th>",
    );
    for (name, _) in QUANTILES {
        let _ = write!(out, "<th>{name}</th>");
    }
    out.push_str("</tr>\n");
    for (tag, whole, _) in &report.tags {
        let class = if charts::is_total(tag) { " class=\"total\"" } else { "" };
        let count = units::count(whole.len());
        let mean = units::nanos(whole.mean());
        let _ = write!(out, "<tr{class}><td>{}</td><td>{count}</td><td>{mean}</td>", escaped(tag));
        for (_, quantile) in QUANTILES {
            let text = if is_told(whole, quantile) {
                units::nanos(whole.value_at_quantile(quantile) as f64)
            } else {
                "–".to_owned()
            };
            let _ = write!(out, "<td>{text}</td>");
        }
        out.push_str("</tr>\n");
    }
    out.push_str(
        "</table></div><p class=\"soft\">– : fewer than ten samples lie above; \
         the value would be chance.</p>\n",
    );
}

/// How much of what the machine can do was used, and what the limits are.
fn shares(out: &mut String, outcome: &Outcome) {
    if outcome.shares.is_empty() {
        return;
    }
    out.push_str("<h2>Share of what the machine can do</h2>");
    drawing(out, |width| charts::shares(width, &outcome.shares));
    out.push_str(
        "<p class=\"soft\">100 % is what a program that does nothing else reached there:</p>\
         <table class=\"env\">",
    );
    let mut told: Vec<&str> = Vec::new();
    for share in &outcome.shares {
        let probe = share.case.split(':').next().unwrap_or_default();
        if !told.contains(&probe) {
            told.push(probe);
            // Mount options say nothing here.
            let place = share.place.split(" (").next().unwrap_or_default();
            let measured = utc(share.measured_unix_ms as f64 / 1000.0);
            let _ = write!(
                out,
                "<tr><td>perf {}</td><td>{}, measured {measured}</td></tr>",
                escaped(probe),
                escaped(place)
            );
        }
    }
    out.push_str("</table>\n");
}

/// A drawing, wide and narrow.
fn drawing(out: &mut String, draw: impl Fn(f64) -> String) {
    let (wide, narrow) = (draw(WIDE), draw(NARROW));
    let _ = writeln!(out, "<div class=\"desk\">{wide}</div><div class=\"phone\">{narrow}</div>");
}

fn section(out: &mut String, group: &Group<'_>, groups: usize) {
    let name = if groups == 1 && group.name == "latency" { "Latency" } else { group.name };
    let _ = writeln!(out, "<h2>{}</h2>", escaped(&capital(name)));
    if !group.can_be_drawn() {
        let count = group.members.iter().map(|(_, whole, _)| whole.len()).max().unwrap_or(0);
        let count = units::count(count);
        let _ = writeln!(out, "<p class=\"soft\">Too few to draw: {count}.</p>");
        return;
    }
    let curves = group.curves();
    let _ = writeln!(out, "<h3>Latency percentiles</h3>");
    drawing(out, |width| charts::percentiles(width, &curves));
    if let Some((stages, whole)) = group.stages() {
        out.push_str("<h3>Where the mean request spends its time</h3>");
        if group.sampled.is_some() {
            let all = group.members.iter().map(|(_, met, _)| met.len()).max().unwrap_or(0);
            let (some, all) = (units::count(whole.len()), units::count(all));
            let words = format!("Stages are of a sample of {some} requests out of {all}.");
            let _ = writeln!(out, "<p class=\"soft\">{words}</p>");
        }
        drawing(out, |width| charts::waterfall(width, &stages, whole));
    }
    let leading = group.leading();
    let (first, rest): (Vec<_>, Vec<_>) =
        group.members.iter().partition(|(tag, ..)| leading.contains(tag));
    for (tag, _, columns) in first.into_iter().filter(|(_, _, columns)| columns.is_history()) {
        let _ = writeln!(out, "<h3>{} over time</h3>", escaped(tag));
        drawing(out, |width| heat::heat_map(width, tag, columns));
    }
    if rest.iter().any(|(_, _, columns)| columns.is_history()) {
        out.push_str("<details><summary>Each stage over time</summary>");
        for (tag, _, columns) in rest {
            let _ = writeln!(out, "<h3>{} over time</h3>", escaped(tag));
            drawing(out, |width| heat::heat_map(width, tag, columns));
        }
        out.push_str("</details>\n");
    }
}

fn capital(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

fn over_time(out: &mut String, outcome: &Outcome, seconds: f64) {
    let mut groups: Vec<(&str, Vec<&Series>)> = Vec::new();
    for series in outcome.series.iter().filter(|series| !series.points.is_empty()) {
        match groups.iter_mut().find(|(group, _)| *group == series.group) {
            Some((_, members)) => members.push(series),
            None => groups.push((&series.group, vec![series])),
        }
    }
    if groups.is_empty() {
        return;
    }
    out.push_str("<h2>Over time</h2>\n");
    let ends = outcome.series.iter().flat_map(|series| series.points.iter().map(|(at, _)| *at));
    let seconds = ends.fold(seconds, f64::max);
    for (group, members) in groups {
        let _ = writeln!(out, "<h3>{}</h3>", escaped(&capital(group)));
        let is_zero = members.iter().flat_map(|s| &s.points).all(|(_, value)| *value == 0.0);
        if is_zero && group != BUSY {
            let names: Vec<_> = members.iter().map(|series| series.name.as_str()).collect();
            let names = escaped(&names.join(", "));
            let _ = writeln!(out, "<p class=\"soft\">None the whole time ({names}).</p>");
        } else if group == BUSY {
            drawing(out, |width| charts::strips(width, seconds, &members));
        } else {
            drawing(out, |width| charts::lines(width, seconds, &members));
        }
    }
}

fn notes(out: &mut String, outcome: &Outcome) {
    if outcome.notes.is_empty() {
        return;
    }
    out.push_str("<h2>Notes</h2><ul>");
    for note in &outcome.notes {
        let _ = write!(out, "<li>{}</li>", escaped(note));
    }
    out.push_str("</ul>\n");
}

fn environment(out: &mut String, report: &Report) {
    let Some(environment) = &report.environment else { return };
    out.push_str("<h2>Environment</h2><table class=\"env\">");
    for (name, value) in &environment.machine {
        let _ = write!(out, "<tr><td>{}</td><td>{}</td></tr>", escaped(name), escaped(value));
    }
    out.push_str("</table>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(utc(0.0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_400.0), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(1_795_395_661.5), "2026-11-23 01:01:01 UTC");
    }
}
