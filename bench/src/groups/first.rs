//! How long does a consumer of a new group wait for its first record? From before it connects: all
//! that a client has to ask is asked, one after the other.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use tidemill_client::kafka::consumer_group_heartbeat::{
    ConsumerGroupHeartbeatRequest, LEAVE_EPOCH,
};
use tidemill_client::kafka::consumer_protocol::{Assignment, Subscription};
use tidemill_client::kafka::fetch::{FetchPartition, OutgoingFetch};
use tidemill_client::kafka::find_coordinator::key_type;
use tidemill_client::kafka::join_group::{JoinGroupRequest, JoinGroupRequestProtocol};
use tidemill_client::kafka::leave_group::{LeaveGroupRequest, MemberIdentity};
use tidemill_client::kafka::list_offsets::{
    EARLIEST, ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic,
};
use tidemill_client::kafka::metadata::MetadataRequest;
use tidemill_client::kafka::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic,
};
use tidemill_client::kafka::produce::{OutgoingBatch, OutgoingBatches};
use tidemill_client::kafka::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment};
use tidemill_client::kafka::topic_partitions::TopicPartitions;
use tidemill_client::kafka::{ApiKey, ErrorCode, TopicRef};
use tidemill_client::record::{BatchBuilder, Codec, Timestamp};

use super::member::{Protocol, read};
use crate::asking::{ANSWER_WITHIN, Asking, now};
use crate::control::Topic;
use crate::figures::{Figures, Latencies};
use crate::progress::Progress;
use crate::stop;
use crate::trouble::Trouble;

/// Between two attempts to reach a broker that was lost.
const AGAIN: Duration = Duration::from_millis(200);

/// Puts one record into the first partition.
pub fn fill(topic: &Topic) -> Result<(), Trouble> {
    let mut asking = Asking::open(topic.leaders[0])?;
    let mut builder = BatchBuilder::new(Codec::None);
    builder.append(Timestamp(0), None, Some(b"the first record"));
    let records = builder.build().freeze();
    let named = named(topic, &asking, ApiKey::Produce);
    let partitions = [OutgoingBatch { topic: named, partition: 0, records: &records }];
    let request = OutgoingBatches {
        transactional_id: None,
        acks: -1,
        timeout_ms: 30_000,
        partitions: &partitions,
    };
    let reply =
        asking.ask_with(|connection, now| connection.produce(&request, (), ANSWER_WITHIN, now))?;
    let answer = read(reply.produce())?;
    answer.partitions.iter().try_for_each(|told| demand("produce", told.error_code))
}

/// What was measured.
#[derive(Debug, Default)]
pub struct Measured {
    /// Each from before the consumer connected to its first record.
    pub latencies: Latencies,
    failed: u64,
    first_failure: Option<String>,
    is_stopped: bool,
}

impl Measured {
    /// Adds what was measured.
    pub fn tell(&self, figures: &mut Figures) {
        figures.tell_latencies("the first record of a new group", "first", &self.latencies);
        if self.is_stopped {
            figures.complain(stop::WHY);
        }
        if let Some(first) = &self.first_failure {
            figures.complain(format!("{} attempts failed (first: {first})", self.failed));
        }
    }
}

/// So many new groups, one after the other; what each is called is noted in `made`. Where nobody
/// answers it is tried again with another group, for no longer than `reconnect`: in the first one a
/// member may be left that says nothing more.
pub fn measure(
    (bootstrap, topic): (SocketAddr, &Topic),
    (prefix, times): (&str, usize),
    protocol: Protocol,
    reconnect: Duration,
    made: &mut Vec<String>,
) -> Result<Measured, Trouble> {
    let (mut measured, progress) = (Measured::default(), Progress::on_stderr());
    let mut failing_since = None;
    while (measured.latencies.count() as usize) < times && !stop::is_asked() {
        progress.say(&format!("{} of {times} groups", measured.latencies.count()));
        let group = format!("{prefix}-first-{}", made.len());
        made.push(group.clone());
        match one(bootstrap, &group, protocol, topic) {
            Ok(took) => {
                measured.latencies.record(took);
                failing_since = None;
            }
            Err(trouble) if trouble.is_passing => {
                let since = *failing_since.get_or_insert_with(now);
                if reconnect <= now().since(since) {
                    return Err(trouble);
                }
                measured.failed += 1;
                measured.first_failure.get_or_insert(trouble.to_string());
                thread::sleep(AGAIN);
            }
            Err(trouble) => return Err(trouble),
        }
    }
    progress.clear();
    measured.is_stopped = stop::is_asked();
    Ok(measured)
}

fn one(
    bootstrap: SocketAddr,
    group: &str,
    protocol: Protocol,
    topic: &Topic,
) -> Result<Duration, Trouble> {
    let begun = now();
    let mut first = Asking::open(bootstrap)?;
    let metadata = MetadataRequest::default();
    first.ask(&metadata)?;
    let address = first.coordinators(key_type::GROUP, &[group.to_owned()])?[0];
    let mut coordinator = Asking::open(address)?;
    let (member, epoch) = match protocol {
        Protocol::Classic => join(&mut coordinator, group, topic)?,
        Protocol::Consumer => join_newer(&mut coordinator, group, topic)?,
    };
    look_for_offsets(&mut coordinator, group, topic)?;
    let mut leader = Asking::open(topic.leaders[0])?;
    let from = list(&mut leader, topic)?;
    while fetch(&mut leader, topic, from)? == 0 {}
    let took = now().since(begun);
    leave(&mut coordinator, group, &member, epoch, protocol)?;
    Ok(took)
}

fn join(asking: &mut Asking, group: &str, topic: &Topic) -> Result<(String, i32), Trouble> {
    let subscription = Subscription { topics: vec![topic.name.clone()], ..Default::default() };
    let mut request = JoinGroupRequest {
        group_id: group.to_owned(),
        session_timeout_ms: 45_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".to_owned(),
        protocols: vec![JoinGroupRequestProtocol {
            name: "range".to_owned(),
            metadata: subscription.encode(1),
        }],
        ..JoinGroupRequest::default()
    };
    let mut joined = asking.ask(&request)?;
    if joined.error_code == ErrorCode::MemberIdRequired {
        request.member_id.clone_from(&joined.member_id);
        joined = asking.ask(&request)?;
    }
    demand("join", joined.error_code)?;
    let all = TopicPartitions {
        topic: topic.name.clone(),
        partitions: (0..topic.leaders.len() as i32).collect(),
    };
    let share = Assignment { assigned_partitions: vec![all], ..Assignment::default() };
    let synced = asking.ask(&SyncGroupRequest {
        group_id: group.to_owned(),
        generation_id: joined.generation_id,
        member_id: joined.member_id.clone(),
        assignments: vec![SyncGroupRequestAssignment {
            member_id: joined.member_id.clone(),
            assignment: share.encode(1),
        }],
        ..SyncGroupRequest::default()
    })?;
    demand("sync", synced.error_code)?;
    Ok((joined.member_id, joined.generation_id))
}

fn join_newer(asking: &mut Asking, group: &str, topic: &Topic) -> Result<(String, i32), Trouble> {
    let member = format!("{group}-member");
    let mut request = ConsumerGroupHeartbeatRequest {
        group_id: group.to_owned(),
        member_id: member.clone(),
        rebalance_timeout_ms: 60_000,
        subscribed_topic_names: Some(vec![topic.name.clone()]),
        topic_partitions: Some(Vec::new()),
        ..ConsumerGroupHeartbeatRequest::default()
    };
    loop {
        let heard = asking.ask(&request)?;
        demand("heartbeat", heard.error_code)?;
        let share = heard.assignment.map(|share| share.topic_partitions).unwrap_or_default();
        if share.iter().any(|topic| topic.partitions.contains(&0)) {
            return Ok((member, heard.member_epoch));
        }
        // Some coordinators share out later than they answer.
        request.member_epoch = heard.member_epoch;
    }
}

fn look_for_offsets(asking: &mut Asking, group: &str, topic: &Topic) -> Result<(), Trouble> {
    let asked = OffsetFetchRequestTopic {
        name: topic.name.clone(),
        topic_id: topic.id,
        partition_indexes: (0..topic.leaders.len() as i32).collect(),
    };
    let of_group = OffsetFetchRequestGroup {
        group_id: group.to_owned(),
        topics: Some(vec![asked.clone()]),
        ..OffsetFetchRequestGroup::default()
    };
    let told = asking.ask(&OffsetFetchRequest {
        group_id: group.to_owned(),
        topics: Some(vec![asked]),
        groups: vec![of_group],
        require_stable: true,
    })?;
    told.groups.iter().try_for_each(|group| demand("fetch of offsets", group.error_code))
}

fn list(asking: &mut Asking, topic: &Topic) -> Result<i64, Trouble> {
    let partition = ListOffsetsPartition { timestamp: EARLIEST, ..Default::default() };
    let asked = ListOffsetsTopic { name: topic.name.clone(), partitions: vec![partition] };
    let told = asking.ask(&ListOffsetsRequest { topics: vec![asked], ..Default::default() })?;
    let found = told.topics.first().and_then(|topic| topic.partitions.first());
    let found = found.ok_or_else(|| Trouble::new("no offset was told"))?;
    demand("list of offsets", found.error_code)?;
    Ok(found.offset)
}

fn fetch(asking: &mut Asking, topic: &Topic, from: i64) -> Result<usize, Trouble> {
    let named = named(topic, asking, ApiKey::Fetch);
    let partitions = [FetchPartition::from_consumer(named, 0, from, 1 << 20)];
    let request = OutgoingFetch { partitions: &partitions, ..OutgoingFetch::default() };
    let reply =
        asking.ask_with(|connection, now| connection.fetch(&request, (), ANSWER_WITHIN, now))?;
    let answer = read(reply.fetch())?;
    let mut bytes = 0;
    for told in answer.partitions.iter() {
        demand("fetch", told.error_code)?;
        bytes += told.records.iter().map(|batch| batch.len()).sum::<usize>();
    }
    Ok(bytes)
}

fn leave(
    asking: &mut Asking,
    group: &str,
    member: &str,
    epoch: i32,
    protocol: Protocol,
) -> Result<(), Trouble> {
    match protocol {
        Protocol::Classic => {
            assert!(0 <= epoch, "it was a member");
            let member_id = member.to_owned();
            let identity = MemberIdentity { member_id, ..MemberIdentity::default() };
            let left = asking.ask(&LeaveGroupRequest {
                group_id: group.to_owned(),
                member_id: member.to_owned(),
                members: vec![identity],
            })?;
            demand("leave", left.error_code)
        }
        Protocol::Consumer => {
            let left = asking.ask(&ConsumerGroupHeartbeatRequest {
                group_id: group.to_owned(),
                member_id: member.to_owned(),
                member_epoch: LEAVE_EPOCH,
                ..ConsumerGroupHeartbeatRequest::default()
            })?;
            demand("leave", left.error_code)
        }
    }
}

fn named<'a>(topic: &'a Topic, asking: &Asking, api: ApiKey) -> TopicRef<'a> {
    match asking.takes_topic_ids(api) && !topic.id.is_zero() {
        true => TopicRef::Id(topic.id),
        false => TopicRef::Name(&topic.name),
    }
}

fn demand(what: &str, error: ErrorCode) -> Result<(), Trouble> {
    match error {
        ErrorCode::None => Ok(()),
        passing if passing.is_retriable() => Err(Trouble::passing(format!("{what}: {error}"))),
        _ => Err(Trouble::new(format!("{what}: {error}"))),
    }
}
