//! The producer against a cluster played by bytes: order, repeats, epochs, limits.

use std::collections::BTreeMap;
use std::time::Duration;

use tidemill_net::kafka::{ApiKey, ErrorCode};

use super::super::{Refusal, partition_of_key};
use super::*;
use crate::backoff::{Backoff, Random};
use crate::fake::{Fake, Mishap, bootstrap};
use tidemill_record::{Batch as RecordBatch, Contents};

const MS: Duration = Duration::from_millis(1);

fn config() -> ProducerConfig {
    let mut config = ProducerConfig { reports: true, ..ProducerConfig::default() };
    config.cluster.bootstrap = bootstrap();
    config.retry = Backoff { first: MS, longest: 10 * MS };
    config.cluster.reconnect = config.retry;
    config.cluster.refresh = config.retry;
    config
}

fn core(config: ProducerConfig) -> ProducerCore {
    ProducerCore::new(config, 1_700_000_000_000).unwrap()
}

fn record(partition: Option<i32>, tag: u64) -> Record {
    let record = Record::to("t").value(format!("{tag}")).tag(tag);
    Record { partition, ..record }
}

/// Lets time pass, step by step, for as long as something is to be done until `until`.
fn run(core: &mut ProducerCore, fake: &mut Fake, now: &mut Instant, until: Duration) {
    let end = now.plus(until);
    loop {
        // As drivers do: whatever was heard, time has passed too.
        let mut busy = true;
        while busy {
            core.cluster().tick(*now);
            core.tick(*now);
            busy = fake.drive(core.cluster(), *now);
        }
        let next = core.next_deadline().unwrap_or(end).max(now.plus(MS / 10));
        if end <= next {
            *now = end;
            return;
        }
        *now = next;
    }
}

/// The values a partition holds, in order.
fn stored(fake: &mut Fake, partition: usize) -> Vec<u64> {
    let mut values = Vec::new();
    for bytes in &fake.partition("t", partition).batches {
        let (batch, _) = RecordBatch::parse(bytes).unwrap();
        for record in Contents::open(&batch, 1 << 30).unwrap().records() {
            let value = record.unwrap().value.unwrap().to_vec();
            values.push(String::from_utf8(value).unwrap().parse().unwrap());
        }
    }
    values
}

/// Records that fit into one batch go out in one, after the linger; one request for each leader.
#[test]
fn records_are_gathered_into_batches() {
    let mut fake = Fake::new(2).with_topic("t", 4);
    let mut core = core(ProducerConfig { linger: 20 * MS, ..config() });
    let mut now = Instant::default();
    for tag in 0..100 {
        core.send(record(Some(tag as i32 % 4), tag), now).unwrap();
    }
    run(&mut core, &mut fake, &mut now, 15 * MS);
    assert_eq!(fake.count(ApiKey::Produce), 0, "it waits for more");
    run(&mut core, &mut fake, &mut now, 10 * MS);
    assert_eq!(fake.count(ApiKey::Produce), 2, "one request for each leader");
    let expected: Vec<u64> = (0..25).map(|n| n * 4 + 1).collect();
    assert_eq!(stored(&mut fake, 1), expected);
    assert!(core.is_drained());
}

/// Whatever goes wrong on the way, each record is stored once, in order, and told so.
#[test]
fn records_are_stored_once_and_in_order_whatever_goes_wrong() {
    for seed in 0..100 {
        let mut random = Random::new(seed);
        let mut fake = Fake::new(3).with_topic("t", 3);
        let mut config = config();
        config.cluster.seed = seed + 1;
        config.batch_bytes = 200;
        config.request_bytes = 500;
        config.linger = MS;
        let mut core = core(config);
        let mut now = Instant::default();
        let mut reported: BTreeMap<u64, (i32, i64)> = BTreeMap::new();
        for tag in 0..400 {
            core.send(record(Some(random.below(3) as i32), tag), now).unwrap();
            if random.below(4) == 0 {
                fake.mishaps.push_back(match random.below(8) {
                    0 => Mishap::LoseRequest,
                    1 => Mishap::LoseReply,
                    2 => Mishap::Refuse(ErrorCode::NotEnoughReplicas),
                    3 => Mishap::Refuse(ErrorCode::NotLeaderOrFollower),
                    4 => Mishap::Refuse(ErrorCode::RequestTimedOut),
                    _ => Mishap::None,
                });
            }
            if random.below(20) == 0 {
                let partition = random.below(3);
                fake.partition("t", partition).move_to(random.below(3) as i32);
            }
            if random.below(5) == 0 {
                run(&mut core, &mut fake, &mut now, MS * random.below(5) as u32);
            }
        }
        core.flush();
        run(&mut core, &mut fake, &mut now, Duration::from_secs(60));
        while let Some(report) = core.poll_report() {
            let base = report.outcome.expect("everything passes in the end");
            for (offset, tag) in (base..).zip(report.tags) {
                assert_eq!(reported.insert(tag, (report.partition, offset)), None);
            }
        }
        assert_eq!(reported.len(), 400, "seed {seed}: each is told");
        assert_eq!(core.held_bytes(), 0);
        for partition in 0..3 {
            let values = stored(&mut fake, partition);
            assert!(values.is_sorted(), "seed {seed}: {values:?}");
            for (offset, tag) in (0..).zip(values) {
                assert_eq!(reported[&tag], (partition as i32, offset), "seed {seed}");
            }
        }
    }
}

/// A broker that has lost count of the producer gets what follows under the next epoch.
#[test]
fn a_broker_that_lost_count_gets_the_next_epoch() {
    for error in [ErrorCode::UnknownProducerId, ErrorCode::OutOfOrderSequenceNumber] {
        let mut fake = Fake::new(1).with_topic("t", 1);
        let mut core = core(config());
        let mut now = Instant::default();
        for tag in 0..3 {
            if tag == 1 {
                fake.mishaps.push_back(Mishap::Refuse(error));
            }
            core.send(record(None, tag), now).unwrap();
            run(&mut core, &mut fake, &mut now, 100 * MS);
        }
        assert_eq!(stored(&mut fake, 0), [0, 1, 2]);
        let epochs: Vec<i16> = fake.partition("t", 0).batches.iter().map(epoch_of).collect();
        assert_eq!(epochs, [0, 1, 1], "{error}");
        assert_eq!(fake.count(ApiKey::InitProducerId), 1, "the next epoch is made here");
    }
}

fn epoch_of(bytes: &bytes::Bytes) -> i16 {
    RecordBatch::parse(bytes).unwrap().0.producer().unwrap().epoch.0
}

/// A batch above the broker's limit is halved until it fits; a single record is given up, and
/// what follows goes on.
#[test]
fn a_batch_that_is_too_large_is_halved() {
    let mut fake = Fake::new(1).with_topic("t", 1);
    fake.partition("t", 0).batch_bytes_max = Some(150);
    let mut core = core(config());
    let mut now = Instant::default();
    for tag in 0..20 {
        core.send(record(None, tag), now).unwrap();
    }
    core.send(record(None, 20).key(vec![0; 200]), now).unwrap();
    core.send(record(None, 21), now).unwrap();
    run(&mut core, &mut fake, &mut now, Duration::from_secs(1));
    let mut expected: Vec<u64> = (0..20).collect();
    expected.push(21);
    assert_eq!(stored(&mut fake, 0), expected);
    let (count, error) = core.take_failures().unwrap();
    assert_eq!(count, 1);
    assert_eq!(error.kind(), ErrorKind::Refused(ErrorCode::MessageTooLarge));
}

/// What the broker refuses for good is told at once, with its words.
#[test]
fn what_is_refused_for_good_is_told() {
    let mut fake = Fake::new(1).with_topic("t", 1);
    let mut core = core(config());
    let mut now = Instant::default();
    fake.mishaps.push_back(Mishap::Refuse(ErrorCode::TopicAuthorizationFailed));
    core.send(record(None, 0), now).unwrap();
    run(&mut core, &mut fake, &mut now, 100 * MS);
    let report = core.poll_report().unwrap();
    let error = report.outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused(ErrorCode::TopicAuthorizationFailed));
    assert_eq!(error.explanation().what, "cannot send records to partition 0 of t");
    core.send(record(None, 1), now).unwrap();
    run(&mut core, &mut fake, &mut now, 100 * MS);
    assert_eq!(stored(&mut fake, 0), [1]);
}

/// With nobody to talk to, records are given up after the delivery timeout, and the cause is told.
#[test]
fn records_are_given_up_in_time() {
    let mut fake = Fake::new(1).with_topic("t", 1);
    let mut core = core(ProducerConfig { delivery_timeout: Duration::from_secs(5), ..config() });
    let mut now = Instant::default();
    core.send(record(None, 0), now).unwrap();
    run(&mut core, &mut fake, &mut now, Duration::from_secs(1));
    assert_eq!(stored(&mut fake, 0), [0]);
    assert!(core.poll_report().is_some());
    fake.unreachable = true;
    fake.mishaps.push_back(Mishap::LoseRequest);
    core.send(record(None, 1), now).unwrap();
    run(&mut core, &mut fake, &mut now, Duration::from_secs(4));
    assert!(core.poll_report().is_none(), "there is still time");
    run(&mut core, &mut fake, &mut now, Duration::from_secs(2));
    let error = core.poll_report().unwrap().outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.explanation().cause.as_ref().unwrap().contains("connection"), "{error}");
    // It may have been stored for all we know: what follows begins a new epoch.
    fake.unreachable = false;
    core.send(record(None, 2), now).unwrap();
    run(&mut core, &mut fake, &mut now, Duration::from_secs(2));
    assert_eq!(stored(&mut fake, 0), [0, 2]);
    assert_eq!(epoch_of(&fake.partition("t", 0).batches[1]), 1);
}

/// A record that came when the broker was gone already was never sent, so that nothing told why it
/// waited, until it was given up.
#[test]
fn what_came_when_its_leader_was_gone_tells_what_it_waits_for() {
    let mut fake = Fake::new(1).with_topic("t", 1);
    let mut core = core(config());
    let mut now = Instant::default();
    core.send(record(None, 0), now).unwrap();
    run(&mut core, &mut fake, &mut now, Duration::from_secs(1));
    assert_eq!(stored(&mut fake, 0), [0]);
    fake.die(core.cluster(), now);
    run(&mut core, &mut fake, &mut now, Duration::from_secs(1));
    assert_eq!(core.trouble(), None, "nobody waits");
    core.send(record(None, 1), now).unwrap();
    run(&mut core, &mut fake, &mut now, Duration::from_secs(1));
    let trouble = core.trouble().unwrap();
    assert_eq!(trouble.explanation().what, "cannot send records to partition 0 of t");
    assert!(trouble.explanation().cause.as_ref().unwrap().contains("refused"), "{trouble}");
    fake.unreachable = false;
    run(&mut core, &mut fake, &mut now, Duration::from_secs(3));
    assert_eq!(stored(&mut fake, 0), [0, 1]);
    assert_eq!(core.trouble(), None);
}

/// The buffer is bounded: a record that does not fit comes back, and fits once others are told.
#[test]
fn the_buffer_is_bounded() {
    let mut fake = Fake::new(1).with_topic("t", 1);
    let mut core = core(ProducerConfig { buffer_bytes: 1000, ..config() });
    let mut now = Instant::default();
    let mut taken = 0;
    let refused = loop {
        match core.send(record(None, taken), now) {
            Ok(()) => taken += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.refusal, Refusal::Full);
    assert!((10..20).contains(&taken), "{taken}");
    run(&mut core, &mut fake, &mut now, 100 * MS);
    assert!(core.send(refused.record.clone(), now).is_err(), "reports have to be taken");
    while core.poll_report().is_some() {}
    core.send(refused.record, now).unwrap();
}

/// A topic that appears later gets the records that waited for it; keys decide as in Java.
#[test]
fn records_wait_for_their_topic() {
    let mut fake = Fake::new(1);
    let mut core = core(config());
    let mut now = Instant::default();
    core.send(record(None, 0).key("foobar"), now).unwrap();
    run(&mut core, &mut fake, &mut now, Duration::from_secs(1));
    assert!(!core.is_drained());
    let mut fake = fake.with_topic("t", 7);
    run(&mut core, &mut fake, &mut now, Duration::from_secs(1));
    let partition = partition_of_key(b"foobar", 7) as usize;
    assert_eq!(stored(&mut fake, partition), [0]);
}

/// An old broker is spoken to in its versions, topics by name.
#[test]
fn an_old_broker_takes_topics_by_name() {
    let mut fake = Fake::new(1).with_topic("t", 1);
    for (api, version) in [(ApiKey::Produce, 7), (ApiKey::Metadata, 5), (ApiKey::ApiVersions, 2)] {
        fake.versions.insert(api, version);
    }
    let mut core = core(config());
    let mut now = Instant::default();
    core.send(record(None, 0), now).unwrap();
    run(&mut core, &mut fake, &mut now, 100 * MS);
    assert_eq!(stored(&mut fake, 0), [0]);
}

/// Nothing to do: nothing is asked to be done soon.
#[test]
fn an_idle_producer_sleeps() {
    let mut fake = Fake::new(1).with_topic("t", 1);
    let mut core = core(config());
    let mut now = Instant::default();
    core.send(record(None, 0), now).unwrap();
    run(&mut core, &mut fake, &mut now, Duration::from_secs(200));
    let next = core.next_deadline().unwrap();
    assert!(Duration::from_secs(60) < next.since(now), "{:?}", next.since(now));
}

/// Nothing tells of the fate of what is sent without acknowledgement; what came due while batches
/// before it went out stayed behind until it was too old.
#[test]
fn what_comes_due_behind_others_is_sent_without_acknowledgements_too() {
    let mut fake = Fake::new(1).with_topic("t", 1);
    let config = ProducerConfig { acks: Acks::None, idempotent: false, ..config() };
    let mut core = core(ProducerConfig { batch_bytes: 100, linger: Duration::ZERO, ..config });
    let mut now = Instant::default();
    for tag in 0..20 {
        core.send(record(None, tag), now).unwrap();
    }
    run(&mut core, &mut fake, &mut now, Duration::from_secs(1));
    assert_eq!(stored(&mut fake, 0), (0..20).collect::<Vec<_>>());
    assert!(core.is_drained());
}

/// A leader that takes one small request at a time gets the batches of many partitions one by one:
/// those for which there was no room were forgotten until they were too old.
#[test]
fn many_partitions_get_through_a_narrow_leader() {
    let mut fake = Fake::new(1).with_topic("t", 50);
    let config = ProducerConfig { in_flight_max: 1, request_bytes: 1, ..config() };
    let mut core = core(config);
    let mut now = Instant::default();
    for tag in 0..100 {
        core.send(record(Some(tag as i32 % 50), tag), now).unwrap();
    }
    run(&mut core, &mut fake, &mut now, Duration::from_secs(1));
    for partition in 0..50 {
        let expected = [partition as u64, partition as u64 + 50];
        assert_eq!(stored(&mut fake, partition), expected);
    }
    assert!(core.is_drained());
}

/// The first batch to a new topic was refused for a moment, while the second, already on its way,
/// was taken by a broker that knew nothing of the producer yet; then the first came behind it.
#[test]
fn the_second_batch_does_not_overtake_a_first_that_was_refused() {
    let mut fake = Fake::new(1).with_topic("t", 1);
    let mut core = core(ProducerConfig { batch_bytes: 100, ..config() });
    let mut now = Instant::default();
    fake.mishaps.push_back(Mishap::Refuse(ErrorCode::UnknownTopicOrPartition));
    for tag in 0..20 {
        core.send(record(None, tag), now).unwrap();
    }
    core.flush();
    run(&mut core, &mut fake, &mut now, Duration::from_secs(1));
    assert!(stored(&mut fake, 0).is_sorted());
    assert_eq!(stored(&mut fake, 0).len(), 20);
    assert!(fake.partition("t", 0).batches.iter().all(|batch| epoch_of(batch) == 0));
}
