//! Replays what the fuzz target `batch` has found worth keeping, so that nothing found once is
//! forgotten. It also runs the same check over bytes that random choice alone makes.

use std::path::Path;

use proptest::prelude::*;

#[path = "../fuzz/check.rs"]
mod check;

/// Every file of the corpus is a batch or an error, never a panic.
#[test]
fn the_corpus_is_read_without_a_panic() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/batch");
    let mut replayed = 0;
    for file in std::fs::read_dir(corpus).expect("the corpus is part of the source") {
        let path = file.expect("a readable directory").path();
        check::check(&std::fs::read(path).expect("a readable file"));
        replayed += 1;
    }
    assert!(10 <= replayed, "the corpus is part of the source");
}

proptest! {
    /// Any bytes are a batch or an error, never a panic.
    #[test]
    fn any_bytes_are_a_batch_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        check::check(&bytes);
    }
}
