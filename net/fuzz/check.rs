//! What must hold for any bytes at all: shared by the fuzz targets and by `cargo test`.
//!
//! Whatever is read can be written again, and what is then written reads as the same. Each
//! request can be answered with an error in its own version.
#![allow(dead_code, reason = "each fuzz target calls one of these")]

use bytes::{Bytes, BytesMut};
use std::fmt::Debug;
use tidemill_net::cursor::WireError;
use tidemill_net::frame::frame_size;
use tidemill_net::http::{self, Method, RequestReader, Response};
use tidemill_net::kafka;
use tidemill_net::kafka::consumer_protocol::{Assignment, Subscription, VERSION_MAX};
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

/// How many bytes come at a time, and a request to the admin port as it comes.
pub(crate) fn http(bytes: &[u8]) {
    let [piece_bytes, stream @ ..] = bytes else { return };
    let told = read_http(stream, stream.len());
    assert_eq!(told, read_http(stream, (*piece_bytes).into()), "however it is cut");
    let behind: Vec<u8> = [stream, b"\r\n\r\nGET / HTTP/1.1\r\n\r\n"].concat();
    match told {
        Ok(None) => {
            assert!(stream.len() < http::HEAD_BYTES_MAX, "no more than this is held");
            assert!(!stream.windows(4).any(|four| four == b"\r\n\r\n"), "it has not ended");
            return;
        }
        Ok(Some(ref request)) => same_http_again(request),
        Err(refusal) => {
            let response = Response::text(refusal.status(), &refusal.to_string());
            assert!((400..=505).contains(&response.status.0));
            assert!(response.head().contains(&format!("Length: {}\r\n", response.body.len())));
        }
    }
    assert_eq!(told, read_http(&behind, behind.len()), "what lies behind means nothing");
}

/// Reads until something is told.
fn read_http(stream: &[u8], piece_bytes: usize) -> Result<Option<http::Request>, http::Refusal> {
    let mut reader = RequestReader::default();
    let mut pieces = stream.chunks(piece_bytes.max(1));
    let told = pieces.find_map(|piece| reader.handle_bytes(piece).transpose());
    told.transpose()
}

/// What a request says is plain, and written again it says the same.
fn same_http_again(request: &http::Request) {
    assert!(request.path.starts_with('/') && !request.path.contains('?'));
    let method = match request.method {
        Method::Get => "GET",
        Method::Head => "HEAD",
    };
    let pairs: Vec<_> =
        request.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let (path, query) = (&request.path, pairs.join("&"));
    assert!(format!("{path}{query}").bytes().all(|byte| byte.is_ascii_graphic()));
    let head = format!("{method} {path}?{query} HTTP/1.1\r\n\r\n");
    // With an equals sign behind each name it may be longer than it came.
    if head.len() <= http::HEAD_BYTES_MAX {
        assert_eq!(read_http(head.as_bytes(), head.len()).as_ref(), Ok(&Some(request.clone())));
    }
}

/// What a consumer says, or what it gets: any bytes are taken for both.
pub(crate) fn consumer_protocol(bytes: &[u8]) {
    if let Ok(subscription) = Subscription::decode(bytes) {
        assert_eq!(Subscription::topics_of(bytes).as_ref(), Ok(&subscription.topics));
        // Its allowance was for the bytes it came in, as in `same_again`.
        match Subscription::decode(&subscription.encode(VERSION_MAX)) {
            Err(WireError::AllowanceExceeded { .. }) => {}
            again => assert_eq!(again, Ok(subscription)),
        }
    }
    if let Ok(assignment) = Assignment::decode(bytes) {
        match Assignment::decode(&assignment.encode(VERSION_MAX)) {
            Err(WireError::AllowanceExceeded { .. }) => {}
            again => assert_eq!(again, Ok(assignment)),
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
