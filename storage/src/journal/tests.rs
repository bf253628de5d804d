//! When windows close, what is told durable and when, and what always fits.

use tidemill_record::{Offset, checksum};

use super::*;

const BATCH_BYTES: usize = 1000;

fn config() -> Config {
    Config {
        window_bytes_close: 8 << 10,
        window_bytes_max: 16 << 10,
        journal_file_bytes: 64 << 10,
        journal_bytes_max: 256 << 10,
        ..Config::default()
    }
}

fn journal() -> Journal {
    Journal::new(&config(), 0, 1, &[0])
}

fn pending(n: u64) -> Pending {
    let data = Bytes::from(vec![n as u8; BATCH_BYTES]);
    let entry = Entry {
        kind: EntryKind::Append,
        partition: Default::default(),
        generation: 0,
        epoch: Default::default(),
        segment: Offset(0),
        position: n * BATCH_BYTES as u64,
        base_offset: Offset(n as i64),
        next_offset: Offset(n as i64 + 1),
        wall_ms: 0,
        data_bytes: BATCH_BYTES as u32,
        prefix_bytes: 0,
        data_crc: checksum::crc32c(&data),
        prefix_crc: 0,
        last_bytes: 0,
    };
    Pending { log: LogId(0), entry, prefix: Bytes::new(), data, starts_anew: false }
}

fn offsets(durable: &[(LogId, Entry)]) -> Vec<i64> {
    durable.iter().map(|(_, entry)| entry.base_offset.0).collect()
}

/// With nothing under way there is nothing to wait for; with something, more comes together.
#[test]
fn a_window_closes_at_once_when_idle_and_by_size_or_delay_when_busy() {
    let (mut journal, config) = (journal(), config());
    journal.take(pending(0), 0);
    assert!(journal.close_window(&config, 0).is_some());

    journal.take(pending(1), 10);
    assert!(journal.close_window(&config, 10).is_none(), "one is under way");
    let deadline = journal.next_deadline(&config).unwrap();
    assert_eq!(deadline, 10 + config.window_delay_ns);
    assert!(journal.close_window(&config, deadline).is_some(), "late enough");

    (2..10).for_each(|n| journal.take(pending(n), deadline));
    assert!(journal.close_window(&config, deadline).is_some(), "large enough");
}

/// So that what is durable never has a hole: a client that was answered may rely on all
/// before it.
#[test]
fn durability_is_told_in_order_whatever_order_writes_end_in() {
    let (mut journal, config) = (journal(), config());
    let mut sequences = Vec::new();
    for n in 0..3 {
        journal.take(pending(n), n * config.window_delay_ns);
        let closed = journal.close_window(&config, (n + 1) * config.window_delay_ns);
        sequences.push(closed.unwrap().0);
    }
    assert!(journal.handle_written(sequences[2], 0).is_empty());
    assert!(journal.handle_written(sequences[1], 0).is_empty());
    assert_eq!(offsets(&journal.handle_written(sequences[0], 0)), [0, 1, 2]);
}

#[test]
fn only_so_many_windows_are_under_way() {
    let (mut journal, config) = (journal(), config());
    for n in 0..4 {
        journal.take(pending(n), 0);
        assert!(journal.close_window(&config, u64::MAX / 2).is_some());
    }
    journal.take(pending(4), 0);
    assert!(journal.close_window(&config, u64::MAX / 2).is_none());
    assert_eq!(journal.next_deadline(&config), None, "waking up would change nothing");
}

/// An idle journal writes one mark and then nothing more.
#[test]
fn an_idle_journal_is_marked_once() {
    let (mut journal, config) = (journal(), config());
    journal.take(pending(0), 0);
    let (sequence, _) = journal.close_window(&config, 0).unwrap();
    journal.handle_written(sequence, 5);
    assert!(journal.close_window(&config, 6).is_none(), "not idle for long enough");
    let (mark, _) = journal.close_window(&config, 5 + config.idle_mark_ns).unwrap();
    journal.handle_written(mark, 100);
    assert_eq!(journal.next_deadline(&config), None);
    assert!(journal.close_window(&config, u64::MAX / 2).is_none());
}

/// Whatever was admitted can be written: the ring never runs full with entries waiting.
#[test]
fn what_was_admitted_always_fits() {
    let (mut journal, config) = (journal(), config());
    let mut n = 0;
    for round in 0..200 {
        while journal.has_room(&config, BATCH_BYTES as u64) && n % 9 < round % 9 + 1 {
            journal.take(pending(n), 0);
            n += 1;
        }
        n += 1;
        while let Some((sequence, _)) = journal.close_window(&config, u64::MAX / 2) {
            journal.handle_written(sequence, 0);
        }
        assert_eq!(journal.pending_bytes(), 0, "round {round}");
        if journal.plan_growth(&config).is_some() {
            journal.grow();
        } else if let Some(from) = journal.plan_recycling() {
            journal.recycle(&from);
        }
    }
}
