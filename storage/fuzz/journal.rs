//! What must hold for any bytes in the journal directory: recovery ends, with an error or with
//! logs that can be read and hold nothing but sound batches.
//!
//! The input is a list of patches to the disk of a node that crashed under load. Where a patch
//! hits a window or a snapshot, its checksum may be put right, because no fuzzer guesses one.
//!
//! Shared by the fuzz target and by the test that replays the corpus.

use std::sync::OnceLock;

use tidemill_record::{Batch, checksum};
use tidemill_storage::checkpoint::{SNAPSHOT_HEADER_BYTES, Snapshot};
use tidemill_storage::inspect::JournalInspection;
use tidemill_storage::io::FileName;
use tidemill_storage::layout::{ENTRY_BYTES, HEADER_BYTES, WINDOW_MAGIC, WindowHeader};

use crate::disk::{Disk, Survival};
use crate::world::{World, partition};

const PARTITIONS: i32 = 3;
/// A patch: which file, a position in it, a byte to flip with, what to put right after.
const PATCH_BYTES: usize = 6;

/// Recovers from the crashed disk with the patches applied.
pub(crate) fn check(input: &[u8]) {
    decode_as_it_is(input);

    let (disk, files) = crashed();
    let mut disk = disk.clone();
    for patch in input.chunks_exact(PATCH_BYTES).take(16) {
        apply(&mut disk, files, patch);
    }
    let mut world = World::new(7, PARTITIONS);
    world.disk = disk;
    // A forged position must not make the test allocate what a real disk would refuse.
    world.disk.free_bytes = Some(64 << 20);
    world.set_incarnation(10);
    world.forged = true;
    let Ok(()) = world.try_start(1) else { return };
    for n in 0..PARTITIONS {
        let start = world.log(partition(n)).start();
        let Ok(found) = world.read_all(partition(n), start) else { continue };
        let mut rest = &found[..];
        while !rest.is_empty() {
            let (batch, behind) = Batch::parse(rest).expect("whole batches");
            assert!(batch.verify_checksum().is_ok(), "nothing unproved is returned");
            rest = behind;
        }
    }
}

/// The bytes of the input, taken for a journal file and a snapshot.
fn decode_as_it_is(input: &[u8]) {
    let _ = WindowHeader::decode(input, 1 << 20);
    let _ = Snapshot::decode(input);
    let mut inspection = JournalInspection::new(input.len() as u64);
    while let Some((position, size_bytes)) = inspection.next_read() {
        let end = (position + u64::from(size_bytes)) as usize;
        inspection.take(&input[position as usize..end], |_| {});
    }
}

/// The disk of a node that crashed, and its files below `journal/`.
fn crashed() -> &'static (Disk, Vec<FileName>) {
    static CRASHED: OnceLock<(Disk, Vec<FileName>)> = OnceLock::new();
    CRASHED.get_or_init(|| {
        let mut world = World::started(7, PARTITIONS, 1);
        for i in 0..60 {
            world.append_new(partition(i % PARTITIONS), 1 + i as u32 % 3, 700);
            world.turn(2);
        }
        world.settle();
        let boundary = world.models[&partition(0)].batches[10].base_offset;
        world.truncate(partition(0), boundary);
        world.settle();
        for i in 0..20 {
            world.append_new(partition(i % PARTITIONS), 1, 300);
            world.turn(1);
        }
        world.crash(Survival::Everything);

        let mut files = vec![FileName::Base { incarnation: 1 }];
        files.extend((0..2).map(|slot| FileName::Checkpoint { shard: 0, slot }));
        files.extend((0..8).map(|number| FileName::Journal { shard: 0, number }));
        files.retain(|file| world.disk.file(file).is_some_and(|bytes| !bytes.is_empty()));
        (world.disk, files)
    })
}

fn apply(disk: &mut Disk, files: &[FileName], patch: &[u8]) {
    let file = &files[patch[0] as usize % files.len()];
    let mut bytes = disk.file(file).expect("it was there").to_vec();
    let position = u32::from_be_bytes([0, patch[1], patch[2], patch[3]]) as usize % bytes.len();
    bytes[position] ^= patch[4];
    if patch[5] & 1 == 1 {
        match file {
            FileName::Journal { .. } => put_window_right(&mut bytes, position),
            _ => put_snapshot_right(&mut bytes),
        }
    }
    disk.put_file(file, &bytes);
}

fn put_window_right(bytes: &mut [u8], position: usize) {
    let mut at = position / 4096 * 4096;
    while 0 < at && !bytes[at..].starts_with(&WINDOW_MAGIC) {
        at -= 4096;
    }
    let count: [u8; 4] = bytes[at + 44..at + 48].try_into().expect("four bytes");
    let end = at.saturating_add(
        (u32::from_be_bytes(count) as usize).saturating_mul(ENTRY_BYTES) + HEADER_BYTES,
    );
    if bytes.len() < end {
        return;
    }
    let crc = checksum::crc32c(&bytes[at..at + HEADER_BYTES - 4]);
    let crc = checksum::append(crc, &bytes[at + HEADER_BYTES..end]);
    bytes[at + HEADER_BYTES - 4..at + HEADER_BYTES].copy_from_slice(&crc.to_be_bytes());
}

fn put_snapshot_right(bytes: &mut [u8]) {
    let Some(total) = Snapshot::total_bytes(bytes) else { return };
    let total = total.min(bytes.len() as u64) as usize;
    if total < SNAPSHOT_HEADER_BYTES {
        return;
    }
    let crc = checksum::crc32c(&bytes[..SNAPSHOT_HEADER_BYTES - 4]);
    let crc = checksum::append(crc, &bytes[SNAPSHOT_HEADER_BYTES..total]);
    bytes[SNAPSHOT_HEADER_BYTES - 4..SNAPSHOT_HEADER_BYTES].copy_from_slice(&crc.to_be_bytes());
}
