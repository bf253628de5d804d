//! Time instead of instructions: of one version alone, or of two by turns.
//!
//! Time depends on what else the machine does, and that changes slowly. So two versions are
//! compared in pairs, A B A B: the ratio is taken within each pair, and the median of all ratios is
//! told with the lowest and the highest. If these lie on both sides of 1, no difference was seen.
//!
//! The other version is the benchmark's own program, built before the change and put aside; cargo
//! says where it lies when it runs it.

use std::hint::black_box;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::Case;

/// How long the passes of a case take together.
const MEASURED: Duration = Duration::from_millis(300);
/// Enough for a median, however short a pass is.
const PASSES_MAX: usize = 2000;
const PASSES_MIN: usize = 5;

/// How often each of two versions has its turn.
const PAIRS: usize = 9;

/// What the passes of a case took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// The median, for one operation.
    op_ns: f64,
    passes: usize,
}

/// Makes passes over a new state each until there are enough of them.
pub(super) fn measure<S, R>(
    case: &Case,
    state: &impl Fn() -> S,
    pass: &impl Fn(&mut S) -> R,
) -> Timing {
    let mut passes = Vec::new();
    let mut measured = Duration::ZERO;
    while passes.len() < PASSES_MIN || (measured < MEASURED && passes.len() < PASSES_MAX) {
        let mut state = state();
        let begun = Instant::now();
        let result = black_box(pass(black_box(&mut state)));
        let took = begun.elapsed();
        drop(result);
        measured += took;
        passes.push(took.as_secs_f64() * 1e9 / case.ops as f64);
    }
    Timing { op_ns: median(&mut passes), passes: passes.len() }
}

/// What is told of a version alone.
pub(super) fn sentence(case: &Case, timing: &Timing) -> String {
    let ns = timing.op_ns;
    let rate = match case.op_bytes {
        0 => String::new(),
        bytes => format!(", {:.2} GB/s", bytes as f64 / ns),
    };
    format!("{ns:.1} ns{rate} (median of {} passes)", timing.passes)
}

/// What a version that is one of two tells of a case, for [`against`].
pub(super) fn told(timing: &Timing, digest: u64) -> String {
    format!("{} {digest}", timing.op_ns)
}

/// Runs this version and the one in `program` by turns, and says how they compare.
pub(super) fn against(case: &Case, program: &str) -> Result<String, String> {
    let here = std::env::current_exe().map_err(|error| error.to_string())?;
    let here = here.to_string_lossy();
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        let (our_ns, our_digest) = one_turn(case, &here)?;
        let (their_ns, their_digest) = one_turn(case, program)?;
        if our_digest != their_digest {
            return Err(format!("{program} does other work: another digest"));
        }
        ours.push(our_ns);
        theirs.push(their_ns);
        ratios.push(our_ns / their_ns);
    }
    let (ours, theirs, ratio) = (median(&mut ours), median(&mut theirs), median(&mut ratios));
    let (lowest, highest) = (ratios[0], ratios[PAIRS - 1]);
    let seen = if lowest <= 1.0 && 1.0 <= highest { ": no difference was seen" } else { "" };
    Ok(format!(
        "{ours:.1} ns here, {theirs:.1} ns there, ratio {ratio:.3} ({lowest:.3} to {highest:.3} in \
         {PAIRS} pairs){seen}"
    ))
}

/// One version's turn: nanoseconds for each operation, and the digest.
fn one_turn(case: &Case, program: &str) -> Result<(f64, u64), String> {
    let child = Command::new(program)
        .args(["--timed", case.name])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program} does not start: {error}"))?;
    let said = String::from_utf8_lossy(&child.stdout);
    let parsed = said.trim().split_once(' ').and_then(|(ns, digest)| {
        Some((ns.parse().ok().filter(|ns: &f64| 0.0 < *ns)?, digest.parse().ok()?))
    });
    parsed.ok_or_else(|| format!("{program} does not know this case; it said {:?}", said.trim()))
}

/// The middle one. Leaves them in order.
fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
