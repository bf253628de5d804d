//! `cargo sim SEED`: one seed, one run, one verdict.

fn main() {}
