//! What the simulated disk promises, as a shard would see it.

use super::*;

/// Block-aligned bytes without unsafe code.
#[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(4096))]
struct Block([u8; BLOCK_BYTES]);

struct Blocks(Vec<Block>);

impl AsRef<[u8]> for Blocks {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

fn aligned(byte: u8, blocks: usize) -> Bytes {
    Bytes::from_owner(Blocks(vec![Block([byte; BLOCK_BYTES]); blocks]))
}

fn disk(seed: u64) -> Disk {
    Disk::new(1 << 20, Random::new(seed))
}

fn run(disk: &mut Disk, op: Op) -> Result<Done, Fault> {
    let (id, _) = disk.begin(ShardId(0), Token(1), op);
    disk.end(id).expect("just begun").2
}

fn chore(disk: &mut Disk, chore: Chore) -> Result<Done, Fault> {
    run(disk, Op::Chore(chore))
}

fn open(disk: &mut Disk, path: &str, how: OpenHow) -> Result<(FileId, u64), Fault> {
    match run(disk, Op::Open { path: path.into(), how })? {
        Done::Opened { file, size } => Ok((file, size)),
        other => panic!("opened as {other:?}"),
    }
}

fn read(disk: &mut Disk, file: FileId, position: u64, size: u32) -> Bytes {
    match run(disk, Op::Read { file, position, size }).unwrap() {
        Done::Read(bytes) => bytes,
        other => panic!("read as {other:?}"),
    }
}

fn write(file: FileId, position: u64, bytes: Bytes, durable: bool) -> Op {
    Op::Write { file, position, bytes, durable }
}

/// A durable write is lost all the same if nobody synced the directory of its new file.
#[test]
fn a_new_file_needs_its_directory_synced() {
    let found = |seed: u64, sync: bool| {
        let mut disk = disk(seed);
        let (file, _) = open(&mut disk, "log", OpenHow::Create).unwrap();
        run(&mut disk, write(file, 0, aligned(1, 1), true)).unwrap();
        if sync {
            chore(&mut disk, Chore::SyncDir("".into())).unwrap();
        }
        disk.lose_power();
        open(&mut disk, "log", OpenHow::Read).is_ok()
    };
    assert!((0..50).all(|seed| found(seed, true)));
    assert!(!(0..50).all(|seed| found(seed, false)));
}

/// A write that has not ended may leave any of its sectors, and only those.
#[test]
fn a_write_under_way_may_be_torn() {
    let mut torn = 0;
    for seed in 0..200 {
        let mut disk = disk(seed);
        let (file, _) = open(&mut disk, "log", OpenHow::Create).unwrap();
        run(&mut disk, write(file, 0, aligned(1, 2), true)).unwrap();
        chore(&mut disk, Chore::SyncDir("".into())).unwrap();
        disk.begin(ShardId(0), Token(2), write(file, 0, aligned(2, 1), true));
        disk.lose_power();
        let left = disk.contents(Path::new("log")).unwrap();
        assert_eq!(left[4096..], [1; 4096]);
        assert!(left.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
        torn += u32::from(left[..4096].iter().any(|byte| *byte != left[0]));
    }
    assert!(0 < torn);
}

/// A killed process loses nothing that had ended, synced or not; a later power loss may.
#[test]
fn a_kill_keeps_the_cache_and_a_later_power_loss_does_not() {
    let mut lost = 0;
    for seed in 0..50 {
        let mut disk = disk(seed);
        let (file, _) = open(&mut disk, "log", OpenHow::Create).unwrap();
        run(&mut disk, write(file, 0, aligned(1, 1), false)).unwrap();
        disk.kill();
        let (file, size) = open(&mut disk, "log", OpenHow::Read).unwrap();
        assert_eq!((size, read(&mut disk, file, 0, 4096)), (4096, aligned(1, 1)));
        disk.lose_power();
        lost += u32::from(disk.contents(Path::new("log")).is_none_or(|left| left != [1; 4096]));
    }
    assert!(0 < lost);
}

/// A full disk refuses to reserve and to prewrite, keeps what it has, and heals.
#[test]
fn a_full_disk_refuses_growth_only() {
    let mut disk = disk(1);
    disk.set_capacity(8192);
    let (file, _) = open(&mut disk, "log", OpenHow::Create).unwrap();
    run(&mut disk, Op::Allocate { file, position: 0, size: 8192 }).unwrap();
    let more = |position| Op::Allocate { file, position, size: 4096 };
    assert_eq!(run(&mut disk, more(8192)).unwrap_err(), Fault::NoSpace);
    let prewrite = Chore::Prewrite { path: "journal".into(), size: 4096 };
    assert_eq!(chore(&mut disk, prewrite.clone()).unwrap_err(), Fault::NoSpace);
    run(&mut disk, write(file, 4096, aligned(1, 1), true)).unwrap();
    chore(&mut disk, Chore::Truncate { path: "log".into(), size: 4096 }).unwrap();
    chore(&mut disk, prewrite).unwrap();
}

/// A failed write leaves the disk in an unknown state and says so.
#[test]
fn a_failed_write_says_so() {
    let mut disk = disk(1);
    let (file, _) = open(&mut disk, "log", OpenHow::Create).unwrap();
    disk.faults.write_errors = 1_000_000;
    let failed = run(&mut disk, write(file, 0, aligned(1, 1), true));
    assert_eq!(failed.unwrap_err(), Fault::Device);
}

/// A removed file can be read by who has it open, and its space returns when it is closed.
#[test]
fn a_removed_file_lives_until_it_is_closed() {
    let mut disk = disk(1);
    let (file, _) = open(&mut disk, "log", OpenHow::Create).unwrap();
    run(&mut disk, write(file, 0, aligned(1, 1), true)).unwrap();
    chore(&mut disk, Chore::RemoveFile("log".into())).unwrap();
    chore(&mut disk, Chore::SyncDir("".into())).unwrap();
    assert_eq!(read(&mut disk, file, 0, 4096), aligned(1, 1));
    assert_eq!(disk.used_bytes(), 4096);
    run(&mut disk, Op::CloseFile { file }).unwrap();
    assert_eq!(disk.used_bytes(), 0);
}

/// Each planted mistake loses something that the honest disk keeps.
#[test]
fn planted_mistakes_lose_data() {
    for planted in [
        PlantedInDisk::AcknowledgeBeforeDurable,
        PlantedInDisk::SkipDirectorySync,
        PlantedInDisk::SkipFileSync,
    ] {
        let kept = |seed: u64, planted| {
            let mut disk = disk(seed);
            disk.planted = planted;
            let (file, _) = open(&mut disk, "log", OpenHow::Create).unwrap();
            run(&mut disk, write(file, 0, aligned(1, 1), true)).unwrap();
            run(&mut disk, write(file, 4096, aligned(2, 1), false)).unwrap();
            run(&mut disk, Op::Sync { file }).unwrap();
            chore(&mut disk, Chore::SyncDir("".into())).unwrap();
            run(&mut disk, write(file, 0, aligned(3, 1), true)).unwrap();
            disk.lose_power();
            let whole = [vec![3; 4096], vec![2; 4096]].concat();
            disk.contents(Path::new("log")) == Some(whole)
        };
        assert!((0..50).all(|seed| kept(seed, None)));
        assert!(!(0..50).all(|seed| kept(seed, Some(planted))), "{planted:?}");
    }
}

/// Unaligned direct I/O is our own mistake, not the disk's.
#[test]
#[should_panic(expected = "between blocks")]
fn an_unaligned_write_ends_the_run() {
    let mut disk = disk(1);
    let (file, _) = open(&mut disk, "log", OpenHow::Create).unwrap();
    disk.begin(ShardId(0), Token(1), write(file, 512, aligned(1, 1), true));
}

/// Two writes to the same block at once have no order: nobody may submit them.
#[test]
#[should_panic(expected = "order unknown")]
fn overlapping_writes_end_the_run() {
    let mut disk = disk(1);
    let (file, _) = open(&mut disk, "log", OpenHow::Create).unwrap();
    disk.begin(ShardId(0), Token(1), write(file, 0, aligned(1, 2), true));
    disk.begin(ShardId(0), Token(2), write(file, 4096, aligned(2, 1), true));
}
