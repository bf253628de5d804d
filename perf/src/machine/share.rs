//! A rate beside the most this machine was measured to do of the same thing: "34 % of the disk".
//!
//! A share says how much is left, and which wall is met first. It is of this machine only: whoever
//! watches a broker elsewhere has no limits to compare with. It promises nothing either: a broker
//! does more than move bytes, so no run comes to 100 % of everything, and a disk with a cache may
//! do more for a while than it did when it was measured.
//!
//! Start reading at [`Limits::shares`].

use std::io;

use serde::{Deserialize, Serialize};

use super::Probe;
use super::limits::{CaseLimits, Limits, usual_file};
use crate::outcome::Figure;
use crate::units;

/// Something of which there is a most per second.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Flow {
    /// Bytes written to the disk, by all.
    DiskWrites,
    /// Bytes read from the disk, by all.
    DiskReads,
    /// Bytes received over loopback, by all.
    BytesIn,
    /// Bytes sent over loopback, by all.
    BytesOut,
    /// Messages from one shard to one other.
    MeshMessages,
    /// Bytes that one core has to checksum.
    Checksums,
}

impl Flow {
    /// Its name in every output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DiskWrites => "disk writes",
            Self::DiskReads => "disk reads",
            Self::BytesIn => "bytes in",
            Self::BytesOut => "bytes out",
            Self::MeshMessages => "mesh messages",
            Self::Checksums => "checksums",
        }
    }

    /// What is counted per second.
    #[must_use]
    pub const fn unit(self) -> &'static str {
        match self {
            Self::MeshMessages => "/s",
            _ => "B/s",
        }
    }

    /// What measures the most of it.
    #[must_use]
    pub const fn probe(self) -> Probe {
        match self {
            Self::DiskWrites | Self::DiskReads => Probe::Disk,
            Self::BytesIn | Self::BytesOut => Probe::Net,
            Self::MeshMessages => Probe::Mesh,
            Self::Checksums => Probe::Cpu,
        }
    }

    /// Whether a case of that probe does the same thing.
    fn is_done_by(self, case: &str) -> bool {
        let begins = |words: &[&str]| words.iter().any(|word| case.starts_with(word));
        match self {
            Self::DiskWrites => begins(&["write", "durable write", "random write"]),
            Self::DiskReads => begins(&["read", "random read"]),
            Self::BytesIn | Self::BytesOut => begins(&["stream"]),
            // A round trip is one message in each direction.
            Self::MeshMessages => begins(&["round trip"]),
            Self::Checksums => begins(&["crc32c"]),
        }
    }

    fn rate_of(self, case: &CaseLimits) -> f64 {
        match self {
            Self::MeshMessages => case.per_second,
            _ => case.bytes_per_second,
        }
    }
}

/// A rate, and the most there can be of it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Share {
    /// What flows: [`Flow::name`].
    pub name: String,
    /// How much of it per second.
    pub rate: f64,
    /// `B/s` or `/s`.
    pub unit: String,
    /// The most there was per second when it was measured; above zero.
    pub most: f64,
    /// In which case of which probe, such as `disk: write 1 MiB x 4`.
    pub case: String,
    /// On what: the file system or the processor.
    pub place: String,
    /// When, in milliseconds since the Unix epoch.
    pub measured_unix_ms: u64,
}

impl Share {
    /// The share: 0.34 is 34 %.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.rate / self.most.max(1e-9)
    }

    /// As a figure of a result: `disk writes of the limit`.
    #[must_use]
    pub fn figure(&self) -> Figure {
        Figure::new(&format!("{} of the limit", self.name), self.ratio(), "ratio")
    }

    /// One line for people: `disk writes: 34 % of 1.9 GB/s (disk: write 1 MiB x 4)`.
    #[must_use]
    pub fn to_text(&self) -> String {
        let most = units::brief_figure(self.most, &self.unit);
        format!("{}: {} of {most} ({})", self.name, percent(self.ratio()), self.case)
    }
}

/// A share in percent, to the precision that a limit has: `34 %`, `0.7 %`.
#[must_use]
pub fn percent(ratio: f64) -> String {
    let hundred = ratio * 100.0;
    if hundred == 0.0 || 9.95 <= hundred {
        format!("{hundred:.0} %")
    } else if 0.05 <= hundred {
        format!("{hundred:.1} %")
    } else {
        "< 0.1 %".to_owned()
    }
}

impl Limits {
    /// What was measured of this machine by whoever asks; nothing if nothing was, or if the
    /// environment names no place to keep it.
    pub fn usual() -> io::Result<Self> {
        usual_file().map_or_else(|| Ok(Self::default()), |file| Self::read(&file))
    }

    /// Each rate beside the most there can be of it; those of which nothing was measured are left
    /// out, so all are if `tidemill perf disk|net|mesh|cpu` was never run.
    #[must_use]
    pub fn shares(&self, rates: &[(Flow, f64)]) -> Vec<Share> {
        rates.iter().filter_map(|(flow, rate)| self.share(*flow, *rate)).collect()
    }

    /// A rate beside the most there can be of it; none if that was not measured.
    #[must_use]
    pub fn share(&self, flow: Flow, rate: f64) -> Option<Share> {
        let probe = flow.probe();
        let measured = self.probes.get(probe.name())?;
        let cases = measured.cases.iter().filter(|case| flow.is_done_by(&case.name));
        let most = cases.max_by(|a, b| flow.rate_of(a).total_cmp(&flow.rate_of(b)))?;
        let share = Share {
            name: flow.name().to_owned(),
            rate,
            unit: flow.unit().to_owned(),
            most: flow.rate_of(most),
            case: format!("{}: {}", probe.name(), most.name),
            place: measured.place.clone(),
            measured_unix_ms: measured.measured_unix_ms,
        };
        // A case that did nothing is no limit.
        (0.0 < share.most && share.most.is_finite()).then_some(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::limits::ProbeLimits;
    use crate::machine::{disk, mesh, net};
    use std::time::Duration;

    fn limits(probe: Probe, cases: &[(&str, f64, f64)]) -> Limits {
        let case = |(name, per_second, bytes_per_second): &(&str, f64, f64)| CaseLimits {
            name: (*name).to_owned(),
            per_second: *per_second,
            bytes_per_second: *bytes_per_second,
            ..CaseLimits::default()
        };
        let cases = cases.iter().map(case).collect();
        let probe_limits = ProbeLimits { measured_unix_ms: 7, place: "here".to_owned(), cases };
        let mut limits = Limits::default();
        limits.probes.insert(probe.name().to_owned(), probe_limits);
        limits
    }

    /// The limit is the fastest case that does the same thing, whatever the others reach.
    #[test]
    fn a_share_is_of_the_fastest_case_of_its_kind() {
        let disk = limits(
            Probe::Disk,
            &[
                ("write 1 MiB x 4", 2e3, 2e9),
                ("durable write 1 MiB x 4", 1e3, 1e9),
                ("read 1 MiB x 4", 4e3, 4e9),
            ],
        );
        let writes = disk.share(Flow::DiskWrites, 5e8).unwrap();
        assert_eq!((writes.ratio(), writes.measured_unix_ms), (0.25, 7));
        assert_eq!(writes.to_text(), "disk writes: 25 % of 2 GB/s (disk: write 1 MiB x 4)");
        assert_eq!(disk.share(Flow::DiskReads, 1e9).unwrap().ratio(), 0.25);
        let mesh =
            limits(Probe::Mesh, &[("round trip x 1", 1e5, 0.0), ("round trip x 256", 5e6, 0.0)]);
        assert_eq!(mesh.share(Flow::MeshMessages, 1e6).unwrap().ratio(), 0.2);
    }

    /// What was not measured has no share, and neither has what came to nothing.
    #[test]
    fn what_was_not_measured_has_no_share() {
        let net =
            limits(Probe::Net, &[("stream 1 MiB x 1", 0.0, 0.0), ("echo 64 B x 1", 9.0, 9.0)]);
        let rates = [(Flow::DiskWrites, 1.0), (Flow::BytesIn, 1.0), (Flow::Checksums, 1.0)];
        assert_eq!(net.shares(&rates), []);
        assert_eq!(Limits::default().shares(&rates), []);
    }

    /// Each flow finds a case among those that are measured: none was renamed away from it.
    #[test]
    fn each_flow_has_a_case_that_measures_it() {
        let second = Duration::from_secs(1);
        let names: Vec<String> = disk::cases(second).iter().map(disk::Case::name).collect();
        for flow in [Flow::DiskWrites, Flow::DiskReads] {
            assert!(names.iter().any(|name| flow.is_done_by(name)), "{flow:?}: {names:?}");
        }
        assert!(net::names().any(|name| Flow::BytesIn.is_done_by(name)));
        assert!(mesh::names().any(|name| Flow::MeshMessages.is_done_by(&name)));
        let cpu = crate::machine::cpu::names();
        assert!(cpu.iter().any(|name| Flow::Checksums.is_done_by(name)));
    }

    #[test]
    fn percents_are_as_exact_as_a_limit_is() {
        let told = [0.0, 0.0001, 0.0005, 0.0123, 0.0994, 0.0996, 0.5, 1.125].map(percent);
        assert_eq!(told, ["0 %", "< 0.1 %", "0.1 %", "1.2 %", "9.9 %", "10 %", "50 %", "112 %"]);
    }
}
