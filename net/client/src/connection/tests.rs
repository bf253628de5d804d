//! A broker played by bytes: what a connection says, hears and concludes.

use super::*;
use tidemill_net::kafka::api_versions::{ApiVersion, ApiVersionsResponse};
use tidemill_net::kafka::metadata::{MetadataRequest, MetadataResponse};
use tidemill_net::kafka::produce::{
    OutgoingBatch, ProducePartitionResponse, ProduceRequest, ProduceResponse,
};
use tidemill_net::kafka::{APIS, RequestHeader, encode_response};

const NOW: Instant = Instant::from_nanos(1_000_000);
const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u64) -> Instant {
    NOW.plus(SECOND * seconds as u32)
}

/// All that waits to be sent, as the frames it is made of.
fn frames<A>(connection: &mut Connection<A>) -> Vec<Bytes> {
    let mut parts = Vec::new();
    let told = connection.take_output(&mut parts);
    let mut bytes = Bytes::from(parts.concat());
    assert_eq!(told, bytes.len());
    let mut frames = Vec::new();
    while let Some(size) = frame_size(&bytes, usize::MAX).unwrap() {
        frames.push(bytes.split_to(size).slice(LENGTH_BYTES..));
    }
    assert!(bytes.is_empty(), "only whole frames are sent");
    frames
}

fn everything() -> ApiVersionsResponse {
    ApiVersionsResponse::advertise(3, &[], -1)
}

fn limited(api: ApiKey, max_version: i16) -> ApiVersionsResponse {
    let mut answer = everything();
    for told in &mut answer.api_keys {
        if told.api_key == api.to_wire() {
            told.max_version = max_version;
        }
    }
    answer
}

fn ready_with(versions: &ApiVersionsResponse) -> Connection<u32> {
    let mut connection = Connection::new(ConnectionConfig::default());
    connection.handle_connected(NOW);
    let asked = frames(&mut connection);
    let header = RequestHeader::parse(&asked[0]).unwrap();
    assert_eq!(header.api_key, ApiKey::ApiVersions);
    let mut out = BytesMut::new();
    encode_response(&mut out, header.version, header.correlation_id, versions);
    connection.handle_bytes(&out, NOW);
    assert!(matches!(connection.poll_event(), Some(Event::Ready)));
    connection
}

fn ready() -> Connection<u32> {
    ready_with(&everything())
}

fn answer_metadata(connection: &mut Connection<u32>, frame: &[u8], controller_id: i32) {
    let header = RequestHeader::parse(frame).unwrap();
    let response = MetadataResponse { controller_id, ..MetadataResponse::default() };
    let mut out = BytesMut::new();
    encode_response(&mut out, header.version, header.correlation_id, &response);
    connection.handle_bytes(&out, NOW);
}

/// Nothing can be sent before the versions are known; then the highest common one is taken.
#[test]
fn versions_are_negotiated_first() {
    let mut connection: Connection<u32> = Connection::new(ConnectionConfig::default());
    let request = MetadataRequest::default();
    assert_eq!(connection.send(&request, 1, SECOND, NOW), Err(SendError::NotReady));

    let mut connection = ready_with(&limited(ApiKey::Metadata, 9));
    connection.send(&request, 1, SECOND, NOW).unwrap();
    let sent = frames(&mut connection);
    assert_eq!(RequestHeader::parse(&sent[0]).unwrap().version, 9);
}

/// KIP-511: a broker that does not know our version of ApiVersions says so in version 0, and
/// which ones it knows; if it does not even say that, version 0 is asked for.
#[test]
fn an_old_broker_is_asked_again_in_a_version_it_knows() {
    for (told, expected) in [(Some(3), 3), (Some(2), 2), (None, 0)] {
        let mut connection: Connection<u32> = Connection::new(ConnectionConfig::default());
        connection.handle_connected(NOW);
        let first = frames(&mut connection);
        let header = RequestHeader::parse(&first[0]).unwrap();
        let known = told.map(|max_version| ApiVersion { api_key: 18, min_version: 0, max_version });
        let refusal = ApiVersionsResponse {
            error_code: ErrorCode::UnsupportedVersion,
            api_keys: known.into_iter().collect(),
            ..ApiVersionsResponse::default()
        };
        let mut out = BytesMut::new();
        encode_response(&mut out, 0, header.correlation_id, &refusal);
        connection.handle_bytes(&out, NOW);
        assert!(connection.poll_event().is_none());

        let second = frames(&mut connection);
        let header = RequestHeader::parse(&second[0]).unwrap();
        assert_eq!(header.version, expected);
        out.clear();
        encode_response(&mut out, header.version, header.correlation_id, &everything());
        connection.handle_bytes(&out, NOW);
        assert!(matches!(connection.poll_event(), Some(Event::Ready)));
    }
}

/// Replies come back with the tags of their requests, however the bytes are cut.
#[test]
fn replies_bear_the_tags_of_their_requests_at_every_cut() {
    let mut connection = ready();
    for tag in [7, 8, 9] {
        connection.send(&MetadataRequest::default(), tag, SECOND, NOW).unwrap();
    }
    let sent = frames(&mut connection);
    let mut out = BytesMut::new();
    for (number, frame) in sent.iter().enumerate() {
        let header = RequestHeader::parse(frame).unwrap();
        let controller_id = number as i32 * 100;
        let response = MetadataResponse { controller_id, ..MetadataResponse::default() };
        encode_response(&mut out, header.version, header.correlation_id, &response);
    }
    let mut heard = Vec::new();
    for byte in out.iter() {
        connection.handle_bytes(&[*byte], NOW);
        while let Some(event) = connection.poll_event() {
            let Event::Reply(tag, reply) = event else { panic!("{event:?}") };
            heard.push((tag, reply.decode::<MetadataResponse>().unwrap().controller_id));
        }
    }
    assert_eq!(heard, [(7, 0), (8, 100), (9, 200)]);
}

/// What was asked on a connection that ends is lost, each request once, before the end is told.
#[test]
fn an_end_loses_all_that_is_in_flight() {
    let mut connection = ready();
    for tag in [1, 2] {
        connection.send(&MetadataRequest::default(), tag, SECOND, NOW).unwrap();
    }
    connection.handle_closed("reset");
    connection.handle_closed("reset again");
    assert!(matches!(connection.poll_event(), Some(Event::Lost(1))));
    assert!(matches!(connection.poll_event(), Some(Event::Lost(2))));
    let Some(Event::Closed(Trouble::Ended { cause })) = connection.poll_event() else { panic!() };
    assert_eq!(cause, "reset");
    assert!(connection.poll_event().is_none());
    assert_eq!(
        connection.send(&MetadataRequest::default(), 3, SECOND, NOW),
        Err(SendError::NotReady)
    );
}

/// An overdue reply ends the connection, not a moment earlier.
#[test]
fn an_overdue_reply_ends_the_connection() {
    let mut connection = ready();
    connection.send(&MetadataRequest::default(), 1, SECOND * 9, NOW).unwrap();
    connection.send(&MetadataRequest::default(), 2, SECOND * 4, NOW).unwrap();
    assert_eq!(connection.next_deadline(), Some(at(4)));
    connection.tick(at(3));
    assert!(connection.poll_event().is_none());
    let sent = frames(&mut connection);
    answer_metadata(&mut connection, &sent[0], 0);
    assert!(matches!(connection.poll_event(), Some(Event::Reply(1, _))));
    connection.tick(at(4));
    assert!(matches!(connection.poll_event(), Some(Event::Lost(2))));
    let trouble = Trouble::Overdue { api: ApiKey::Metadata, waited: SECOND * 4 };
    let Some(Event::Closed(found)) = connection.poll_event() else { panic!() };
    assert_eq!(found, trouble);
}

/// A reply to another request than the oldest means that one of us has lost count.
#[test]
fn a_reply_out_of_order_ends_the_connection() {
    let mut connection = ready();
    for tag in [1, 2] {
        connection.send(&MetadataRequest::default(), tag, SECOND, NOW).unwrap();
    }
    let sent = frames(&mut connection);
    answer_metadata(&mut connection, &sent[1], 0);
    assert!(matches!(connection.poll_event(), Some(Event::Lost(1))));
    assert!(matches!(connection.poll_event(), Some(Event::Lost(2))));
    assert!(matches!(
        connection.poll_event(),
        Some(Event::Closed(Trouble::OutOfOrder { expected: Some(1), found: 2 }))
    ));
}

/// A web server, or a broker that wants TLS, is told from a broker by its first bytes, and no
/// memory is reserved for a length nobody means.
#[test]
fn what_is_no_broker_is_told_at_once() {
    let mut connection: Connection<u32> = Connection::new(ConnectionConfig::default());
    connection.handle_connected(NOW);
    connection.handle_bytes(b"HTTP/1.1 400 Bad Request\r\n", NOW);
    let found = connection.poll_event();
    assert!(matches!(found, Some(Event::Closed(Trouble::NoFrame(_)))), "{found:?}");
}

/// A length is only a claim: room grows with what has arrived.
#[test]
fn room_is_made_for_what_arrives_not_for_what_is_claimed() {
    let mut connection = ready();
    connection.send(&MetadataRequest::default(), 1, SECOND, NOW).unwrap();
    connection.handle_bytes(&(100i32 << 20).to_be_bytes(), NOW);
    let input = connection.take_input();
    assert!(input.capacity() < 4 * limits::RECEIVE_BYTES_MIN, "{}", input.capacity());
}

/// As many requests as allowed, and no more until one has been answered.
#[test]
fn there_is_room_for_so_many_requests() {
    let mut connection = ready();
    for tag in 0..5 {
        connection.send(&MetadataRequest::default(), tag, SECOND, NOW).unwrap();
    }
    assert!(!connection.has_room(NOW));
    let refused = connection.send(&MetadataRequest::default(), 5, SECOND, NOW);
    assert_eq!(refused, Err(SendError::NoRoom));
    let sent = frames(&mut connection);
    answer_metadata(&mut connection, &sent[0], 0);
    assert!(connection.has_room(NOW));
}

/// KIP-219: who is told to keep quiet keeps quiet, and then goes on.
#[test]
fn a_throttled_client_keeps_quiet() {
    let mut connection = ready();
    connection.send(&MetadataRequest::default(), 1, SECOND, NOW).unwrap();
    let sent = frames(&mut connection);
    let header = RequestHeader::parse(&sent[0]).unwrap();
    let response = MetadataResponse { throttle_time_ms: 2_000, ..MetadataResponse::default() };
    let mut out = BytesMut::new();
    encode_response(&mut out, header.version, header.correlation_id, &response);
    connection.handle_bytes(&out, NOW);
    assert!(!connection.has_room(at(1)));
    assert!(connection.has_room(at(2)));
}

/// A batch made beforehand is sent from where it lies: the very same memory. A small one is
/// copied between its neighbours.
#[test]
fn large_batches_are_sent_from_where_they_lie() {
    let mut connection = ready();
    let large = Bytes::from(vec![7; 100_000]);
    let small = Bytes::from_static(b"small");
    let batch =
        |partition, records| OutgoingBatch { topic: TopicRef::Name("t"), partition, records };
    let request = OutgoingBatches {
        transactional_id: None,
        acks: -1,
        timeout_ms: 1000,
        partitions: &[batch(0, &large), batch(1, &small), batch(2, &large)],
    };
    connection.send(&MetadataRequest::default(), 1, SECOND, NOW).unwrap();
    connection.produce(&request, 2, SECOND, NOW).unwrap();
    connection.send(&MetadataRequest::default(), 3, SECOND, NOW).unwrap();

    let mut parts = Vec::new();
    let told = connection.take_output(&mut parts);
    assert_eq!(told, parts.iter().map(Bytes::len).sum::<usize>());
    let same = parts.iter().filter(|part| part.as_ptr() == large.as_ptr());
    assert_eq!(same.count(), 2);
    let mut all = Bytes::from(parts.concat());
    let first = frame_size(&all, usize::MAX).unwrap().unwrap();
    let _ = all.split_to(first);
    let size = frame_size(&all, usize::MAX).unwrap().unwrap();
    let frame = all.split_to(size).slice(LENGTH_BYTES..);
    let header = RequestHeader::parse(&frame).unwrap();
    assert_eq!((header.api_key, header.version), (ApiKey::Produce, 12), "the last by name");
    let body = &frame[header.body_start..];
    let parsed = ProduceRequest::parse(header.version, body).unwrap();
    let found: Vec<_> =
        parsed.partitions().map(|p| (p.partition, &body[p.records.unwrap()])).collect();
    assert_eq!(found, [(0, &large[..]), (1, &small[..]), (2, &large[..])]);

    let answers = (0..3).map(|n| ProducePartitionResponse::appended(TopicRef::Name("t"), n, 5, 0));
    let response = ProduceResponse { partitions: answers.collect(), ..Default::default() };
    let mut out = BytesMut::new();
    let metadata = MetadataResponse::default();
    encode_response(&mut out, ApiKey::Metadata.api().max, 1, &metadata);
    response.encode(&mut out, 12, 2);
    connection.handle_bytes(&out, NOW);
    assert!(matches!(connection.poll_event(), Some(Event::Reply(1, _))));
    let Some(Event::Reply(2, reply)) = connection.poll_event() else { panic!() };
    assert_eq!(reply.produce().unwrap().partitions[2].base_offset, 5);
}

/// With acks=0 nobody answers, so nobody waits.
#[test]
fn acks_0_expects_no_reply() {
    let mut connection = ready();
    let records = Bytes::from_static(b"batch");
    let request = OutgoingBatches {
        transactional_id: None,
        acks: 0,
        timeout_ms: 1000,
        partitions: &[OutgoingBatch {
            topic: TopicRef::Name("t"),
            partition: 0,
            records: &records,
        }],
    };
    connection.produce(&request, 1, SECOND, NOW).unwrap();
    assert_eq!(connection.in_flight(), 0);
    assert_eq!(connection.next_deadline(), None);
    assert_eq!(frames(&mut connection).len(), 1);
}

/// What the broker does not speak is refused with both sides' versions.
#[test]
fn an_unknown_api_is_refused_in_words() {
    let mut versions = everything();
    versions.api_keys.retain(|told| told.api_key != ApiKey::Metadata.to_wire());
    let mut connection = ready_with(&versions);
    let refused = connection.send(&MetadataRequest::default(), 1, SECOND, NOW).unwrap_err();
    assert_eq!(refused.to_string(), "the broker does not speak Metadata");
    assert_eq!(versions.api_keys.len(), APIS.iter().filter(|api| api.served).count() - 1);
    assert_eq!(connection.in_flight(), 0);
}
