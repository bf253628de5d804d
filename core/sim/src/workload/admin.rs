//! The administrator: creates and deletes topics, adds partitions, deletes records, sets quotas, makes
//! groups forget; one thing at a time, and each only once it knows how the last one ended.

mod forgetting;

use bytes::{Bytes, BytesMut};
use tidemill_net::kafka::alter_client_quotas::{
    AlterClientQuotasRequest, AlterClientQuotasResponse, QuotaChange, QuotaChanges,
};
use tidemill_net::kafka::create_partitions::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreatePartitionsTopic,
};
use tidemill_net::kafka::create_topics::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequest, CreateTopicsResponse,
};
use tidemill_net::kafka::delete_records::{
    DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsResponse, DeleteRecordsTopic,
};
use tidemill_net::kafka::delete_topics::{
    DeleteTopicState, DeleteTopicsRequest, DeleteTopicsResponse,
};
use tidemill_net::kafka::describe_client_quotas::{
    DescribeClientQuotasRequest, DescribeClientQuotasResponse, QuotaEntity, entity_type,
};
use tidemill_net::kafka::{ErrorCode, Request, decode_response, encode_request};
use tidemill_record::TopicId;

use self::forgetting::Forget;
use super::lines::{Heard, Lines};
use super::map::{Map, unreadable};
use super::{
    COMPACTED, Phase, REBORN, REQUEST_TIMEOUT, Scene, delete_retention_ms, is_only_compacted,
};
use crate::checker::bounds::Floor;
use crate::checker::topics::Expected;
use crate::checker::{Place, Verdict, check};
use crate::network::{BOOTSTRAP_PORT, ClientEvent};

/// The administrator.
#[derive(Debug)]
pub(crate) struct Admin {
    lines: Lines<Ask>,
    map: Map,
    /// Topics still to be made at the beginning.
    to_create: u32,
    names: u32,
    busy: bool,
    looked: bool,
}

#[derive(Debug)]
enum Ask {
    Map(Expected),
    Create { version: i16, name: String, partitions: i32 },
    Delete { version: i16, topic: TopicId },
    Grow { version: i16, topic: TopicId, name: String, partitions: i32 },
    Trim { version: i16, place: Place, before: i64, sent: Floor, is_allowed: bool },
    Forget(Forget),
    SetQuota { version: i16, number: u64 },
    Quotas { version: i16, expected: Vec<u64> },
}

impl Admin {
    pub(crate) fn new(topics: u32) -> Self {
        Self {
            lines: Lines::new(REQUEST_TIMEOUT),
            map: Map::default(),
            to_create: topics,
            names: 0,
            busy: false,
            looked: false,
        }
    }

    pub(crate) fn is_drained(&self) -> bool {
        !self.busy
    }

    pub(crate) fn describe(&self) -> String {
        "the administrator waits for an answer".to_owned()
    }

    pub(crate) fn handle(&mut self, event: ClientEvent, scene: &mut Scene<'_, '_>) -> Verdict {
        for heard in self.lines.handle(event, scene.port)? {
            self.hear(heard, scene)?;
        }
        Ok(())
    }

    pub(crate) fn step(&mut self, scene: &mut Scene<'_, '_>) -> Verdict {
        for heard in self.lines.expire(scene.port) {
            self.hear(heard, scene)?;
        }
        if self.busy || scene.phase != Phase::Work {
            return Ok(());
        }
        if !std::mem::replace(&mut self.looked, true) {
            let ask = Ask::Map(scene.history.topics.expected(scene.port.now()));
            self.busy = true;
            self.lines.ask(BOOTSTRAP_PORT, Some(ask), scene.port, Map::encode_question);
            return Ok(());
        }
        self.looked = false;
        if 0 < self.to_create {
            self.create(scene);
        } else if scene.random.happens(scene.crowd.topic_deletions) {
            self.delete(scene);
        } else if scene.random.happens(scene.crowd.record_deletions) {
            self.trim(scene);
        } else if scene.random.happens(scene.crowd.group_deletions) {
            self.forget(scene);
        } else if scene.random.happens(20_000) {
            self.create(scene);
        } else if scene.random.happens(20_000) {
            self.grow(scene);
        } else if scene.random.happens(scene.crowd.quotas) {
            self.set_quota(scene);
        } else if scene.random.happens(scene.crowd.quotas) {
            let expected = scene.history.quotas.expected();
            let version = scene.random.between(0, 1) as i16;
            let request = DescribeClientQuotasRequest::default();
            self.ask(Ask::Quotas { version, expected }, version, &request, scene);
        }
        Ok(())
    }

    fn ask<R: Request>(&mut self, ask: Ask, version: i16, request: &R, scene: &mut Scene<'_, '_>) {
        self.busy = true;
        self.lines.ask(BOOTSTRAP_PORT, Some(ask), scene.port, |out: &mut BytesMut, correlation| {
            encode_request(out, version, correlation, Some("sim"), request);
        });
    }

    fn create(&mut self, scene: &mut Scene<'_, '_>) {
        let reborn = format!("{REBORN}-{}", scene.random.below(2));
        let there = self.map.topics.values().any(|topic| topic.name == reborn);
        let name = if scene.random.happens(300_000) && !there {
            reborn
        } else {
            self.names += 1;
            let is_compacted = scene.random.happens(scene.crowd.compacted_topics);
            match is_compacted {
                // Its name tells those who write to it how long deletion marks stay.
                true => {
                    let retention_ms = scene.random.pick(&["20", "100", "1000", "86400000"]);
                    format!("{COMPACTED}-{retention_ms}-{}", self.names)
                }
                false => format!("topic-{}", self.names),
            }
        };
        let mut configs: Vec<_> = kept_codec(scene).into_iter().collect();
        if let Some(retention_ms) = delete_retention_ms(&name) {
            configs.extend(compaction(retention_ms, is_only_compacted(&name), scene));
        }
        let partitions = scene.random.between(1, scene.crowd.partitions_max as u64) as i32;
        let version = scene.random.between(2, 7) as i16;
        let request = CreateTopicsRequest {
            topics: vec![CreatableTopic {
                name: name.clone(),
                num_partitions: partitions,
                replication_factor: 1,
                configs,
                ..CreatableTopic::default()
            }],
            timeout_ms: 2_000,
            validate_only: false,
        };
        scene.history.topics.asking(&name, partitions);
        self.ask(Ask::Create { version, name, partitions }, version, &request, scene);
    }

    fn delete(&mut self, scene: &mut Scene<'_, '_>) {
        let topics: Vec<TopicId> = self.map.topics.keys().copied().collect();
        if topics.is_empty() {
            return;
        }
        let topic = *scene.random.pick(&topics);
        let name = self.map.topics[&topic].name.clone();
        let by_id = name.starts_with(REBORN) || scene.random.coin();
        let version = if by_id { 6 } else { scene.random.between(1, 5) as i16 };
        let request = DeleteTopicsRequest {
            topics: vec![DeleteTopicState { name: None, topic_id: topic }],
            topic_names: vec![name],
            timeout_ms: 2_000,
        };
        scene.history.topics.asking_to_delete(topic);
        self.ask(Ask::Delete { version, topic }, version, &request, scene);
    }

    fn grow(&mut self, scene: &mut Scene<'_, '_>) {
        let topics: Vec<TopicId> = self.map.topics.keys().copied().collect();
        if topics.is_empty() {
            return;
        }
        let topic = *scene.random.pick(&topics);
        let known = &self.map.topics[&topic];
        if known.name.starts_with(REBORN) || 8 <= known.leaders.len() {
            return;
        }
        let (name, partitions) = (known.name.clone(), known.leaders.len() as i32 + 1);
        let version = scene.random.between(0, 3) as i16;
        let request = CreatePartitionsRequest {
            topics: vec![CreatePartitionsTopic {
                name: name.clone(),
                count: partitions,
                assignments: None,
            }],
            timeout_ms: 2_000,
            validate_only: false,
        };
        scene.history.topics.asking(&name, partitions);
        self.ask(Ask::Grow { version, topic, name, partitions }, version, &request, scene);
    }

    fn trim(&mut self, scene: &mut Scene<'_, '_>) {
        let places = self.map.places();
        if places.is_empty() {
            return;
        }
        let place = *scene.random.pick(&places);
        let name = self.map.topics[&place.topic].name.clone();
        if name.starts_with(REBORN) {
            return;
        }
        let is_allowed = !is_only_compacted(&name);
        let bounds = &mut scene.history.partition(place).bounds;
        let sent = bounds.floor();
        let all = scene.random.happens(50_000);
        let before = if all { -1 } else { scene.random.between(0, sent.end as u64) as i64 };
        if is_allowed {
            bounds.trim_asked(before);
        }
        let version = scene.random.between(0, 2) as i16;
        let request = DeleteRecordsRequest {
            topics: vec![DeleteRecordsTopic {
                name,
                partitions: vec![DeleteRecordsPartition {
                    partition_index: place.partition,
                    offset: before,
                }],
            }],
            timeout_ms: 2_000,
        };
        let ask = Ask::Trim { version, place, before, sent, is_allowed };
        self.ask(ask, version, &request, scene);
    }

    /// Each quota is for a client of its own, which nobody is, and is set once.
    fn set_quota(&mut self, scene: &mut Scene<'_, '_>) {
        let number = scene.history.quotas.asking();
        let version = scene.random.between(0, 1) as i16;
        let entity = QuotaEntity {
            entity_type: entity_type::CLIENT_ID.to_owned(),
            entity_name: Some(format!("client-{number}")),
        };
        let op = QuotaChange {
            key: "consumer_byte_rate".to_owned(),
            value: number as f64,
            remove: false,
        };
        let entries = vec![QuotaChanges { entity: vec![entity], ops: vec![op] }];
        let request = AlterClientQuotasRequest { entries, validate_only: false };
        self.ask(Ask::SetQuota { version, number }, version, &request, scene);
    }

    fn hear(&mut self, heard: Heard<Ask>, scene: &mut Scene<'_, '_>) -> Verdict {
        self.busy = false;
        let (ask, frame) = match heard {
            Heard::Answer(ask, frame) => (ask, frame),
            Heard::Lost(Ask::Forget(forget)) => {
                forgetting::lost(&forget, scene);
                return Ok(());
            }
            // What became of it, the next look at the map tells.
            Heard::Lost(_) => return Ok(()),
        };
        match ask {
            Ask::Map(expected) => {
                self.map = Map::decode_answer(&frame)?;
                scene.history.topics.listed(&self.map.listed(), &expected, scene.port.now())
            }
            Ask::Create { version, name, partitions } => {
                self.created(version, &name, partitions, &frame, scene)
            }
            Ask::Delete { version, topic } => deleted(version, topic, &frame, scene),
            Ask::Grow { version, topic, name, partitions } => {
                grown(version, topic, &name, partitions, &frame, scene)
            }
            Ask::Trim { version, place, before, sent, is_allowed } => {
                let asked = (before, sent, is_allowed);
                trimmed(version, place, asked, &frame, scene)
            }
            Ask::Forget(forget) => forgetting::forgotten(&forget, &frame, scene),
            Ask::SetQuota { version, number } => quota_set(version, number, &frame, scene),
            Ask::Quotas { version, expected } => quotas_told(version, &expected, &frame, scene),
        }
    }

    fn created(
        &mut self,
        version: i16,
        name: &str,
        partitions: i32,
        frame: &Bytes,
        scene: &mut Scene<'_, '_>,
    ) -> Verdict {
        let (_, response) = decode_response::<CreateTopicsResponse>(version, frame)
            .map_err(|error| unreadable("create topics", &error))?;
        let result = response.topics.first();
        let error = result.map_or(ErrorCode::UnknownServerError, |topic| topic.error_code);
        if error.is_none() {
            self.to_create = self.to_create.saturating_sub(1);
        }
        // The answer to a request that was lost may have made it already.
        let may_fail = error.is_retriable() || error == ErrorCode::TopicAlreadyExists;
        check(error.is_none() || may_fail, "a topic can be created", || {
            format!("{name}: {error}")
        })?;
        match result.filter(|topic| error.is_none() && 7 <= version && !topic.topic_id.is_zero()) {
            Some(topic) => {
                scene.history.topics.told(name, topic.topic_id, partitions, scene.port.now())
            }
            None => Ok(()),
        }
    }
}

/// Some topics are kept in a codec of their own, whatever their producers send.
fn kept_codec(scene: &mut Scene<'_, '_>) -> Option<CreatableTopicConfig> {
    let codecs = ["uncompressed", "gzip", "snappy", "lz4", "zstd"];
    scene.random.happens(250_000).then(|| CreatableTopicConfig {
        name: "compression.type".to_owned(),
        value: Some((*scene.random.pick(&codecs)).to_owned()),
    })
}

/// How a compacted topic wants to be compacted: soon.
fn compaction(
    retention_ms: i64,
    is_only_compacted: bool,
    scene: &mut Scene<'_, '_>,
) -> Vec<CreatableTopicConfig> {
    let random = &mut scene.random;
    let retention_ms = retention_ms.to_string();
    let configs = [
        ("cleanup.policy", if is_only_compacted { "compact" } else { "compact,delete" }),
        ("min.cleanable.dirty.ratio", *random.pick(&["0.01", "0.01", "0.5"])),
        ("segment.ms", *random.pick(&["20", "50", "200"])),
        ("delete.retention.ms", retention_ms.as_str()),
        ("max.compaction.lag.ms", *random.pick(&["100", "9223372036854775807"])),
    ];
    let config = |(name, value): (&str, &str)| CreatableTopicConfig {
        name: name.to_owned(),
        value: Some(value.to_owned()),
    };
    configs.map(config).into()
}

fn quota_set(version: i16, number: u64, frame: &Bytes, scene: &mut Scene<'_, '_>) -> Verdict {
    let (_, response) = decode_response::<AlterClientQuotasResponse>(version, frame)
        .map_err(|error| unreadable("alter client quotas", &error))?;
    let result = response.entries.first();
    let error = result.map_or(ErrorCode::UnknownServerError, |entry| entry.error_code);
    if error.is_none() {
        scene.history.quotas.told_set(number);
    }
    let known = error.is_none() || error.is_retriable();
    check(known, "a quota can be set", || format!("client-{number}: {error}"))
}

fn quotas_told(
    version: i16,
    expected: &[u64],
    frame: &Bytes,
    scene: &mut Scene<'_, '_>,
) -> Verdict {
    let (_, response) = decode_response::<DescribeClientQuotasResponse>(version, frame)
        .map_err(|error| unreadable("describe client quotas", &error))?;
    let entries = response.entries.unwrap_or_default();
    let told = entries.iter().map(|entry| {
        let name = entry.entity.first().and_then(|part| part.entity_name.clone());
        (name.unwrap_or_default(), entry.values.first().map_or(0.0, |value| value.value))
    });
    scene.history.quotas.listed(told.collect(), expected)
}

fn deleted(version: i16, topic: TopicId, frame: &Bytes, scene: &mut Scene<'_, '_>) -> Verdict {
    let (_, response) = decode_response::<DeleteTopicsResponse>(version, frame)
        .map_err(|error| unreadable("delete topics", &error))?;
    let result = response.responses.first();
    let error = result.map_or(ErrorCode::UnknownServerError, |topic| topic.error_code);
    let gone = matches!(
        error,
        ErrorCode::None | ErrorCode::UnknownTopicId | ErrorCode::UnknownTopicOrPartition
    );
    if gone {
        scene.history.topics.told_deleted(topic);
    }
    check(gone || error.is_retriable(), "a topic can be deleted", || format!("{topic}: {error}"))
}

fn grown(
    version: i16,
    topic: TopicId,
    name: &str,
    partitions: i32,
    frame: &Bytes,
    scene: &mut Scene<'_, '_>,
) -> Verdict {
    let (_, response) = decode_response::<CreatePartitionsResponse>(version, frame)
        .map_err(|error| unreadable("create partitions", &error))?;
    let result = response.results.first();
    let error = result.map_or(ErrorCode::UnknownServerError, |topic| topic.error_code);
    if error.is_none() {
        return scene.history.topics.told(name, topic, partitions, scene.port.now());
    }
    // A lost request may have done it already.
    let may_fail = error.is_retriable() || error == ErrorCode::InvalidPartitions;
    check(may_fail, "partitions can be added", || format!("{name}: {error}"))
}

fn trimmed(
    version: i16,
    place: Place,
    (before, sent, is_allowed): (i64, Floor, bool),
    frame: &Bytes,
    scene: &mut Scene<'_, '_>,
) -> Verdict {
    let (_, response) = decode_response::<DeleteRecordsResponse>(version, frame)
        .map_err(|error| unreadable("delete records", &error))?;
    let mut results = response.topics.iter().flat_map(|topic| &topic.partitions);
    let Some(result) = results.next() else {
        return check(false, "every partition is answered", || format!("{place:?}"));
    };
    let error = result.error_code;
    if !error.is_none() {
        let is_right = error == ErrorCode::PolicyViolation && !is_allowed || error.is_retriable();
        return check(is_right, "records can be deleted", || {
            format!("{place:?} before {before}, known {sent:?}: {error}")
        });
    }
    check(is_allowed, "of what is only compacted nothing is deleted", || format!("{place:?}"))?;
    check(before <= result.low_watermark, "what was deleted stays deleted", || {
        format!("{place:?} cut to {before}, told {}", result.low_watermark)
    })?;
    scene.history.partition(place).bounds.told_start(result.low_watermark, sent)
}
