//! The broker: assembles the parts into one node that Kafka clients talk to.
//!
//! Reading order: [`config`] says what it is told, [`limits`] how far anything may grow.

pub mod cli;
pub mod config;
pub mod limits;
pub mod logging;
pub mod stop;
