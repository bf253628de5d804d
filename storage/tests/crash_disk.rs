//! The disk the other tests crash: as bad as it claims, so that they prove what they seem to.

mod disk;

use bytes::Bytes;
use disk::{Disk, SECTOR_BYTES, Survival};
use tidemill_record::TopicId;
use tidemill_storage::block::AlignedBytes;
use tidemill_storage::io::{
    Action, Completion, DirName, Fault, FileName, Outcome, Request, RequestId,
};

const BASE: FileName = FileName::Base { incarnation: 1 };
const TORN_SEEDS: u64 = 64;

fn do_all(disk: &mut Disk, actions: impl IntoIterator<Item = Action>) -> Vec<Completion> {
    let mut completions = Vec::new();
    for (id, action) in actions.into_iter().enumerate() {
        disk.submit(Request { id: RequestId(id as u64), action });
        completions.extend(disk.complete_oldest());
    }
    completions
}

fn write(byte: u8, durable: bool) -> Action {
    let bytes = AlignedBytes::copy_of(&[byte; 4096]).into_blocks();
    Action::Write { file: BASE, position: 0, bytes, durable }
}

/// A disk with one durable file of 4096 ones.
fn disk_with_a_file() -> Disk {
    let mut disk = Disk::new(1).with_root_dirs();
    disk.put_file(&BASE, &[1; 4096]);
    disk
}

fn after_crash(disk: &Disk, survival: Survival) -> Option<Vec<u8>> {
    let mut disk = disk.clone();
    disk.crash(survival);
    disk.file(&BASE).map(<[u8]>::to_vec)
}

#[test]
fn a_durable_write_survives_every_crash() {
    let mut disk = disk_with_a_file();
    do_all(&mut disk, [write(2, false), write(3, true)]);
    for seed in 0..TORN_SEEDS {
        assert_eq!(after_crash(&disk, Survival::Torn { seed }), Some(vec![3; 4096]));
    }
    assert_eq!(after_crash(&disk, Survival::Nothing), Some(vec![3; 4096]));
}

#[test]
fn an_unsynced_write_survives_in_any_subset_of_its_sectors() {
    let mut disk = disk_with_a_file();
    do_all(&mut disk, [write(2, false)]);
    assert_eq!(disk.file(&BASE), Some(&[2; 4096][..]), "a read sees it at once");
    assert_eq!(after_crash(&disk, Survival::Nothing), Some(vec![1; 4096]));
    assert_eq!(after_crash(&disk, Survival::Everything), Some(vec![2; 4096]));
    for seed in 0..TORN_SEEDS {
        let torn = after_crash(&disk, Survival::Torn { seed }).unwrap();
        for sector in torn.chunks(SECTOR_BYTES) {
            assert!(sector.iter().all(|&byte| byte == sector[0]), "a sector is whole");
        }
    }

    do_all(&mut disk, [Action::Sync { file: BASE }]);
    assert_eq!(after_crash(&disk, Survival::Nothing), Some(vec![2; 4096]));
}

#[test]
fn a_write_under_way_may_be_there_in_part() {
    let mut disk = disk_with_a_file();
    disk.submit(Request { id: RequestId(1), action: write(2, true) });
    let mut mixed = 0;
    for seed in 0..TORN_SEEDS {
        let torn = after_crash(&disk, Survival::Torn { seed }).unwrap();
        mixed += u64::from(torn.contains(&1) && torn.contains(&2));
    }
    assert!(TORN_SEEDS / 2 < mixed);
}

#[test]
fn a_name_survives_only_if_its_directory_was_synced() {
    let mut disk = Disk::new(1).with_root_dirs();
    let topic = TopicId([1; 16]);
    do_all(&mut disk, [Action::Create { file: BASE }, write(2, true)]);
    assert_eq!(after_crash(&disk, Survival::Nothing), None);
    assert_eq!(after_crash(&disk, Survival::Everything), Some(vec![2; 4096]));

    do_all(&mut disk, [Action::SyncDir { dir: DirName::Journals }]);
    assert_eq!(after_crash(&disk, Survival::Nothing), Some(vec![2; 4096]));

    do_all(&mut disk, [Action::Remove { file: BASE }]);
    assert_eq!(after_crash(&disk, Survival::Nothing), Some(vec![2; 4096]), "it may come back");
    assert_eq!(after_crash(&disk, Survival::Everything), None);

    let below = do_all(&mut disk, [Action::ListDir { dir: DirName::Topic { topic } }]);
    assert_eq!(below[0].result.as_ref().unwrap_err(), &Fault::NotFound);
}

/// The next sync after a failed one succeeds, and has saved nothing.
#[test]
fn after_a_failed_sync_the_bytes_are_lost_though_they_can_be_read() {
    let mut disk = disk_with_a_file();
    disk.fail_when(|action| matches!(action, Action::Sync { .. }), 0, Fault::Device);
    let sync = || Action::Sync { file: BASE };
    let ended = do_all(&mut disk, [write(2, false), sync()]);
    assert_eq!(ended[1].result.as_ref().unwrap_err(), &Fault::Device);
    assert_eq!(disk.file(&BASE), Some(&[2; 4096][..]));
    assert_eq!(after_crash(&disk, Survival::Everything), Some(vec![1; 4096]));
}

#[test]
fn a_full_disk_refuses_allocations_only() {
    let mut disk = disk_with_a_file();
    disk.free_bytes = Some(4096);
    let allocate = |size| Action::Allocate { file: BASE, position: 4096, size };
    let ended = do_all(&mut disk, [allocate(8192), allocate(4096), write(2, true)]);
    assert_eq!(ended[0].result.as_ref().unwrap_err(), &Fault::NoSpace);
    assert!(ended[1].result.is_ok() && ended[2].result.is_ok());
    assert_eq!(disk.free_bytes, Some(0));
}

#[test]
fn a_read_ends_at_the_end_of_the_file() {
    let mut disk = disk_with_a_file();
    let read = Action::Read { file: BASE, position: 0, size: 8192 };
    let Ok(Outcome::Bytes(bytes)) = do_all(&mut disk, [read]).remove(0).result else {
        panic!("a read gives bytes");
    };
    assert_eq!(bytes, Bytes::from(vec![1; 4096]));
}
