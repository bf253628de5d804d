//! Fetch sessions as they are on the wire (KIP-227): what is left out of an answer, what never is, and
//! each way in which a session is not the one the client thinks it is.
// Fixtures are tests, though they are no test functions.
#![allow(clippy::unwrap_used)]

mod process;
mod wire;

use process::Broker;
use tidemill_net::kafka::fetch::{
    FINAL_EPOCH, FetchPartition, FetchResponse, ForgottenPartition, NO_SESSION, OutgoingFetch,
};
use tidemill_net::kafka::metadata::{MetadataRequest, MetadataRequestTopic};
use tidemill_net::kafka::{ErrorCode, TopicRef};
use tidemill_record::TopicId;
use wire::Client;
use wire::records::batch_of;

const BY_NAME: i16 = 12;
const BY_ID: i16 = 13;
/// The epoch that begins a session.
const FIRST: i32 = 0;
const NONE: ErrorCode = ErrorCode::None;

fn start(name: &str) -> (Broker, Client) {
    let broker = Broker::start(name, &["--shards", "2"]);
    let mut client = Client::open(&broker);
    client.create("t", 3);
    (broker, client)
}

fn of(topic: &str, partition: i32, from: i64) -> FetchPartition<'_> {
    FetchPartition::from_consumer(TopicRef::Name(topic), partition, from, 1 << 20)
}

/// What an answer tells of one partition: its number, error, high watermark, and whether there are
/// records.
type Told = (i32, ErrorCode, i64, bool);

/// What a whole answer tells: its error and session, and the partitions in order of topic and number.
type Answer = (ErrorCode, i32, Vec<Told>);

fn look(told: &FetchResponse<'_>) -> Answer {
    let mut parts: Vec<_> = told.partitions.iter().collect();
    parts.sort_unstable_by_key(|part| (format!("{:?}", part.topic), part.partition));
    let parts =
        parts.iter().map(|p| (p.partition, p.error_code, p.high_watermark, !p.records.is_empty()));
    (told.error_code, told.session_id, parts.collect())
}

fn ask(
    client: &mut Client,
    version: i16,
    session: (i32, i32),
    partitions: &[FetchPartition<'_>],
    forgotten: &[ForgottenPartition<'_>],
) -> Answer {
    let (session_id, session_epoch) = session;
    let fetch = OutgoingFetch {
        max_wait_ms: 0,
        session_id,
        session_epoch,
        partitions,
        forgotten,
        ..OutgoingFetch::default()
    };
    client.fetch_with(version, &fetch, look)
}

/// Begins a session with these partitions.
fn begin(client: &mut Client, version: i16, partitions: &[FetchPartition<'_>]) -> i32 {
    let (error, session, told) = ask(client, version, (NO_SESSION, FIRST), partitions, &[]);
    assert_eq!((error, told.len()), (NONE, partitions.len()), "the first tells all");
    assert_ne!(session, NO_SESSION);
    session
}

/// The first answer tells every partition; later ones those with records or another end or start,
/// until the client moves on. Partitions come and go by what a request names.
#[test]
fn what_has_not_changed_is_left_out() {
    let (_broker, mut client) = start("session-news");
    let session = begin(&mut client, BY_NAME, &[of("t", 0, 0), of("t", 1, 0)]);
    let mut epoch = FIRST;
    let mut next = |client: &mut Client, partitions: &[_], forgotten: &[_]| {
        epoch += 1;
        let (error, told, parts) = ask(client, BY_NAME, (session, epoch), partitions, forgotten);
        assert_eq!((error, told), (NONE, session));
        parts
    };
    assert_eq!(next(&mut client, &[], &[]), []);
    client.produce("t", 1, &batch_of(&["v"]));
    let records = [(1, NONE, 1, true)];
    assert_eq!(next(&mut client, &[], &[]), records);
    assert_eq!(next(&mut client, &[], &[]), records, "it has not moved on");
    assert_eq!(next(&mut client, &[of("t", 1, 1)], &[]), []);

    // One that is new is told, whatever there is of it; one that is forgotten is not.
    assert_eq!(next(&mut client, &[of("t", 2, 0)], &[]), [(2, NONE, 0, false)]);
    client.produce("t", 0, &batch_of(&["v"]));
    client.produce("t", 2, &batch_of(&["v"]));
    let forgotten = [ForgottenPartition { topic: TopicRef::Name("t"), partition: 0 }];
    assert_eq!(next(&mut client, &[], &forgotten), [(2, NONE, 1, true)]);
}

/// An error is told with each answer while it lasts, however often it was told before; when it is
/// over, so is the state that the client knew before it.
#[test]
fn an_error_is_never_left_out() {
    let (_broker, mut client) = start("session-errors");
    client.produce("t", 0, &batch_of(&["v"]));
    let session = begin(&mut client, BY_NAME, &[of("t", 0, 1), of("later", 0, 0)]);
    let lost = (0, ErrorCode::OffsetOutOfRange, -1, false);
    let mut epoch = FIRST;
    let mut next = |client: &mut Client, partitions: &[_]| {
        epoch += 1;
        let (error, told, parts) = ask(client, BY_NAME, (session, epoch), partitions, &[]);
        assert_eq!((error, told), (NONE, session));
        parts
    };
    let unknown = (0, ErrorCode::UnknownTopicOrPartition, -1, false);
    assert_eq!(next(&mut client, &[]), [unknown], "and not the one that is as it was");
    assert_eq!(next(&mut client, &[of("t", 0, 9)]), [unknown, lost]);
    assert_eq!(next(&mut client, &[]), [unknown, lost]);
    assert_eq!(next(&mut client, &[of("t", 0, 1)]), [unknown, (0, NONE, 1, false)]);
    client.create("later", 1);
    assert_eq!(next(&mut client, &[]), [(0, NONE, 0, false)]);
    assert_eq!(next(&mut client, &[]), []);
}

/// A client that is wrong about its session is told how, with nothing else, and begins anew.
#[test]
fn a_session_is_found_or_begun_anew() {
    let (broker, mut client) = start("session-wrong");
    let nothing = |error| (error, NO_SESSION, Vec::new());
    let unknown = || nothing(ErrorCode::FetchSessionIdNotFound);
    let one = [of("t", 0, 0)];
    let session = begin(&mut client, BY_NAME, &one);

    for epoch in [2, 7, i32::MAX] {
        let told = ask(&mut client, BY_NAME, (session, epoch), &[], &[]);
        assert_eq!(told, nothing(ErrorCode::InvalidFetchSessionEpoch), "epoch {epoch}");
    }
    let other = if session == 1 { 2 } else { session - 1 };
    assert_eq!(ask(&mut client, BY_NAME, (other, 1), &[], &[]), unknown());
    assert_eq!(ask(&mut client, BY_NAME, (NO_SESSION, 1), &one, &[]), unknown());
    let told = ask(&mut client, BY_ID, (session, 1), &[], &[]);
    assert_eq!(told, nothing(ErrorCode::FetchSessionTopicIdError));
    // None of these has moved it on.
    assert_eq!(ask(&mut client, BY_NAME, (session, 1), &[], &[]), (NONE, session, Vec::new()));
    let told = ask(&mut client, BY_NAME, (session, 1), &[], &[]);
    assert_eq!(told, nothing(ErrorCode::InvalidFetchSessionEpoch), "asked before");

    // The last fetch of a session is answered in full, and the session is over.
    let told = ask(&mut client, BY_NAME, (session, FINAL_EPOCH), &one, &[]);
    assert_eq!(told, (NONE, NO_SESSION, vec![(0, NONE, 0, false)]));
    assert_eq!(ask(&mut client, BY_NAME, (session, 2), &[], &[]), unknown());
    // A new one ends the one that its client had.
    let first = begin(&mut client, BY_NAME, &one);
    let (_, second, _) = ask(&mut client, BY_NAME, (first, FIRST), &one, &[]);
    assert!(second != first && second != NO_SESSION);
    assert_eq!(ask(&mut client, BY_NAME, (first, 1), &[], &[]), unknown());
    assert_eq!(ask(&mut client, BY_NAME, (second, 1), &[], &[]), (NONE, second, Vec::new()));
    // Before version 7 there are none, and outside of any one is told everything every time.
    let told = ask(&mut client, 6, (second, 2), &one, &[]);
    assert_eq!(told, (NONE, NO_SESSION, vec![(0, NONE, 0, false)]));
    let mut stranger = Client::open(&broker);
    for _ in 0..2 {
        let told = ask(&mut stranger, BY_NAME, (NO_SESSION, FINAL_EPOCH), &one, &[]);
        assert_eq!(told, (NONE, NO_SESSION, vec![(0, NONE, 0, false)]));
    }
}

/// In a session whose topics are named by id, one that is deleted is told as unknown, time and again,
/// also when there is another topic of its name.
#[test]
fn a_deleted_topic_is_told_by_its_id() {
    let (_broker, mut client) = start("session-ids");
    let topic = MetadataRequestTopic { name: Some("t".to_owned()), ..Default::default() };
    let request = MetadataRequest { topics: Some(vec![topic]), ..MetadataRequest::default() };
    let id: TopicId = client.ask(12, &request).topics[0].topic_id;
    let one = [FetchPartition::from_consumer(TopicRef::Id(id), 0, 0, 1 << 20)];
    let session = begin(&mut client, BY_ID, &one);
    let delete = tidemill_net::kafka::delete_topics::DeleteTopicsRequest {
        topic_names: vec!["t".to_owned()],
        timeout_ms: 30_000,
        ..Default::default()
    };
    client.ask(5, &delete);
    let gone = vec![(0, ErrorCode::UnknownTopicId, -1, false)];
    assert_eq!(ask(&mut client, BY_ID, (session, 1), &[], &[]), (NONE, session, gone.clone()));
    client.create("t", 1);
    assert_eq!(ask(&mut client, BY_ID, (session, 2), &[], &[]), (NONE, session, gone));
}

/// With room for one batch in each answer every partition has its turn, though the client names none
/// again.
#[test]
fn partitions_take_turns() {
    let (_broker, mut client) = start("session-turns");
    for partition in 0..3 {
        client.produce("t", partition, &batch_of(&["v"]));
    }
    let all = [0, 1, 2].map(|partition| of("t", partition, 0));
    let fetch = OutgoingFetch {
        max_wait_ms: 0,
        max_bytes: 1,
        session_epoch: FIRST,
        partitions: &all,
        ..OutgoingFetch::default()
    };
    let with_records = |told: &FetchResponse<'_>| {
        let some = told.partitions.iter().filter(|part| !part.records.is_empty());
        let some: Vec<i32> = some.map(|part| part.partition).collect();
        assert_eq!(some.len(), 1, "there is room for one");
        (told.session_id, some[0])
    };
    let (session_id, first) = client.fetch_with(BY_NAME, &fetch, with_records);
    let mut seen = vec![first];
    for session_epoch in 1..=6 {
        let fetch = OutgoingFetch { session_id, session_epoch, partitions: &[], ..fetch.clone() };
        seen.push(client.fetch_with(BY_NAME, &fetch, with_records).1);
    }
    for partition in 0..3 {
        let turns = seen.iter().filter(|&&of| of == partition).count();
        assert!(2 <= turns, "{partition} starves: {seen:?}");
    }
}
