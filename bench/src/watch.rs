//! Whoever follows a run while it goes: the line on a terminal, the histogram log, and the series
//! over time of the result directory.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tidemill_perf::hlog;
use tidemill_perf::outcome::{self, Environment, Outcome, ResultDir, Series};
use tidemill_perf::report::Report as Page;
use tidemill_perf::units;
use tidemill_runtime::clock;
use tidemill_runtime::edge::Instant;

use crate::plan::Plan;
use crate::progress::Progress;
use crate::report::Report;
use crate::tally::{MEASURES, Measure, Tallies};
use crate::usage::Usage;

/// What happened since the last moment.
pub struct Moment<'a> {
    /// The last moment.
    pub since: Instant,
    /// This one.
    pub now: Instant,
    /// The run.
    pub plan: &'a Plan,
    /// What was measured between the two, by phase.
    pub tallies: &'a Tallies,
    /// What the broker used between the two, and its memory now.
    pub broker: Option<Usage>,
    /// What the generator used between the two.
    pub generator_cpu: Duration,
}

/// Passes on what happened since the last moment, to another process.
pub type Forward = Box<dyn FnMut(&Tallies, Duration) -> io::Result<()>>;

/// A result directory that is being written.
struct Keeping {
    dir: ResultDir,
    path: PathBuf,
    log: hlog::Writer<File>,
    begun: Instant,
    outcome: Outcome,
    /// Before each tag: which of several runs it is.
    prefix: String,
    /// The names of the phases, if there are several.
    phases: Vec<String>,
}

/// Follows a run, or several after each other.
#[derive(Default)]
pub struct Watch {
    keeping: Option<Keeping>,
    progress: Progress,
    forward: Option<Forward>,
}

impl Watch {
    /// Shows and writes nothing.
    #[must_use]
    pub fn silent() -> Self {
        Self::default()
    }

    /// Passes everything on to another process, which follows the run.
    #[must_use]
    pub fn forwarding(forward: Forward) -> Self {
        Self { forward: Some(forward), ..Self::default() }
    }

    /// Shows a line on a terminal, and writes a result directory if one is named.
    pub fn new(dir: Option<&Path>, title: &str) -> io::Result<Self> {
        let keeping = match dir {
            None => None,
            Some(path) => {
                let start = SystemTime::now();
                let dir = ResultDir::create(path)?;
                let log = hlog::Writer::new(dir.create_log()?, start, &[title])?;
                let outcome = Outcome::new(title, start);
                let begun = clock::monotonic();
                let (path, prefix, phases) = (path.to_owned(), String::new(), Vec::new());
                Some(Keeping { dir, path, log, begun, outcome, prefix, phases })
            }
        };
        Ok(Self { keeping, progress: Progress::on_stderr(), forward: None })
    }

    /// The next run is one of several, of this name.
    pub fn begin_run(&mut self, name: &str) {
        if let Some(keeping) = &mut self.keeping {
            keeping.prefix = format!("{name}-");
        }
    }

    /// The phases of the next run.
    pub fn name_phases(&mut self, names: &[&str]) {
        if let Some(keeping) = &mut self.keeping {
            keeping.phases = names.iter().map(|name| (*name).to_owned()).collect();
        }
    }

    /// Something that a person who waits wants to know.
    pub fn say(&self, words: &str) {
        self.progress.say(words);
    }

    /// A second has passed.
    pub fn tick(&mut self, moment: Moment<'_>) -> io::Result<()> {
        if self.progress.has_line() {
            self.say(&line(&moment));
        }
        if let Some(forward) = &mut self.forward {
            forward(moment.tallies, moment.generator_cpu)?;
        }
        match &mut self.keeping {
            Some(keeping) => keeping.take(&moment),
            None => Ok(()),
        }
    }

    /// Takes the line away.
    pub fn clear(&self) {
        self.progress.clear();
    }

    /// The figures of a run that has ended.
    pub fn take_report(&mut self, report: &Report) {
        self.clear();
        if let Some(keeping) = &mut self.keeping {
            let prefix = keeping.prefix.replace('-', " ");
            for mut figure in report.figures() {
                figure.name = format!("{prefix}{}", figure.name);
                keeping.outcome.figures.push(figure);
            }
            let remarks = report.remarks().into_iter().map(|text| format!("{prefix}{text}"));
            keeping.outcome.notes.extend(remarks);
            keeping.outcome.shares = report.shares();
            keeping.outcome.seconds += report.whole().elapsed.as_secs_f64();
        }
    }

    /// Writes what is left, and the page; tells where.
    pub fn finish(self) -> io::Result<Option<PathBuf>> {
        let Some(mut keeping) = self.keeping else { return Ok(None) };
        keeping.log.flush()?;
        let environment = Environment::of_this_machine(&keeping.path);
        keeping.dir.write(&environment, &keeping.outcome)?;
        let page = Page::of(outcome::find(&keeping.path)?).map_err(io::Error::other)?;
        page.write(&keeping.path)?;
        Ok(Some(keeping.path))
    }
}

impl Keeping {
    fn take(&mut self, moment: &Moment<'_>) -> io::Result<()> {
        let Moment { since, now, tallies, .. } = *moment;
        let (offset, length) = (since.since(self.begun), now.since(since));
        for (phase, tally) in tallies.by_phase().iter().enumerate() {
            let name = self.phases.get(phase).filter(|_| 1 < self.phases.len());
            let name = name.map(|name| format!("{name}-")).unwrap_or_default();
            for (measure, tag) in MEASURES {
                if let Some(histogram) = tally.histogram(measure) {
                    let tag = format!("{}{name}{tag}", self.prefix);
                    self.log.write(&tag, offset, length, histogram)?;
                }
            }
        }
        let seconds = length.as_secs_f64();
        if seconds < 0.1 {
            return Ok(());
        }
        let tally = tallies.whole();
        let at = now.since(self.begun).as_secs_f64();
        let mut add = |group: &str, name: &str, unit: &str, value: f64| {
            self.outcome.add(at, Series::new(group, name, unit), value);
        };
        add("throughput", "acknowledged", "B/s", tally.acked_bytes as f64 / seconds);
        add("throughput", "read", "B/s", tally.read_bytes as f64 / seconds);
        add("records", "acknowledged", "records/s", tally.acked_records as f64 / seconds);
        add("records", "read", "records/s", tally.read_records as f64 / seconds);
        let cores = |cpu: Duration| cpu.as_secs_f64() / seconds;
        add("processor", "generator", "cores", cores(moment.generator_cpu));
        if let Some(broker) = moment.broker {
            add("processor", "broker", "cores", cores(broker.cpu));
            add("memory", "broker", "B", broker.resident_bytes as f64);
        }
        Ok(())
    }
}

fn line(moment: &Moment<'_>) -> String {
    let Moment { since, now, plan, tallies, .. } = moment;
    let tally = tallies.whole();
    let seconds = now.since(*since).as_secs_f64().max(1e-9);
    let rate = |count: u64, unit| units::figure(count as f64 / seconds, unit);
    let mut text = if *now < plan.measure_from {
        "warming up".to_owned()
    } else if *now < plan.end() {
        let window = plan.end().since(plan.measure_from).as_secs();
        format!("{} of {window} s", now.since(plan.measure_from).as_secs())
    } else {
        "ending".to_owned()
    };
    if let Some(phase) = plan.phase_of(*now).filter(|_| 1 < plan.ends().len()) {
        text += &format!(", phase {} of {}", phase + 1, plan.ends().len());
    }
    if 0 < tally.acked_records {
        text += &format!(
            "  produced {}, {}",
            rate(tally.acked_bytes, "B/s"),
            rate(tally.acked_records, "records/s")
        );
    } else if tally.read_bytes == 0 && plan.measure_from <= *now {
        text += "  no answers";
    }
    if 0 < tally.read_bytes {
        text += &format!("  read {}", rate(tally.read_bytes, "B/s"));
    }
    for (measure, name) in [(Measure::Ack, "ack"), (Measure::EndToEnd, "end to end")] {
        if let Some(histogram) = tally.histogram(measure) {
            let at = |quantile| units::nanos(histogram.value_at_quantile(quantile) as f64);
            text += &format!("  {name} p50 {} p99 {}", at(0.5), at(0.99));
        }
    }
    if 0 < tally.errors {
        text += &format!("  {} errors", tally.errors);
    }
    text
}
