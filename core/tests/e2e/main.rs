//! The real binary with the clients people really use, on real input: `cargo e2e`.
//!
//! These tests need more than a Rust toolchain: kcat, Python with venv, a JDK with Maven, and for
//! the full disk the right to mount. `.ci/run` installs what is missing; a test whose program is
//! not there fails and says so, it does not pass in silence.
//!
//! With `TIDEMILL_E2E=long` the corpus is made of 2 million records and the idle broker holds
//! 10,000 partitions; otherwise both are smaller.

#[path = "../process/mod.rs"]
mod process;

mod abuse;
mod corpus;
mod full_disk;
mod idle;
mod kafka_tools;
mod kcat;
mod program;
mod python;

/// Whether to take the time for the large inputs.
fn is_long() -> bool {
    std::env::var_os("TIDEMILL_E2E").is_some_and(|value| value == "long")
}
