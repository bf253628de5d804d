//! Replays what the fuzz targets have found worth keeping, so that nothing found once is
//! forgotten; and the same checks over each input cut short and damaged.

use std::path::Path;

#[path = "../fuzz/check.rs"]
mod check;

/// Shows `check` every file of a corpus, then cut at every byte, then with each byte replaced.
fn replay(name: &str, check: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut replayed = 0;
    for file in std::fs::read_dir(corpus).expect("the corpus is part of the source") {
        let path = file.expect("a readable directory").path();
        let content = std::fs::read(path).expect("a readable file");
        check(&content);
        for cut in 0..content.len() {
            check(&content[..cut]);
        }
        let mut damaged = content.clone();
        for at in 0..content.len() {
            for byte in [0, 0x7f, 0x80, 0xff] {
                damaged[at] = byte;
                check(&damaged);
            }
            damaged[at] = content[at];
        }
        replayed += 1;
    }
    assert!(10 <= replayed, "the corpus is part of the source");
}

/// A stream of any bytes is cut into frames and requests, or refused, never with a panic.
#[test]
fn the_corpus_of_frames_is_read_without_a_panic() {
    replay("frame", check::frame);
}

/// A stream of any bytes is one request to the admin port, or refused, or not enough; cut anywhere.
#[test]
fn the_corpus_of_http_is_read_without_a_panic() {
    replay("http", check::http);
}

/// The body of any request is a request or an error, never a panic.
#[test]
fn the_corpus_of_requests_is_read_without_a_panic() {
    replay("request", check::request);
}

/// The body of any response is a response or an error, never a panic.
#[test]
fn the_corpus_of_responses_is_read_without_a_panic() {
    replay("response", check::response);
}

/// What consumers say to each other is read or refused, never with a panic.
#[test]
fn the_corpus_of_the_consumer_protocol_is_read_without_a_panic() {
    replay("consumer_protocol", check::consumer_protocol);
}
