//! The rules of groups, told as what clients ask and are answered.
//!
//! The scene is one coordinator, a clock, and a log that takes and keeps batches when the test
//! says so; by default at once.

mod committing;
mod consuming;
mod joining;
mod migrating;
mod overtaking;
mod sharing;
mod statics;
mod transacting;
mod writing;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use tidemill_record::{Batch, Contents, NodeId, Offset, TopicId};
use tidemill_replication::metadata::{self, Image};
use tidemill_runtime::edge::ShardId;

use super::offsets::Committed;
use super::request::{
    Commit, DeleteOffsets, Description, Heartbeat, Join, Joined, Leave, MemberId, Protocol, Sync,
    Synced, Who,
};
use super::*;
use crate::coordinator_log::{LogRecord, Logged};
use crate::job::Jobs;
use crate::partition::Times;

const GROUP: &str = "g";
const SESSION: Duration = Duration::from_secs(10);
const REBALANCE: Duration = Duration::from_secs(60);
const DELAY: Duration = Duration::from_secs(3);
const RETENTION: Duration = Duration::from_hours(1);

/// What the log does with batches.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Disk {
    /// They are durable at once.
    Takes,
    /// They are on their way until [`Scene::settle`].
    Waits,
    /// There is no room.
    Full,
}

struct Scene {
    rules: Arc<Rules>,
    coordinator: Logged<Coordinator>,
    times: Times,
    image: Image,
    jobs: Jobs<()>,
    disk: Disk,
    /// Durable, in order.
    log: Vec<Record>,
    under_way: VecDeque<(u64, Vec<Record>)>,
    /// By the serial number of the question.
    told: BTreeMap<usize, Reply>,
    asked: Vec<ReplyTo>,
}

/// A question that was asked.
#[derive(Clone, Copy, Debug)]
struct Asked(usize);

fn rules() -> Rules {
    Rules {
        initial_delay: DELAY,
        members_max: 1000,
        new_member_timeout: Duration::from_mins(5),
        consumer_session: SESSION,
        upgrades: true,
        downgrades: true,
        record_bytes_max: 1 << 20,
        offset_metadata_bytes_max: 100,
        offsets_retention_ms: RETENTION.as_millis() as i64,
        expiry_interval: Duration::from_mins(10),
    }
}

impl Scene {
    fn new() -> Self {
        Self::with(rules())
    }

    fn with(rules: Rules) -> Self {
        Self::with_log(rules, 1 << 30)
    }

    /// A log that is written anew when it has grown by so much.
    fn with_log(rules: Rules, rewrite_bytes: usize) -> Self {
        let times = Times { now: Instant { nanos: 1 }, wall_ms: 1_000_000 };
        let rules = Arc::new(rules);
        let coordinator = Coordinator::new(Arc::clone(&rules), 7);
        let mut coordinator = Logged::new(coordinator, rewrite_bytes);
        let image = image();
        coordinator.loaded(0, Now { times, image: &image });
        Self {
            rules,
            coordinator,
            times,
            image,
            jobs: Jobs::default(),
            disk: Disk::Takes,
            log: Vec::new(),
            under_way: VecDeque::new(),
            told: BTreeMap::new(),
            asked: Vec::new(),
        }
    }

    fn ask(&mut self, request: Request) -> Asked {
        let index = self.asked.len() as u32;
        let reply_to = ReplyTo { shard: ShardId(0), job: self.jobs.insert(()), index };
        self.asked.push(reply_to);
        self.coordinator.request(
            request,
            reply_to,
            true,
            Now { times: self.times, image: &self.image },
        );
        self.write();
        Asked(index as usize)
    }

    /// Hands batches to the log, and replies to whoever asked.
    fn write(&mut self) {
        loop {
            for (reply_to, reply) in self.coordinator.take_replies() {
                let before = self.told.insert(reply_to.index as usize, reply);
                assert!(before.is_none(), "everybody is answered once");
            }
            let Some(append) = self.coordinator.poll_append(self.times.wall_ms) else { return };
            match self.disk {
                Disk::Full => {
                    let error = ErrorCode::NotCoordinator;
                    let now = Now { times: self.times, image: &self.image };
                    self.coordinator.refused(append.number, error, now);
                }
                _ => self.under_way.push_back((append.number, records_of(&append.batch))),
            }
            if self.disk == Disk::Takes {
                self.settle();
            }
        }
    }

    /// What is under way becomes durable.
    fn settle(&mut self) {
        while self.settle_next() {}
        self.write();
    }

    /// The first of what is under way becomes durable; whether there is any.
    fn settle_next(&mut self) -> bool {
        let Some((number, records)) = self.under_way.pop_front() else { return false };
        let base_offset = Offset(self.log.len() as i64);
        self.log.extend(records);
        let now = Now { times: self.times, image: &self.image };
        self.coordinator.appended(number, base_offset, now);
        true
    }

    fn pass(&mut self, time: Duration) {
        let end = self.times.now.after(time);
        while let Some(next) = self.coordinator.next_deadline().filter(|next| *next <= end) {
            self.pass_to(next.max(self.times.now));
        }
        self.pass_to(end);
    }

    fn pass_to(&mut self, now: Instant) {
        let passed = now.since(self.times.now);
        self.times = Times { now, wall_ms: self.times.wall_ms + passed.as_millis() as i64 };
        self.coordinator.tick(Now { times: self.times, image: &self.image });
        self.write();
    }

    fn reply(&self, asked: Asked) -> &Reply {
        self.told.get(&asked.0).expect("it is answered")
    }

    fn is_waiting(&self, asked: Asked) -> bool {
        !self.told.contains_key(&asked.0)
    }

    fn joined(&self, asked: Asked) -> &Joined {
        match self.reply(asked) {
            Reply::Joined(joined) => joined,
            other => panic!("{other:?}"),
        }
    }

    fn synced(&self, asked: Asked) -> &Synced {
        match self.reply(asked) {
            Reply::Synced(synced) => synced,
            other => panic!("{other:?}"),
        }
    }

    // What clients do.

    fn join(&mut self, client: &Client) -> Asked {
        self.ask(Request::Join(Box::new(client.join.clone())))
    }

    /// A new client joins under the name it is told to.
    fn join_named(&mut self, client: &mut Client) -> Asked {
        let asked = self.join(client);
        let joined = self.joined(asked);
        assert_eq!(joined.error, ErrorCode::MemberIdRequired);
        client.join.member = Arc::clone(&joined.member);
        self.join(client)
    }

    fn sync(&mut self, asked: Asked, shares: &[(&MemberId, &'static str)]) -> Asked {
        let Joined { member, generation, .. } = self.joined(asked).clone();
        self.sync_as(&member, generation, shares)
    }

    fn sync_as(
        &mut self,
        member: &MemberId,
        generation: i32,
        shares: &[(&MemberId, &'static str)],
    ) -> Asked {
        let assignments = shares
            .iter()
            .map(|(id, share)| (Arc::clone(id), Bytes::from_static(share.as_bytes())))
            .collect();
        self.ask(Request::Sync(Box::new(Sync {
            group: GROUP.into(),
            who: who(member, generation),
            protocol_type: None,
            protocol: None,
            assignments,
        })))
    }

    fn heartbeat(&mut self, member: &MemberId, generation: i32) -> ErrorCode {
        let who = who(member, generation);
        let asked = self.ask(Request::Heartbeat(Heartbeat { group: GROUP.into(), who }));
        match self.reply(asked) {
            Reply::Alive(error) => *error,
            other => panic!("{other:?}"),
        }
    }

    fn leave(&mut self, members: &[(&str, Option<&str>)]) -> Vec<ErrorCode> {
        let members = members.iter().map(|(id, instance)| ((*id).into(), instance.map(Arc::from)));
        let leave = Leave { group: GROUP.into(), members: members.collect() };
        let asked = self.ask(Request::Leave(leave));
        match self.reply(asked) {
            Reply::Left(results) => results.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn describe(&mut self) -> Description {
        let asked = self.ask(Request::Describe { group: GROUP.into() });
        match self.reply(asked) {
            Reply::Described(Some(description)) => (**description).clone(),
            Reply::Described(None) => panic!("there is no group"),
            other => panic!("{other:?}"),
        }
    }

    fn state(&mut self) -> &'static str {
        self.describe().state
    }

    fn commit_as(&mut self, who: Who, offsets: &[(&str, i32, i64)]) -> Asked {
        let offsets = offsets.iter().map(|(topic, partition, offset)| {
            let commit_ms = self.times.wall_ms;
            let committed =
                Committed { offset: *offset, leader_epoch: -1, commit_ms, ..Committed::default() };
            ((*topic).into(), *partition, committed)
        });
        let offsets = offsets.collect();
        let unknown_group = ErrorCode::IllegalGeneration;
        self.ask(Request::Commit(Commit {
            group: GROUP.into(),
            who,
            unknown_group,
            knows_epochs: true,
            offsets,
        }))
    }

    fn commit(&mut self, who: Who, offsets: &[(&str, i32, i64)]) -> Result<(), ErrorCode> {
        let asked = self.commit_as(who, offsets);
        match self.reply(asked) {
            Reply::Committed(results) => {
                assert!(results.iter().all(|error| *error == ErrorCode::None));
                Ok(())
            }
            Reply::Refused(error) => Err(*error),
            other => panic!("{other:?}"),
        }
    }

    fn committed(&mut self, topic: &str, partition: i32) -> Option<i64> {
        let topics = Some(vec![(topic.into(), vec![partition])]);
        let asked = self.ask(Request::FetchOffsets(FetchOffsets { topics, ..all_offsets() }));
        match self.reply(asked) {
            Reply::Offsets(found) => {
                let found = found[0].1[0].1.as_ref().expect("it is stable");
                found.as_ref().map(|committed| committed.offset)
            }
            other => panic!("{other:?}"),
        }
    }

    fn delete(&mut self) -> Asked {
        self.ask(Request::Delete { group: GROUP.into() })
    }

    /// The process ends here; another one takes up what is durable.
    fn crash(&mut self) {
        self.under_way.clear();
        let coordinator = Coordinator::new(Arc::clone(&self.rules), 8);
        self.coordinator = Logged::new(coordinator, 1 << 30);
        for record in self.log.clone() {
            self.coordinator.replay(record);
        }
        self.coordinator.loaded(0, Now { times: self.times, image: &self.image });
        self.write();
    }

    /// `count` consumers that share `group`, all with their shares; the first one leads.
    fn stable(count: usize) -> (Self, Vec<Client>) {
        let mut scene = Self::new();
        let mut clients: Vec<Client> = (0..count).map(|_| Client::new()).collect();
        scene.stabilize(&mut clients);
        (scene, clients)
    }

    fn stabilize(&mut self, clients: &mut [Client]) {
        let asked: Vec<Asked> = clients.iter_mut().map(|client| self.join_named(client)).collect();
        self.pass(2 * DELAY);
        let syncs: Vec<Asked> = asked.iter().rev().map(|asked| self.sync(*asked, &[])).collect();
        for (asked, sync) in asked.iter().zip(syncs) {
            assert_eq!(self.joined(*asked).error, ErrorCode::None);
            assert_eq!(self.synced(sync).error, ErrorCode::None);
        }
        assert_eq!(self.state(), "Stable");
    }
}

/// A client of the group, as it joins.
#[derive(Clone)]
struct Client {
    join: Join,
}

impl Client {
    fn new() -> Self {
        Self {
            join: Join {
                group: GROUP.into(),
                member: "".into(),
                instance: None,
                client_id: "client".into(),
                client_host: "/host".into(),
                session_timeout: SESSION,
                rebalance_timeout: REBALANCE,
                protocol_type: "consumer".into(),
                protocols: vec![protocol("range", &["t"])],
                needs_member_id: true,
                may_skip_assignment: true,
            },
        }
    }

    fn with_instance(instance: &str) -> Self {
        let mut client = Self::new();
        client.join.instance = Some(instance.into());
        client
    }

    fn with_protocols(protocols: Vec<Protocol>) -> Self {
        let mut client = Self::new();
        client.join.protocols = protocols;
        client
    }

    fn id(&self) -> MemberId {
        Arc::clone(&self.join.member)
    }
}

/// What a consumer says that reads `topics`.
fn protocol(name: &str, topics: &[&str]) -> Protocol {
    let subscription = tidemill_net::kafka::consumer_protocol::Subscription {
        topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
        ..Default::default()
    };
    Protocol { name: name.into(), metadata: subscription.encode(0) }
}

fn who(member: &str, generation: i32) -> Who {
    Who { member: member.into(), instance: None, generation }
}

/// A question for all offsets, in nobody's name.
fn all_offsets() -> FetchOffsets {
    FetchOffsets {
        group: GROUP.into(),
        topics: None,
        member: None,
        epoch: -1,
        require_stable: false,
    }
}

/// Topics `t` and `u` of many partitions, and some others.
fn image() -> Image {
    let mut image = Image::default();
    for (number, name) in (1..).zip(["t", "u", "unread", "topic"]) {
        add_topic(&mut image, number, name, 4);
    }
    image
}

fn add_topic(image: &mut Image, number: u8, name: &str, partitions: usize) {
    let created = metadata::Record::TopicCreated {
        id: TopicId([number; 16]),
        name: name.to_owned(),
        partitions: vec![vec![NodeId(1)]; partitions],
        configs: Vec::new(),
    };
    image.replay(&created).unwrap();
}

/// Somebody who is in no group.
fn nobody() -> Who {
    who("", -1)
}

fn records_of(batch: &[u8]) -> Vec<Record> {
    let (batch, rest) = Batch::parse(batch).unwrap();
    assert!(rest.is_empty());
    let contents = Contents::open(&batch, 1 << 24).unwrap();
    let records = contents.records().map(|record| {
        let record = record.unwrap();
        Record::decode(record.key.unwrap(), record.value).unwrap()
    });
    records.collect()
}
