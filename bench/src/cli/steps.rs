//! Several runs, one after the other, each at another rate: a sweep, and the search for the highest
//! rate that meets an objective. For people they are the lines of one table.

use tidemill_perf::units;

use super::{RunArguments, Session};
use crate::report::Report;
use crate::report::text::quantile_text;
use crate::search::Search;
use crate::settings::Settings;
use crate::stop;
use crate::trouble::Trouble;

/// What is shown of each step.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

/// Runs at each of the rates.
pub(super) fn sweep(
    run: &RunArguments,
    settings: &Settings,
    rates: &[f64],
    session: &mut Session,
) -> Result<(), Trouble> {
    begin_table(settings, session);
    let mut worst = Ok(());
    for (nth, rate) in rates.iter().enumerate() {
        let report = step(run, settings, *rate, nth == 0, session)?;
        let ending = session.judge(&report);
        // A run that was not clean says more than an objective that was missed.
        let is_worse = match (&ending, &worst) {
            (Err(now), Err(before)) => !now.is_missed() && Trouble::is_missed(before),
            (now, _) => now.is_err(),
        };
        if is_worse {
            worst = ending;
        }
    }
    worst
}

/// Searches the highest rate that meets the objective.
pub(super) fn find_max(
    run: &RunArguments,
    settings: &Settings,
    session: &mut Session,
) -> Result<(), Trouble> {
    begin_table(settings, session);
    // What is too much for a broker need not be worked off to the last record.
    let mut settings = settings.clone();
    settings.drain = settings.drain.min(settings.duration());
    let mut search = Search::from(settings.phases[0].arrival.rate().unwrap_or(10_000.0));
    let mut of_generator = false;
    while let Some(rate) = search.next() {
        let is_first = search.met.is_none() && search.missed.is_none();
        let report = step(run, &settings, rate, is_first, session)?;
        // Neither is for want of speed.
        if report.is_harmed() || report.is_idle() {
            return session.judge(&report);
        }
        let met = report.is_clean() && report.missed().is_empty();
        if !met {
            of_generator = report.is_generator_bound();
        }
        search.tell(met);
    }
    tell_found(&search, &settings, of_generator, session);
    match search.met {
        Some(_) => Ok(()),
        None => Err(Trouble::missed("the objective was not met at any rate that was tried")),
    }
}

fn tell_found(search: &Search, settings: &Settings, of_generator: bool, session: &Session) {
    let Some(met) = search.met else { return };
    let objective = settings.phases[0].objective.as_ref();
    let objective = objective.map(ToString::to_string).unwrap_or_default();
    if session.json {
        let found = serde_json::json!({
            "find_max_records_per_second": met,
            "missed_at_records_per_second": search.missed,
            "objective": objective,
            "generator_bound": of_generator,
        });
        println!("{found}");
        return;
    }
    let shape = &settings.phases[0].shape;
    let bytes = met * (shape.value_bytes_min + shape.value_bytes_max) as f64 / 2.0;
    let bytes = units::figure(bytes, "B/s");
    print!("  {objective} is met at {met:.0} records/s ({bytes} of values)");
    match search.missed {
        Some(missed) => println!(", and missed at {missed:.0}"),
        None => println!(", the highest that was tried"),
    }
    if of_generator {
        println!("  there the load generator may have been the limit, not the broker");
    }
}

fn begin_table(settings: &Settings, session: &Session) {
    if session.json {
        return;
    }
    let objective = settings.phases[0].objective.as_ref();
    let objective = objective.map(|objective| format!(", {objective}")).unwrap_or_default();
    let latency = if settings.readers.is_some() { "end to end" } else { "to the acknowledgement" };
    let each = settings.duration().as_secs_f64();
    println!("{}: steps of {each} s, latency {latency}{objective}", settings.name);
    let quantiles: String = QUANTILES.iter().map(|(name, _)| format!("{name:>9}")).collect();
    println!("  {:>11} {:>11} {quantiles}", "records/s", "answered");
}

/// The same run at another rate, on a topic whose ends are where they are by now.
fn step(
    run: &RunArguments,
    settings: &Settings,
    rate: f64,
    is_first: bool,
    session: &mut Session,
) -> Result<Report, Trouble> {
    stop::check()?;
    let mut again = settings.clone();
    if !is_first {
        run.broker.clean_up(session.is_harmed)?;
        again.topic = run.broker.prepare(&run.making)?;
    }
    again.name = format!("{} at {rate:.0} records/s", settings.name);
    for phase in &mut again.phases {
        phase.arrival = phase.arrival.at_rate(rate);
    }
    session.watch.begin_run(&format!("{rate:.0}"));
    let report = session.measure(&again)?;
    if !session.json {
        println!("{}", line(&report, rate));
    }
    Ok(report)
}

fn line(report: &Report, rate: f64) -> String {
    let part = report.whole();
    let answered = part.tally.acked_records as f64 / part.elapsed.as_secs_f64().max(1e-9);
    let histogram = part.tally.histogram(report.measure());
    let mut line = format!("  {rate:>11.0} {answered:>11.0} ");
    for (_, quantile) in QUANTILES {
        let text = histogram.and_then(|histogram| quantile_text(histogram, quantile));
        line += &format!("{:>9}", text.unwrap_or_else(|| "–".to_owned()));
    }
    let mut after = Vec::new();
    let (complaints, missed) = (report.complaints(), report.missed());
    if !complaints.is_empty() {
        after.push(format!("NOT CLEAN: {}", complaints.join("; ")));
        after.extend(report.ends.troubles.texts().into_iter().next());
    } else if !missed.is_empty() {
        after.push(format!("missed: {}", missed.join("; ")));
    } else if report.settings.phases[0].objective.is_some() {
        after.push("met".to_owned());
    }
    let bound = if report.is_generator_bound() { " (the generator may be the limit)" } else { "" };
    format!("{line}  {}{bound}", after.join("; ")).trim_end().to_owned()
}
