//! What this machine, or our share of it, has: cores, memory, devices.
//!
//! A container's limits count, not the machine: the scheduler's affinity mask (which a cgroup
//! cpuset narrows) says which cores we may use, the cgroup's CPU quota how many of them are worth
//! a shard, its memory limit how much memory there is. Both versions of cgroups are read; a limit
//! anywhere on the way up to the root counts. What cannot be read is taken for unlimited.
//!
//! Start reading at [`cores`].

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The cores to run shards on, one each: those we may use, but no more than the quota allows.
///
/// At least one, even if the quota is less than a core.
#[must_use]
pub fn cores() -> Vec<usize> {
    let allowed = allowed_cores();
    let limits = Limits::of_this_process();
    share(allowed, limits.cpu_cores)
}

/// The cores the scheduler lets this process use.
#[must_use]
pub fn allowed_cores() -> Vec<usize> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    if cores.is_empty() { vec![0] } else { cores.into_iter().map(|core| core.id).collect() }
}

fn share(mut allowed: Vec<usize>, quota_cores: Option<f64>) -> Vec<usize> {
    if let Some(quota) = quota_cores {
        // A shard on a core it may use only half of the time would stall everybody it serves.
        allowed.truncate((quota.floor() as usize).max(1));
    }
    allowed
}

/// What the cgroups of this process allow; `None` means unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// CPU time per time, in cores.
    pub cpu_cores: Option<f64>,
    /// Memory, page cache included.
    pub memory_bytes: Option<u64>,
}

impl Limits {
    /// The limits this process runs under.
    #[must_use]
    pub fn of_this_process() -> Self {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self::read(&groups, &mounts, Path::new("/"))
    }

    /// The limits stated below `root`, given the two files of `/proc/self`.
    fn read(groups: &str, mounts: &str, root: &Path) -> Self {
        let mut limits = Self::default();
        for group in groups.lines().filter_map(Group::parse) {
            for mount in mounts.lines().filter_map(|line| Mount::parse(line, &group)) {
                for dir in mount.dirs_up_from(&group, root) {
                    limits.narrow(&group, &dir);
                }
            }
        }
        limits
    }

    fn narrow(&mut self, group: &Group<'_>, dir: &Path) {
        let (cpu, memory) = if group.is_unified() {
            (cpu_max(dir), number(&dir.join("memory.max")))
        } else {
            (cpu_quota(dir), number(&dir.join("memory.limit_in_bytes")))
        };
        // Version 1 writes "unlimited" as the largest number of whole pages.
        let memory = memory.filter(|&bytes| bytes < 1 << 60).map(|bytes| bytes as u64);
        self.cpu_cores = smaller(self.cpu_cores, cpu);
        self.memory_bytes = smaller(self.memory_bytes, memory);
    }
}

fn smaller<T: PartialOrd>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if a < b { a } else { b }),
        (a, b) => a.or(b),
    }
}

/// `max 100000`, or microseconds of time per microseconds (version 2).
fn cpu_max(dir: &Path) -> Option<f64> {
    let text = fs::read_to_string(dir.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (0.0 < period).then(|| quota / period)
}

/// The same in two files (version 1); a quota of -1 is none.
fn cpu_quota(dir: &Path) -> Option<f64> {
    let quota = number(&dir.join("cpu.cfs_quota_us"))?;
    let period = number(&dir.join("cpu.cfs_period_us"))?;
    (0 < quota && 0 < period).then(|| quota as f64 / period as f64)
}

fn number(path: &Path) -> Option<i64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A line of `/proc/self/cgroup`: a hierarchy and our place in it.
struct Group<'a> {
    /// Its controllers, separated by commas; none for version 2.
    controllers: &'a str,
    path: &'a str,
}

impl<'a> Group<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.splitn(3, ':').skip(1);
        let group = Self { controllers: fields.next()?, path: fields.next()? };
        let wanted = group.is_unified() || group.controls("cpu") || group.controls("memory");
        wanted.then_some(group)
    }

    fn is_unified(&self) -> bool {
        self.controllers.is_empty()
    }

    fn controls(&self, controller: &str) -> bool {
        self.controllers.split(',').any(|name| name == controller)
    }
}

/// Where a hierarchy is mounted, and which part of it.
struct Mount<'a> {
    root: &'a str,
    point: &'a str,
}

impl<'a> Mount<'a> {
    /// Parses a line of `/proc/self/mountinfo`, if it mounts the hierarchy of `group`.
    fn parse(line: &'a str, group: &Group<'_>) -> Option<Self> {
        let (front, back) = line.split_once(" - ")?;
        let mut back = back.split(' ');
        let (kind, _source, options) = (back.next()?, back.next()?, back.next()?);
        let fits = match kind {
            "cgroup2" => group.is_unified(),
            "cgroup" => {
                !group.is_unified() && options.split(',').any(|option| group.controls(option))
            }
            _ => false,
        };
        let mut front = front.split(' ').skip(3);
        fits.then_some(Self { root: front.next()?, point: front.next()? })
    }

    /// The directories that may limit `group`, from its own up to the mount point, below `root`.
    fn dirs_up_from(&self, group: &Group<'_>, root: &Path) -> Vec<PathBuf> {
        let top = root.join(self.point.trim_start_matches('/'));
        // In a container the mount shows a part of the hierarchy: ours begins there.
        let below = Path::new(group.path).strip_prefix(self.root).unwrap_or(Path::new(""));
        below.ancestors().map(|dir| top.join(dir.strip_prefix("/").unwrap_or(dir))).collect()
    }
}

/// Memory this process may use: the cgroup's limit, or the machine's memory.
#[must_use]
pub fn memory_bytes() -> u64 {
    // SAFETY: system calls without memory.
    let (pages, page_bytes) =
        unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGE_SIZE)) };
    let machine = pages.max(0) as u64 * page_bytes.max(0) as u64;
    Limits::of_this_process().memory_bytes.map_or(machine, |limit| limit.min(machine))
}

/// The block device a path lies on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Device {
    /// Its number, major and minor.
    pub number: (u32, u32),
    /// Its name in `/sys/block`, if it is a block device.
    pub name: Option<String>,
}

/// The device of `path`.
///
/// # Errors
/// If there is no such path.
pub fn device_of(path: &Path) -> io::Result<Device> {
    let number = fs::metadata(path)?.dev();
    let (major, minor) = (libc::major(number), libc::minor(number));
    // A partition's directory lies in that of its disk.
    let link = fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok();
    let name = link.and_then(|link| {
        let mut names = link.iter().skip_while(|part| *part != "block").skip(1);
        names.next().map(|name| name.to_string_lossy().into_owned())
    });
    Ok(Device { number: (major, minor), name })
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::test_dir::TestDir;

    fn write(dir: &TestDir, path: &str, text: &str) {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_narrowest_limit_on_the_way_to_the_root_counts() {
        let dir = TestDir::new("cgroup2");
        write(&dir, "sys/fs/cgroup/cpu.max", "max 100000\n");
        write(&dir, "sys/fs/cgroup/app/cpu.max", "250000 100000\n");
        write(&dir, "sys/fs/cgroup/app/broker/cpu.max", "400000 100000\n");
        write(&dir, "sys/fs/cgroup/app/broker/memory.max", "1073741824\n");
        write(&dir, "sys/fs/cgroup/app/memory.max", "max\n");
        let mounts = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let limits = Limits::read("0::/app/broker\n", mounts, dir.path());
        assert_eq!(limits.cpu_cores, Some(2.5));
        assert_eq!(limits.memory_bytes, Some(1 << 30));
    }

    #[test]
    fn version_1_is_read_through_a_container_s_mount() {
        let dir = TestDir::new("cgroup1");
        write(&dir, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "150000\n");
        write(&dir, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
        write(&dir, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        let groups = "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n";
        let mounts = "\
32 31 0:29 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory
";
        let limits = Limits::read(groups, mounts, dir.path());
        assert_eq!(limits, Limits { cpu_cores: Some(1.5), memory_bytes: None });
    }

    #[test]
    fn a_quota_reduces_the_cores_but_never_to_none() {
        let all = vec![2, 3, 6, 7];
        assert_eq!(share(all.clone(), None), all);
        assert_eq!(share(all.clone(), Some(2.5)), [2, 3]);
        assert_eq!(share(all.clone(), Some(0.3)), [2]);
        assert_eq!(share(all.clone(), Some(64.0)), all);
    }

    #[test]
    fn this_machine_has_cores_memory_and_a_device() {
        assert!(!cores().is_empty());
        assert!(0 < memory_bytes());
        assert!(device_of(Path::new("/")).is_ok());
    }
}
