//! What must hold for any bytes at all: shared by the fuzz targets and by `cargo test`.
//!
//! Whatever is read can be written again, and what is then written reads as the same. Each
//! request can be answered with an error in its own version.
#![allow(dead_code, reason = "each fuzz target calls one of these")]

use bytes::{Bytes, BytesMut};
use std::fmt::Debug;
use tidemill_net::cursor::WireError;
use tidemill_net::frame::frame_size;
use tidemill_net::kafka;
use tidemill_net::kafka::fetch::{FetchRequest, FetchResponse, OutgoingFetch};
use tidemill_net::kafka::produce::{
    OutgoingProduce, OutgoingProducePartition, ProduceRequest, ProduceResponse,
};
use tidemill_net::kafka::share_fetch::{ShareFetchRequest, ShareFetchResponse};
use tidemill_net::kafka::{
    AnyRequest, ApiKey, ErrorCode, Message, Request, RequestHeader, api_versions,
    parse_response_header,
};

const FRAME_BYTES_MAX: usize = 1 << 20;

/// A stream of frames, each with a header and a body, as a connection would read it.
pub(crate) fn frame(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(Some(size_bytes)) = frame_size(rest, FRAME_BYTES_MAX) {
        assert!((4..=4 + FRAME_BYTES_MAX).contains(&size_bytes));
        if rest.len() < size_bytes {
            return;
        }
        let (frame, behind) = rest.split_at(size_bytes);
        rest = behind;
        if let Ok(header) = RequestHeader::parse(&frame[4..]) {
            let body = &frame[4..][header.body_start..];
            drop(AnyRequest::parse(header.api_key, header.version, body));
        }
    }
}

/// An API's number, a version, and the body of a request.
pub(crate) fn request(bytes: &[u8]) {
    let [number, version, body @ ..] = bytes else { return };
    let (Some(api_key), version) = (ApiKey::from_wire((*number).into()), (*version).into()) else {
        return;
    };
    let Ok(request) = AnyRequest::parse(api_key, version, body) else { return };
    macro_rules! check {
        ($($api:ident: $module:ident::($request:ident, $response:ident);)*) => {
            match request {
                AnyRequest::Produce(request) => produce_request(&request, version, body),
                AnyRequest::Fetch(request) => fetch_request(&request, version),
                AnyRequest::ShareFetch(request) => share_fetch_request(&request, version),
                $( AnyRequest::$api(request) => answer(&request, version), )*
            }
        };
    }
    tidemill_net::declared_messages!(check)
}

fn answer<R: Request>(request: &R, version: i16)
where
    R::Response: Debug,
{
    same_again(request, version);
    let mut out = BytesMut::new();
    request.error_response(ErrorCode::NotController).encode(version, &mut out);
    // What the error names came in by this version's wire, so it must also go out by it.
    R::Response::decode(version, &out).expect("we have written it");
}

/// Written and read again, a message is what it was.
fn same_again<M: Message>(message: &M, version: i16) {
    let mut out = BytesMut::new();
    message.encode(version, &mut out);
    // Its allowance was for the bytes it came in, which may have been more than it needs: unknown
    // tagged fields are not written again.
    match M::decode(version, &out) {
        Err(WireError::AllowanceExceeded { .. }) => {}
        // Compared as bytes: a fraction can be what equals nothing, not even itself.
        again => {
            let mut out_again = BytesMut::new();
            again.expect("we have written it").encode(version, &mut out_again);
            assert_eq!(out_again, out);
        }
    }
}

fn produce_request(request: &ProduceRequest<'_>, version: i16, body: &[u8]) {
    let mut behind = 0;
    for range in request.partitions().filter_map(|partition| partition.records) {
        assert!(behind <= range.start && range.end <= body.len());
        behind = range.end;
    }
    let partitions: Vec<_> = request
        .partitions()
        .map(|partition| OutgoingProducePartition {
            topic: partition.topic,
            partition: partition.partition,
            records: partition.records.map(|range| &body[range]),
        })
        .collect();
    assert_eq!(partitions.len(), request.partitions_count());
    let outgoing = OutgoingProduce {
        transactional_id: request.transactional_id,
        acks: request.acks,
        timeout_ms: request.timeout_ms,
        partitions: &partitions,
    };
    let mut frame = BytesMut::new();
    outgoing.encode(&mut frame, version, 0, None);
    let body = body_of_request(&frame);
    let again = ProduceRequest::parse(version, &body).expect("we have written it");
    let records = again.partitions().map(|partition| partition.records.map(|range| &body[range]));
    assert!(records.eq(partitions.iter().map(|partition| partition.records)));
    let mut out = BytesMut::new();
    request.error_response(ErrorCode::NotLeaderOrFollower).encode(&mut out, version, 0);
}

fn fetch_request(request: &FetchRequest<'_>, version: i16) {
    let partitions: Vec<_> = request.partitions().collect();
    let forgotten: Vec<_> = request.forgotten().collect();
    let outgoing = OutgoingFetch {
        replica_id: request.replica_id,
        replica_epoch: request.replica_epoch,
        max_wait_ms: request.max_wait_ms,
        min_bytes: request.min_bytes,
        max_bytes: request.max_bytes,
        isolation_level: request.isolation_level,
        session_id: request.session_id,
        session_epoch: request.session_epoch,
        rack_id: request.rack_id,
        cluster_id: request.cluster_id,
        partitions: &partitions,
        forgotten: &forgotten,
    };
    let mut frame = BytesMut::new();
    outgoing.encode(&mut frame, version, 0, None);
    let body = body_of_request(&frame);
    let again = FetchRequest::parse(version, &body).expect("we have written it");
    assert!(again.partitions().eq(partitions.iter().copied()));
    assert!(again.forgotten().eq(forgotten.iter().copied()));
    let error = request.error_response(ErrorCode::NotLeaderOrFollower);
    error.encode(&mut BytesMut::new(), &mut Vec::new(), version, 0);
}

fn share_fetch_request(request: &ShareFetchRequest, version: i16) {
    same_again(request, version);
    let error = request.error_response(ErrorCode::ShareSessionNotFound);
    error.encode(&mut BytesMut::new(), &mut Vec::new(), version, 0);
}

fn body_of_request(frame: &[u8]) -> Bytes {
    let start = RequestHeader::parse(&frame[4..]).expect("we have written it").body_start;
    Bytes::copy_from_slice(&frame[4 + start..])
}

/// An API's number, a version, and the body of a response.
pub(crate) fn response(bytes: &[u8]) {
    let [number, version, body @ ..] = bytes else { return };
    let (Some(api_key), version) = (ApiKey::from_wire((*number).into()), (*version).into()) else {
        return;
    };
    macro_rules! check {
        ($($api:ident: $module:ident::($request:ident, $response:ident);)*) => {
            match api_key {
                ApiKey::Produce => produce_response(version, body),
                ApiKey::Fetch => fetch_response(version, body),
                ApiKey::ShareFetch => share_fetch_response(version, body),
                $( ApiKey::$api => message::<kafka::$module::$response>(version, body), )*
            }
        };
    }
    if api_key == ApiKey::ApiVersions {
        drop(api_versions::decode_answer(version, body));
    }
    tidemill_net::declared_messages!(check)
}

fn message<M: Message>(version: i16, body: &[u8]) {
    if let Ok(message) = M::decode(version, body) {
        same_again(&message, version);
    }
}

fn produce_response(version: i16, body: &[u8]) {
    let Ok(response) = ProduceResponse::parse(version, body) else { return };
    let mut frame = BytesMut::new();
    response.encode(&mut frame, version, 0);
    let again = body_of_response(ApiKey::Produce, version, &frame);
    assert_eq!(ProduceResponse::parse(version, &again).as_ref(), Ok(&response));
}

fn fetch_response(version: i16, body: &[u8]) {
    let body = Bytes::copy_from_slice(body);
    let Ok(response) = FetchResponse::parse(version, &body) else { return };
    let (mut out, mut parts) = (BytesMut::new(), Vec::new());
    response.encode(&mut out, &mut parts, version, 0);
    let again = body_of_response(ApiKey::Fetch, version, &parts.concat());
    assert_eq!(FetchResponse::parse(version, &again).as_ref(), Ok(&response));
}

fn share_fetch_response(version: i16, body: &[u8]) {
    let body = Bytes::copy_from_slice(body);
    let Ok(response) = ShareFetchResponse::parse(version, &body) else { return };
    let (mut out, mut parts) = (BytesMut::new(), Vec::new());
    response.encode(&mut out, &mut parts, version, 0);
    let again = body_of_response(ApiKey::ShareFetch, version, &parts.concat());
    assert_eq!(ShareFetchResponse::parse(version, &again).as_ref(), Ok(&response));
}

fn body_of_response(api_key: ApiKey, version: i16, frame: &[u8]) -> Bytes {
    assert_eq!(frame_size(frame, usize::MAX), Ok(Some(frame.len())));
    let (_, start) =
        parse_response_header(api_key, version, &frame[4..]).expect("we have written it");
    Bytes::copy_from_slice(&frame[4 + start..])
}
