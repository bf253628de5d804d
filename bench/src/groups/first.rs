//! How long does a consumer of a new group wait for its first record? From before it connects: all
//! that a client has to ask is asked, one after the other.
//!
//! A consumer that the broker leaves in the lurch begins again, and has waited since it first began.

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
use crate::figures::{Figures, Latencies, counted};
use crate::progress::{LINE_EVERY, Progress};
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
    /// Each from before the consumer connected to its first record. Those that had not come to it at
    /// the end count as well, with what they had waited.
    pub latencies: Latencies,
    failed: u64,
    first_failure: Option<String>,
    /// Why it ended before its time.
    ended_early: Option<String>,
}

impl Measured {
    /// Adds what was measured.
    pub fn tell(&self, figures: &mut Figures) {
        figures.tell_latencies("the first record of a new group", "first", &self.latencies);
        if let Some(why) = &self.ended_early {
            figures.complain(why);
        }
        if let Some(first) = &self.first_failure {
            let failed = counted(self.failed, "attempt", "attempts");
            figures.complain(format!("{failed} failed (first: {first})"));
        }
    }

    fn take_failure(&mut self, trouble: Trouble) -> Result<(), Trouble> {
        if !trouble.is_passing {
            return Err(trouble);
        }
        self.failed += 1;
        self.first_failure.get_or_insert(trouble.to_string());
        Ok(())
    }
}

/// Who may still be in a group: it could not say that it goes.
struct Left {
    group: String,
    member: String,
}

/// So many new groups, one after the other; what each is called is noted in `made`. Where nobody
/// answers it is tried again with another group, for no longer than `reconnect`: in the first one a
/// member may be left that says nothing more. It is taken out of it at the end.
pub fn measure(
    (bootstrap, topic): (SocketAddr, &Topic),
    (prefix, times): (&str, usize),
    protocol: Protocol,
    reconnect: Duration,
    made: &mut Vec<String>,
) -> Result<Measured, Trouble> {
    let (mut measured, progress) = (Measured::default(), Progress::on_stderr());
    let (mut waits_since, mut all_left) = (None, Vec::new());
    let mut next_line = now().plus(LINE_EVERY);
    while (measured.latencies.count() as usize) < times && !stop::is_asked() {
        let words = format!("{} of {times} groups", measured.latencies.count());
        progress.say(&words);
        if next_line <= now() {
            progress.step(&words);
            next_line = now().plus(LINE_EVERY);
        }
        let mut left =
            Left { group: format!("{prefix}-first-{}", made.len()), member: String::new() };
        made.push(left.group.clone());
        let since = *waits_since.get_or_insert_with(now);
        let came = first_record(bootstrap, &mut left, protocol, topic);
        let ended = came.and_then(|mut coordinator| {
            measured.latencies.record(now().since(since));
            waits_since = None;
            leave(&mut coordinator, &left, protocol)
        });
        let Err(trouble) = ended else { continue };
        measured.take_failure(trouble)?;
        all_left.push(left);
        // Whoever had its record and could not leave makes room for the next one: that waits, too.
        let since = *waits_since.get_or_insert_with(now);
        if reconnect <= now().since(since) {
            let within = reconnect.as_secs_f64();
            let why = format!("the broker was lost and not back within {within:.0} s");
            measured.ended_early = Some(why);
            break;
        }
        thread::sleep(AGAIN);
    }
    progress.clear();
    if let Some(since) = waits_since {
        // Left out, a broker that is away would look fast.
        measured.latencies.record(now().since(since));
    }
    if stop::is_asked() {
        measured.ended_early.get_or_insert_with(|| stop::WHY.to_owned());
    }
    // Who deletes the groups says which of them somebody is still in.
    drop(all_left.iter().try_for_each(|left| take_out(topic, left, protocol)));
    Ok(measured)
}

/// Takes a member out of its group that could not say that it goes. It may never have been in it.
fn take_out(topic: &Topic, left: &Left, protocol: Protocol) -> Result<(), Trouble> {
    if left.member.is_empty() {
        return Ok(());
    }
    let groups = std::slice::from_ref(&left.group);
    let address = Asking::open(topic.leaders_now()?[0])?.coordinators(key_type::GROUP, groups)?[0];
    drop(leave(&mut Asking::open(address)?, left, protocol));
    Ok(())
}

/// All until the first record has come; what the member is called is noted as soon as it is known.
/// Gives back the connection to its coordinator.
fn first_record(
    bootstrap: SocketAddr,
    left: &mut Left,
    protocol: Protocol,
    topic: &Topic,
) -> Result<Asking, Trouble> {
    let mut first = Asking::open(bootstrap)?;
    first.ask(&MetadataRequest::default())?;
    let groups = std::slice::from_ref(&left.group);
    let address = first.coordinators(key_type::GROUP, groups)?[0];
    let mut coordinator = Asking::open(address)?;
    match protocol {
        Protocol::Classic => join(&mut coordinator, left, topic)?,
        Protocol::Consumer => join_newer(&mut coordinator, left, topic)?,
    }
    look_for_offsets(&mut coordinator, &left.group, topic)?;
    let mut leader = Asking::open(topic.leaders[0])?;
    let from = list(&mut leader, topic)?;
    while fetch(&mut leader, topic, from)? == 0 {}
    Ok(coordinator)
}

fn join(asking: &mut Asking, left: &mut Left, topic: &Topic) -> Result<(), Trouble> {
    let subscription = Subscription { topics: vec![topic.name.clone()], ..Default::default() };
    let mut request = JoinGroupRequest {
        group_id: left.group.clone(),
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
        left.member.clone_from(&joined.member_id);
        request.member_id.clone_from(&joined.member_id);
        joined = asking.ask(&request)?;
    }
    demand("join", joined.error_code)?;
    left.member.clone_from(&joined.member_id);
    let all = TopicPartitions {
        topic: topic.name.clone(),
        partitions: (0..topic.leaders.len() as i32).collect(),
    };
    let share = Assignment { assigned_partitions: vec![all], ..Assignment::default() };
    let synced = asking.ask(&SyncGroupRequest {
        group_id: left.group.clone(),
        generation_id: joined.generation_id,
        member_id: joined.member_id.clone(),
        assignments: vec![SyncGroupRequestAssignment {
            member_id: joined.member_id.clone(),
            assignment: share.encode(1),
        }],
        ..SyncGroupRequest::default()
    })?;
    demand("sync", synced.error_code)
}

fn join_newer(asking: &mut Asking, left: &mut Left, topic: &Topic) -> Result<(), Trouble> {
    left.member = format!("{}-member", left.group);
    let mut request = ConsumerGroupHeartbeatRequest {
        group_id: left.group.clone(),
        member_id: left.member.clone(),
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
            return Ok(());
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

fn leave(asking: &mut Asking, left: &Left, protocol: Protocol) -> Result<(), Trouble> {
    let (group_id, member_id) = (left.group.clone(), left.member.clone());
    let error = match protocol {
        Protocol::Classic => {
            let identity = MemberIdentity { member_id: member_id.clone(), ..Default::default() };
            asking
                .ask(&LeaveGroupRequest { group_id, member_id, members: vec![identity] })?
                .error_code
        }
        Protocol::Consumer => {
            let request = ConsumerGroupHeartbeatRequest {
                group_id,
                member_id,
                member_epoch: LEAVE_EPOCH,
                ..ConsumerGroupHeartbeatRequest::default()
            };
            asking.ask(&request)?.error_code
        }
    };
    demand("leave", error)
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
