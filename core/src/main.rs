//! The `tidemill` binary: reads the command line and carries it out. Nothing else.

use std::process::ExitCode;

use clap::Parser;

/// Shards allocate on their own threads; its heaps are per thread.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    broker::cli::run(broker::cli::Arguments::parse())
}
