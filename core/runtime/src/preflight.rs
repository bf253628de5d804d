//! Can this machine run us? Each probe says yes, slower, or no; with its cause and its cure.
//!
//! Probes try what the broker will do rather than ask whether it should work: they make a ring,
//! write a block past the page cache, bind the ports. They leave nothing behind (but for the soft
//! limit of open files, which is raised to the hard one) and take a few milliseconds together.
//!
//! What cannot run is refused with the probe's text: there is no second way to do I/O.
//!
//! Start reading at [`check`].

mod disk;
mod ring;

pub use disk::writable_fix;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::kernel::{KERNEL_MIN, KernelVersion};
use crate::socket::free_address;
use crate::topology::{self, Limits};

/// Fewer open files than this cannot hold the journals and a handful of connections.
const OPEN_FILES_MIN: u64 = 256;
/// With fewer, a busy node runs out: a file per partition in use, a socket per client.
const OPEN_FILES_WANTED: u64 = 65_536;
/// The background executor's ring needs this much locked memory, or does without.
const LOCKED_BYTES_WANTED: u64 = 512 * 1024;
/// Budgets are made for at least this much memory per node.
const MEMORY_BYTES_MIN: u64 = 64 << 20;
const MEMORY_BYTES_WANTED: u64 = 512 << 20;

/// What is to be started.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where the data will lie; need not exist yet.
    pub data_dir: PathBuf,
    /// Where clients will connect.
    pub addresses: Vec<SocketAddr>,
    /// How many shards there will be; 0 for as many as fit.
    pub shards: usize,
}

/// How a probe ended.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It runs, but slower or with less than it should have.
    Slower,
    /// It cannot run.
    Cannot,
}

/// One thing looked at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Probe {
    /// What it is.
    pub name: &'static str,
    /// How it ended.
    pub verdict: Verdict,
    /// What was found, and why that is bad if it is.
    pub cause: String,
    /// What to do about it, to be copied; empty if nothing is to be done.
    pub fix: String,
}

impl Probe {
    fn ok(name: &'static str, cause: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, cause: cause.into(), fix: String::new() }
    }

    fn slower(name: &'static str, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Slower, cause: cause.into(), fix: fix.into() }
    }

    fn cannot(name: &'static str, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Cannot, cause: cause.into(), fix: fix.into() }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Slower => "slower",
            Verdict::Cannot => "cannot",
        };
        write!(f, "{verdict:<7} {:<15} {}", self.name, self.cause)?;
        for line in self.fix.lines() {
            write!(f, "\n{:>8}fix: {line}", "")?;
        }
        Ok(())
    }
}

/// All probes of one run. `Display` gives one line each, and the cures.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// In the order they were made.
    pub probes: Vec<Probe>,
}

impl Report {
    /// The worst of all verdicts.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.probes.iter().map(|probe| probe.verdict).max().unwrap_or(Verdict::Ok)
    }

    /// Whether the broker can run here.
    #[must_use]
    pub fn can_run(&self) -> bool {
        self.verdict() != Verdict::Cannot
    }

    /// The probes that did not end well.
    pub fn troubles(&self) -> impl Iterator<Item = &Probe> {
        self.probes.iter().filter(|probe| probe.verdict != Verdict::Ok)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for probe in &self.probes {
            writeln!(f, "{probe}")?;
        }
        Ok(())
    }
}

/// Makes all probes.
#[must_use]
pub fn check(plan: &Plan) -> Report {
    let mut probes = vec![kernel(KernelVersion::running())];
    probes.extend(ring::probes());
    probes.push(locked_memory(soft_limit(libc::RLIMIT_MEMLOCK)));
    probes.extend(disk::probes(&plan.data_dir));
    probes.push(open_files(raise_open_files()));
    probes.push(cores(plan.shards, &topology::allowed_cores(), Limits::of_this_process()));
    probes.push(memory(topology::memory_bytes()));
    probes.extend(plan.addresses.iter().map(|&address| port(address)));
    Report { probes }
}

/// Raises the soft limit of open files to the hard one; says what it is then.
///
/// # Errors
/// If the kernel refuses.
pub fn raise_open_files() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the answer, and lives until the calls return.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) != 0 {
            return Err(io::Error::last_os_error());
        }
        limit.rlim_cur = limit.rlim_max;
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(limit.rlim_cur)
}

fn soft_limit(which: libc::__rlimit_resource_t) -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the answer, and lives until the call returns.
    let outcome = unsafe { libc::getrlimit(which, &raw mut limit) };
    (outcome == 0).then_some(limit.rlim_cur)
}

fn kernel(running: Option<KernelVersion>) -> Probe {
    const NAME: &str = "kernel";
    match running {
        Some(running) if running < KERNEL_MIN => Probe::cannot(
            NAME,
            format!(
                "Linux {}.{} is older than {}.{}, the first with all that is needed of io_uring",
                running.major, running.minor, KERNEL_MIN.major, KERNEL_MIN.minor
            ),
            "boot a newer kernel (Debian 12, Ubuntu 24.04, RHEL 10 and later have one)",
        ),
        Some(running) => Probe::ok(NAME, format!("Linux {}.{}", running.major, running.minor)),
        None => Probe::ok(NAME, "does not tell its version; the probes below decide"),
    }
}

fn locked_memory(limit: Option<u64>) -> Probe {
    const NAME: &str = "locked memory";
    match limit {
        Some(bytes) if bytes < LOCKED_BYTES_WANTED => Probe::slower(
            NAME,
            format!(
                "{} KiB may be locked; background work needs 512 KiB for direct I/O of its own",
                bytes / 1024
            ),
            "ulimit -l 8192        (in systemd: LimitMEMLOCK=8M; in Docker: --ulimit memlock=8388608)",
        ),
        Some(libc::RLIM_INFINITY) | None => Probe::ok(NAME, "unlimited"),
        Some(bytes) => Probe::ok(NAME, format!("{} KiB", bytes / 1024)),
    }
}

fn open_files(limit: io::Result<u64>) -> Probe {
    const NAME: &str = "open files";
    const FIX: &str = "ulimit -Hn 1048576        (in systemd: LimitNOFILE=1048576; in Docker: --ulimit nofile=1048576)";
    match limit {
        Err(error) => Probe::slower(NAME, format!("the limit could not be raised: {error}"), FIX),
        Ok(files) if files < OPEN_FILES_MIN => {
            Probe::cannot(NAME, format!("{files} are allowed, {OPEN_FILES_MIN} are needed"), FIX)
        }
        Ok(files) if files < OPEN_FILES_WANTED => Probe::slower(
            NAME,
            format!(
                "{files} are allowed, {OPEN_FILES_WANTED} are wanted: each partition in use and \
                 each connection takes one"
            ),
            FIX,
        ),
        Ok(files) => Probe::ok(NAME, format!("{files} are allowed")),
    }
}

fn cores(shards: usize, allowed: &[usize], limits: Limits) -> Probe {
    const NAME: &str = "cores";
    let usable = allowed.len();
    if let Some(quota) = limits.cpu_cores
        && quota < usable as f64
    {
        let fitting = (quota.floor() as usize).max(1);
        if quota < 1.0 || fitting < shards {
            return Probe::slower(
                NAME,
                format!(
                    "the cgroup grants {quota:.2} cores: shards stand still when that is used up"
                ),
                format!(
                    "start with --shards {fitting}, or grant whole cores (Docker: --cpus {usable})"
                ),
            );
        }
        return Probe::ok(NAME, format!("{usable} usable, {quota:.2} granted by the cgroup"));
    }
    if usable < shards {
        return Probe::slower(
            NAME,
            format!("{shards} shards share {usable} cores and take turns"),
            format!("start with --shards {usable}"),
        );
    }
    Probe::ok(NAME, format!("{usable} usable"))
}

fn memory(bytes: u64) -> Probe {
    const NAME: &str = "memory";
    const FIX: &str = "grant the cgroup more memory (systemd: MemoryMax=2G; Docker: --memory 2g)";
    let mib = bytes >> 20;
    if bytes < MEMORY_BYTES_MIN {
        return Probe::cannot(NAME, format!("{mib} MiB are below the least budget"), FIX);
    }
    if bytes < MEMORY_BYTES_WANTED {
        return Probe::slower(NAME, format!("{mib} MiB leave little to cache"), FIX);
    }
    Probe::ok(NAME, format!("{mib} MiB"))
}

fn port(address: SocketAddr) -> Probe {
    const NAME: &str = "port";
    let port = address.port();
    let Err(error) = free_address(address) else {
        return Probe::ok(NAME, format!("{address} is free"));
    };
    let (cause, fix) = match error.raw_os_error() {
        Some(libc::EADDRINUSE) => (
            format!("{address} is taken by another process"),
            format!(
                "ss -ltnp 'sport = :{port}'        (shows which; or choose another port with --listen)"
            ),
        ),
        Some(libc::EACCES) => (
            format!("{address} needs a privilege: ports below 1024 are reserved"),
            "choose a port from 1024 on with --listen".to_owned(),
        ),
        Some(libc::EADDRNOTAVAIL) => (
            format!("{} is no address of this machine", address.ip()),
            "ip -brief address        (shows which are; choose one with --listen)".to_owned(),
        ),
        _ => (format!("{address}: {error}"), "choose another address with --listen".to_owned()),
    };
    Probe::cannot(NAME, cause, fix)
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::test_dir::TestDir;

    fn plan(dir: &TestDir) -> Plan {
        let data_dir = dir.path().join("not/yet/there");
        Plan { data_dir, addresses: vec!["127.0.0.1:0".parse().unwrap()], shards: 1 }
    }

    #[test]
    fn the_machine_that_builds_us_can_run_us_and_nothing_is_left_behind() {
        let dir = TestDir::new("preflight");
        let report = check(&plan(&dir));
        assert!(report.can_run(), "{report}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn every_trouble_has_a_cause_and_a_fix() {
        let in_use = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let no_quota = Limits::default();
        let half = Limits { cpu_cores: Some(0.5), memory_bytes: None };
        let probes = [
            kernel(Some(KernelVersion { major: 5, minor: 15 })),
            locked_memory(Some(65_536)),
            open_files(Ok(100)),
            open_files(Ok(1024)),
            open_files(Err(io::ErrorKind::PermissionDenied.into())),
            cores(4, &[0, 1], no_quota),
            cores(0, &[0, 1], half),
            memory(10 << 20),
            memory(100 << 20),
            port(in_use.local_addr().unwrap()),
            port("192.0.2.1:9092".parse().unwrap()),
        ];
        for probe in probes {
            assert_ne!(probe.verdict, Verdict::Ok, "{probe}");
            assert!(!probe.cause.is_empty() && !probe.fix.is_empty(), "{probe}");
        }
    }

    #[test]
    fn the_worst_verdict_decides() {
        let slower = Probe::slower("a", "x", "y");
        let report = Report { probes: vec![Probe::ok("b", "z"), slower.clone()] };
        assert_eq!(report.verdict(), Verdict::Slower);
        assert!(report.can_run());
        assert_eq!(report.troubles().collect::<Vec<_>>(), [&slower]);
        let report = Report { probes: vec![slower, Probe::cannot("c", "x", "y")] };
        assert!(!report.can_run());
    }

    #[test]
    fn a_report_shows_verdict_name_cause_and_fix() {
        let report = Report { probes: vec![Probe::cannot("port", "taken", "use another")] };
        assert_eq!(report.to_string(), "cannot  port            taken\n        fix: use another\n");
    }
}
