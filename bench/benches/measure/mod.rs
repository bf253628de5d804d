//! What all component benchmarks share: how a case is run, timed, counted and judged.
//!
//! A benchmark is a program of its own (no test harness) with some *cases*. Each case makes its
//! state (not measured), makes one *pass* over it (measured), and condenses what came out into a
//! digest (not measured), so that two versions are compared only if they did the same work.
//!
//! | run as | what it does |
//! |---|---|
//! | `cargo test` | each case twice, once for each digest: it works, and does the same each time |
//! | `cargo bench -p tidemill-bench --bench append` | wall clock, the median of many passes |
//! | the same with `-- --against PROGRAM` | beside another build of the same benchmark, by turns |
//! | `cargo counts` | instructions of one pass by callgrind, compared with `counts/<bench>.txt` |
//! | `cargo counts --renew` | writes these files anew |
//! | `cargo bench -p tidemill-bench --bench append -- --renew` | one of them; `--count` compares |
//!
//! **If a count fails**: a change made this case dearer or cheaper by more than 2 %, or made it do
//! other work (other digest). If that is meant, renew, commit the file with the change, and say why.
//!
//! Instructions, because they stay true on a busy machine where time does not: repeated, they are
//! the same to one in 100,000. Nothing of the machine enters: the environment is cleared, and
//! valgrind shows every program the same processor and the same addresses. They depend on the
//! compiler, on valgrind, on libc's `memcpy` and on whether the processor has AVX2, so a file names
//! those it was made with. If they differ here, only what grew by more than a quarter fails. What
//! instructions do not see: a cache missed, a system call, and that a division takes longer than an
//! addition.
//!
//! Start reading at [`Bench::case`].
// Each benchmark has this as a module of its own.
#![allow(unreachable_pub)]

mod callgrind;
mod clock;
mod counts;

use std::hint::black_box;
use std::process::ExitCode;

use counts::{Count, Counts, Verdict};

/// The product's allocator, so that memory costs what it costs there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What is asked of this program.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Mode {
    /// Run each case, quickly.
    Try,
    /// Measure time.
    Time,
    /// Measure time beside this other build of the same benchmark.
    Against(String),
    /// This process has its turn beside another: measure the case with this name.
    Timed(String),
    /// Count instructions and compare.
    Count,
    /// Count instructions and write the file anew.
    Renew,
    /// This process runs under callgrind: one pass of the case with this name.
    Counted(String),
}

/// One benchmark while it runs.
pub struct Bench {
    name: &'static str,
    mode: Mode,
    counted: Vec<Count>,
    failed: bool,
}

/// What one pass of a case is.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name: small letters, digits and hyphens.
    pub name: &'static str,
    /// Operations in a pass.
    pub ops: u64,
    /// Bytes that each of them takes care of; 0 if that says nothing.
    pub op_bytes: u64,
}

impl Bench {
    /// The benchmark of this name, run as the command line says.
    pub fn from_args(name: &'static str) -> Self {
        let args: Vec<String> = std::env::args().skip(1).collect();
        Self { name, mode: mode_of(&args), counted: Vec::new(), failed: false }
    }

    /// Runs one case: `state` makes what a pass needs, `pass` is measured, `digest` tells what came
    /// of it.
    pub fn case<S, R>(
        &mut self,
        case: Case,
        state: impl Fn() -> S,
        pass: impl Fn(&mut S) -> R,
        digest: impl Fn(&S, &R) -> u64,
    ) {
        let run = || {
            let mut state = state();
            let result = black_box(pass(&mut state));
            digest(&state, &result)
        };
        match self.mode.clone() {
            Mode::Try => {
                assert_eq!(run(), run(), "{}: a pass does the same work each time", case.name);
                println!("{} {}: ok", self.name, case.name);
            }
            Mode::Time => {
                let timing = clock::measure(&case, &state, &pass);
                self.print(&case, Ok(clock::sentence(&case, &timing)));
            }
            Mode::Against(program) => self.print(&case, clock::against(&case, &program)),
            Mode::Timed(name) if name == case.name => {
                let digest = run();
                println!("{}", clock::told(&clock::measure(&case, &state, &pass), digest));
            }
            Mode::Count | Mode::Renew => self.count(&case, run()),
            Mode::Counted(name) if name == case.name => {
                // What is done once only, such as looking at the processor, is done before.
                run();
                let mut state = state();
                let result = callgrind::pass_under_count(&pass, &mut state);
                println!("{}", digest(&state, &result));
            }
            Mode::Timed(_) | Mode::Counted(_) => {}
        }
    }

    /// All cases have been run.
    #[must_use]
    pub fn finish(self) -> ExitCode {
        let result = match self.mode {
            Mode::Count => self.judge(),
            // Half a file would make the next comparison fail for no reason of the code's.
            Mode::Renew if self.failed => {
                Err("not renewed: a case could not be counted".to_owned())
            }
            Mode::Renew => Counts::renew(self.name, &self.counted).map(|()| true),
            _ => Ok(!self.failed),
        };
        match result {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(why) => {
                eprintln!("{}: {why}", self.name);
                ExitCode::FAILURE
            }
        }
    }

    fn print(&mut self, case: &Case, said: Result<String, String>) {
        let (bench, name) = (self.name, case.name);
        match said {
            Ok(said) => println!("{bench} {name}: {said}"),
            Err(why) => {
                eprintln!("{bench} {name}: {why}");
                self.failed = true;
            }
        }
    }

    fn count(&mut self, case: &Case, expected: u64) {
        match callgrind::count(case, expected) {
            Ok(count) => self.counted.push(count),
            Err(why) => {
                eprintln!("{} {}: {why}", self.name, case.name);
                self.failed = true;
            }
        }
    }

    /// Whether all is as stored.
    fn judge(&self) -> Result<bool, String> {
        let stored = Counts::load(self.name)?;
        let differs = stored.differs_from_here()?;
        let mut good = !self.failed;
        for count in &self.counted {
            let verdict = stored.verdict(count, differs.is_some());
            println!("{} {}: {} instructions, {verdict}", self.name, count.name, count.per_op());
            good &= matches!(verdict, Verdict::Good | Verdict::Elsewhere { .. });
        }
        if let Some(difference) = differs {
            println!("{}: WARNING: hardly comparable, {difference}", self.name);
        }
        for name in stored.names().filter(|name| self.counted.iter().all(|c| c.name != *name)) {
            println!("{} {name}: stored, but not counted", self.name);
            good = false;
        }
        if !good {
            println!(
                "{0}: FAILED. If this is meant, renew the stored counts with\n    \
                    cargo bench -p tidemill-bench --bench {0} -- --renew\n\
                    and commit benches/counts/{0}.txt, saying why",
                self.name
            );
        }
        Ok(good)
    }
}

fn mode_of(args: &[String]) -> Mode {
    let has = |wanted: &str| args.iter().any(|arg| arg == wanted);
    let behind = |wanted: &str| {
        let at = args.iter().position(|arg| arg == wanted)?;
        args.get(at + 1).cloned()
    };
    if let Some(case) = behind("--counted") {
        Mode::Counted(case)
    } else if let Some(case) = behind("--timed") {
        Mode::Timed(case)
    } else if let Some(program) = behind("--against") {
        Mode::Against(program)
    } else if has("--renew") {
        Mode::Renew
    } else if has("--count") {
        Mode::Count
    } else if has("--bench") {
        // Cargo says this when it benches, and nothing when it tests.
        Mode::Time
    } else {
        Mode::Try
    }
}
