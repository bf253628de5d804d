//! What the fuzzer starts from: one random message of each kind in each version.
//!
//! An input of the fuzz targets `request` and `response` is the API's number and the version, one
//! byte each, and then the body; one of `consumer_protocol` is what lies inside such a body. See
//! `fuzz/check.rs`.

use super::hot::{
    Names, random_fetch, random_fetch_response, random_produce, random_produce_response,
};
use super::share::random_share_fetch_response;
use super::*;
use crate::kafka::fetch::OutgoingFetch;
use crate::kafka::produce::OutgoingProduce;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus");

/// All seeds: a file name and its content.
fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for api in APIS {
        for version in api.advertised_min..=api.max {
            for (direction, name) in ["request", "response"].iter().enumerate() {
                let body = body(api.key, version, direction == 1);
                let head = [api.key.to_wire() as u8, version as u8];
                let content = [&head[..], &body].concat();
                seeds.push((format!("{name}/{}-{version}", api.name), content));
            }
        }
    }
    for version in 0..=consumer_protocol::VERSION_MAX {
        let form = Form { version, flexible: false };
        for round in 0..2 {
            let mut seed = Seed(round << 8 | version as u64);
            let said = consumer_protocol::Subscription::random(&mut seed, form).encode(version);
            seeds.push((format!("consumer_protocol/Subscription-{version}-{round}"), said.into()));
            let got = consumer_protocol::Assignment::random(&mut seed, form).encode(version);
            seeds.push((format!("consumer_protocol/Assignment-{version}-{round}"), got.into()));
        }
    }
    seeds
}

fn body(api_key: ApiKey, version: i16, response: bool) -> BytesMut {
    macro_rules! body_of {
        ($($key:ident: $module:ident::($request:ident, $response:ident);)*) => {
            match api_key {
                ApiKey::Produce => produce_body(version, response),
                ApiKey::Fetch => fetch_body(version, response),
                ApiKey::ShareFetch => share_fetch_body(version, response),
                $(
                    ApiKey::$key if response => message_body::<$module::$response>(version),
                    ApiKey::$key => message_body::<$module::$request>(version),
                )*
            }
        };
    }
    crate::declared_messages!(body_of)
}

fn message_body<M: Message + Random>(version: i16) -> BytesMut {
    let form = M::API.form(version).unwrap();
    let mut body = BytesMut::new();
    M::random(&mut Seed(version as u64), form).encode(version, &mut body);
    body
}

/// Names to draw from, with records short enough to be committed.
fn names(seed: &mut Seed) -> Names {
    let mut names = Names::random(seed);
    for records in &mut names.records {
        records.truncate(100);
    }
    names
}

fn produce_body(version: i16, response: bool) -> BytesMut {
    let mut seed = Seed(version as u64);
    let names = names(&mut seed);
    let mut frame = BytesMut::new();
    if response {
        let response = random_produce_response(&names, &mut seed, version);
        response.encode(&mut frame, version, 0);
        let (_, start) = parse_response_header(ApiKey::Produce, version, &frame[4..]).unwrap();
        return frame.split_off(4 + start);
    }
    let partitions = random_produce(&names, &mut seed, 13 <= version);
    let request = OutgoingProduce {
        transactional_id: None,
        acks: -1,
        timeout_ms: 30_000,
        partitions: &partitions,
    };
    request.encode(&mut frame, version, 0, None);
    body_of_request(frame)
}

fn fetch_body(version: i16, response: bool) -> BytesMut {
    let mut seed = Seed(version as u64);
    let names = names(&mut seed);
    if response {
        let response = random_fetch_response(&names, &mut seed, version);
        let (mut out, mut parts) = (BytesMut::new(), Vec::new());
        response.encode(&mut out, &mut parts, version, 0);
        let mut frame = BytesMut::from(&parts.concat()[..]);
        let (_, start) = parse_response_header(ApiKey::Fetch, version, &frame[4..]).unwrap();
        return frame.split_off(4 + start);
    }
    let partitions = random_fetch(&names, &mut seed, version);
    let request = OutgoingFetch { partitions: &partitions, ..OutgoingFetch::default() };
    let mut frame = BytesMut::new();
    request.encode(&mut frame, version, 0, None);
    body_of_request(frame)
}

fn share_fetch_body(version: i16, response: bool) -> BytesMut {
    if !response {
        return message_body::<share_fetch::ShareFetchRequest>(version);
    }
    let mut seed = Seed(version as u64);
    let names = names(&mut seed);
    let response = random_share_fetch_response(&names, &mut seed, version);
    let (mut out, mut parts) = (BytesMut::new(), Vec::new());
    response.encode(&mut out, &mut parts, version, 0);
    let mut frame = BytesMut::from(&parts.concat()[..]);
    let (_, start) = parse_response_header(ApiKey::ShareFetch, version, &frame[4..]).unwrap();
    frame.split_off(4 + start)
}

fn body_of_request(mut frame: BytesMut) -> BytesMut {
    let start = RequestHeader::parse(&frame[4..]).unwrap().body_start;
    frame.split_off(4 + start)
}

/// Every message in every version is among the seeds that are committed.
#[test]
fn the_corpus_has_every_message_in_every_version() {
    let rewrite = std::env::var_os("NET_CORPUS_REWRITE").is_some();
    for (name, content) in seeds() {
        let path = format!("{FOLDER}/{name}");
        if rewrite {
            std::fs::write(&path, &content).unwrap();
        }
        assert!(std::fs::exists(&path).unwrap(), "{path} is missing: set NET_CORPUS_REWRITE=1");
    }
}
