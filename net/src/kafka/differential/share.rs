//! ShareFetch against the other implementation: its response is written by hand here.

use super::hot::{Names, random_endpoints};
use super::*;
use crate::kafka::share_fetch::*;
use std::borrow::Cow;

/// What a member asks for is what both read.
#[test]
fn share_fetch_requests_are_theirs() {
    compare_all::<ShareFetchRequest, theirs::ShareFetchRequest>();
}

pub(super) fn random_share_fetch_response<'a>(
    names: &'a Names,
    seed: &mut Seed,
    version: i16,
) -> ShareFetchResponse<'a> {
    let form = ApiKey::ShareFetch.form(version).unwrap();
    let text = |seed: &mut Seed| names.text(seed).map(Cow::Borrowed);
    let partition = |seed: &mut Seed| {
        let topic = names.topic(seed, true);
        let mut partition = ShareFetchPartitionResponse::none(topic, seed.integer() as i32);
        partition.error_code = ErrorCode::random(seed, form);
        partition.error_message = text(seed);
        partition.acknowledge_error_code = ErrorCode::random(seed, form);
        partition.acknowledge_error_message = text(seed);
        if seed.below(2) == 0 {
            let hint = LeaderHint { leader_id: seed.below(9) as i32, leader_epoch: 5 };
            partition.current_leader = Some(hint);
        }
        let slices = seed.below(3) as usize;
        partition.records = Cow::Borrowed(&names.records[..slices]);
        let acquired = |seed: &mut Seed| AcquiredRecords {
            first_offset: seed.integer(),
            last_offset: seed.integer(),
            delivery_count: seed.integer() as i16,
        };
        partition.acquired_records = (0..seed.below(3)).map(|_| acquired(seed)).collect();
        partition
    };
    ShareFetchResponse {
        throttle_time_ms: seed.integer() as i32,
        error_code: ErrorCode::random(seed, form),
        error_message: text(seed),
        acquisition_lock_timeout_ms: seed.integer() as i32,
        partitions: (0..seed.below(5)).map(|_| partition(seed)).collect(),
        node_endpoints: random_endpoints(names, seed, true),
    }
}

/// The parts of an answer, one after the other, are what both read; and the records among them
/// are the very bytes that were handed in, not a copy.
#[test]
fn share_fetch_responses_are_theirs_and_their_records_are_never_copied() {
    for version in 1..=2 {
        for round in 0..ROUNDS {
            let mut seed = Seed(round << 8 | version as u64);
            let names = Names::random(&mut seed);
            let ours = random_share_fetch_response(&names, &mut seed, version);
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
                parse_response_header(ApiKey::ShareFetch, version, &frame[4..]).unwrap();
            assert_eq!(correlation_id, 9);
            let body = frame.slice(4 + start..);
            // Version 2 differs from version 1 in the request only, and they do not have it.
            let mut unread = body.clone();
            let known = theirs::ShareFetchResponse::decode(&mut unread, 1).unwrap();
            assert!(unread.is_empty());
            let mut rewritten = BytesMut::new();
            known.encode(&mut rewritten, 1).unwrap();
            assert_eq!(rewritten, body);
            compare_response(&ours, &known);

            let read = ShareFetchResponse::parse(version, &body).unwrap();
            let mut expected = ours.clone();
            for partition in expected.partitions.to_mut() {
                partition.records = Cow::Owned(match partition.records_bytes() {
                    0 => vec![],
                    _ => vec![Bytes::from(partition.records.concat())],
                });
            }
            assert_eq!(read, expected);
            damage(&body.slice(..body.len().min(300)), &mut seed, |bytes| {
                drop(ShareFetchResponse::parse(version, &Bytes::copy_from_slice(bytes)));
            });
        }
    }
}

fn compare_response(ours: &ShareFetchResponse<'_>, known: &theirs::ShareFetchResponse) {
    assert_eq!(known.throttle_time_ms, ours.throttle_time_ms);
    assert_eq!(known.error_code, ours.error_code.to_wire());
    assert_eq!(known.error_message.as_deref(), ours.error_message.as_deref());
    assert_eq!(known.acquisition_lock_timeout_ms, ours.acquisition_lock_timeout_ms);
    let endpoints = known.node_endpoints.iter().map(|known| NodeEndpoint {
        node_id: known.node_id.0,
        host: &known.host,
        port: known.port,
        rack: known.rack.as_deref(),
    });
    assert_eq!(endpoints.collect::<Vec<_>>(), ours.node_endpoints.to_vec());
    let flat = known.responses.iter().flat_map(|topic| {
        let id = TopicId(*topic.topic_id.as_bytes());
        topic.partitions.iter().map(move |partition| (TopicRef::Id(id), partition))
    });
    let flat: Vec<_> = flat.collect();
    assert_eq!(flat.len(), ours.partitions.len());
    for ((topic, known), ours) in flat.into_iter().zip(ours.partitions.iter()) {
        assert_eq!((topic, known.partition_index), (ours.topic, ours.partition));
        assert_eq!(known.error_code, ours.error_code.to_wire());
        assert_eq!(known.error_message.as_deref(), ours.error_message.as_deref());
        assert_eq!(known.acknowledge_error_code, ours.acknowledge_error_code.to_wire());
        assert_eq!(
            known.acknowledge_error_message.as_deref(),
            ours.acknowledge_error_message.as_deref()
        );
        let leader = ours.current_leader.map_or((-1, -1), |it| (it.leader_id, it.leader_epoch));
        assert_eq!((known.current_leader.leader_id, known.current_leader.leader_epoch), leader);
        assert_eq!(known.records.as_deref(), Some(&ours.records.concat()[..]), "never null");
        let acquired = known.acquired_records.iter().map(|known| AcquiredRecords {
            first_offset: known.first_offset,
            last_offset: known.last_offset,
            delivery_count: known.delivery_count,
        });
        assert_eq!(acquired.collect::<Vec<_>>(), ours.acquired_records.to_vec());
    }
}
