//! Counts the instructions of one pass: this same program, run again under valgrind's callgrind.
//!
//! Callgrind counts only while [`pass_under_count`] is on the stack, so neither the start of the
//! program nor the making of the state is in the figure. What `malloc` and `memcpy` do is.

use std::hint::black_box;
use std::process::{Command, Stdio};

use super::Case;
use super::counts::Count;

/// The function whose calls are counted, under any mangling of its name.
const COUNTED: &str = "*pass_under_count*";

/// A copy of any length is then made with vectors. The other way, `rep movsb`, callgrind counts as
/// one instruction for each byte, and a copy would hide everything else.
const TUNABLES: &str = "glibc.cpu.x86_rep_movsb_threshold=1073741824:\
    glibc.cpu.x86_rep_stosb_threshold=1073741824";

/// One pass, counted if callgrind watches. Never inlined: callgrind knows it by its name.
#[inline(never)]
pub(super) fn pass_under_count<S, R>(pass: &impl Fn(&mut S) -> R, state: &mut S) -> R {
    // Not the last thing done here, or it would be jumped to instead of called.
    black_box(pass(black_box(state)))
}

/// Counts one pass of `case` in a process of its own, whose digest must be `expected`.
pub(super) fn count(case: &Case, expected: u64) -> Result<Count, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let out = std::env::temp_dir().join(format!("{}-{}.callgrind", case.name, std::process::id()));
    let child = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--toggle-collect={COUNTED}"))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .args(["--counted", case.name])
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .env("GLIBC_TUNABLES", TUNABLES)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| {
            format!("valgrind does not start ({error}); on Debian: apt install valgrind")
        })?;
    let written = std::fs::read_to_string(&out);
    let _ = std::fs::remove_file(&out);
    if !child.status.success() {
        let said = String::from_utf8_lossy(&child.stderr);
        return Err(format!("ended under callgrind with {}:\n{said}", child.status));
    }
    let digest = String::from_utf8_lossy(&child.stdout).trim().to_owned();
    if digest != expected.to_string() {
        return Err(format!("digest {digest} under callgrind, {expected} without"));
    }
    let written = written.map_err(|error| format!("callgrind left no figures: {error}"))?;
    let instructions = total(&written).filter(|total| 0 < *total);
    let instructions = instructions.ok_or("callgrind saw no pass: was it inlined?")?;
    Ok(Count { name: case.name.to_owned(), instructions, ops: case.ops, digest: expected })
}

/// The sum of all that was counted.
fn total(figures: &str) -> Option<u64> {
    let line = figures.lines().find_map(|line| line.strip_prefix("totals:"))?;
    line.trim().parse().ok()
}

/// Which valgrind this is.
pub(super) fn version() -> Result<String, String> {
    first_line_of("valgrind", "--version")
}

/// The first line that `program` says when asked `question`.
pub(super) fn first_line_of(program: &str, question: &str) -> Result<String, String> {
    let asked = Command::new(program).arg(question).stderr(Stdio::null()).output();
    let said = asked.map_err(|error| format!("{program} does not start: {error}"))?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    Ok(said.lines().next().unwrap_or_default().to_owned())
}
