//! Requests of Produce, incoming and outgoing, whole and cut.

use super::*;

const TOPIC: TopicRef<'_> = TopicRef::Name("t");

fn outgoing<'a>(partitions: &'a [OutgoingProducePartition<'a>]) -> OutgoingProduce<'a> {
    OutgoingProduce { transactional_id: None, acks: -1, timeout_ms: 100, partitions }
}

/// Old producers are told in their own version that their records cannot be stored.
#[test]
fn versions_below_3_are_understood_and_can_be_refused() {
    for version in 0..3 {
        let records = [OutgoingProducePartition {
            topic: TOPIC,
            partition: 4,
            records: Some(b"an old message set"),
        }];
        let mut frame = BytesMut::new();
        outgoing(&records).encode(&mut frame, version, 7, Some("old"));
        let header = RequestHeader::parse(&frame[4..]).unwrap();
        assert!(header.version < ApiKey::Produce.api().served_min);
        let body = &frame[4 + header.body_start..];
        let request = ProduceRequest::parse(version, body).unwrap();

        let mut answer = BytesMut::new();
        request.error_response(ErrorCode::UnsupportedForMessageFormat).encode(
            &mut answer,
            version,
            7,
        );
        let answer = ProduceResponse::parse(version, &answer[8..]).unwrap();
        let refused = &answer.partitions[0];
        assert_eq!((refused.topic, refused.partition), (TOPIC, 4));
        assert_eq!(refused.error_code, ErrorCode::UnsupportedForMessageFormat);
    }
}

/// A frame cut into slices is the same frame, whichever batches are copied, behind whatever
/// was written before, in every version.
#[test]
fn a_frame_in_slices_is_the_same_frame() {
    let batches = [&b"large batch"[..], b"small", b"", b"another large one"];
    let batches = batches.map(Bytes::from_static);
    let name = |at: usize| TopicRef::Name(if at < 2 { "t" } else { "u" });
    let id = |at: usize| TopicRef::Id(tidemill_record::TopicId([1 + at as u8 / 2; 16]));
    for version in 0..=ApiKey::Produce.api().max {
        let topic = |at| if version < BY_ID_FROM { name(at) } else { id(at) };
        let copied: Vec<_> = (0..4)
            .map(|at| OutgoingProducePartition {
                topic: topic(at),
                partition: at as i32,
                records: Some(&batches[at]),
            })
            .collect();
        let mut whole = BytesMut::from(&b"before"[..]);
        outgoing(&copied).encode(&mut whole, version, 7, Some("me"));
        let apart: Vec<_> = (0..4)
            .map(|at| OutgoingBatch {
                topic: topic(at),
                partition: at as i32,
                records: &batches[at],
            })
            .collect();
        for (copy_below_bytes, slices) in [(0, 8), (6, 4), (12, 2), (1000, 0)] {
            let mut out = BytesMut::from(&b"before"[..]);
            let mut parts = Vec::new();
            let request = OutgoingBatches {
                transactional_id: None,
                acks: -1,
                timeout_ms: 100,
                partitions: &apart,
            };
            request.encode(&mut out, &mut parts, copy_below_bytes, version, 7, Some("me"));
            assert_eq!(parts.len(), slices, "version {version}, {copy_below_bytes}");
            parts.push(out.freeze());
            assert_eq!(parts.concat(), whole, "version {version}, {copy_below_bytes}");
        }
    }
}

/// The receiver splits its buffer at the ranges, so they must be in order; and it must be
/// able to see that a partition is named twice.
#[test]
fn ranges_ascend_and_duplicates_are_visible() {
    let partition = |partition, records| OutgoingProducePartition {
        topic: TOPIC,
        partition,
        records: Some(records),
    };
    let partitions = [partition(0, &b"first"[..]), partition(1, b""), partition(0, b"again")];
    let mut frame = BytesMut::new();
    outgoing(&partitions).encode(&mut frame, 9, 1, None);
    let start = 4 + RequestHeader::parse(&frame[4..]).unwrap().body_start;
    let body = &frame[start..];
    let request = ProduceRequest::parse(9, body).unwrap();

    let read: Vec<_> = request.partitions().map(|read| read.records.unwrap()).collect();
    assert_eq!(&body[read[0].clone()], b"first");
    assert_eq!(&body[read[2].clone()], b"again");
    assert!(read.windows(2).all(|pair| pair[0].end <= pair[1].start));
    let named: Vec<_> = request.partitions().map(|read| read.partition).collect();
    assert_eq!(named, [0, 1, 0]);
}

/// A request cut anywhere is refused as a whole, before any of its partitions is seen.
#[test]
fn a_cut_request_is_refused_before_anything_is_done_with_it() {
    let whole = OutgoingProducePartition { topic: TOPIC, partition: 0, records: Some(b"whole") };
    for version in [3, 9] {
        let mut frame = BytesMut::new();
        outgoing(&[whole, whole]).encode(&mut frame, version, 1, None);
        let start = 4 + RequestHeader::parse(&frame[4..]).unwrap().body_start;
        for cut in start..frame.len() {
            assert!(ProduceRequest::parse(version, &frame[start..cut]).is_err());
        }
    }
}
