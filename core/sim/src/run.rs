//! One run: a world, a crowd and a series of misfortunes, all drawn from one seed.
//!
//! A run is a row of lives of the node. Each begins with a start on the disk the last one left,
//! perhaps with another number of shards, and ends by a request to stop, a kill or a power loss at
//! any event. In the last life nothing fails any more: everything that was begun must come to its
//! end, and then all that is left is read and compared with all that was ever said.
//!
//! Start reading at [`run`].

use std::time::Duration;

use tidemill_runtime::edge::Instant;

use crate::checker::shares::ShareRules;
use crate::checker::{Verdict, Violation, check};
use crate::random::Random;
use crate::trace::Trace;
use crate::workload::{Crowd, Workload};
use crate::world::{Crash, Node, Settings, World};

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// The first broken promise, if any.
    pub violation: Option<Violation>,
    /// The hash of the trace.
    pub hash: u64,
    /// How many things happened.
    pub notes: u64,
    /// How many records were acknowledged.
    pub acked_records: u64,
    /// How many commits of offsets were acknowledged.
    pub committed_offsets: u64,
    /// How many of them members of groups committed in transactions.
    pub offsets_in_transactions: u64,
    /// How many of their commits were refused, since they were out.
    pub fenced_commits: u64,
    /// How often a group or an offset of one was deleted.
    pub deletions_in_groups: u64,
    /// How many transactions were committed.
    pub transactions: u64,
    /// How many shares were given to members of groups.
    pub shares: u64,
    /// How often groups were upgraded, and how often downgraded, as far as their members saw.
    pub changes_of_kind: (u64, u64),
    /// How many records were given to members of share groups.
    pub shared_records: u64,
    /// How many of them they said to be done with, and were told that it is noted.
    pub done_records: u64,
    /// How many records were read.
    pub read_records: u64,
    /// How often the node started.
    pub starts: u64,
    /// How many records compaction has removed, as the audits saw.
    pub removed_records: u64,
    /// In how many logs.
    pub compacted_logs: u64,
}

/// What a seed decides before anything happens.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The clients.
    pub crowd: Crowd,
    /// The world.
    pub settings: Settings,
    /// The lives of the node but the last.
    pub lives: Vec<Life>,
    /// Shards in the last life.
    pub last_shards: u16,
    /// Connections that break, in parts per million of pieces.
    pub resets: u32,
    /// The longest ordinary delay on the network.
    pub delay_max: Duration,
    /// Whether the power fails once more after the audit, and all is read again.
    pub audit_twice: bool,
    /// Whether a bit of the disk flips in the end, in a file whose path contains this.
    pub rot: Option<&'static str>,
}

/// One life of the node.
#[derive(Clone, Debug)]
pub struct Life {
    /// How many shards it has.
    pub shards: u16,
    /// After how many events it ends, at the latest.
    pub events: u64,
    /// After how much time it ends, at the latest.
    pub lasts: Duration,
    /// How it ends.
    pub end: End,
    /// What is wrong with the disk in the second half of it.
    pub ill: Ill,
    /// How long the node is gone afterwards.
    pub gone: Duration,
}

/// How a life ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// The node is asked to stop, and does.
    Stop,
    /// Without notice.
    Crash(Crash),
}

/// What is wrong with the disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ill {
    /// Nothing.
    Nothing,
    /// Writes fail.
    Writes,
    /// Syncs fail.
    Syncs,
    /// Reads fail.
    Reads,
    /// Ops take up to a second.
    Slow,
    /// It is full, and later has room again.
    Full,
}

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed).fork("plan");
        let random = &mut random;
        let lives = (0..random.between(1, 5)).map(|_| Life::draw(random)).collect();
        Self {
            crowd: draw_crowd(random, seed),
            settings: Settings {
                mesh_messages_max: *random.pick(&[2, 8, 64, 1024]),
                stalls: *random.pick(&[0, 0, 100, 2_000]),
                ..Settings::default()
            },
            lives,
            last_shards: random.between(1, 3) as u16,
            resets: *random.pick(&[0, 0, 200, 5_000]),
            delay_max: Duration::from_micros(*random.pick(&[50, 500, 500, 5_000, 30_000])),
            audit_twice: random.coin(),
            rot: *random.pick(&[
                None,
                None,
                None,
                Some("journal/shard"),
                Some("partitions"),
                Some("journal"),
                Some(""),
            ]),
        }
    }
}

impl Life {
    fn draw(random: &mut Random) -> Self {
        Self {
            shards: random.between(1, 3) as u16,
            events: *random.pick(&[100, 1_000, 4_000, 10_000, 10_000]) + random.below(2_000),
            lasts: Duration::from_millis(random.between(100, 3_000)),
            end: *random.pick(&[
                End::Stop,
                End::Crash(Crash::Kill),
                End::Crash(Crash::PowerLoss),
                End::Crash(Crash::PowerLoss),
            ]),
            ill: *random.pick(&[
                Ill::Nothing,
                Ill::Nothing,
                Ill::Nothing,
                Ill::Nothing,
                Ill::Nothing,
                Ill::Writes,
                Ill::Syncs,
                Ill::Reads,
                Ill::Slow,
                Ill::Full,
            ]),
            gone: Duration::from_millis(*random.pick(&[0, 1, 100, 1_000])),
        }
    }
}

fn draw_crowd(random: &mut Random, seed: u64) -> Crowd {
    let of_groups = &mut Random::new(seed).fork("groups");
    let of_transactions = &mut Random::new(seed).fork("transactions");
    let of_compaction = &mut Random::new(seed).fork("compaction");
    let of_forgetting = &mut Random::new(seed).fork("forgetting");
    let of_shares = &mut Random::new(seed).fork("share groups");
    Crowd {
        sharers: *of_shares.pick(&[0, 0, 1, 2, 3]),
        share_groups: of_shares.between(1, 2) as u32,
        share_rules: share_rules(seed),
        compacted_topics: *of_compaction.pick(&[0, 0, 500_000, 1_000_000]),
        transactors: *of_transactions.pick(&[0, 1, 2, 3, 5]),
        transactional_ids: of_transactions.between(1, 4) as u32,
        members: *of_groups.pick(&[0, 1, 3, 3, 5]),
        groups: of_groups.between(1, 2) as u32,
        idempotent_producers: random.between(1, 4) as u32,
        plain_producers: random.between(0, 2) as u32,
        readers: random.between(1, 3) as u32,
        topics: random.between(1, 3) as u32,
        partitions_max: random.between(1, 4) as i32,
        value_bytes: *random.pick(&[20, 200, 200, 2_000, 20_000]),
        batch_records_max: random.between(1, 20) as usize,
        large_batches: *random.pick(&[0, 0, 5_000, 50_000]),
        pause_max: Duration::from_millis(*random.pick(&[2, 10, 10, 50])),
        topic_deletions: *random.pick(&[0, 0, 10_000, 50_000]),
        record_deletions: *random.pick(&[0, 0, 20_000, 100_000]),
        group_deletions: *of_forgetting.pick(&[0, 20_000, 100_000]),
        quotas: 50_000,
    }
}

/// What the share groups of a seed are set to.
#[must_use]
pub fn share_rules(seed: u64) -> ShareRules {
    let random = &mut Random::new(seed).fork("share rules");
    ShareRules {
        // Shorter than an answer takes on a slow network, nothing would ever be done with.
        lock: Duration::from_millis(*random.pick(&[500, 1_000, 1_000, 3_000])),
        deliveries_max: *random.pick(&[2, 5, 10, 10]),
        read_committed: random.coin(),
    }
}

/// How long the node may take to serve, to stop, or to bring everything to an end, when nothing
/// fails: far more than it needs.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs `seed` on a node.
pub fn run<N: Node>(seed: u64, node: N, plan: &Plan, trace: Trace) -> Outcome {
    run_with(seed, node, plan, trace, |_| {}, |_| {})
}

/// Runs `seed` on a node in a world that `prepare` changes first and `look` sees in the end.
pub fn run_with<N: Node>(
    seed: u64,
    node: N,
    plan: &Plan,
    trace: Trace,
    prepare: impl FnOnce(&mut World<N, Workload>),
    look: impl FnOnce(&mut World<N, Workload>),
) -> Outcome {
    let crowd = Workload::new(plan.crowd.clone(), Random::new(seed).fork("crowd"));
    let mut world = World::new(seed, node, crowd, plan.settings.clone(), trace);
    prepare(&mut world);
    world.network_faults().delay_max = plan.delay_max;
    world.network_faults().resets = plan.resets;
    for number in world.clients().numbers() {
        world.wake_clients(number);
    }
    let verdict = live(&mut world, plan);
    look(&mut world);
    let starts = world.starts();
    let hash = world.trace().hash();
    let notes = world.trace().len();
    let history = world.clients().history();
    let (removed_records, compacted_logs) = history.removed();
    Outcome {
        violation: verdict.err(),
        hash,
        notes,
        acked_records: history.acked_records,
        committed_offsets: history.committed_offsets,
        offsets_in_transactions: history.offsets_in_transactions,
        fenced_commits: history.fenced_commits,
        deletions_in_groups: history.deletions_in_groups,
        transactions: history.transactions.committed,
        shares: history.shares,
        changes_of_kind: history.changes_of_kind(),
        shared_records: history.sharing.given,
        done_records: history.sharing.done,
        read_records: history.read_records,
        starts,
        removed_records,
        compacted_logs,
    }
}

fn live<N: Node>(world: &mut World<N, Workload>, plan: &Plan) -> Verdict {
    for life in &plan.lives {
        live_once(world, life)?;
    }
    world.say("the last life: nothing fails from here on");
    heal(world);
    world.network_faults().resets = 0;
    world.settings().stalls = 0;
    start(world, plan.last_shards)?;
    world.clients().drain();
    wait_for(world, "all that was begun comes to its end", Workload::is_drained)?;
    let rule = "each partition is read by one member of each group";
    wait_for(world, rule, Workload::is_shared_out)?;
    // What nobody waits for any more may still be on its way.
    let limit = world.now().after(PATIENCE);
    while !world.is_delivered() && world.step(limit) {}
    world.run_for(Duration::from_secs(1));
    world.clients().settle();
    wait_for(world, "share groups read all there is", Workload::is_settled)?;
    audit(world, false)?;
    if plan.audit_twice {
        lose(world, Crash::PowerLoss);
        start(world, plan.last_shards)?;
        audit(world, false)?;
        if world.clients().compacts() {
            // What was gone, as the audit before has found, must not be there again.
            audit(world, false)?;
        }
    }
    match plan.rot {
        Some(part) => rot(world, plan.last_shards, part),
        None => Ok(()),
    }
}

/// Flips a bit under the node. It may refuse to start and it may refuse to serve what is damaged;
/// it must not serve less than there was, or anything else, without a word.
fn rot<N: Node>(world: &mut World<N, Workload>, shards: u16, part: &str) -> Verdict {
    lose(world, Crash::Kill);
    let Some(path) = world.disk().rot(part) else { return Ok(()) };
    world.say(&format!("a bit has flipped in {}", path.display()));
    begin(world, shards);
    let limit = world.now().after(PATIENCE);
    while !world.node().is_serving() {
        if world.node().failure().is_some() {
            return Ok(());
        }
        checked(world)?;
        if !world.step(limit) {
            return check(false, "a damaged start ends", || "it does not".to_owned());
        }
    }
    audit(world, true)
}

fn live_once<N: Node>(world: &mut World<N, Workload>, life: &Life) -> Verdict {
    begin(world, life.shards);
    let limit = world.now().after(life.lasts);
    run_events(world, life.events / 2, limit)?;
    fall_ill(world, life.ill);
    run_events(world, life.events / 2, limit)?;
    failed_start(world, life.ill != Ill::Nothing)?;
    if life.ill == Ill::Full {
        world.say("the disk has room again");
        heal(world);
        run_events(world, life.events / 2, world.now().after(life.lasts))?;
    }
    match life.end {
        End::Stop => {
            let healthy = matches!(life.ill, Ill::Nothing | Ill::Slow);
            world.ask_to_stop();
            let limit = world.now().after(PATIENCE);
            while world.is_running() && world.step(limit) {
                checked(world)?;
            }
            check(!healthy || !world.is_running(), "a node that is asked to stop does", || {
                "it still runs".to_owned()
            })?;
            lose(world, Crash::Kill);
        }
        End::Crash(crash) => lose(world, crash),
    }
    heal(world);
    world.run_for(life.gone);
    checked(world)
}

/// Ends the node's process without asking it.
fn lose<N: Node>(world: &mut World<N, Workload>, crash: Crash) {
    world.crash(crash);
    world.clients().node_ended();
}

fn fall_ill<N: Node>(world: &mut World<N, Workload>, ill: Ill) {
    world.say(match ill {
        Ill::Nothing => return,
        Ill::Writes => "writes begin to fail",
        Ill::Syncs => "syncs begin to fail",
        Ill::Reads => "reads begin to fail",
        Ill::Slow => "the disk becomes slow",
        Ill::Full => "the disk is full",
    });
    let disk = world.disk();
    match ill {
        Ill::Nothing => {}
        Ill::Writes => disk.faults.write_errors = 20_000,
        Ill::Syncs => disk.faults.sync_errors = 200_000,
        Ill::Reads => disk.faults.read_errors = 100_000,
        Ill::Slow => disk.faults.slow_ops = 100_000,
        Ill::Full => {
            let used = disk.used_bytes();
            disk.set_capacity(used + (64 << 10));
        }
    }
}

fn heal<N: Node>(world: &mut World<N, Workload>) {
    world.disk().faults = crate::disk::DiskFaults::default();
    world.disk().set_capacity(Settings::default().disk_bytes);
}

fn begin<N: Node>(world: &mut World<N, Workload>, shards: u16) {
    let now = world.now();
    world.clients().starts(now);
    world.start(shards);
}

/// A start on a healthy disk must succeed.
fn start<N: Node>(world: &mut World<N, Workload>, shards: u16) -> Verdict {
    begin(world, shards);
    let limit = world.now().after(PATIENCE);
    while !world.node().is_serving() {
        failed_start(world, false)?;
        checked(world)?;
        if !world.step(limit) {
            return check(false, "a node that starts comes to serve", || "it does not".to_owned());
        }
    }
    Ok(())
}

fn failed_start<N: Node>(world: &mut World<N, Workload>, excused: bool) -> Verdict {
    let failure = world.node().failure();
    check(excused || failure.is_none(), "a node starts on what it has written", || {
        failure.unwrap_or_default()
    })
}

fn audit<N: Node>(world: &mut World<N, Workload>, lenient: bool) -> Verdict {
    world.say("the audit begins");
    let number = world.clients().audit(lenient);
    world.wake_clients(number);
    wait_for(world, "all that is there can be read", Workload::is_audited)?;
    world.clients().verdict()
}

fn wait_for<N: Node>(
    world: &mut World<N, Workload>,
    rule: &'static str,
    done: impl Fn(&Workload) -> bool,
) -> Verdict {
    let limit = world.now().after(PATIENCE);
    while !done(world.clients()) {
        checked(world)?;
        if !world.step(limit) {
            let evidence = world.clients().undrained();
            return Err(Violation { rule, evidence });
        }
    }
    checked(world)
}

fn run_events<N: Node>(world: &mut World<N, Workload>, events: u64, limit: Instant) -> Verdict {
    for _ in 0..events {
        if !world.step(limit) {
            break;
        }
        checked(world)?;
    }
    Ok(())
}

fn checked<N: Node>(world: &mut World<N, Workload>) -> Verdict {
    match world.clients().violation() {
        Some(violation) => Err(violation.clone()),
        None => Ok(()),
    }
}
