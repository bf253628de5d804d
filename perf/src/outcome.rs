//! A result directory: what was measured, where, and how it came out.
//!
//! ```text
//! run/
//!   env.json       the machine and the command line             tidemill.env/1
//!   latency.hlog   histograms by interval and tag; more .hlog files may lie beside it
//!   result.json    figures, series over time, notes             tidemill.result/1
//!   report.html    made from the three by `tidemill perf report`
//! ```
//!
//! Whoever measures (the recorder, the load generator) writes the first three; whoever reports or
//! compares reads them. Fields may be added within a version; a change of meaning is a new one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::hlog::Log;
use crate::machine::share::Share;

/// The schema of [`Outcome`].
pub const RESULT_SCHEMA: &str = "tidemill.result/1";

/// The schema of [`Environment`].
pub const ENV_SCHEMA: &str = "tidemill.env/1";

/// The largest JSON file that is read.
const JSON_BYTES_MAX: u64 = 256 << 20;

/// `result.json`: what came of a run, beside its histograms.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Outcome {
    /// [`RESULT_SCHEMA`].
    pub schema: String,
    /// What was done, in a few words.
    pub title: String,
    /// When it began, in milliseconds since the Unix epoch.
    pub started_unix_ms: u64,
    /// How long it was measured.
    pub seconds: f64,
    /// Single figures.
    #[serde(default)]
    pub figures: Vec<Figure>,
    /// Rates beside the most this machine was measured to do; empty if nothing was measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<Share>,
    /// Figures over time.
    #[serde(default)]
    pub series: Vec<Series>,
    /// What a reader has to know.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// One figure.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Figure {
    /// What it says.
    pub name: String,
    /// In base units.
    pub value: f64,
    /// `s`, `ns`, `B`, `B/s`, `requests/s`, `ratio` and the like; empty for a number.
    pub unit: String,
}

impl Figure {
    /// A figure of this name.
    #[must_use]
    pub fn new(name: &str, value: f64, unit: &str) -> Self {
        Self { name: name.to_owned(), value, unit: unit.to_owned() }
    }
}

/// A figure over time.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Series {
    /// Series of one group are drawn together.
    pub group: String,
    /// Which one of the group.
    pub name: String,
    /// As of a figure; the same for all of a group.
    pub unit: String,
    /// Seconds since the start, and the value.
    pub points: Vec<(f64, f64)>,
}

/// The group of the series that say how busy each shard is: drawn as strips, from 0 to 1.
pub const BUSY: &str = "shard busy";

impl Series {
    /// A series without points.
    #[must_use]
    pub fn new(group: &str, name: &str, unit: &str) -> Self {
        Self {
            group: group.to_owned(),
            name: name.to_owned(),
            unit: unit.to_owned(),
            points: Vec::new(),
        }
    }

    /// How busy a shard, or a core, is.
    #[must_use]
    pub fn busy(name: &str) -> Self {
        Self::new(BUSY, name, "ratio")
    }
}

impl Outcome {
    /// A run that begins at `start`.
    #[must_use]
    pub fn new(title: &str, start: SystemTime) -> Self {
        let started = start.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            schema: RESULT_SCHEMA.to_owned(),
            title: title.to_owned(),
            started_unix_ms: started.as_millis() as u64,
            ..Self::default()
        }
    }

    /// A point of a series, which is begun if it is not there.
    pub fn add(&mut self, at_seconds: f64, series: Series, value: f64) {
        let same = |other: &&mut Series| other.group == series.group && other.name == series.name;
        match self.series.iter_mut().find(same) {
            Some(known) => known.points.push((at_seconds, value)),
            None => self.series.push(Series { points: vec![(at_seconds, value)], ..series }),
        }
    }
}

/// `env.json`: the machine and the command line.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Environment {
    /// [`ENV_SCHEMA`].
    pub schema: String,
    /// The command line.
    pub command: Vec<String>,
    /// What is worth knowing of the machine, by name.
    pub machine: BTreeMap<String, String>,
}

impl Environment {
    /// This machine, and the command line of this process. `dir` tells of which file system.
    #[must_use]
    pub fn of_this_machine(dir: &Path) -> Self {
        let text = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).ok();
        let first = |path: &str, label: &str| {
            let text = text(path)?;
            let line = text.lines().find(|line| line.starts_with(label))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let mut machine = BTreeMap::new();
        let mut note = |name: &str, value: Option<String>| {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                machine.insert(name.to_owned(), value);
            }
        };
        note("version", Some(env!("CARGO_PKG_VERSION").to_owned()));
        note("kernel", text("/proc/sys/kernel/osrelease"));
        note("processor", first("/proc/cpuinfo", "model name"));
        let cores = std::thread::available_parallelism().ok();
        note("cores usable", cores.map(|cores| cores.to_string()));
        note("memory", first("/proc/meminfo", "MemTotal").map(|size| gibibytes(&size)));
        let system = "/sys/devices/system";
        note("governor", text(&format!("{system}/cpu/cpu0/cpufreq/scaling_governor")));
        note(
            "clock source",
            text(&format!("{system}/clocksource/clocksource0/current_clocksource")),
        );
        note("mitigations", text(&format!("{system}/cpu/vulnerabilities/spectre_v2")));
        note("file system", file_system_of(dir));
        note("load before", text("/proc/loadavg"));
        let command = std::env::args().collect();
        Self { schema: ENV_SCHEMA.to_owned(), command, machine }
    }
}

fn gibibytes(kibibytes: &str) -> String {
    let number = kibibytes.split(' ').next().and_then(|number| number.parse::<f64>().ok());
    number.map_or_else(|| kibibytes.to_owned(), |kib| format!("{:.1} GiB", kib / 1024.0 / 1024.0))
}

/// Kind and mount options of the file system that holds `dir`: the longest mount point that
/// leads to it.
fn file_system_of(dir: &Path) -> Option<String> {
    let dir = dir.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let leading = fields.filter(|f| 4 <= f.len() && dir.starts_with(f[1]));
    leading.max_by_key(|f| f[1].len()).map(|f| format!("{} on {} ({})", f[2], f[0], f[3]))
}

/// A result directory.
#[derive(Clone, Debug)]
pub struct ResultDir {
    path: PathBuf,
}

/// All that was found in a result directory, or in a single log.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The machine; none for a single log.
    pub environment: Option<Environment>,
    /// The result; none for a single log.
    pub outcome: Option<Outcome>,
    /// The histograms of all logs.
    pub log: Log,
}

impl ResultDir {
    /// Makes the directory; it is no error if it exists.
    pub fn create(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        Ok(Self { path: path.to_owned() })
    }

    /// A file in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The log, to be written.
    pub fn create_log(&self) -> io::Result<File> {
        File::create(self.file("latency.hlog"))
    }

    /// Writes what stands beside the log.
    pub fn write(&self, environment: &Environment, outcome: &Outcome) -> io::Result<()> {
        write_json(&self.file("env.json"), environment)?;
        write_json(&self.file("result.json"), outcome)
    }
}

fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
    text.push('\n');
    fs::write(path, text)
}

/// Reads a result directory, or a single `.hlog` file.
pub fn find(path: &Path) -> io::Result<Found> {
    if !path.is_dir() {
        return Ok(Found { log: read_log(path)?, ..Found::default() });
    }
    let environment: Option<Environment> = read_json(&path.join("env.json"))?;
    let outcome: Option<Outcome> = read_json(&path.join("result.json"))?;
    let schemas = [
        environment.as_ref().map(|found| (ENV_SCHEMA, found.schema.as_str())),
        outcome.as_ref().map(|found| (RESULT_SCHEMA, found.schema.as_str())),
    ];
    for (ours, found) in schemas.into_iter().flatten() {
        if ours != found {
            let why = format!("{}: its schema is {found:?}, we read {ours:?}", path.display());
            return Err(io::Error::other(why));
        }
    }
    let mut names: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(path)? {
        let name = entry?.path();
        if name.extension().is_some_and(|extension| extension == "hlog") {
            names.push(name);
        }
    }
    names.sort();
    let mut log: Option<Log> = None;
    for name in &names {
        let next = read_log(name)?;
        match &mut log {
            None => log = Some(next),
            Some(log) => {
                let later = next.start_seconds - log.start_seconds;
                log.intervals.extend(next.intervals.into_iter().map(|mut interval| {
                    interval.offset += later;
                    interval
                }));
            }
        }
    }
    let missing = || io::Error::other(format!("{} holds no .hlog file", path.display()));
    Ok(Found { environment, outcome, log: log.ok_or_else(missing)? })
}

fn read_log(path: &Path) -> io::Result<Log> {
    let told =
        |error: &dyn std::fmt::Display| io::Error::other(format!("{}: {error}", path.display()));
    let file = File::open(path).map_err(|error| told(&error))?;
    Log::read(BufReader::new(file)).map_err(|error| told(&error))
}

/// A JSON file; none if there is no such file.
fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let told =
        |error: &dyn std::fmt::Display| io::Error::other(format!("{}: {error}", path.display()));
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(told(&error)),
    };
    if JSON_BYTES_MAX < file.metadata()?.len() {
        return Err(told(&"too large for a result"));
    }
    serde_json::from_reader(BufReader::new(file)).map(Some).map_err(|error| told(&error))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::hlog::Writer;
    use std::time::Duration;

    /// A directory for a test, empty; removed by whoever made it.
    pub(crate) fn fresh_dir(name: &str) -> PathBuf {
        let name = format!("tidemill-perf-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        drop(fs::remove_dir_all(&path));
        path
    }

    /// What a run wrote is what a reader of its directory finds.
    #[test]
    fn a_result_directory_is_read_back() {
        let path = fresh_dir("outcome");
        let start = UNIX_EPOCH + Duration::from_secs(1000);
        let mut outcome = Outcome::new("a test", start);
        outcome.add(1.0, Series::busy("shard 0"), 0.5);
        outcome.add(2.0, Series::busy("shard 0"), 0.75);
        assert_eq!(outcome.series.len(), 1);
        let dir = ResultDir::create(&path).unwrap();
        let environment = Environment::of_this_machine(&path);
        assert!(environment.machine.contains_key("kernel"));
        dir.write(&environment, &outcome).unwrap();
        assert!(find(&path).unwrap_err().to_string().contains("no .hlog"));
        let mut log = Writer::new(dir.create_log().unwrap(), start, &[]).unwrap();
        let mut histogram = crate::counts::empty();
        histogram.record(1000).unwrap();
        log.write("a", Duration::ZERO, Duration::from_secs(1), &histogram).unwrap();
        let found = find(&path).unwrap();
        assert_eq!(found.outcome, Some(outcome));
        assert_eq!(found.environment, Some(environment));
        assert_eq!(found.log.tags(), ["a"]);
        fs::remove_dir_all(&path).unwrap();
    }

    /// A result of a later version is refused, not misread.
    #[test]
    fn a_later_schema_is_refused() {
        let path = fresh_dir("schema");
        fs::create_dir_all(&path).unwrap();
        let later = r#"{"schema":"tidemill.result/2","title":"","started_unix_ms":0,"seconds":1}"#;
        fs::write(path.join("result.json"), later).unwrap();
        assert!(find(&path).unwrap_err().to_string().contains("tidemill.result/2"));
        fs::remove_dir_all(&path).unwrap();
    }
}
