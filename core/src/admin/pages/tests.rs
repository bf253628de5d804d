//! What a node answers when its shards are not as they should be: real shards that say what a test
//! wants them to say, or nothing.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use tidemill_net::http::Method;
use tidemill_perf::lateness::Lateness;
use tidemill_runtime::chores::BackgroundThread;
use tidemill_runtime::edge::{Edge, Next, Program, ShardId};
use tidemill_runtime::ring::{RingConfig, RingEdge};
use tidemill_runtime::shard::{Handle, ShardPlan, run_shards};

use super::*;
use crate::limits::{ADMIN_CONNECTIONS_MAX, PARTITIONS_TOLD_MAX};
use crate::measure::{PartitionState, Question, ShardState};
use crate::message::Message;

/// A shard that tells this of itself.
#[derive(Default)]
struct Scripted {
    state: ShardState,
    /// So many partitions, numbered from zero, of a topic named after the shard.
    partitions: usize,
    /// It takes questions and leaves them lying; each is counted here.
    silent: Option<Sender<()>>,
    unanswered: Vec<Question>,
}

impl Scripted {
    fn told(&self, what: What) -> Told {
        let after = what.partitions_after.unwrap_or(self.partitions);
        let numbers = (after..self.partitions).take(PARTITIONS_TOLD_MAX);
        let partition = |number: usize| PartitionState {
            topic: format!("of shard {}", self.state.shard).into(),
            partition: number as i32,
            log_start: 0,
            high_watermark: 0,
            size_bytes: 0,
            lateness: number.is_multiple_of(2).then(Box::<Lateness>::default),
        };
        let partitions = numbers.map(partition).collect();
        Told { state: self.state.clone(), reading: None, slowest: None, partitions }
    }
}

impl Program<RingEdge<Message>> for Scripted {
    fn turn(&mut self, edge: &mut RingEdge<Message>) -> Next {
        while let Some((_, message)) = edge.poll_message() {
            match (message, &self.silent) {
                (Message::Stop, _) => return Next::Stop,
                (Message::Ask(question), None) => {
                    let told = self.told(question.what);
                    // Who asked may have given up.
                    let _ = question.answer.try_send(told);
                }
                (Message::Ask(question), Some(asked)) => {
                    self.unanswered.push(question);
                    asked.send(()).unwrap();
                }
                _ => {}
            }
        }
        Next::Idle
    }
}

/// A node of these shards.
struct Scene {
    handle: Option<Handle<Message>>,
    pages: Pages,
    shards: u16,
}

impl Scene {
    fn of(life: Life, mut shards: Vec<Scripted>) -> Self {
        let plan = |(number, mut shard): (usize, Scripted)| {
            shard.state.shard = number as u16;
            ShardPlan { core: None, listeners: Vec::new(), make: move |_: ShardId| shard }
        };
        let plans: Vec<_> = shards.drain(..).enumerate().map(plan).collect();
        let count = plans.len() as u16;
        let root = std::env::temp_dir();
        let background = BackgroundThread::new(root.clone());
        let handle = run_shards(&RingConfig::new(root), plans, background).unwrap();
        let cell = LifeCell::default();
        cell.set(life);
        let pages = Pages {
            node: NodeLabel::default(),
            started_unix_ms: 0,
            shards: Shards::new(handle.poster()),
            life: cell,
        };
        Self { handle: Some(handle), pages, shards: count }
    }

    fn get(&self, path: &str) -> (Status, String) {
        let path = path.to_owned();
        let answer = self.pages.answer(&Request { method: Method::Get, path, query: Vec::new() });
        (answer.status, String::from_utf8(answer.body).unwrap())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let handle = self.handle.take().unwrap();
        for shard in 0..self.shards {
            handle.post(ShardId(shard), Message::Stop).unwrap();
        }
        handle.join();
    }
}

fn serving() -> Scripted {
    Scripted { state: ShardState { serving: true, ..ShardState::default() }, ..Scripted::default() }
}

fn silent() -> (Scripted, Receiver<()>) {
    let (asked, questions) = channel();
    (Scripted { silent: Some(asked), ..serving() }, questions)
}

/// Load balancers send clients only to a node that can serve them; why it cannot is told.
#[test]
fn a_node_is_ready_only_while_it_can_append() {
    let fenced = Scripted { state: ShardState { fenced: true, ..serving().state }, ..serving() };
    let idle = Scripted::default();
    for (life, second, status, words) in [
        (Life::Serving, serving(), Status::OK, "ready"),
        (Life::Starting, serving(), Status::UNAVAILABLE, "starting"),
        (Life::Stopping, serving(), Status::UNAVAILABLE, "stopping"),
        (Life::Serving, fenced, Status::UNAVAILABLE, "the data directory has failed"),
        (Life::Serving, idle, Status::UNAVAILABLE, "shard 1 does not serve"),
    ] {
        let scene = Scene::of(life, vec![serving(), second]);
        let (found, text) = scene.get("/readyz");
        assert!(found == status && text.contains(words), "{words}: {found:?} {text}");
        let (alive, _) = scene.get("/livez");
        assert_eq!(alive, Status::OK, "{words}: whoever cannot append still is alive");
    }
}

/// A shard that makes no turns is named, and whatever can be told without it is told.
#[test]
fn a_shard_that_hangs_is_named() {
    let (hung, _questions) = silent();
    let scene = Scene::of(Life::Serving, vec![serving(), hung]);
    thread::scope(|scope| {
        for path in ["/livez", "/readyz", "/latency", "/slowest"] {
            let pages = &scene;
            scope.spawn(move || {
                let (status, text) = pages.get(path);
                assert_eq!(status, Status::UNAVAILABLE, "{path}: {text}");
                assert!(text.contains("shard 1 does not answer"), "{path}: {text}");
            });
        }
        scope.spawn(|| {
            let (status, text) = scene.get("/metrics");
            assert_eq!(status, Status::OK);
            for line in ["tidemill_shard_up{shard=\"0\"} 1", "tidemill_shard_up{shard=\"1\"} 0"] {
                assert!(text.lines().any(|found| found == line), "{line}: {text}");
            }
        });
    });
}

/// While it stops, its shards may be gone: it is alive all the same, and nobody waits for them.
#[test]
fn a_node_that_stops_is_alive() {
    let (gone, questions) = silent();
    let scene = Scene::of(Life::Stopping, vec![gone]);
    assert_eq!(scene.get("/livez").0, Status::OK);
    assert!(questions.try_recv().is_err(), "it was asked");
}

/// A shard that hangs is not left with a question of every scrape there ever was.
#[test]
fn questions_to_a_shard_that_hangs_are_bounded() {
    let (hung, questions) = silent();
    let scene = Scene::of(Life::Serving, vec![hung]);
    thread::scope(|scope| {
        for _ in 0..2 * ADMIN_CONNECTIONS_MAX {
            scope.spawn(|| assert_eq!(scene.get("/livez").0, Status::UNAVAILABLE));
        }
    });
    drop(scene);
    assert_eq!(questions.iter().count(), ADMIN_CONNECTIONS_MAX);
}

/// Shards tell of their partitions a few at a time; all of them are shown, each once, in order.
#[test]
fn partitions_of_all_shards_are_shown_in_order() {
    let many = |partitions| Scripted { partitions, ..serving() };
    let shards = vec![many(2 * PARTITIONS_TOLD_MAX + 3), many(5), many(0)];
    let scene = Scene::of(Life::Serving, shards);
    let partitions = scene.pages.shards.partitions();
    assert_eq!(partitions.len(), 2 * PARTITIONS_TOLD_MAX + 8);
    let names: Vec<_> = partitions.iter().map(|p| (p.topic.clone(), p.partition)).collect();
    assert!(names.is_sorted_by(|a, b| a < b));
    // Of those that were never appended to nothing is told.
    let (_, text) = scene.get("/lateness");
    let document: LatenessDocument = serde_json::from_str(&text).unwrap();
    let with_lateness = names.iter().filter(|(_, number)| number % 2 == 0).count();
    assert_eq!(document.partitions.len(), with_lateness);
    assert!(scene.get("/nothing").1.contains("/lateness"));
}
