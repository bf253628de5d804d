//! Replays what the fuzz targets `journal` and `segment` have found worth keeping, so that
//! nothing found once is forgotten.

use std::path::Path;

mod disk;
#[path = "../fuzz/journal.rs"]
mod journal;
#[path = "../fuzz/segment.rs"]
mod segment;
mod world;

use disk::Random;

fn replay(target: &str, check: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut replayed = 0;
    for file in std::fs::read_dir(corpus).expect("the corpus is part of the source") {
        let path = file.expect("a readable directory").path();
        check(&std::fs::read(path).expect("a readable file"));
        replayed += 1;
    }
    assert!(5 <= replayed, "the corpus is part of the source");
}

fn any_bytes(seed: u64, check: fn(&[u8])) {
    let mut random = Random(seed);
    for _ in 0..200 {
        let len = random.below(60) as usize;
        let bytes: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        check(&bytes);
    }
}

/// Any bytes of a segment or an index are batches or damage, never a panic.
#[test]
fn segments_of_the_corpus_are_batches_or_damage() {
    replay("segment", segment::check);
    any_bytes(1, segment::check);
}

/// Any bytes in the journal directory are recovered, refused or reported, never a panic.
#[test]
fn journals_of_the_corpus_are_recovered_or_refused() {
    replay("journal", journal::check);
    any_bytes(2, journal::check);
}
