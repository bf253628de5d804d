//! One run: connections made, load put on, each phase measured, all records verified, the figures
//! drawn up.
//!
//! Start reading at [`run`].

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tidemill_runtime::chores::BackgroundThread;
use tidemill_runtime::clock;
use tidemill_runtime::edge::{Instant, ShardId};
use tidemill_runtime::ring::RingConfig;
use tidemill_runtime::shard::{ShardPlan, run_shards};

use crate::fleet::Fleet;
use crate::follow::Reading;
use crate::listen::{Listening, Measured, Whose};
use crate::load::{Load, Member, News, Outside, Shared};
use crate::plan::Plan;
use crate::rejoin::{self, Lost};
use crate::report::Report;
use crate::settings::{Readers, Settings, Share};
use crate::stop;
use crate::streams::Streams;
use crate::trouble::Trouble;
use crate::verdict::Verdict;
use crate::watch::Watch;

/// Time between the beginning of a run and its first request, for the shards to start …
const PREPARATION: Duration = Duration::from_millis(100);

/// … and for each of their connections to be told what to do.
const PREPARATION_EACH: Duration = Duration::from_micros(200);

/// The longest that nobody looks at how a run goes.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// Who else takes part in a run, and decides when it begins.
pub trait Company {
    /// This process's part of the run.
    fn share(&self) -> Share;

    /// All connections are made, so many: when the load begins, and the wall clock then, in
    /// milliseconds.
    fn begin(&mut self, connections: usize) -> Result<(Instant, i64), Trouble>;

    /// The load is on; what its shards share with whoever takes part.
    fn joined(&mut self, shared: &Arc<Shared>);

    /// No connection of this process produces any more.
    fn settled(&mut self);
}

/// The only process of a run.
struct Alone;

impl Company for Alone {
    fn share(&self) -> Share {
        Share::WHOLE
    }

    fn begin(&mut self, connections: usize) -> Result<(Instant, i64), Trouble> {
        let preparation = PREPARATION + preparation_of(connections);
        let unix_ms = clock::wall_clock_ms() + preparation.as_millis() as i64;
        Ok((clock::monotonic().after(preparation), unix_ms))
    }

    fn joined(&mut self, shared: &Arc<Shared>) {
        // There are no others to be waited for.
        shared.producing.fetch_sub(1, Ordering::AcqRel);
    }

    fn settled(&mut self) {}
}

/// How long so many connections take to be told what to do.
#[must_use]
pub fn preparation_of(connections: usize) -> Duration {
    PREPARATION_EACH * u32::try_from(connections).unwrap_or(u32::MAX)
}

/// Carries a run out, in this process or in those of a fleet. `watch` is told how it goes.
///
/// # Errors
/// If it could not begin. What goes wrong later is in the report.
pub fn run(
    settings: &Settings,
    fleet: Option<&mut Fleet>,
    watch: &mut Watch,
) -> Result<Report, Trouble> {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Unique among the runs of a machine, most likely among all runs.
    let run = unix.as_nanos() as u64 ^ u64::from(std::process::id()) << 40;
    let mut measured = match fleet {
        Some(fleet) => fleet.execute(settings, run, watch)?,
        None => local(settings, run, &mut Alone, watch)?,
    };
    let produces = 0 < settings.producers;
    if produces && settings.readers.is_none() && settings.read_back {
        read_back(settings, run, &mut measured, watch);
    }
    let verdict = Verdict::of(run, &measured.ends);
    Ok(Report::new(settings.clone(), measured, verdict))
}

/// Reads everything back that nobody has read meanwhile. If that cannot be, the run is not clean.
fn read_back(settings: &Settings, run: u64, measured: &mut Measured, watch: &Watch) {
    if measured.ends.given_up.is_some() {
        return;
    }
    watch.say("reading everything back");
    let readers = Readers {
        sets: 1,
        connections: settings.producers,
        from_start: false,
        reading: Reading::default(),
    };
    let mut again = Settings {
        producers: 0,
        readers: Some(readers),
        until_caught_up: true,
        warm_up: Duration::ZERO,
        ..settings.clone()
    };
    again.phases.truncate(1);
    again.phases[0].duration = settings.drain;
    let now = measured.seconds;
    // The leaders may have changed meanwhile.
    if let Ok(leaders) = settings.topic.leaders_now() {
        again.topic.leaders = leaders;
    }
    match local(&again, run, &mut Alone, &mut Watch::silent()) {
        Ok(mut read) => {
            let why = read.ends.given_up.take();
            read.ends.last_answer_nanos = 0;
            measured.ends.merge(read.ends);
            measured.ends.given_up = why.map(|why| format!("not all was read back: {why}"));
        }
        Err(trouble) => {
            measured.ends.troubles.note(now, format!("nothing was read back: {trouble}"));
            measured.ends.given_up = Some("nothing was read back".to_owned());
        }
    }
}

/// Carries out this process's share of a run.
pub fn local(
    settings: &Settings,
    run: u64,
    company: &mut dyn Company,
    watch: &mut Watch,
) -> Result<Measured, Trouble> {
    let streams = Streams::connect(settings, company.share())?;
    let shared = Arc::new(Shared::default());
    // Whoever else takes part counts as one more.
    let producers = streams.producers();
    shared.producing.store(producers + 1, Ordering::Release);
    let (start, start_unix_ms) = company.begin(streams.count())?;
    let mut plan = Plan::of(settings, run, start, start_unix_ms);
    company.joined(&shared);
    if producers == 0 {
        company.settled();
    }
    let mut shards: Vec<Vec<Member>> = (0..settings.shards).map(|_| Vec::new()).collect();
    for (i, member) in streams.into_members(settings, &plan).into_iter().enumerate() {
        shards[i % settings.shards].push(member);
    }
    let ((news, heard), (lost, losses)) = (channel(), channel());
    let mut plans = Vec::new();
    for members in shards {
        let (plan, shared) = (plan.clone(), Arc::clone(&shared));
        let outside = Outside { shared, news: news.clone(), lost: lost.clone() };
        let make = move |shard: ShardId| Load::new(shard, plan, members, outside);
        plans.push(ShardPlan { core: None, listeners: Vec::new(), make });
    }
    drop((news, lost));
    let root = PathBuf::from(".");
    let config = RingConfig::new(root.clone());
    let handle = run_shards(&config, plans, BackgroundThread::new(root))?;
    let (topic, poster) = (settings.topic.clone(), handle.poster());
    // It ends when the last shard has.
    thread::spawn(move || {
        let find = |lost: &[Lost<i32>]| {
            let leaders = topic.leaders_now()?;
            Ok(lost.iter().map(|lost| leaders.get(lost.place as usize).copied()).collect())
        };
        rejoin::serve(find, &losses, &poster);
    });

    let mut listening = Listening::new(settings, &plan, Whose::OwnShards);
    let mut left = settings.shards;
    while 0 < left {
        let wait = listening.next_look(&plan).since(clock::monotonic()).min(LOOK_MAX);
        match heard.recv_timeout(wait) {
            Ok(News::Interval(told)) => {
                assert!(listening.take(&told), "a shard has the phases of its run");
            }
            Ok(News::Settled) => company.settled(),
            Ok(News::End(told)) => {
                listening.take_end(*told);
                left -= 1;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Trouble::new("a shard of the load generator has ended early"));
            }
        }
        if stop::is_asked() {
            listening.ends().given_up.get_or_insert_with(|| stop::WHY.to_owned());
            shared.cut(clock::monotonic());
        }
        if let Some(at) = shared.cut_at() {
            plan.cut(at);
        }
        listening.look(&plan, watch, left == 0)?;
    }
    handle.join();
    Ok(listening.finish(&plan))
}
