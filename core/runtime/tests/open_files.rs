//! A process that may open no more files goes on accepting once it may again.
//!
//! A test of its own, because the limit holds for the whole process.
#![allow(clippy::unwrap_used, unsafe_code)]

use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tidemill_runtime::chores::BackgroundThread;
use tidemill_runtime::edge::{Done, Edge, Fault, ListenerId, Next, Op, Program, ShardId, Token};
use tidemill_runtime::ring::{RingConfig, RingEdge};
use tidemill_runtime::shard::{ShardPlan, run_shards};
use tidemill_runtime::socket;

/// Accepts once it is told to (true); stops when told so (false).
struct Accepting {
    results: Sender<Result<Done, Fault>>,
}

impl Program<RingEdge<bool>> for Accepting {
    fn turn(&mut self, edge: &mut RingEdge<bool>) -> Next {
        while let Some(completion) = edge.poll_completion() {
            self.results.send(completion.result).unwrap();
        }
        match edge.poll_message() {
            Some((_, false)) => return Next::Stop,
            Some((_, true)) => {
                edge.submit(Token(0), Op::Accept { listener: ListenerId(0) });
            }
            None => {}
        }
        Next::Idle
    }
}

fn set_open_files(limit: libc::rlim_t) -> libc::rlim_t {
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `old` is a valid place for the answer, and lives until the calls return.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut old), 0);
        let new = libc::rlimit { rlim_cur: limit, ..old };
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const new), 0);
    }
    old.rlim_cur
}

#[test]
fn a_connection_that_finds_no_descriptor_left_is_taken_later() {
    const PATIENCE: Duration = Duration::from_secs(20);
    let listeners = socket::listen("127.0.0.1:0".parse().unwrap(), 1).unwrap();
    let address = listeners[0].address().into();
    let (sender, results) = channel();
    let make = move |_| Accepting { results: sender };
    let plans = vec![ShardPlan { core: None, listeners, make }];
    let root = std::env::temp_dir();
    let config = RingConfig::new(root.clone());
    let handle = run_shards(&config, plans, BackgroundThread::new(root)).unwrap();

    let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    // The limit that counts is that of the moment when an accept is submitted.
    let before = set_open_files(0);
    handle.post(ShardId(0), true).unwrap();
    client.connect(&address).unwrap();
    let refused = results.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(refused, Err(Fault::TooManyOpen)), "{refused:?}");

    set_open_files(before);
    // It may have tried, and failed, once more in the meantime.
    let mut outcomes = std::iter::from_fn(|| results.recv_timeout(PATIENCE).ok());
    assert!(outcomes.any(|outcome| matches!(outcome, Ok(Done::Accepted { .. }))));

    handle.post(ShardId(0), false).unwrap();
    handle.join();
}
