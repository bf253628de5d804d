//! What hostile input may cost: whatever the bytes claim, reading them takes at most eight times
//! their size and 64 KiB more.
//!
//! One test alone in its file, because memory is counted for the whole process.

use bytes::Bytes;
use peak_alloc::PeakAlloc;
use std::path::Path;
use tidemill_net::cursor::WireError;
use tidemill_net::kafka::fetch::FetchResponse;
use tidemill_net::kafka::produce::ProduceResponse;
use tidemill_net::kafka::share_fetch::ShareFetchResponse;
use tidemill_net::kafka::{APIS, AnyRequest, ApiKey, Message, create_topics, metadata};

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// Reads `body`, and holds what that took at its peak to the limit.
fn bounded<T>(what: &str, body: &[u8], read: impl FnOnce() -> T) {
    ALLOCATED.reset_peak_usage();
    let before = ALLOCATED.current_usage();
    drop(read());
    let taken = ALLOCATED.peak_usage().saturating_sub(before);
    let limit = 8 * body.len() + 64 * 1024;
    assert!(taken <= limit, "{what}: {taken} bytes for {} read", body.len());
}

fn every_reader(body: &[u8]) {
    for api in APIS {
        for version in api.advertised_min..=api.max {
            bounded(api.name, body, || AnyRequest::parse(api.key, version, body));
            bounded("Produce response", body, || ProduceResponse::parse(version, body).is_ok());
            bounded("Metadata response", body, || {
                metadata::MetadataResponse::decode(version, body)
            });
            bounded("CreateTopics response", body, || {
                create_topics::CreateTopicsResponse::decode(version, body)
            });
            let shared = Bytes::copy_from_slice(body);
            bounded("Fetch response", body, || FetchResponse::parse(version, &shared).is_ok());
            bounded("ShareFetch response", body, || {
                ShareFetchResponse::parse(version, &shared).is_ok()
            });
        }
    }
}

/// Counts that nobody means, at every place of a message; and counts that are true, of elements
/// as small as they can be.
#[test]
fn hostile_input_allocates_within_its_allowance() {
    for count in [0x7fff_ffff_u32, 0x00ff_ffff, 0x0001_0000, 0xffff_fffe] {
        for lead in 0..12 {
            let mut body = vec![0; lead];
            body.extend_from_slice(&count.to_be_bytes());
            body.resize(1 << 16, 0);
            every_reader(&body);
        }
    }
    for compact in
        [[0xff, 0xff, 0xff, 0xff, 0x0f], [0xff, 0xff, 0x03, 0, 0], [0x80, 0x80, 0x04, 0, 0]]
    {
        for lead in 0..12 {
            let mut body = vec![0; lead];
            body.extend_from_slice(&compact);
            body.resize(1 << 17, 1);
            every_reader(&body);
        }
    }

    for fill in [0, 1, 2] {
        // A hundred thousand topics with empty names: a list that is what it says it is.
        let mut body = 100_000_u32.to_be_bytes().to_vec();
        body.resize(1 << 19, fill);
        every_reader(&body);
        let topics = metadata::MetadataRequest::decode(0, &body);
        assert!(fill != 0 || matches!(topics, Err(WireError::AllowanceExceeded { .. })));
    }

    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/request");
    for file in std::fs::read_dir(corpus).expect("the corpus is part of the source") {
        let content = std::fs::read(file.expect("a readable directory").path()).expect("a file");
        let [number, version, body @ ..] = &content[..] else { continue };
        let api_key = ApiKey::from_wire((*number).into()).expect("an API we speak");
        let read = || AnyRequest::parse(api_key, (*version).into(), body).is_ok();
        bounded(api_key.api().name, body, read);
    }
}
