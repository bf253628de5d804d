//! What this machine was measured to do, kept in a TOML file so that others may print shares of
//! it: `tidemill/limits.toml` in the user's state directory (XDG), or a file that was named.
//!
//! ```toml
//! schema = "tidemill.limits/1"
//!
//! [disk]
//! measured_unix_ms = 1795395661000
//! place = "ext4 on /dev/vda (rw,relatime)"
//!
//! [[disk.case]]
//! name = "durable write 4 KiB x 1"
//! per_second = 9000.0
//! bytes_per_second = 36864000.0
//! p50_ns = 105000
//! ```
//!
//! A new measurement of a probe replaces its old one and leaves the others as they are.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{Measured, Probe};

/// The schema of [`Limits`].
pub const LIMITS_SCHEMA: &str = "tidemill.limits/1";

/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// All that was measured of this machine.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Limits {
    /// [`LIMITS_SCHEMA`].
    pub schema: String,
    /// By the probe's name.
    #[serde(flatten)]
    pub probes: BTreeMap<String, ProbeLimits>,
}

/// What one probe found.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ProbeLimits {
    /// When, in milliseconds since the Unix epoch.
    pub measured_unix_ms: u64,
    /// Where: the file system or the processor.
    pub place: String,
    /// Its cases.
    #[serde(rename = "case")]
    pub cases: Vec<CaseLimits>,
}

/// What one case found.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct CaseLimits {
    /// What was done.
    pub name: String,
    /// How often per second.
    pub per_second: f64,
    /// Bytes per second; 0 where that says nothing.
    pub bytes_per_second: f64,
    /// CPU seconds per second, of all threads.
    pub cpu: f64,
    /// Half of them took at most this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50_ns: Option<u64>,
    /// 99 in 100 took at most this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_ns: Option<u64>,
    /// 999 in 1,000 took at most this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p999_ns: Option<u64>,
}

impl CaseLimits {
    fn of(measured: &Measured) -> Self {
        let at = |quantile| measured.latency.as_ref().map(|l| l.value_at_quantile(quantile));
        let seconds = measured.elapsed.as_secs_f64().max(1e-9);
        Self {
            name: measured.name.clone(),
            per_second: measured.per_second(),
            bytes_per_second: measured.bytes_per_second(),
            cpu: measured.cpu.as_secs_f64() / seconds,
            p50_ns: at(0.5),
            p99_ns: at(0.99),
            p999_ns: at(0.999),
        }
    }
}

/// Where the limits of this machine are kept; none if the environment names no directory.
#[must_use]
pub fn usual_file() -> Option<PathBuf> {
    let named = |name: &str| env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let state = named("XDG_STATE_HOME").or_else(|| Some(named("HOME")?.join(".local/state")))?;
    Some(state.join("tidemill").join("limits.toml"))
}

impl Limits {
    /// Reads what was measured before; nothing if there is no such file.
    pub fn read(path: &Path) -> io::Result<Self> {
        let told = |error: &dyn std::fmt::Display| {
            io::Error::other(format!("{}: {error}", path.display()))
        };
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(told(&error)),
            Ok(found) if FILE_BYTES_MAX < found.len() => return Err(told(&"too large")),
            Ok(_) => {}
        }
        let text = fs::read_to_string(path).map_err(|error| told(&error))?;
        let limits: Self = toml::from_str(&text).map_err(|error| told(&error))?;
        if limits.schema == LIMITS_SCHEMA {
            Ok(limits)
        } else {
            let schema = limits.schema;
            Err(told(&format!("its schema is {schema:?}, we read {LIMITS_SCHEMA:?}")))
        }
    }

    /// Puts a new measurement in the place of the old one.
    pub fn replace(&mut self, probe: Probe, place: &str, measured: &[Measured]) {
        self.schema = LIMITS_SCHEMA.to_owned();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let limits = ProbeLimits {
            measured_unix_ms: now.as_millis() as u64,
            place: place.to_owned(),
            cases: measured.iter().map(CaseLimits::of).collect(),
        };
        self.probes.insert(probe.name().to_owned(), limits);
    }

    /// Writes the file, making its directory; a reader finds the old or the new one, whole.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            fs::create_dir_all(dir)?;
        }
        let text = toml::to_string_pretty(self).map_err(io::Error::other)?;
        let fresh = path.with_extension("toml.new");
        fs::write(&fresh, text)?;
        fs::rename(&fresh, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::tests::fresh_dir;
    use std::time::Duration;

    fn measured(name: &str, bytes: u64) -> Measured {
        let mut latency = crate::counts::empty();
        latency.record(1000).unwrap();
        Measured {
            name: name.to_owned(),
            count: 10,
            bytes,
            elapsed: Duration::from_secs(2),
            cpu: Duration::from_secs(1),
            latency: Some(latency),
        }
    }

    /// What was measured of one thing stays when another is measured again.
    #[test]
    fn limits_are_kept_probe_by_probe() {
        let dir = fresh_dir("limits");
        let path = dir.join("state").join("limits.toml");
        let mut limits = Limits::read(&path).unwrap();
        limits.replace(Probe::Disk, "ext4", &[measured("durable write", 2000)]);
        limits.write(&path).unwrap();
        let mut again = Limits::read(&path).unwrap();
        assert_eq!(again, limits);
        again.replace(Probe::Net, "loopback", &[measured("echo", 0), measured("stream", 8000)]);
        again.write(&path).unwrap();
        let both = Limits::read(&path).unwrap();
        assert_eq!(both.probes["disk"].cases[0].bytes_per_second, 1000.0);
        assert_eq!(both.probes["net"].cases[1].bytes_per_second, 4000.0);
        fs::write(&path, "schema = \"tidemill.limits/9\"\n").unwrap();
        assert!(Limits::read(&path).unwrap_err().to_string().contains("limits/9"));
        fs::remove_dir_all(&dir).unwrap();
    }
}
