//! The broker: assembles the parts into one node that Kafka clients talk to.
//!
//! Reading order: [`node`] starts one [`shard`] per core; a shard's turn takes requests off its
//! [`connection`]s, [`dispatch`]es them to the [`api`], which calls the [`partition`]s at home
//! here or, by [`message`], elsewhere. [`coordinator_log`] keeps
//! what coordinators decide and brings them to their partitions: the [`coordinator`]s of groups
//! ([`groups`]), those of [`transaction`]s ([`transactions`]). [`startup`] is how a node gets there, [`controller`] how
//! its metadata changes. [`measure`] is what a shard
//! knows of itself, [`admin`] how people see it. [`config`] says what it is told, [`limits`] how far anything may grow.

pub mod node;
pub mod shard;

pub mod api;
pub mod budget;
pub mod connection;
pub mod dispatch;
pub mod job;
pub mod message;
pub mod partition;
pub mod placement;
pub mod quota;
pub mod rework;
pub mod topic_rules;

pub mod admin;
pub mod background;
pub mod controller;
pub mod coordinator;
pub mod coordinator_log;
pub mod disk;
pub mod groups;
pub mod share;
pub mod shares;
pub mod startup;
pub mod token;
pub mod transaction;
pub mod transactions;

pub mod cli;
pub mod config;
pub mod limits;
pub mod logging;
pub mod measure;
pub mod random;
pub mod stop;
