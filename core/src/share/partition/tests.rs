//! The rules of KIP-932 for the records of one partition, told as what members do.

use std::collections::BTreeMap;
use std::time::Duration;

use tidemill_replication::config::OffsetReset;

use super::*;

const SESSION: SessionId = SessionId { shard: ShardId(0), number: 1 };
const LOCK: Duration = Duration::from_secs(30);

fn rules() -> Rules {
    Rules {
        reset: OffsetReset::Latest,
        read_committed: false,
        lock: LOCK,
        deliveries_max: 3,
        locks_max: 100,
        renew_allowed: true,
        session: Duration::from_secs(45),
        heartbeat: Duration::from_secs(5),
    }
}

/// Nothing but seconds passes.
fn at(seconds: u64) -> Instant {
    Instant::default().after(Duration::from_secs(seconds))
}

fn batch(base: i64, last: i64) -> ReadBatch {
    ReadBatch { base, last, is_void: false }
}

fn void(base: i64, last: i64) -> ReadBatch {
    ReadBatch { base, last, is_void: true }
}

struct Scene {
    partition: SharePartition,
    rules: Rules,
    now: Instant,
}

impl Scene {
    fn new() -> Self {
        Self { partition: SharePartition::new(0), rules: rules(), now: at(0) }
    }

    /// A member reads from where records are to be had.
    fn take(&mut self, member: &str, batches: &[ReadBatch]) -> Vec<(i64, i64, i16)> {
        self.take_up_to(1000, member, batches)
    }

    fn take_up_to(
        &mut self,
        records_max: i64,
        member: &str,
        batches: &[ReadBatch],
    ) -> Vec<(i64, i64, i16)> {
        let Next::From(from) = self.partition.next(&self.rules) else { return Vec::new() };
        let batches = batches.iter().filter(|batch| from <= batch.last).cloned().collect();
        let want = Want {
            member: member.into(),
            session: SESSION,
            from,
            batches,
            records_max,
            is_strict: true,
            batch_size: 1000,
        };
        self.acquire(&want)
    }

    fn acquire(&mut self, want: &Want) -> Vec<(i64, i64, i16)> {
        let given = self.partition.acquire(want, &self.rules, self.now);
        given.into_iter().map(|one| (one.first, one.last, one.count)).collect()
    }

    fn tell(
        &mut self,
        member: &str,
        first: i64,
        last: i64,
        verdict: Verdict,
    ) -> Result<Vec<StateBatch>, ErrorCode> {
        let told = [Acknowledgement { first, last, verdicts: vec![verdict] }];
        self.partition.acknowledge(member, &told, &self.rules, self.now)
    }
}

/// Each record is given to one member at a time.
#[test]
fn what_one_member_has_no_other_gets() {
    let mut scene = Scene::new();
    assert_eq!(scene.take_up_to(3, "a", &[batch(0, 9)]), [(0, 2, 1)]);
    assert_eq!(scene.take("b", &[batch(0, 9)]), [(3, 9, 1)]);
    assert_eq!(scene.partition.next(&scene.rules), Next::From(10));
}

/// What is accepted is done with for ever; the start follows when nothing below it is open.
#[test]
fn the_start_moves_past_what_is_done_with() {
    let mut scene = Scene::new();
    scene.take("a", &[batch(0, 9)]);
    let changes = scene.tell("a", 2, 4, Verdict::Accept).unwrap();
    let expected = StateBatch { first: 2, last: 4, state: Delivery::Acknowledged, count: 1 };
    assert_eq!((scene.partition.start(), changes), (0, vec![expected]));
    assert_eq!(scene.partition.done_past_start(), 3);
    let changes = scene.tell("a", 0, 1, Verdict::Accept).unwrap();
    assert_eq!((scene.partition.start(), changes), (5, vec![]), "the start says it");
    assert_eq!(scene.tell("a", 2, 3, Verdict::Accept), Ok(vec![]), "below the start it is known");
}

/// What is released is given out again, with its count raised; after the last time it is archived.
#[test]
fn a_record_is_given_out_only_so_often() {
    let mut scene = Scene::new();
    for count in 1..=3 {
        assert_eq!(scene.take("a", &[batch(0, 0)]), [(0, 0, count)]);
        scene.tell("a", 0, 0, Verdict::Release).unwrap();
    }
    assert_eq!((scene.partition.start(), scene.partition.end()), (1, 1));
    assert_eq!(scene.take("a", &[batch(0, 0), batch(1, 1)]), [(1, 1, 1)]);
}

/// The bug: a record that no member survived took all records of its batch with it, which were
/// archived though each member would have dealt with them.
#[test]
fn one_record_that_nobody_can_deal_with_does_not_take_others_with_it() {
    let mut scene = Scene::new();
    scene.rules.deliveries_max = 5;
    let (batches, bad) = ([batch(0, 49), batch(50, 50)], 13);
    let (mut given, mut accepted) = (Vec::new(), 0);
    while scene.partition.start() <= 50 {
        let got = scene.take("a", &batches);
        // Whoever has it with others deals with none of them.
        let is_bad = got.iter().any(|(first, last, _)| (*first..=*last).contains(&bad));
        let verdict = if is_bad { Verdict::Release } else { Verdict::Accept };
        for (first, last, _) in &got {
            scene.tell("a", *first, *last, verdict).unwrap();
            accepted += if is_bad { 0 } else { last - first + 1 };
        }
        given.push(got.iter().map(|(first, last, _)| last - first + 1).sum::<i64>());
    }
    assert_eq!(accepted, 50, "all but the bad one");
    assert_eq!(given[..4], [51, 51, 51, 25]);
    assert!(given[4..29].iter().all(|count| *count == 1), "{given:?}");
    assert_eq!(given[29..], [25, 1], "what is left, and not with others");
}

/// What comes back again and again comes alone, also behind or before what is new.
#[test]
fn what_comes_back_again_and_again_comes_alone() {
    let mut scene = Scene::new();
    scene.rules.deliveries_max = 4;
    for _ in 0..2 {
        scene.take("a", &[batch(5, 9)]);
        scene.tell("a", 5, 9, Verdict::Release).unwrap();
    }
    let again = [batch(5, 9), batch(10, 14)];
    assert_eq!(scene.take("a", &again), [(5, 6, 3)]);
    assert_eq!(scene.take("b", &again), [(7, 8, 3)]);
    assert_eq!(scene.take("c", &again), [(9, 9, 3)]);
    assert_eq!(scene.take("d", &again), [(10, 14, 1)]);
    scene.tell("a", 5, 6, Verdict::Release).unwrap();
    scene.tell("d", 10, 14, Verdict::Release).unwrap();
    assert_eq!(scene.take("a", &again), [(5, 5, 4)], "for the last time");
    scene.rules.deliveries_max = 2;
    assert_eq!(scene.take("b", &[batch(6, 9), batch(10, 14)]), [(10, 14, 2)], "too few to count");
}

/// What is rejected nobody gets again.
#[test]
fn a_rejected_record_is_archived() {
    let mut scene = Scene::new();
    scene.take("a", &[batch(0, 9)]);
    let changes = scene.tell("a", 5, 5, Verdict::Reject).unwrap();
    assert_eq!(changes[0].state, Delivery::Archived);
    scene.tell("a", 0, 4, Verdict::Release).unwrap();
    assert_eq!(scene.take("b", &[batch(0, 9)]), [(0, 4, 2)]);
}

/// When its time is over, what a member has others may have.
#[test]
fn a_lock_ends() {
    let mut scene = Scene::new();
    scene.take("a", &[batch(0, 4)]);
    scene.now = at(10);
    scene.take("b", &[batch(5, 9)]);
    assert_eq!(scene.partition.next_deadline(), Some(at(30)));
    assert_eq!(scene.partition.expire(&scene.rules, at(29)), []);
    let changes = scene.partition.expire(&scene.rules, at(30));
    assert_eq!(changes, [StateBatch { first: 0, last: 4, state: Delivery::Available, count: 1 }]);
    assert_eq!(scene.partition.next_deadline(), Some(at(40)));
    let late = scene.tell("a", 0, 0, Verdict::Accept);
    assert_eq!(late, Err(ErrorCode::InvalidRecordState));
    assert_eq!(scene.take("b", &[batch(0, 9)]), [(0, 4, 2)]);
}

/// A member that needs more time says so, and keeps what it has (KIP-1222).
#[test]
fn a_lock_is_renewed() {
    let mut scene = Scene::new();
    scene.take("a", &[batch(0, 4)]);
    scene.now = at(20);
    assert_eq!(scene.tell("a", 0, 1, Verdict::Renew), Ok(vec![]));
    scene.partition.expire(&scene.rules, at(30));
    assert_eq!(scene.take("b", &[batch(0, 4)]), [(2, 4, 2)]);
    scene.tell("a", 0, 1, Verdict::Accept).unwrap();
    scene.rules.renew_allowed = false;
    let refused = scene.tell("b", 2, 2, Verdict::Renew);
    assert_eq!(refused, Err(ErrorCode::InvalidRequest));
}

/// Only who has a record may say what became of it, and then all it says holds, or nothing.
#[test]
fn acknowledgements_hold_as_a_whole_or_not_at_all() {
    let mut scene = Scene::new();
    scene.take_up_to(5, "a", &[batch(0, 9)]);
    scene.take("b", &[batch(0, 9)]);
    let before = scene.partition.clone();
    for (first, last) in [(3, 5), (5, 5), (9, 10), (20, 21)] {
        let refused = scene.tell("a", first, last, Verdict::Accept);
        assert_eq!(refused, Err(ErrorCode::InvalidRecordState), "{first} to {last}");
    }
    let one = |first, last| Acknowledgement { first, last, verdicts: vec![Verdict::Accept] };
    for told in [vec![one(2, 3), one(3, 4)], vec![one(2, 2), one(0, 1)], vec![one(3, 2)]] {
        let refused = scene.partition.acknowledge("a", &told, &scene.rules, scene.now);
        assert_eq!(refused, Err(ErrorCode::InvalidRequest), "{told:?}");
    }
    assert_eq!(scene.partition, before);
}

/// Of each record of a run something else can be said.
#[test]
fn verdicts_come_one_for_each_record() {
    use Verdict::{Accept, Gap, Reject, Release};
    let mut scene = Scene::new();
    scene.take("a", &[batch(0, 5)]);
    let verdicts = vec![Accept, Release, Release, Reject, Gap, Accept];
    let told = [Acknowledgement { first: 0, last: 5, verdicts }];
    let changes = scene.partition.acknowledge("a", &told, &scene.rules, scene.now).unwrap();
    let states: Vec<_> = changes.iter().map(|one| (one.first, one.last, one.state)).collect();
    let archived = Delivery::Archived;
    let expected = [
        (1, 2, Delivery::Available),
        (3, 3, archived),
        (4, 4, archived),
        (5, 5, Delivery::Acknowledged),
    ];
    assert_eq!(states, expected);
    assert_eq!(scene.partition.start(), 1);
}

/// Markers, aborted records and what compaction has taken are given to nobody, and do not hold up
/// the start.
#[test]
fn holes_of_the_log_are_passed_over() {
    let mut scene = Scene::new();
    let read = [batch(3, 4), void(5, 5), void(6, 8), batch(12, 13)];
    assert_eq!(scene.take("a", &read), [(3, 4, 1), (12, 13, 1)]);
    assert_eq!(scene.partition.start(), 3);
    scene.tell("a", 3, 4, Verdict::Accept).unwrap();
    assert_eq!(scene.partition.start(), 12);
    assert_eq!(scene.take("a", &[void(14, 14)]), []);
    scene.tell("a", 12, 13, Verdict::Accept).unwrap();
    assert_eq!((scene.partition.start(), scene.partition.end()), (15, 15));
}

/// So many records may be out and not done with, and no more.
#[test]
fn records_that_are_out_are_bounded() {
    let mut scene = Scene::new();
    assert_eq!(scene.take("a", &[batch(0, 149)]), [(0, 99, 1)]);
    assert_eq!(scene.partition.next(&scene.rules), Next::Full);
    scene.tell("a", 10, 19, Verdict::Accept).unwrap();
    assert_eq!(scene.take("b", &[batch(0, 149)]), [(100, 109, 1)]);
    scene.tell("a", 0, 9, Verdict::Release).unwrap();
    assert_eq!(scene.take("b", &[batch(0, 149)]), [(0, 9, 2)], "what is out already takes no room");
}

/// Without a strict limit whole batches are given out, also when that makes more records; with one
/// never more.
#[test]
fn a_wish_for_records_keeps_batches_whole_and_a_limit_does_not() {
    for (is_strict, expected) in [(false, vec![(0, 7, 1)]), (true, vec![(0, 5, 1)])] {
        let mut scene = Scene::new();
        let batches = vec![batch(0, 3), batch(4, 7), batch(8, 11)];
        let member = "a".into();
        let want = Want {
            member,
            session: SESSION,
            from: 0,
            batches,
            records_max: 6,
            is_strict,
            batch_size: 1000,
        };
        assert_eq!(scene.acquire(&want), expected);
    }
    let mut scene = Scene::new();
    let batches = vec![batch(0, 3), batch(4, 7), batch(8, 11)];
    let member = "a".into();
    let want = Want {
        member,
        session: SESSION,
        from: 0,
        batches,
        records_max: 100,
        is_strict: false,
        batch_size: 5,
    };
    assert_eq!(scene.acquire(&want), [(0, 7, 1), (8, 11, 1)], "in runs of about five");
}

/// Two members may have read the same at the same time: the later gets what the other has left.
#[test]
fn a_read_that_was_overtaken_gets_the_rest() {
    let mut scene = Scene::new();
    let want = |member: &str, batches| Want {
        member: member.into(),
        session: SESSION,
        from: 0,
        batches,
        records_max: 1000,
        is_strict: false,
        batch_size: 1000,
    };
    assert_eq!(scene.acquire(&want("a", vec![batch(0, 4)])), [(0, 4, 1)]);
    assert_eq!(scene.acquire(&want("b", vec![batch(0, 4), batch(5, 9)])), [(5, 9, 1)]);
    assert_eq!(scene.acquire(&want("b", vec![batch(0, 4)])), []);
}

/// What a member has that is gone others may have at once.
#[test]
fn what_a_member_leaves_behind_is_free() {
    let mut scene = Scene::new();
    scene.take_up_to(5, "a", &[batch(0, 9)]);
    scene.take("b", &[batch(0, 9)]);
    scene.partition.release("a", None, &scene.rules);
    assert_eq!(scene.take("b", &[batch(0, 9)]), [(0, 4, 2)]);
}

/// When the log has dropped records, the group has no more to do with them.
#[test]
fn the_start_follows_the_start_of_the_log() {
    let mut scene = Scene::new();
    scene.take("a", &[batch(0, 9)]);
    assert!(scene.partition.begin_at(4));
    assert!(!scene.partition.begin_at(2));
    assert_eq!(scene.partition.start(), 4);
    scene.tell("a", 0, 9, Verdict::Accept).unwrap();
    assert!(scene.partition.begin_at(50));
    assert_eq!(scene.partition.next(&scene.rules), Next::From(50));
}

/// A crash may cut a log whose records are not forced to the disk. What was given out from behind the
/// cut is gone; what comes in its place is new, whatever became of what was there before.
#[test]
fn the_end_follows_the_end_of_the_log() {
    let mut scene = Scene::new();
    scene.take("a", &[batch(0, 9)]);
    scene.tell("a", 2, 6, Verdict::Accept).unwrap();
    assert!(!scene.partition.end_at(10), "nothing was given out from behind");
    assert!(scene.partition.end_at(4));
    assert_eq!((scene.partition.start(), scene.partition.end()), (0, 4));
    assert_eq!(scene.partition.done_past_start(), 2);
    assert_eq!(scene.take("b", &[batch(4, 5)]), [(4, 5, 1)]);
    scene.tell("a", 0, 1, Verdict::Accept).unwrap();
    assert_eq!(scene.partition.start(), 4);
    assert!(scene.partition.end_at(1), "also below all that is done with");
    assert_eq!((scene.partition.start(), scene.partition.end()), (1, 1));
    assert_eq!(scene.partition.next(&scene.rules), Next::From(1));
}

/// After a crash: what was done with stays so, what was given out and not done with is given out
/// again, and how often that was before is known as far as it was told.
#[test]
fn what_is_replayed_gives_back_what_was_done() {
    let mut scene = Scene::new();
    let mut log: Vec<(i64, Vec<StateBatch>)> = Vec::new();
    scene.take("a", &[batch(0, 9)]);
    for (first, last, verdict) in
        [(2, 3, Verdict::Accept), (5, 5, Verdict::Release), (7, 7, Verdict::Reject)]
    {
        let changes = scene.tell("a", first, last, verdict).unwrap();
        log.push((scene.partition.start(), changes));
    }
    scene.take("b", &[batch(0, 9)]);
    let remembered = scene.partition.remembered();

    let mut replayed = SharePartition::new(0);
    log.iter().for_each(|(start, changes)| replayed.replay(*start, changes));
    let mut snapshot = SharePartition::new(0);
    snapshot.replay(scene.partition.start(), &remembered);
    assert_eq!(replayed.remembered(), snapshot.remembered());

    scene.partition = replayed;
    let all = [batch(0, 9)];
    let again = scene.take("c", &all);
    assert_eq!(again, [(0, 1, 1), (4, 4, 1), (5, 5, 2), (6, 6, 1), (8, 9, 1)]);
}

/// Whatever members do, in whatever order: nothing that was accepted or rejected is given out again,
/// nothing is with two members, and nothing is given out more often than allowed.
#[test]
fn no_order_of_events_gives_out_twice_what_is_done_with() {
    let mut random = crate::random::Random::new(7);
    let mut draw = move |below: u64| (random.next_u64() % below) as i64;
    for _ in 0..50 {
        let mut scene = Scene::new();
        let mut held: BTreeMap<i64, (usize, i16)> = BTreeMap::new();
        let mut done = std::collections::BTreeSet::new();
        let members = ["a", "b", "c"];
        let mut seconds = 0;
        for _ in 0..200 {
            let who = draw(3) as usize;
            match draw(4) {
                0 | 1 => {
                    let Next::From(from) = scene.partition.next(&scene.rules) else { continue };
                    let base = from - from % 10;
                    let given = scene.take_up_to(
                        1 + draw(12),
                        members[who],
                        &[batch(base, base + 9), batch(base + 10, base + 19)],
                    );
                    for (first, last, count) in given {
                        for offset in first..=last {
                            assert!(!done.contains(&offset), "{offset} was done with");
                            assert!(held.insert(offset, (who, count)).is_none(), "{offset}");
                            assert!(count <= scene.rules.deliveries_max);
                        }
                    }
                }
                2 => {
                    let theirs: Vec<i64> =
                        held.iter().filter(|(_, (has, _))| *has == who).map(|(o, _)| *o).collect();
                    let Some(&first) = theirs.get(draw(1 + theirs.len() as u64) as usize) else {
                        continue;
                    };
                    let verdict = [Verdict::Accept, Verdict::Release, Verdict::Reject];
                    let verdict = verdict[draw(3) as usize];
                    scene.tell(members[who], first, first, verdict).unwrap();
                    let (_, count) = held.remove(&first).unwrap();
                    if verdict != Verdict::Release || count == scene.rules.deliveries_max {
                        done.insert(first);
                    }
                }
                _ => {
                    seconds += draw(40) as u64;
                    scene.now = at(seconds);
                    let before = scene.partition.clone();
                    scene.partition.expire(&scene.rules, scene.now);
                    let over: Vec<i64> = held
                        .keys()
                        .filter(|offset| {
                            let mut was = before.runs.touching(**offset, **offset);
                            was.any(|(_, run)| matches!(run.state, State::Acquired { until, .. } if until <= scene.now))
                        })
                        .copied()
                        .collect();
                    for offset in over {
                        let (_, count) = held.remove(&offset).unwrap();
                        if count == scene.rules.deliveries_max {
                            done.insert(offset);
                        }
                    }
                }
            }
            assert!(scene.partition.runs.holds());
        }
    }
}

/// A connection that was found to be gone took from its member what this had got by the next one.
#[test]
fn a_session_that_ends_takes_back_only_its_own() {
    let mut scene = Scene::new();
    scene.take("a", &[batch(0, 4)]);
    let next = SessionId { shard: ShardId(1), number: 1 };
    let want = Want {
        member: "a".into(),
        session: next,
        from: 5,
        batches: vec![batch(5, 9)],
        records_max: 10,
        is_strict: true,
        batch_size: 1000,
    };
    scene.acquire(&want);
    scene.partition.release("a", Some(SESSION), &scene.rules);
    assert_eq!(scene.partition.next(&scene.rules), Next::From(0));
    assert!(scene.tell("a", 0, 4, Verdict::Accept).is_err(), "taken back");
    scene.tell("a", 5, 9, Verdict::Accept).unwrap();
}

/// One record that is never let go, while those behind it are accepted and rejected by turns, let
/// what is remembered grow without end, past what a record of the log can say.
#[test]
fn what_is_remembered_is_bounded() {
    let mut scene = Scene::new();
    let turns = [Delivery::Archived, Delivery::Acknowledged];
    let batch_of = |at: usize| {
        let state = if at == 0 { Delivery::Available } else { turns[at % 2] };
        StateBatch { first: at as i64, last: at as i64, state, count: 1 }
    };
    let known: Vec<StateBatch> = (0..SHARE_RUNS_MAX).map(batch_of).collect();
    scene.partition.replay(0, &known);
    assert_eq!(scene.partition.next(&scene.rules), Next::From(0));
    scene.take("a", &[batch(0, 0)]);
    assert_eq!(scene.partition.next(&scene.rules), Next::Full);
    scene.tell("a", 0, 0, Verdict::Accept).unwrap();
    assert_eq!(scene.partition.next(&scene.rules), Next::From(SHARE_RUNS_MAX as i64));
}
