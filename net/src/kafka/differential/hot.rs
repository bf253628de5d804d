//! Produce and Fetch against the other implementation: written by hand here and there, so
//! compared field by field.

use super::*;
use crate::kafka::fetch::*;
use crate::kafka::produce::*;
use std::borrow::Cow;

/// The texts and ids that a random request borrows.
pub(super) struct Names {
    names: Vec<String>,
    ids: Vec<TopicId>,
    pub(super) records: Vec<Bytes>,
}

impl Names {
    pub(super) fn random(seed: &mut Seed) -> Names {
        let form = Form { version: 0, flexible: false };
        let blob = |seed: &mut Seed| {
            let length = [0, 1, 130, 17_000][seed.below(4) as usize];
            (0..length).map(|at| (at as u64 ^ seed.0) as u8).collect()
        };
        Names {
            names: (0..8).map(|at| format!("{at}{}", String::random(seed, form))).collect(),
            ids: (0..8).map(|_| TopicId::random(seed, form)).collect(),
            records: (0..8).map(|_| blob(seed)).collect(),
        }
    }

    pub(super) fn topic(&self, seed: &mut Seed, by_id: bool) -> TopicRef<'_> {
        let at = seed.below(8) as usize;
        if by_id { TopicRef::Id(self.ids[at]) } else { TopicRef::Name(&self.names[at]) }
    }

    pub(super) fn text(&self, seed: &mut Seed) -> Option<&str> {
        (seed.below(3) != 0).then(|| &self.names[seed.below(8) as usize][..])
    }
}

pub(super) fn topic_of<'a>(by_id: bool, name: &'a str, id: &[u8; 16]) -> TopicRef<'a> {
    if by_id { TopicRef::Id(TopicId(*id)) } else { TopicRef::Name(name) }
}

/// The frame's body, and what its header said.
fn body_of_request(frame: &BytesMut) -> Bytes {
    let header = RequestHeader::parse(&frame[4..]).unwrap();
    frame.clone().freeze().slice(4 + header.body_start..)
}

pub(super) fn random_produce<'a>(
    names: &'a Names,
    seed: &mut Seed,
    by_id: bool,
) -> Vec<OutgoingProducePartition<'a>> {
    let count = seed.below(5);
    let partition = |seed: &mut Seed| OutgoingProducePartition {
        topic: names.topic(seed, by_id),
        partition: seed.integer() as i32,
        records: (seed.below(5) != 0).then(|| &names.records[seed.below(8) as usize][..]),
    };
    (0..count).map(|_| partition(seed)).collect()
}

/// What a client sends is what both read, and each range is exactly the records' place.
#[test]
fn produce_requests_are_theirs() {
    for version in 3..=13 {
        for round in 0..ROUNDS {
            let mut seed = Seed(round << 8 | version as u64);
            let (names, by_id) = (Names::random(&mut seed), 13 <= version);
            let partitions = random_produce(&names, &mut seed, by_id);
            let outgoing = OutgoingProduce {
                transactional_id: names.text(&mut seed),
                acks: seed.integer() as i16,
                timeout_ms: seed.integer() as i32,
                partitions: &partitions,
            };
            let mut frame = BytesMut::new();
            outgoing.encode(&mut frame, version, 1, None);
            let body = body_of_request(&frame);

            let mut unread = body.clone();
            let known = theirs::ProduceRequest::decode(&mut unread, version).unwrap();
            assert!(unread.is_empty());
            assert_eq!(
                known.transactional_id.as_ref().map(|id| &id[..]),
                outgoing.transactional_id
            );
            assert_eq!((known.acks, known.timeout_ms), (outgoing.acks, outgoing.timeout_ms));
            let flat = known.topic_data.iter().flat_map(|topic| {
                let name = topic_of(by_id, &topic.name, topic.topic_id.as_bytes());
                topic.partition_data.iter().map(move |partition| (name, partition))
            });
            let flat: Vec<_> = flat
                .map(|(topic, partition)| (topic, partition.index, partition.records.as_deref()))
                .collect();
            let sent: Vec<_> =
                partitions.iter().map(|sent| (sent.topic, sent.partition, sent.records)).collect();
            assert_eq!(flat, sent);
            let mut rewritten = BytesMut::new();
            known.encode(&mut rewritten, version).unwrap();
            assert_eq!(rewritten, body);

            let request = ProduceRequest::parse(version, &body).unwrap();
            assert_eq!(request.partitions_count(), sent.len());
            let read: Vec<_> = request
                .partitions()
                .map(|read| (read.topic, read.partition, read.records.map(|range| &body[range])))
                .collect();
            assert_eq!(read, sent);
            damage(&body.slice(..body.len().min(300)), &mut seed, |bytes| {
                if let Ok(request) = ProduceRequest::parse(version, bytes) {
                    assert_eq!(request.partitions().count(), request.partitions_count());
                }
            });
        }
    }
}

pub(super) fn random_produce_response<'a>(
    names: &'a Names,
    seed: &mut Seed,
    version: i16,
) -> ProduceResponse<'a> {
    let form = ApiKey::Produce.form(version).unwrap();
    let count = seed.below(5);
    let partition = |seed: &mut Seed| {
        let topic = names.topic(seed, 13 <= version);
        let mut partition =
            ProducePartitionResponse::appended(topic, seed.integer() as i32, seed.integer(), -1);
        partition.error_code = ErrorCode::random(seed, form);
        partition.log_append_time_ms = if 2 <= version { seed.integer() } else { -1 };
        if 5 <= version {
            partition.log_start_offset = seed.integer();
        }
        if 8 <= version {
            partition.error_message = names.text(seed).map(Cow::Borrowed);
            partition.record_errors = (0..seed.below(3))
                .map(|_| RecordError {
                    batch_index: seed.integer() as i32,
                    message: names.text(seed).map(Cow::Borrowed),
                })
                .collect();
        }
        if 10 <= version && seed.below(2) == 0 {
            let hint = LeaderHint { leader_id: seed.below(9) as i32, leader_epoch: 5 };
            partition.current_leader = Some(hint);
        }
        partition
    };
    ProduceResponse {
        partitions: (0..count).map(|_| partition(seed)).collect(),
        throttle_time_ms: if 1 <= version { seed.integer() as i32 } else { 0 },
        node_endpoints: random_endpoints(names, seed, 10 <= version),
    }
}

pub(super) fn random_endpoints<'a>(
    names: &'a Names,
    seed: &mut Seed,
    carried: bool,
) -> Cow<'a, [NodeEndpoint<'a>]> {
    let count = if carried { seed.below(3) } else { 0 };
    (0..count)
        .map(|_| NodeEndpoint {
            node_id: seed.integer() as i32,
            host: names.text(seed).unwrap_or("h"),
            port: seed.below(65_536) as i32,
            rack: names.text(seed),
        })
        .collect()
}

/// What the broker answers is what both read.
#[test]
fn produce_responses_are_theirs() {
    for version in 0..=13 {
        for round in 0..ROUNDS {
            let mut seed = Seed(round << 8 | version as u64);
            let names = Names::random(&mut seed);
            let ours = random_produce_response(&names, &mut seed, version);
            let mut frame = BytesMut::new();
            ours.encode(&mut frame, version, 8);
            let (correlation_id, start) =
                parse_response_header(ApiKey::Produce, version, &frame[4..]).unwrap();
            assert_eq!(correlation_id, 8);
            let body = frame.freeze().slice(4 + start..);
            assert_eq!(ProduceResponse::parse(version, &body).as_ref(), Ok(&ours));
            damage(&body, &mut seed, |bytes| drop(ProduceResponse::parse(version, bytes)));
            if version < 3 {
                continue; // Nobody else speaks these any more.
            }

            let mut unread = body.clone();
            let known = theirs::ProduceResponse::decode(&mut unread, version).unwrap();
            assert!(unread.is_empty());
            compare_produce_response(&ours, &known, version);
            let mut rewritten = BytesMut::new();
            known.encode(&mut rewritten, version).unwrap();
            assert_eq!(rewritten, body);
        }
    }
}

fn compare_produce_response(
    ours: &ProduceResponse<'_>,
    known: &theirs::ProduceResponse,
    version: i16,
) {
    assert_eq!(known.throttle_time_ms, ours.throttle_time_ms);
    assert_eq!(known.node_endpoints.len(), ours.node_endpoints.len());
    for (known, ours) in known.node_endpoints.iter().zip(ours.node_endpoints.iter()) {
        assert_eq!(
            (known.node_id.0, &known.host[..], known.port),
            (ours.node_id, ours.host, ours.port)
        );
        assert_eq!(known.rack.as_deref(), ours.rack);
    }
    let flat = known.responses.iter().flat_map(|topic| {
        let name = topic_of(13 <= version, &topic.name, topic.topic_id.as_bytes());
        topic.partition_responses.iter().map(move |partition| (name, partition))
    });
    let flat: Vec<_> = flat.collect();
    assert_eq!(flat.len(), ours.partitions.len());
    for ((topic, known), ours) in flat.into_iter().zip(ours.partitions.iter()) {
        assert_eq!((topic, known.index), (ours.topic, ours.partition));
        assert_eq!(known.error_code, ours.error_code.to_wire());
        assert_eq!(known.base_offset, ours.base_offset);
        assert_eq!(known.log_append_time_ms, ours.log_append_time_ms);
        assert_eq!(known.log_start_offset, ours.log_start_offset);
        assert_eq!(known.error_message.as_deref(), ours.error_message.as_deref());
        let leader = ours.current_leader.map_or((-1, -1), |it| (it.leader_id, it.leader_epoch));
        assert_eq!((known.current_leader.leader_id.0, known.current_leader.leader_epoch), leader);
        let errors = known.record_errors.iter().map(|error| RecordError {
            batch_index: error.batch_index,
            message: error.batch_index_error_message.as_deref().map(Cow::Borrowed),
        });
        assert_eq!(errors.collect::<Vec<_>>(), ours.record_errors.to_vec());
    }
}

pub(super) fn random_fetch<'a>(
    names: &'a Names,
    seed: &mut Seed,
    version: i16,
) -> Vec<FetchPartition<'a>> {
    let form = ApiKey::Fetch.form(version).unwrap();
    let count = seed.below(5);
    let partition = |seed: &mut Seed| {
        let topic = names.topic(seed, 13 <= version);
        let mut partition = FetchPartition::from_consumer(
            topic,
            seed.integer() as i32,
            seed.integer(),
            seed.integer() as i32,
        );
        if 9 <= version {
            partition.current_leader_epoch = seed.integer() as i32;
        }
        if 12 <= version {
            partition.last_fetched_epoch = seed.integer() as i32;
        }
        if 5 <= version {
            partition.log_start_offset = seed.integer();
        }
        if 17 <= version && seed.below(2) == 0 {
            partition.replica_directory_id = TopicId::random(seed, form);
        }
        if 18 <= version && seed.below(2) == 0 {
            partition.high_watermark = seed.integer();
        }
        partition
    };
    (0..count).map(|_| partition(seed)).collect()
}

/// What a consumer or a follower asks for is what both read.
#[test]
fn fetch_requests_are_theirs() {
    for version in 4..=18 {
        for round in 0..ROUNDS {
            let mut seed = Seed(round << 8 | version as u64);
            let (names, by_id) = (Names::random(&mut seed), 13 <= version);
            let partitions = random_fetch(&names, &mut seed, version);
            let forgotten: Vec<_> = (0..if 7 <= version { seed.below(4) } else { 0 })
                .map(|_| ForgottenPartition {
                    topic: names.topic(&mut seed, by_id),
                    partition: seed.integer() as i32,
                })
                .collect();
            let outgoing = OutgoingFetch {
                replica_id: if seed.below(2) == 0 { -1 } else { 7 },
                replica_epoch: if 15 <= version { seed.integer() } else { -1 },
                max_wait_ms: seed.integer() as i32,
                min_bytes: seed.integer() as i32,
                max_bytes: seed.integer() as i32,
                isolation_level: seed.integer() as i8,
                session_id: if 7 <= version { seed.integer() as i32 } else { NO_SESSION },
                session_epoch: if 7 <= version { seed.integer() as i32 } else { FINAL_EPOCH },
                rack_id: if 11 <= version { names.text(&mut seed).unwrap_or("") } else { "" },
                cluster_id: if 12 <= version { names.text(&mut seed) } else { None },
                partitions: &partitions,
                forgotten: &forgotten,
            };
            let mut frame = BytesMut::new();
            outgoing.encode(&mut frame, version, 1, Some("c"));
            let body = body_of_request(&frame);

            let mut unread = body.clone();
            let known = theirs::FetchRequest::decode(&mut unread, version).unwrap();
            assert!(unread.is_empty());
            compare_fetch_request(&outgoing, &known, version);
            let mut rewritten = BytesMut::new();
            known.encode(&mut rewritten, version).unwrap();
            assert_eq!(rewritten, body);

            let read = FetchRequest::parse(version, &body).unwrap();
            assert_eq!(read.partitions().collect::<Vec<_>>(), partitions);
            assert_eq!(read.forgotten().collect::<Vec<_>>(), forgotten);
            assert_eq!(
                (read.replica_id, read.replica_epoch),
                (outgoing.replica_id, outgoing.replica_epoch)
            );
            assert_eq!(
                (read.max_wait_ms, read.min_bytes),
                (outgoing.max_wait_ms, outgoing.min_bytes)
            );
            assert_eq!(
                (read.max_bytes, read.isolation_level),
                (outgoing.max_bytes, outgoing.isolation_level)
            );
            assert_eq!(
                (read.session_id, read.session_epoch),
                (outgoing.session_id, outgoing.session_epoch)
            );
            assert_eq!((read.rack_id, read.cluster_id), (outgoing.rack_id, outgoing.cluster_id));
            damage(&body, &mut seed, |bytes| {
                if let Ok(request) = FetchRequest::parse(version, bytes) {
                    assert_eq!(
                        request.partitions().count(),
                        request.partitions().partitions_count()
                    );
                    assert_eq!(request.forgotten().count(), request.forgotten().partitions_count());
                }
            });
        }
    }
}

fn compare_fetch_request(ours: &OutgoingFetch<'_>, known: &theirs::FetchRequest, version: i16) {
    let by_id = 13 <= version;
    if version < 15 {
        assert_eq!(known.replica_id.0, ours.replica_id);
    } else {
        let state = &known.replica_state;
        assert_eq!(
            (state.replica_id.0, state.replica_epoch),
            (ours.replica_id, ours.replica_epoch)
        );
    }
    assert_eq!((known.max_wait_ms, known.min_bytes), (ours.max_wait_ms, ours.min_bytes));
    assert_eq!((known.max_bytes, known.isolation_level), (ours.max_bytes, ours.isolation_level));
    assert_eq!((known.session_id, known.session_epoch), (ours.session_id, ours.session_epoch));
    assert_eq!((&known.rack_id[..], known.cluster_id.as_deref()), (ours.rack_id, ours.cluster_id));
    let flat = known.topics.iter().flat_map(|topic| {
        let name = topic_of(by_id, &topic.topic, topic.topic_id.as_bytes());
        topic.partitions.iter().map(move |known| FetchPartition {
            topic: name,
            partition: known.partition,
            current_leader_epoch: known.current_leader_epoch,
            fetch_offset: known.fetch_offset,
            last_fetched_epoch: known.last_fetched_epoch,
            log_start_offset: known.log_start_offset,
            partition_max_bytes: known.partition_max_bytes,
            replica_directory_id: TopicId(*known.replica_directory_id.as_bytes()),
            high_watermark: known.high_watermark,
        })
    });
    assert_eq!(flat.collect::<Vec<_>>(), ours.partitions);
    let forgotten = known.forgotten_topics_data.iter().flat_map(|topic| {
        let name = topic_of(by_id, &topic.topic, topic.topic_id.as_bytes());
        topic.partitions.iter().map(move |&partition| (name, partition))
    });
    let ours: Vec<_> = ours.forgotten.iter().map(|gone| (gone.topic, gone.partition)).collect();
    assert_eq!(forgotten.collect::<Vec<_>>(), ours);
}

pub(super) fn random_fetch_response<'a>(
    names: &'a Names,
    seed: &mut Seed,
    version: i16,
) -> FetchResponse<'a> {
    let form = ApiKey::Fetch.form(version).unwrap();
    let count = seed.below(5);
    let partition = |seed: &mut Seed| {
        let topic = names.topic(seed, 13 <= version);
        let mut partition =
            FetchPartitionResponse::at(topic, seed.integer() as i32, seed.integer());
        partition.error_code = ErrorCode::random(seed, form);
        partition.last_stable_offset = seed.integer();
        if 5 <= version {
            partition.log_start_offset = seed.integer();
        }
        if 11 <= version {
            partition.preferred_read_replica = seed.integer() as i32;
        }
        if 12 <= version && seed.below(2) == 0 {
            let diverging = DivergingEpoch { epoch: 3, end_offset: seed.integer() };
            partition.diverging_epoch = Some(diverging);
            partition.current_leader = Some(LeaderHint { leader_id: 70_000, leader_epoch: 5 });
            partition.snapshot_id = Some(SnapshotId { end_offset: 44, epoch: 2 });
        }
        let aborted = |seed: &mut Seed| AbortedTransaction {
            producer_id: seed.integer(),
            first_offset: seed.integer(),
        };
        partition.aborted_transactions =
            (seed.below(2) == 0).then(|| (0..seed.below(3)).map(|_| aborted(seed)).collect());
        let slices = seed.below(3) as usize;
        partition.records = Cow::Borrowed(&names.records[..slices]);
        partition
    };
    FetchResponse {
        throttle_time_ms: seed.integer() as i32,
        error_code: if 7 <= version { ErrorCode::random(seed, form) } else { ErrorCode::None },
        session_id: if 7 <= version { seed.integer() as i32 } else { 0 },
        partitions: (0..count).map(|_| partition(seed)).collect(),
        node_endpoints: random_endpoints(names, seed, 16 <= version),
    }
}

/// The parts of an answer, one after the other, are what both read; and the records among them
/// are the very bytes that were handed in, not a copy.
#[test]
fn fetch_responses_are_theirs_and_their_records_are_never_copied() {
    for version in 4..=18 {
        for round in 0..ROUNDS {
            let mut seed = Seed(round << 8 | version as u64);
            let names = Names::random(&mut seed);
            let ours = random_fetch_response(&names, &mut seed, version);
            let (mut out, mut parts) = (BytesMut::new(), vec![Bytes::from_static(b"before")]);
            ours.encode(&mut out, &mut parts, version, 9);
            assert!(out.is_empty());
            let handed_in = ours.partitions.iter().flat_map(|partition| partition.records.iter());
            for slice in handed_in.filter(|slice| !slice.is_empty()) {
                assert!(parts.iter().any(|part| part.as_ptr() == slice.as_ptr()));
            }

            let frame = Bytes::from(parts[1..].concat());
            assert_eq!(crate::frame::frame_size(&frame, 1 << 20), Ok(Some(frame.len())));
            let (correlation_id, start) =
                parse_response_header(ApiKey::Fetch, version, &frame[4..]).unwrap();
            assert_eq!(correlation_id, 9);
            let body = frame.slice(4 + start..);
            let mut unread = body.clone();
            let known = theirs::FetchResponse::decode(&mut unread, version).unwrap();
            assert!(unread.is_empty());
            let mut rewritten = BytesMut::new();
            known.encode(&mut rewritten, version).unwrap();
            assert_eq!(rewritten, body);
            compare_fetch_response(&ours, &known, version);

            let read = FetchResponse::parse(version, &body).unwrap();
            let whole = |partition: &FetchPartitionResponse<'_>| {
                Cow::Owned(match partition.records_bytes() {
                    0 => vec![],
                    _ => vec![Bytes::from(partition.records.concat())],
                })
            };
            let mut expected = ours.clone();
            for partition in expected.partitions.to_mut() {
                partition.records = whole(partition);
            }
            assert_eq!(read, expected);
            damage(&body.slice(..body.len().min(300)), &mut seed, |bytes| {
                drop(FetchResponse::parse(version, &Bytes::copy_from_slice(bytes)));
            });
        }
    }
}

fn compare_fetch_response(ours: &FetchResponse<'_>, known: &theirs::FetchResponse, version: i16) {
    assert_eq!(known.throttle_time_ms, ours.throttle_time_ms);
    assert_eq!((known.error_code, known.session_id), (ours.error_code.to_wire(), ours.session_id));
    let endpoints: Vec<_> = known
        .node_endpoints
        .iter()
        .map(|known| NodeEndpoint {
            node_id: known.node_id.0,
            host: &known.host,
            port: known.port,
            rack: known.rack.as_deref(),
        })
        .collect();
    assert_eq!(endpoints, ours.node_endpoints.to_vec());
    let flat = known.responses.iter().flat_map(|topic| {
        let name = topic_of(13 <= version, &topic.topic, topic.topic_id.as_bytes());
        topic.partitions.iter().map(move |partition| (name, partition))
    });
    let flat: Vec<_> = flat.collect();
    assert_eq!(flat.len(), ours.partitions.len());
    for ((topic, known), ours) in flat.into_iter().zip(ours.partitions.iter()) {
        assert_eq!((topic, known.partition_index), (ours.topic, ours.partition));
        assert_eq!(known.error_code, ours.error_code.to_wire());
        assert_eq!(known.high_watermark, ours.high_watermark);
        assert_eq!(known.last_stable_offset, ours.last_stable_offset);
        assert_eq!(known.log_start_offset, ours.log_start_offset);
        assert_eq!(known.preferred_read_replica.0, ours.preferred_read_replica);
        assert_eq!(known.records.as_deref(), Some(&ours.records.concat()[..]), "never null");
        let aborted = known.aborted_transactions.as_ref().map(|list| {
            list.iter().map(|known| (known.producer_id.0, known.first_offset)).collect::<Vec<_>>()
        });
        let expected = ours.aborted_transactions.as_ref().map(|list| {
            list.iter().map(|ours| (ours.producer_id, ours.first_offset)).collect::<Vec<_>>()
        });
        assert_eq!(aborted, expected, "null and empty are told apart");
        let leader = ours.current_leader.map_or((-1, -1), |it| (it.leader_id, it.leader_epoch));
        assert_eq!((known.current_leader.leader_id.0, known.current_leader.leader_epoch), leader);
        let diverging = ours.diverging_epoch.map_or((-1, -1), |it| (it.epoch, it.end_offset));
        assert_eq!((known.diverging_epoch.epoch, known.diverging_epoch.end_offset), diverging);
        let snapshot = ours.snapshot_id.map_or((-1, -1), |it| (it.epoch, it.end_offset));
        assert_eq!((known.snapshot_id.epoch, known.snapshot_id.end_offset), snapshot);
    }
}
