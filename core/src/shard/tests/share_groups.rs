//! What is asked of coordinators for tools of share groups, and in which order.

use bytes::BufMut;
use tidemill_net::kafka::alter_share_group_offsets::{
    AlterShareGroupOffsetsRequest, AlterShareGroupOffsetsResponse, ShareGroupPartitionToAlter,
    ShareGroupTopicToAlter,
};
use tidemill_net::kafka::delete_groups::{DeleteGroupsRequest, DeleteGroupsResponse};
use tidemill_net::kafka::delete_share_group_offsets::{
    DeleteShareGroupOffsetsRequest, DeleteShareGroupOffsetsResponse, ShareGroupTopicToDelete,
};
use tidemill_net::kafka::describe_share_group_offsets::{
    DescribeShareGroupOffsetsRequest, DescribeShareGroupOffsetsResponse, ShareGroupToDescribe,
};
use tidemill_net::kafka::list_offsets::{EARLIEST, LATEST};
use tidemill_net::kafka::share_fetch::{ShareFetchPartition, ShareFetchRequest, ShareFetchTopic};
use tidemill_net::kafka::{ApiKey, Message as _};
use tidemill_record::{LeaderEpoch, Timestamp};
use tidemill_replication::controller::SHARE_STATE_TOPIC;

use super::*;
use crate::coordinator::request::{Reply as GroupReply, ShareDescription};
use crate::limits::SHARE_GROUPS_DESCRIBED_MAX;
use crate::share::request::{Listed, Reply as ShareReply, Request as ShareRequest};

/// A question shard 0 was asked, and the place of its answer.
type Asked = (JobId, u32, Call);

impl Scene {
    /// A shard beside which there are groups, and what share groups have read.
    fn of_share_groups() -> Self {
        let mut scene = Self::new(8 << 20);
        scene.make_internal(OFFSETS_TOPIC);
        scene.make_internal(SHARE_STATE_TOPIC);
        scene
    }

    /// What shard 0 was asked since the last time.
    fn asked(&mut self) -> Vec<Asked> {
        let messages = self.world.sent.drain(..);
        let calls = messages.filter_map(|message| match message {
            Message::Calls { job, calls } => Some((job, calls)),
            _ => None,
        });
        let each = calls.flat_map(|(job, calls)| {
            calls.into_iter().map(move |(index, _, call)| (job, index, call))
        });
        each.collect()
    }

    /// Answers all of it, each by what it was.
    fn answer_each(&mut self, asked: Vec<Asked>, answer: impl Fn(&Call) -> Answer) {
        let answers = asked.iter().map(|(job, index, call)| (*job, *index, answer(call)));
        let answers = Message::Answers(answers.collect());
        self.world.inbox.push_back((ShardId(0), answers));
        self.settle();
    }

    /// A member begins to read the topic.
    fn send_share_fetch(&mut self) {
        const VERSION: i16 = 2;
        let request = ShareFetchRequest {
            group_id: Some("g".to_owned()),
            member_id: Some("m".to_owned()),
            max_wait_ms: 1000,
            max_bytes: 1 << 20,
            max_records: 500,
            batch_size: 500,
            topics: vec![ShareFetchTopic {
                topic_id: TOPIC_ID,
                partitions: vec![ShareFetchPartition::default()],
            }],
            ..ShareFetchRequest::default()
        };
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        frame.put_i16(ApiKey::ShareFetch.to_wire());
        frame.put_i16(VERSION);
        frame.put_i32(1);
        // No name, no tags.
        frame.put_i16(-1);
        frame.put_u8(0);
        request.encode(VERSION, &mut frame);
        let size = frame.len() as u32 - 4;
        frame[..4].copy_from_slice(&size.to_be_bytes());
        self.send(&frame);
    }

    /// Answers the one question shard 0 was asked.
    fn answer_one(&mut self, is_it: impl Fn(&Call) -> bool, answer: Answer) {
        let mut asked = self.asked();
        assert!(asked.len() == 1 && is_it(&asked[0].2), "{:?}", asked.first());
        let (job, index, _) = asked.remove(0);
        let answers = Message::Answers(vec![(job, index, answer)]);
        self.world.inbox.push_back((ShardId(0), answers));
        self.settle();
    }

    fn told<R: tidemill_net::kafka::Message>(&mut self, version: i16) -> R {
        let reply = self.replies();
        decode_response(version, &reply[4..]).unwrap().1
    }
}

fn of_group(reply: GroupReply) -> Answer {
    Answer::Group(Box::new(reply))
}

fn of_share(reply: ShareReply) -> Answer {
    Answer::Share(Box::new(reply))
}

/// There is a share group, and nobody is in it.
fn nobody() -> Answer {
    let (state, assignor) = ("Empty", "simple");
    let description = ShareDescription { state, epoch: 1, assignor, members: Vec::new() };
    of_group(GroupReply::ShareDescribed(Some(Box::new(description))))
}

/// Which group is to be described, forgotten or deleted, in a word.
fn meant(call: &Call) -> (&'static str, &str) {
    match call {
        Call::Group(request) => match &**request {
            GroupRequest::DescribeShare { group } => ("describe", group),
            GroupRequest::Delete { group } => ("delete", group),
            other => panic!("{other:?}"),
        },
        Call::Share(request) => match &**request {
            ShareRequest::Forget { group, .. } => ("forget", group),
            ShareRequest::List { group } => ("list", group),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn all_meant(asked: &[Asked]) -> Vec<(&'static str, &str)> {
    asked.iter().map(|(_, _, call)| meant(call)).collect()
}

/// The bug: a group was deleted first and what it had read forgotten afterwards. Where that was
/// refused, a new group of the name went on at the old place.
#[test]
fn what_a_share_group_has_read_is_forgotten_before_it_is_deleted() {
    let mut scene = Scene::of_share_groups();
    let names = ["kept", "gone", "kept", "other"].map(str::to_owned);
    scene.send_request(2, &DeleteGroupsRequest { groups_names: names.to_vec() });

    let asked = scene.asked();
    assert_eq!(
        all_meant(&asked),
        [("describe", "kept"), ("describe", "gone"), ("describe", "other")]
    );
    scene.answer_each(asked, |call| match meant(call) {
        (_, "other") => of_group(GroupReply::ShareDescribed(None)),
        _ => nobody(),
    });

    let asked = scene.asked();
    assert_eq!(all_meant(&asked), [("forget", "kept"), ("forget", "gone")]);
    scene.answer_each(asked, |call| match meant(call) {
        (_, "kept") => of_share(ShareReply::Refused(ErrorCode::NotCoordinator)),
        _ => of_share(ShareReply::Done),
    });

    let asked = scene.asked();
    assert_eq!(all_meant(&asked), [("delete", "gone"), ("delete", "other")]);
    scene.answer_each(asked, |call| match meant(call) {
        (_, "other") => of_group(GroupReply::Deleted(ErrorCode::GroupIdNotFound)),
        _ => of_group(GroupReply::Deleted(ErrorCode::None)),
    });

    let told: DeleteGroupsResponse = scene.told(2);
    let told: Vec<(&str, ErrorCode)> =
        told.results.iter().map(|one| (one.group_id.as_str(), one.error_code)).collect();
    let expected = [
        ("kept", ErrorCode::NotCoordinator),
        ("gone", ErrorCode::None),
        ("other", ErrorCode::GroupIdNotFound),
    ];
    assert_eq!(told, expected);
}

/// What is told of groups is long, so that only so many are told of at once; of the others it is
/// said that they were too many.
#[test]
fn of_too_many_share_groups_only_the_first_are_told_of() {
    let mut scene = Scene::of_share_groups();
    let group = |number: usize| ShareGroupToDescribe {
        group_id: format!("g{number}"),
        ..ShareGroupToDescribe::default()
    };
    let groups = (0..SHARE_GROUPS_DESCRIBED_MAX + 2).map(group).collect();
    scene.send_request(0, &DescribeShareGroupOffsetsRequest { groups });

    let asked = scene.asked();
    assert_eq!(asked.len(), 2 * SHARE_GROUPS_DESCRIBED_MAX, "each is described and listed");
    scene.answer_each(asked, |call| match call {
        Call::Group(_) => nobody(),
        _ => of_share(ShareReply::Listed(Vec::new())),
    });

    let told: DescribeShareGroupOffsetsResponse = scene.told(0);
    assert_eq!(told.groups.len(), SHARE_GROUPS_DESCRIBED_MAX + 2, "all are answered");
    let errors: Vec<ErrorCode> = told.groups.iter().map(|group| group.error_code).collect();
    let (first, rest) = errors.split_at(SHARE_GROUPS_DESCRIBED_MAX);
    assert!(first.iter().all(|error| error.is_none()), "{first:?}");
    assert_eq!(rest, [ErrorCode::InvalidRequest; 2]);
}

/// However often a partition is named, a group is told once where to begin, and what is told of it
/// has a bound.
#[test]
fn a_partition_that_is_named_many_times_is_set_once() {
    let mut scene = Scene::of_share_groups();
    let topic = |starts: &[i64]| ShareGroupTopicToAlter {
        topic_name: TOPIC.to_owned(),
        partitions: starts
            .iter()
            .map(|start| ShareGroupPartitionToAlter { partition_index: 0, start_offset: *start })
            .collect(),
    };
    let topics = vec![topic(&[5, 7]), topic(&[9])];
    let request = AlterShareGroupOffsetsRequest { group_id: "g".to_owned(), topics };
    scene.send_request(0, &request);
    let asked = scene.asked();
    scene.answer_each(asked, |_| nobody());

    let asked = scene.asked();
    let [(_, _, Call::Share(reset))] = &asked[..] else { panic!("{} calls", asked.len()) };
    assert!(matches!(**reset, ShareRequest::Reset { start: 5, .. }), "{reset:?}");
    scene.answer_each(asked, |_| of_share(ShareReply::Done));

    let told: AlterShareGroupOffsetsResponse = scene.told(0);
    let places: Vec<usize> = told.responses.iter().map(|topic| topic.partitions.len()).collect();
    assert_eq!((told.error_code, places), (ErrorCode::None, vec![1]));
}

/// The same for topics of which a group is to forget what it has read.
#[test]
fn a_topic_that_is_named_many_times_is_forgotten_once() {
    let mut scene = Scene::of_share_groups();
    let topics = [TOPIC, TOPIC, "unknown", "unknown"];
    let topics = topics.map(|name| ShareGroupTopicToDelete { topic_name: name.to_owned() });
    let (group_id, topics) = ("g".to_owned(), topics.to_vec());
    scene.send_request(0, &DeleteShareGroupOffsetsRequest { group_id, topics });
    let asked = scene.asked();
    let read = Listed { topic: TOPIC_ID, partition: 0, start: 1, done_past_start: 0 };
    scene.answer_each(asked, |call| match call {
        Call::Share(_) => of_share(ShareReply::Listed(vec![read.clone()])),
        _ => nobody(),
    });

    let asked = scene.asked();
    let [(_, _, Call::Share(forget))] = &asked[..] else { panic!("{} calls", asked.len()) };
    let ShareRequest::Forget { topics: Some(topics), .. } = &**forget else { panic!("{forget:?}") };
    assert_eq!(topics.iter().collect::<Vec<_>>(), [&TOPIC_ID]);
    scene.answer_each(asked, |_| of_share(ShareReply::Done));

    let told: DeleteShareGroupOffsetsResponse = scene.told(0);
    let errors: Vec<ErrorCode> = told.responses.iter().map(|topic| topic.error_code).collect();
    assert_eq!(errors, [ErrorCode::None, ErrorCode::UnknownTopicOrPartition]);
}

/// Before the first group of all there is nobody to ask, and so no such group.
#[test]
fn where_there_are_no_groups_none_is_found() {
    let mut scene = Scene::new(8 << 20);
    let request = AlterShareGroupOffsetsRequest { group_id: "g".to_owned(), topics: Vec::new() };
    scene.send_request(0, &request);
    let told: AlterShareGroupOffsetsResponse = scene.told(0);
    assert_eq!(told.error_code, ErrorCode::NotCoordinator);
    let groups_names = vec!["g".to_owned()];
    scene.send_request(2, &DeleteGroupsRequest { groups_names });
    let told: DeleteGroupsResponse = scene.told(2);
    assert_eq!(told.results[0].error_code, ErrorCode::NotCoordinator);
    assert!(scene.asked().is_empty());
}

/// The bug: where a crash had cut a log, it was only looked where that begins.
#[test]
fn a_member_behind_the_end_of_a_log_finds_the_end() {
    let asks = |is_it: fn(&ShareRequest) -> bool| move |call: &Call| matches!(call, Call::Share(request) if is_it(request));
    let found = |offset| Answer::Offset {
        found: Some((Offset(offset), Timestamp(0))),
        leader_epoch: LeaderEpoch(0),
    };
    let finds = |wanted: i64| move |call: &Call| matches!(call, Call::ListOffset { timestamp, .. } if *timestamp == wanted);
    let next = |from| of_share(ShareReply::Next { from: Some(from), seen: 0 });

    let mut scene = Scene::of_share_groups();
    scene.send_share_fetch();
    scene.answer_one(asks(|request| matches!(request, ShareRequest::Next { .. })), next(9));
    let refused = Answer::Refused { error: ErrorCode::OffsetOutOfRange, message: None };
    scene.answer_one(|call| matches!(call, Call::Read(read) if read.from == Offset(9)), refused);
    scene.answer_one(finds(EARLIEST), found(3));
    scene.answer_one(finds(LATEST), found(7));
    let ends_at_7 =
        |request: &ShareRequest| matches!(request, ShareRequest::EndsAt { log_end: 7, .. });
    scene.answer_one(asks(ends_at_7), of_share(ShareReply::Done));
    scene.answer_one(asks(|request| matches!(request, ShareRequest::Next { .. })), next(7));
    assert_eq!(scene.reads().len(), 1, "and reads there");
}
