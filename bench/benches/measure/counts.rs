//! The stored counts of a benchmark, `counts/<bench>.txt`, and what a new count is beside them.
//!
//! ```text
//! made with: rustc 1.95.0 (59807616e 2026-04-14)
//! made with: valgrind-3.19.0
//! made with: glibc 2.36
//! made with: x86_64, avx2
//! case                  instructions  ops  digest
//! crc32c-64-kib               123456    8  3735928559
//! ```
//!
//! A file is true or it fails: a count that fell has to be renewed like one that grew, or the next
//! growth would hide below it.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::PathBuf;

use super::callgrind;

/// A count may differ so much from the stored one, either way. Repeated, counts are the same to one
/// in 100,000; but a small change elsewhere can move what is inlined here.
const CHANGE_MAX: f64 = 0.02;

/// A count made with something else may be so much above the stored one.
const GROWTH_MAX_ELSEWHERE: f64 = 0.25;

const MADE_WITH: &str = "made with: ";
const HEAD: [&str; 4] = ["case", "instructions", "ops", "digest"];

/// What one pass of a case took.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Count {
    pub(super) name: String,
    /// Of the whole pass.
    pub(super) instructions: u64,
    /// Operations in the pass.
    pub(super) ops: u64,
    pub(super) digest: u64,
}

impl Count {
    /// Instructions of one operation.
    pub(super) fn per_op(&self) -> u64 {
        (self.instructions + self.ops / 2) / self.ops
    }
}

/// The content of the file.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Counts {
    made_with: Vec<String>,
    counts: Vec<Count>,
}

/// A count beside the stored one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Verdict {
    /// As it was.
    Good,
    /// Less, so that the file is to be renewed.
    Better { change: f64 },
    /// Too much more.
    Worse { change: f64 },
    /// More or less than stored, but the stored count was made with something else.
    Elsewhere { change: f64 },
    /// Not stored yet.
    New,
    /// Other work was done: other operations, or another digest.
    OtherWork,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good => write!(f, "as stored"),
            Self::Better { change } => write!(f, "{:+.1} %: BETTER than stored", 100.0 * change),
            Self::Worse { change } => write!(f, "{:+.1} %: WORSE than stored", 100.0 * change),
            Self::Elsewhere { change } => write!(f, "{:+.1} %, not comparable", 100.0 * change),
            Self::New => write!(f, "NOT STORED"),
            Self::OtherWork => write!(f, "NOT THE WORK that is stored: other ops or digest"),
        }
    }
}

impl Counts {
    /// The stored counts of `bench`.
    pub(super) fn load(bench: &str) -> Result<Self, String> {
        let path = path_of(bench);
        let text = fs::read_to_string(&path).map_err(|error| {
            format!("{}: {error}; cargo counts --renew makes it", path.display())
        })?;
        Self::parse(&text).ok_or_else(|| format!("{} cannot be read", path.display()))
    }

    /// Stores the counts of `bench`, made here and now.
    pub(super) fn renew(bench: &str, counts: &[Count]) -> Result<(), String> {
        let path = path_of(bench);
        fs::create_dir_all(path.parent().expect("a file lies somewhere"))
            .map_err(|error| error.to_string())?;
        let stored = Self { made_with: made_with_here()?, counts: counts.to_vec() };
        fs::write(&path, stored.to_string()).map_err(|error| error.to_string())?;
        print!("{bench}\n{stored}");
        Ok(())
    }

    /// What they were made with, if that is not what is here.
    pub(super) fn differs_from_here(&self) -> Result<Option<String>, String> {
        let here = made_with_here()?;
        let differs = here != self.made_with;
        let (there, here) = (self.made_with.join("; "), here.join("; "));
        Ok(differs.then(|| format!("stored with {there}; here is {here}")))
    }

    /// The names of all cases stored.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.counts.iter().map(|count| count.name.as_str())
    }

    /// What `new` is beside the stored count of the same case, made with the same or `elsewhere`.
    pub(super) fn verdict(&self, new: &Count, elsewhere: bool) -> Verdict {
        let Some(stored) = self.counts.iter().find(|stored| stored.name == new.name) else {
            return Verdict::New;
        };
        if (stored.ops, stored.digest) != (new.ops, new.digest) {
            return Verdict::OtherWork;
        }
        let change = new.instructions as f64 / stored.instructions as f64 - 1.0;
        match change {
            _ if change.abs() <= CHANGE_MAX => Verdict::Good,
            _ if elsewhere && change <= GROWTH_MAX_ELSEWHERE => Verdict::Elsewhere { change },
            _ if change < 0.0 => Verdict::Better { change },
            _ => Verdict::Worse { change },
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parsed = Self::default();
        for line in text.lines() {
            if let Some(made_with) = line.strip_prefix(MADE_WITH) {
                parsed.made_with.push(made_with.to_owned());
                continue;
            }
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [name, instructions, ops, digest] = fields[..] else { return None };
            if fields[..] == HEAD {
                continue;
            }
            let instructions = instructions.parse().ok().filter(|count| 0 < *count)?;
            let (ops, digest) = (ops.parse().ok()?, digest.parse().ok()?);
            parsed.counts.push(Count { name: name.to_owned(), instructions, ops, digest });
        }
        Some(parsed)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for made_with in &self.made_with {
            writeln!(f, "{MADE_WITH}{made_with}")?;
        }
        let [name, instructions, ops, digest] = HEAD;
        let mut table = format!("{name:<32} {instructions:>12} {ops:>6} {digest:>20}\n");
        for Count { name, instructions, ops, digest } in &self.counts {
            writeln!(table, "{name:<32} {instructions:>12} {ops:>6} {digest:>20}")?;
        }
        f.write_str(&table)
    }
}

/// What counts depend on besides our code.
fn made_with_here() -> Result<Vec<String>, String> {
    let compiler = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let compiler = callgrind::first_line_of(&compiler, "--version")?;
    // Its memcpy is counted.
    let libc = callgrind::first_line_of("getconf", "GNU_LIBC_VERSION");
    let libc = libc.unwrap_or_else(|_| "another libc".to_owned());
    Ok(vec![compiler, callgrind::version()?, libc, machine()])
}

#[cfg(target_arch = "x86_64")]
fn machine() -> String {
    let vectors = if std::is_x86_feature_detected!("avx2") { "avx2" } else { "no avx2" };
    format!("x86_64, {vectors}")
}

#[cfg(not(target_arch = "x86_64"))]
fn machine() -> String {
    std::env::consts::ARCH.to_owned()
}

fn path_of(bench: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/counts").join(format!("{bench}.txt"))
}
