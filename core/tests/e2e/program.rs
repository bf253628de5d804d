//! Running other people's programs: what they print, or what they say when they fail.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Runs a program to its end and returns what it printed; fails with all it said if it fails.
pub fn output(command: &mut Command) -> Vec<u8> {
    output_of(command, &[])
}

/// Runs a program to its end with `input` on its standard input.
pub fn output_of(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("it was asked for");
    let done = std::thread::scope(|scope| {
        // Written beside the reading: neither side may wait for the other for ever.
        scope.spawn(move || stdin.write_all(input).ok());
        child.wait_with_output().expect("it ends")
    });
    let errors = String::from_utf8_lossy(&done.stderr);
    let printed = String::from_utf8_lossy(&done.stdout[..done.stdout.len().min(4000)]);
    assert!(done.status.success(), "{command:?} ended with {}:\n{errors}\n{printed}", done.status);
    println!("  {:?} took {:.1?}", command.get_program(), start.elapsed());
    done.stdout
}

/// The commands of our own binary, as clients of a broker.
pub fn tidemill(arguments: &[&str]) -> Vec<u8> {
    output(Command::new(env!("CARGO_BIN_EXE_tidemill")).args(arguments))
}

/// A directory that survives between runs, for what is slow to fetch.
pub fn kept_dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// The directory of these tests' own files.
pub fn own_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e").join(name)
}
