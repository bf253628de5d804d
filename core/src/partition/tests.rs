//! Partitions on a disk that never ends what it is asked for: what waits is bounded; and, in
//! `compacting` and `transactions`, on one that does.

use bytes::BytesMut;
use tidemill_record::{PartitionId, Producer, Timestamp, TopicId};
use tidemill_runtime::edge::{Chore, Done};
use tidemill_storage::AppendError;
use tidemill_storage::io::{Action, Completion, Fault, Outcome};
use tidemill_storage::recovery::{Known, Recovery};

use super::checks::refused_append;
use super::*;
use crate::message::Acks;

mod compacting;
mod transactions;

const PARTITION: TopicPartition =
    TopicPartition { topic: TopicId([2; 16]), partition: PartitionId(0) };

/// One that has recovered nothing, with one partition.
pub(crate) fn home(queued_bytes_max: usize) -> Home {
    let config = tidemill_storage::Config::default();
    let known =
        Known { partitions: vec![(PARTITION, 0)], shards: 1, incarnation: 1, ..Known::default() };
    let mut recovery = Recovery::new(config.clone(), known);
    let recovered = loop {
        if let Some(finished) = recovery.poll_finished() {
            break finished.unwrap();
        }
        let request = recovery.poll_request().expect("it goes on or ends");
        let result = match request.action {
            Action::ListDir { .. } => Ok(Outcome::Names(Vec::new())),
            Action::Read { .. } => Err(Fault::NotFound),
            _ => Ok(Outcome::Done),
        };
        recovery.handle_completion(Completion { id: request.id, result });
    };
    let recovered = recovered.shards.into_iter().next().unwrap();
    let mut home = Home::new(ShardStorage::new(config, recovered), queued_bytes_max, compaction());
    let rules = Rules {
        topic: "tests".into(),
        leader_epoch: LeaderEpoch(1),
        batch_bytes_max: 1 << 20,
        replicas: 1,
        min_in_sync: 1,
        ahead_max_ms: i64::MAX,
        wanted: Wanted::default(),
        log: LogConfig::default(),
        compaction: None,
    };
    home.adopt(PARTITION, rules);
    home
}

fn compaction() -> CompactionLimits {
    CompactionLimits {
        enabled: true,
        backoff: std::time::Duration::from_secs(1),
        map_bytes_max: 1 << 20,
        bytes_per_second: 1 << 30,
        seed: [1, 2],
    }
}

fn reply_to(index: u32) -> ReplyTo {
    let job = crate::job::Jobs::default().insert(());
    ReplyTo { shard: ShardId(0), job, index }
}

fn append(home: &mut Home, index: u32, batch: BytesMut) {
    let times = Times { now: Instant::default(), wall_ms: 1 };
    let call = Call::Append { batch, acks: Acks::InSync, zstd_allowed: true };
    home.call(PARTITION, call, reply_to(index), times);
}

fn batch(sequence: i32, value: &[u8]) -> BytesMut {
    let producer =
        Producer { id: tidemill_record::ProducerId(7), epoch: tidemill_record::ProducerEpoch(0) };
    let builder = tidemill_record::BatchBuilder::new(tidemill_record::Codec::None);
    let mut builder = builder.numbered(producer, tidemill_record::Sequence(sequence));
    builder.append(Timestamp(1), None, Some(value));
    builder.build()
}

fn refusals(home: &mut Home) -> Vec<(u32, ErrorCode)> {
    let refused = |(reply_to, answer): (ReplyTo, Answer)| match answer {
        Answer::Refused { error, .. } => (reply_to.index, error),
        other => panic!("{other:?}"),
    };
    home.take_answers(Vec::new()).into_iter().map(refused).collect()
}

/// The bug: appends whose requests had timed out stayed in the queue, and only their number was
/// bounded, so a disk that hung let the records of ever new requests pile up in memory.
#[test]
fn appends_that_wait_for_the_disk_are_bounded_by_bytes() {
    let mut home = home(100_000);
    let value = vec![7; 30_000];
    for number in 0..5 {
        append(&mut home, number, batch(number as i32, &value));
    }
    // Three of them fit; and no number of a producer overtakes one that was refused.
    let (full, early) = (ErrorCode::KafkaStorageError, ErrorCode::OutOfOrderSequenceNumber);
    assert_eq!(refusals(&mut home), [(3, full), (4, early)]);
    assert!(home.queued_bytes <= 100_000);

    home.delete(PARTITION, Instant::default());
    assert_eq!(home.queued_bytes, 0, "what is gone holds nothing");
}

/// The bug: of two batches that were under way the first was refused for too few replicas, and the
/// second was taken as `min.insync.replicas` was set back between them. So the first could never be.
#[test]
fn a_batch_overtook_one_that_found_too_few_replicas() {
    let mut home = home(100_000);
    let require = |home: &mut Home, replicas| {
        home.partitions.get_mut(&PARTITION).unwrap().rules.min_in_sync = replicas;
    };
    require(&mut home, 2);
    append(&mut home, 0, batch(0, b"first"));
    require(&mut home, 1);
    append(&mut home, 1, batch(1, b"second"));
    let (few, early) = (ErrorCode::NotEnoughReplicas, ErrorCode::OutOfOrderSequenceNumber);
    assert_eq!(refusals(&mut home), [(0, few), (1, early)]);
    append(&mut home, 2, batch(0, b"first"));
    append(&mut home, 3, batch(1, b"second"));
    assert_eq!(refusals(&mut home), [], "they wait for the disk");
}

fn done(chore: &Chore) -> Result<Done, tidemill_runtime::edge::Fault> {
    let Chore::Compute(computation) = chore else { panic!("{chore:?}") };
    Ok(Done::Computed((computation.work)(&computation.bytes, computation.wanted)))
}

/// Batches that are made anew before they are appended keep their order and count as what they have
/// become; one is made anew at a time, and what comes of one that is gone meets nobody.
#[test]
fn a_batch_is_made_anew_at_the_head_of_its_queue() {
    let times = Times { now: Instant::default(), wall_ms: 1 };
    let lz4 = Wanted { codec: Some(tidemill_record::Codec::Lz4), ..Wanted::default() };
    let mut home = home(1 << 20);
    home.partitions.get_mut(&PARTITION).unwrap().rules.wanted = lz4;
    append(&mut home, 0, batch(0, &[7; 10_000]));
    append(&mut home, 1, batch(1, &[8; 10_000]));
    let held = home.queued_bytes;
    let chore = home.poll_rework().unwrap();
    assert!(home.poll_rework().is_none(), "one at a time");
    home.reworked(done(&chore), times);

    let queued = &home.partitions[&PARTITION].queued;
    let told: Vec<_> =
        queued.iter().map(|q| (q.validated.compression(), q.rework.is_some())).collect();
    let (anew, as_sent) = (tidemill_record::Codec::Lz4, tidemill_record::Codec::None);
    assert_eq!(told, [(anew, false), (as_sent, true)]);
    assert!(home.queued_bytes < held - 9_000);
    assert!(home.poll_rework().is_none(), "the second is not at the head");

    let mut home = self::home(1 << 20);
    home.partitions.get_mut(&PARTITION).unwrap().rules.wanted = lz4;
    append(&mut home, 0, batch(0, &[7; 10_000]));
    let chore = home.poll_rework().unwrap();
    home.stop(Instant::default());
    assert_eq!(home.take_answers(Vec::new()).len(), 1);
    home.reworked(done(&chore), times);
    assert_eq!((home.take_answers(Vec::new()).len(), home.queued_bytes), (0, 0));
}

/// The bug: a producer for which there is no room was told POLICY_VIOLATION, which no client tries
/// again, though room comes when other producers expire.
#[test]
fn a_producer_too_many_is_told_to_try_again() {
    match refused_append(&AppendError::TooManyProducers { limit: 1 }) {
        Answer::Refused { error, .. } => assert!(error.is_retriable(), "{error}"),
        other => panic!("{other:?}"),
    }
}
