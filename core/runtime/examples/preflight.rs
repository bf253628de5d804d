//! Prints what preflight finds on this machine, and how long it took.

use std::error::Error;
use std::time::Instant;

use tidemill_runtime::preflight::{Plan, check};

fn main() -> Result<(), Box<dyn Error>> {
    let data_dir = std::env::args_os().nth(1).unwrap_or_else(|| "data".into()).into();
    let plan = Plan { data_dir, addresses: vec!["127.0.0.1:9092".parse()?], shards: 0 };
    let start = Instant::now();
    let report = check(&plan);
    let took = start.elapsed();
    print!("{report}");
    println!("in {:.1} ms", took.as_secs_f64() * 1e3);
    Ok(())
}
