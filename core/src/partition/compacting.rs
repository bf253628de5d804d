//! Compaction of the partitions at home: whose turn it is, and carrying a round out.
//!
//! A shard compacts one log at a time. The round itself ([`Round`]) says what it needs: reads and
//! writes go through the shard's disk as all others do, one at a time; its work is done by the
//! background executor, step by step, so a turn spends no time on it. Between two reads or writes
//! it pauses so long that no more than its share of `log.cleaner.io.max.bytes.per.second` is moved.
//!
//! Whatever goes wrong ends the round: the files it made are removed, and the log is as good as
//! before. It has its turn again later; not before a restart if what is stored cannot be read, or
//! a record could be dropped whose successor nobody has seen.
//!
//! Start reading at [`Home::poll_compaction`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidemill_record::{Offset, TopicPartition};
use tidemill_runtime::edge::{Chore, Done, Fault, Instant, Steps, Work as StepWork};
use tidemill_storage::compaction::policy::{Dirt, When};
use tidemill_storage::compaction::round::{Done as RoundDone, End, GivenUp, Need, Order};
use tidemill_storage::compaction::{Round, Terms};
use tidemill_storage::{Log, LogId, SwapError};

use super::{Home, Times};
use crate::disk::{FileName, FileOp, Owner, Request, Work};
use crate::limits::{COMPACTION_LOGS_LOOKED_AT, COMPACTION_MAP_LOAD_MAX, REWORKED_BYTES_MAX};

/// A journal that is full is asked again after so long.
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// A log that cannot be compacted just now is asked again after so long.
const NOT_YET_PAUSE: Duration = Duration::from_secs(1);

/// How a topic wants to be compacted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CompactionRules {
    /// When it is due.
    pub when: When,
    /// `delete.retention.ms`
    pub delete_retention_ms: i64,
}

/// What compaction may use on one shard.
#[derive(Clone, Debug)]
pub struct CompactionLimits {
    /// `log.cleaner.enable`
    pub enabled: bool,
    /// `log.cleaner.backoff.ms`: how long it rests when nothing is due.
    pub backoff: Duration,
    /// This shard's share of `log.cleaner.dedupe.buffer.size`.
    pub map_bytes_max: usize,
    /// This shard's share of `log.cleaner.io.max.bytes.per.second`.
    pub bytes_per_second: u64,
    /// For the hashes of keys.
    pub seed: [u64; 2],
}

/// What compaction did on this shard, and how much there is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CompactionFigures {
    /// Rounds that ended well.
    pub rounds: u64,
    /// Rounds that were given up for an error.
    pub failures: u64,
    /// Bytes read, also by the round that runs.
    pub read_bytes: u64,
    /// Bytes written, also by the round that runs, and those of no use.
    pub written_bytes: u64,
    /// Records that were left out.
    pub records_removed: u64,
    /// The largest dirty share of any log, when it was last looked.
    pub dirty_ratio_max: f64,
    /// Partitions that cannot be compacted, or only in front of damage.
    pub uncompactable: u64,
}

/// The compaction of one shard's partitions.
#[derive(Debug)]
pub struct Compaction {
    limits: CompactionLimits,
    rules: BTreeMap<TopicPartition, CompactionRules>,
    uncompactable: BTreeSet<TopicPartition>,
    /// What is damaged of them, and what lies behind that, is not compacted.
    damaged: BTreeSet<TopicPartition>,
    /// Logs that were due and could not be begun yet: others come first.
    passed_over: BTreeSet<TopicPartition>,
    /// Looking for the next log goes on behind this one.
    looked_at: Option<TopicPartition>,
    /// The dirtiest log found by this look that is due.
    best: Option<(TopicPartition, Dirt)>,
    ratio_max: f64,
    running: Option<Running>,
    /// It rests until then.
    next_at: Instant,
    figures: CompactionFigures,
}

#[derive(Debug)]
struct Running {
    id: TopicPartition,
    log: LogId,
    number: u32,
    task: Arc<Mutex<Task>>,
    /// What is under way.
    asked: Option<Asked>,
    /// To be done before the round is asked what is next.
    works: VecDeque<(Work, Asked)>,
    /// Files that would be left over if the round ended now.
    unfinished: VecDeque<[tidemill_storage::io::FileName; 2]>,
    /// A new segment that waits for room in the journal.
    swap: Option<tidemill_storage::Swap>,
    began: Instant,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Going,
    /// It is given up: its files are being removed.
    Clearing,
}

/// What a request under way is, when it ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Asked {
    Read,
    /// So many bytes.
    Write(u64),
    Step,
    /// Anything else that must go well.
    Other,
    /// What may fail: files that are of no use are removed at the next start, too.
    Removal,
}

/// A round and how its last step ended: what the background executor works on.
#[derive(Debug)]
struct Task {
    round: Round,
    failed: Option<GivenUp>,
}

impl Steps for Task {
    fn step(&mut self) {
        self.failed = self.round.step().err();
    }
}

/// Why a round ended early.
#[derive(Debug)]
enum Trouble {
    /// The topic is gone or not compacted any more, the node stops, or the log was trimmed.
    Cancelled,
    Disk(Fault),
    GivenUp(GivenUp),
}

impl Compaction {
    /// Nothing is compacted yet.
    pub fn new(limits: CompactionLimits) -> Self {
        Self {
            limits,
            rules: BTreeMap::new(),
            uncompactable: BTreeSet::new(),
            damaged: BTreeSet::new(),
            passed_over: BTreeSet::new(),
            looked_at: None,
            best: None,
            ratio_max: 0.0,
            running: None,
            next_at: Instant::default(),
            figures: CompactionFigures::default(),
        }
    }

    /// What it did so far.
    pub fn figures(&self) -> CompactionFigures {
        let uncompactable = self.uncompactable.union(&self.damaged).count() as u64;
        CompactionFigures { uncompactable, ..self.figures }
    }

    /// From now on a partition is compacted by these rules, or not at all.
    pub(super) fn set_rules(&mut self, id: TopicPartition, rules: Option<CompactionRules>) {
        match rules.filter(|_| self.limits.enabled) {
            Some(rules) => _ = self.rules.insert(id, rules),
            None => {
                self.rules.remove(&id);
                self.uncompactable.remove(&id);
                self.damaged.remove(&id);
                self.passed_over.remove(&id);
            }
        }
    }

    /// When it wants to be asked again, if nothing of it is under way.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let is_waiting = self.running.as_ref().is_some_and(|running| running.asked.is_some());
        let idle = self.running.is_none() && self.rules.is_empty();
        (!is_waiting && !idle).then_some(self.next_at)
    }
}

impl Home {
    /// What compaction asks of the disk next, if anything: one request at a time.
    pub fn poll_compaction(&mut self, times: Times) -> Option<Request> {
        if self.fenced || self.stopping {
            // A stop does not wait for a round to be done: it is left where it is.
            return None;
        }
        let now = times.now;
        let is_cancelled = self.compaction.running.as_ref().is_some_and(|running| {
            running.stage == Stage::Going && !self.compaction.rules.contains_key(&running.id)
        });
        if is_cancelled && self.is_between() {
            self.give_up(&Trouble::Cancelled, times.now);
        }
        if now < self.compaction.next_at && !is_cancelled {
            return None;
        }
        if self.compaction.running.is_none() {
            self.look_for_dirt(times);
        }
        while self.is_between() {
            let running = self.compaction.running.as_mut().expect("just seen");
            if let Some((work, asked)) = running.works.pop_front() {
                running.asked = Some(asked);
                self.slow_down(&work, now);
                return Some(Request { owner: Owner::Compaction, id: 0, work });
            }
            if running.stage == Stage::Clearing {
                self.end_round(None, now);
                break;
            }
            if let Some(swap) = running.swap.take() {
                self.swap_in(swap, times);
                if now < self.compaction.next_at {
                    break;
                }
                continue;
            }
            let need = running.task().round.poll_need();
            if let Some(end) = running.take_need(need) {
                self.end_round(Some(end), now);
                break;
            }
        }
        None
    }

    /// A request of compaction has ended.
    pub fn compaction_finished(&mut self, result: Result<Done, Fault>, times: Times) {
        let running = self.compaction.running.as_mut().expect("it asked");
        let asked = running.asked.take().expect("one request at a time");
        let trouble = match (asked, result) {
            (Asked::Removal, _) => None,
            (Asked::Read, Ok(Done::Read(bytes))) => {
                self.compaction.figures.read_bytes += bytes.len() as u64;
                running.task().round.handle_read(Some(bytes));
                None
            }
            (Asked::Write(bytes), Ok(_)) => {
                self.compaction.figures.written_bytes += bytes;
                None
            }
            (Asked::Read, Err(Fault::NotFound)) => {
                running.task().round.handle_read(None);
                None
            }
            (Asked::Step, Ok(_)) => running.task().failed.take().map(Trouble::GivenUp),
            (_, Ok(_)) => None,
            (_, Err(fault)) => Some(Trouble::Disk(fault)),
        };
        if self.stopping {
            return self.leave_round();
        }
        if let Some(trouble) = trouble {
            self.give_up(&trouble, times.now);
        }
    }

    /// The partition is gone: a round on it ends as soon as nothing of it is under way.
    pub(super) fn stop_compacting(&mut self, id: TopicPartition, now: Instant) {
        self.compaction.set_rules(id, None);
        let is_it = self.compaction.running.as_ref().is_some_and(|running| running.id == id);
        if is_it && self.is_between() {
            self.give_up(&Trouble::Cancelled, now);
        }
    }

    /// The node stops: no round is taken further. A log that is dropped waits for the end of its
    /// round, so one ends as soon as nothing of it is under way; the files it leaves go with the
    /// log, or at the next start.
    pub(super) fn leave_round(&mut self) {
        if self.is_between() {
            let running = self.compaction.running.take().expect("just seen");
            self.storage.end_compaction(running.log, running.number, None);
        }
    }

    /// When compaction wants a turn, if nothing of it is under way.
    pub fn compaction_deadline(&self) -> Option<Instant> {
        if self.fenced || self.stopping { None } else { self.compaction.next_deadline() }
    }

    /// Whether a round runs and nothing of it is under way.
    fn is_between(&self) -> bool {
        self.compaction.running.as_ref().is_some_and(|running| running.asked.is_none())
    }

    /// After this much was moved, the next request waits so long that the rate is kept.
    fn slow_down(&mut self, work: &Work, now: Instant) {
        let bytes = match work {
            Work::File { op: FileOp::Read { size, .. }, .. } => u64::from(*size),
            Work::File { op: FileOp::Write { bytes, .. }, .. } => bytes.len() as u64,
            _ => 0,
        };
        let nanos = bytes.saturating_mul(1_000_000_000) / self.compaction.limits.bytes_per_second;
        self.compaction.next_at = now.after(Duration::from_nanos(nanos));
    }

    // Whose turn it is.

    /// Looks at some more logs; when all were looked at, begins a round on the dirtiest.
    fn look_for_dirt(&mut self, times: Times) {
        use std::ops::Bound::{Excluded, Unbounded};
        let begin = self.compaction.looked_at.map_or(Unbounded, Excluded);
        let some = self.compaction.rules.range((begin, Unbounded));
        let some: Vec<_> = some.take(COMPACTION_LOGS_LOOKED_AT).map(|(id, r)| (*id, *r)).collect();
        for (id, rules) in &some {
            self.look_at(*id, rules, times.wall_ms);
        }
        if some.len() == COMPACTION_LOGS_LOOKED_AT {
            self.compaction.looked_at = some.last().map(|(id, _)| *id);
            return;
        }
        self.compaction.looked_at = None;
        self.compaction.figures.dirty_ratio_max = std::mem::take(&mut self.compaction.ratio_max);
        let best = self.compaction.best.take();
        let backoff = self.compaction.limits.backoff;
        match best {
            Some((id, dirt)) if self.begin_round(id, &dirt, times) => {
                self.compaction.passed_over.clear();
            }
            Some((id, _)) => {
                self.compaction.passed_over.insert(id);
                self.compaction.next_at = times.now.after(backoff.min(NOT_YET_PAUSE));
            }
            None => {
                let waits = !self.compaction.passed_over.is_empty();
                self.compaction.passed_over.clear();
                let pause = if waits { backoff.min(NOT_YET_PAUSE) } else { backoff };
                self.compaction.next_at = times.now.after(pause);
            }
        }
    }

    fn look_at(&mut self, id: TopicPartition, rules: &CompactionRules, wall_ms: i64) {
        let Some(partition) = self.partitions.get(&id) else { return };
        if self.compaction.uncompactable.contains(&id) {
            return;
        }
        let log = self.storage.log(partition.log);
        if !log.has_damage() {
            self.compaction.damaged.remove(&id);
        } else if self.compaction.damaged.insert(id) {
            tracing::warn!(
                topic = &*partition.rules.topic,
                partition = id.partition.0,
                "a log is damaged: it is compacted only in front of that"
            );
        }
        let Some(dirt) = log.dirt(rules.when, wall_ms) else { return };
        let compaction = &mut self.compaction;
        compaction.ratio_max = compaction.ratio_max.max(dirt.ratio());
        let is_dirtier = compaction.best.is_none_or(|(_, best)| best.ratio() < dirt.ratio());
        if dirt.is_due && is_dirtier && !compaction.passed_over.contains(&id) {
            compaction.best = Some((id, dirt));
        }
    }

    fn begin_round(&mut self, id: TopicPartition, dirt: &Dirt, times: Times) -> bool {
        let Some(partition) = self.partitions.get(&id) else { return false };
        let Some(rules) = self.compaction.rules.get(&id).copied() else { return false };
        let (log, segment_bytes) = (partition.log, partition.rules.log.segment_bytes);
        // None: what is dirty is not in a checkpoint yet; one is on its way.
        let Some(plan) = self.storage.begin_compaction(log, dirt.below) else { return false };
        let books = self.storage.log(log);
        let end = plan.segments.last().map_or(plan.start, |segment| segment.next_offset);
        let order = Order {
            terms: Terms {
                records_bytes_max: REWORKED_BYTES_MAX,
                now_ms: times.wall_ms,
                delete_retention_ms: rules.delete_retention_ms,
            },
            segment_bytes,
            map_bytes_max: self.compaction.limits.map_bytes_max,
            map_load_max: COMPACTION_MAP_LOAD_MAX,
            seed: self.compaction.limits.seed,
            aborted: books.aborted_in(Offset::ZERO..end),
            producers: books.producer_states(),
        };
        let number = plan.number;
        let task = Task { round: Round::new(plan, order), failed: None };
        self.compaction.running = Some(Running {
            id,
            log,
            number,
            task: Arc::new(Mutex::new(task)),
            asked: None,
            works: VecDeque::new(),
            unfinished: VecDeque::new(),
            swap: None,
            began: times.now,
            stage: Stage::Going,
        });
        true
    }

    // How a round ends.

    fn swap_in(&mut self, swap: tidemill_storage::Swap, times: Times) {
        let running = self.compaction.running.as_mut().expect("its round has made it");
        match self.storage.swap_in(running.log, &swap, times.now.nanos) {
            Ok(()) => _ = running.unfinished.pop_front(),
            Err(SwapError::Busy) => {
                running.swap = Some(swap);
                self.compaction.next_at = times.now.after(BUSY_PAUSE);
            }
            Err(SwapError::Changed | SwapError::Closing | SwapError::Fenced) => {
                self.give_up(&Trouble::Cancelled, times.now);
            }
        }
    }

    /// Ends a round early. What it made of no use is removed first: a log that is dropped waits for
    /// the round with its directory.
    fn give_up(&mut self, trouble: &Trouble, now: Instant) {
        let running = self.compaction.running.as_mut().expect("only a round is given up");
        if running.stage == Stage::Clearing {
            return;
        }
        running.stage = Stage::Clearing;
        self.compaction.next_at = now;
        running.works.clear();
        running.swap = None;
        for files in std::mem::take(&mut running.unfinished) {
            running.works.extend(files.map(|file| (remove(file), Asked::Removal)));
        }
        let (id, log) = (running.id, running.log);
        let is_there = self.partitions.contains_key(&id);
        let is_changed = is_there && running.is_changed(self.storage.log(log));
        if matches!(trouble, Trouble::Cancelled) || is_changed || !is_there {
            return;
        }
        self.compaction.figures.failures += 1;
        let retried = !matches!(trouble, Trouble::GivenUp(_));
        if !retried {
            self.compaction.uncompactable.insert(id);
        }
        let (topic, partition) = (self.topic_of(id), id.partition.0);
        match trouble {
            Trouble::GivenUp(why) => tracing::error!(
                topic, partition, reason = %why,
                "a log cannot be compacted: it stays as it is until a restart"
            ),
            Trouble::Disk(fault) => tracing::warn!(
                topic, partition, reason = ?fault,
                "compaction was given up: the log stays as it is and is tried again"
            ),
            Trouble::Cancelled => {}
        }
    }

    /// What a partition's topic is called.
    fn topic_of(&self, id: TopicPartition) -> &str {
        self.partitions.get(&id).map_or("(deleted)", |partition| &*partition.rules.topic)
    }

    fn end_round(&mut self, end: Option<End>, now: Instant) {
        let running = self.compaction.running.take().expect("a round ends once");
        let done = running.task().round.done();
        let compacted_to = end.as_ref().map(|end| end.compacted_to);
        if let Some(end) = end {
            self.storage.forget_aborted(running.log, &end.forgotten);
        }
        self.storage.end_compaction(running.log, running.number, compacted_to);
        let compaction = &mut self.compaction;
        let figures = &mut compaction.figures;
        let Some(compacted_to) = compacted_to else {
            compaction.next_at = now.after(compaction.limits.backoff);
            return;
        };
        figures.rounds += 1;
        figures.records_removed += done.records_before.saturating_sub(done.records_after);
        running.tell(self.topic_of(running.id), compacted_to, done, now);
    }
}

impl Running {
    fn task(&self) -> MutexGuard<'_, Task> {
        // Nobody else has it: no step is under way.
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns what the round needs into what is asked of the disk; the end is handed back.
    fn take_need(&mut self, need: Need) -> Option<End> {
        let on_file = |file, create, op| Work::File { name: FileName::Storage(file), create, op };
        match need {
            Need::Step => {
                let task: Arc<Mutex<dyn Steps>> = Arc::clone(&self.task) as _;
                let chore = Chore::Step(StepWork(task));
                self.works.push_back((Work::Chore { chore, forget: Vec::new() }, Asked::Step));
            }
            Need::Read { file, position, size } => {
                let work = on_file(file, false, FileOp::Read { position, size });
                self.works.push_back((work, Asked::Read));
            }
            Need::Begin { files } => {
                self.unfinished.push_back(files.clone());
                for file in files {
                    let path = PathBuf::from(file.to_string());
                    let cut = Chore::Truncate { path, size: 0 };
                    let made = on_file(file, true, FileOp::Touch);
                    self.works.push_back((made, Asked::Other));
                    let cut = Work::Chore { chore: cut, forget: Vec::new() };
                    self.works.push_back((cut, Asked::Other));
                }
            }
            Need::Write { file, position, bytes } => {
                let asked = Asked::Write(bytes.len() as u64);
                let op = FileOp::Write { position, bytes, durable: false };
                self.works.push_back((on_file(file, false, op), asked));
            }
            Need::Seal { file, size } => {
                let path = PathBuf::from(file.to_string());
                let cut = Work::Chore { chore: Chore::Truncate { path, size }, forget: Vec::new() };
                self.works.push_back((on_file(file.clone(), false, FileOp::Sync), Asked::Other));
                self.works.push_back((cut, Asked::Other));
                self.works.push_back((on_file(file, false, FileOp::Sync), Asked::Other));
            }
            Need::SyncDir { file } => {
                let chore = Chore::SyncDir(PathBuf::from(file.dir().to_string()));
                self.works.push_back((Work::Chore { chore, forget: Vec::new() }, Asked::Other));
            }
            Need::Swap(swap) => self.swap = Some(swap),
            Need::End(end) => return Some(end),
        }
        None
    }

    /// Whether the log does not hold all the segments any more that the round was to read: they were
    /// trimmed, and it is no wonder that they cannot be read.
    fn is_changed(&self, log: &Log) -> bool {
        let task = self.task();
        let last = task.round.plan().segments.last();
        let first = task.round.plan().segments.first();
        let start = first.map_or(Offset::ZERO, |segment| segment.base_offset);
        let end = last.map_or(Offset::ZERO, |segment| segment.next_offset);
        let now = log.segments().next().map_or(end, |segment| segment.base_offset);
        start < now || log.end() < end
    }

    fn tell(&self, topic: &str, compacted_to: Offset, done: RoundDone, now: Instant) {
        tracing::info!(
            topic,
            partition = self.id.partition.0,
            compacted_to = compacted_to.0,
            keys = done.keys,
            records_before = done.records_before,
            records_after = done.records_after,
            read_bytes = done.read_bytes,
            written_bytes = done.written_bytes,
            seconds = now.since(self.began).as_secs_f64(),
            "a log was compacted"
        );
    }
}

fn remove(file: tidemill_storage::io::FileName) -> Work {
    let chore = Chore::RemoveFile(PathBuf::from(file.to_string()));
    Work::Chore { chore, forget: vec![FileName::Storage(file)] }
}
