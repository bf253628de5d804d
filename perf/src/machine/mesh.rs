//! What the mesh can do: messages from one shard to another and back, one at a time (each wakes
//! a sleeping shard) and many at once.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use hdrhistogram::Histogram;
use tidemill_runtime::chores::BackgroundThread;
use tidemill_runtime::clock;
use tidemill_runtime::edge::{Edge, Instant, Next, Program, ShardId};
use tidemill_runtime::ring::{RingConfig, RingEdge};
use tidemill_runtime::shard::{ShardPlan, run_shards};

use super::{Measured, Step, Timetable, Watcher, await_report, two_cores};
use crate::counts::empty;

/// Messages under way at once, one case each.
const DEPTHS: [usize; 3] = [1, 16, 256];

/// The names of its cases.
pub fn names() -> impl Iterator<Item = String> {
    DEPTHS.into_iter().map(|depth| format!("round trip x {depth}"))
}

/// Measures in so much time altogether.
pub fn measure(whole: Duration, watch: Watcher<'_>) -> io::Result<Vec<Measured>> {
    let time = Timetable::of(whole);
    let mut done = Vec::new();
    for (depth, name) in DEPTHS.into_iter().zip(names()) {
        watch(Step::Runs(&name, time.share()));
        let duration = whole / DEPTHS.len() as u32;
        let (report, reports) = channel();
        let plan = |core, report| {
            let make = move |me: ShardId| Player::new(me, depth, duration, report);
            ShardPlan { core, listeners: Vec::new(), make }
        };
        let [first, second] = two_cores();
        let plans = vec![plan(first, Some(report)), plan(second, None)];
        let root = PathBuf::from(".");
        let config = RingConfig::new(root.clone());
        let handle = run_shards(&config, plans, BackgroundThread::new(root))?;
        let measured = await_report(&reports, &name, &time, watch);
        handle.join();
        let measured = Measured { name, ..measured? };
        watch(Step::Ended(&measured));
        done.push(measured);
    }
    Ok(done)
}

/// When a message was sent; the last one says that it is over.
type Ball = u64;

const OVER: Ball = u64::MAX;

struct Player {
    me: ShardId,
    depth: usize,
    duration: Duration,
    began: Option<(Instant, Duration)>,
    under_way: usize,
    latency: Histogram<u64>,
    scale: clock::TickScale,
    report: Option<Sender<Result<Measured, String>>>,
}

impl Player {
    fn new(
        me: ShardId,
        depth: usize,
        duration: Duration,
        report: Option<Sender<Result<Measured, String>>>,
    ) -> Self {
        let scale = clock::TickScale::measure();
        let (began, latency) = (None, empty());
        Self { me, depth, duration, began, under_way: 0, latency, scale, report }
    }

    fn send(&mut self, to: ShardId, ball: Ball, edge: &mut RingEdge<Ball>) {
        edge.send(to, ball).expect("the queue is longer than there are balls");
    }

    fn serve(&mut self, edge: &mut RingEdge<Ball>) -> Next {
        let now = edge.now();
        let (began, cpu_before) = *self.began.get_or_insert_with(|| (now, clock::cpu_time()));
        while let Some((_, sent)) = edge.poll_message() {
            let ticks = clock::stamp().saturating_sub(sent);
            self.latency.saturating_record(self.scale.nanos(ticks));
            self.under_way -= 1;
        }
        if now.since(began) < self.duration {
            while self.under_way < self.depth {
                self.under_way += 1;
                self.send(ShardId(1), clock::stamp(), edge);
            }
            return Next::Idle;
        }
        if 0 < self.under_way {
            return Next::Idle;
        }
        self.send(ShardId(1), OVER, edge);
        let measured = Measured {
            name: String::new(),
            count: self.latency.len(),
            bytes: 0,
            elapsed: now.since(began),
            cpu: clock::cpu_time().saturating_sub(cpu_before),
            latency: Some(self.latency.clone()),
        };
        if let Some(report) = self.report.take() {
            // Fails only if nobody wants to know any more.
            drop(report.send(Ok(measured)));
        }
        Next::Stop
    }

    fn give_back(&mut self, edge: &mut RingEdge<Ball>) -> Next {
        while let Some((from, ball)) = edge.poll_message() {
            if ball == OVER {
                return Next::Stop;
            }
            self.send(from, ball, edge);
        }
        Next::Idle
    }
}

impl Program<RingEdge<Ball>> for Player {
    fn turn(&mut self, edge: &mut RingEdge<Ball>) -> Next {
        if self.me == ShardId(0) { self.serve(edge) } else { self.give_back(edge) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back() {
        let measured = measure(Duration::from_millis(90), &mut |_| ()).unwrap();
        assert_eq!(measured.len(), DEPTHS.len());
        for measured in measured {
            assert!(0 < measured.count, "{measured:?}");
        }
    }
}
