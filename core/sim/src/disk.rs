//! The simulated disk: a file system with a volatile cache below it.
//!
//! An op begins ([`Disk::begin`]) and ends later ([`Disk::end`]); in between, nothing of it is
//! promised. What ended is visible; what is durable follows the rules of Linux, read strictly:
//!
//! - a durable write is durable when it ends; any other write when a sync that began after its
//!   end has ended;
//! - a name (new, moved or removed) is durable when a sync of its directory that began after the
//!   change has ended;
//! - a sync that fails has lost what it was to save, and the next one will not say so.
//!
//! A killed process ([`Disk::kill`]) leaves the cache alone and its unfinished ops in any state.
//! A power loss ([`Disk::lose_power`]) takes of the cache what the seed says.
//!
//! Ops the broker must never submit (unaligned, overlapping, on a closed file) end the run by a
//! panic: they are faults of ours, not of the world.

mod file;
mod tree;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use tidemill_runtime::edge::{
    Chore, Computation, DirEntry, Done, Fault, FileId, Op, OpenHow, ShardId, Token,
};

use self::file::{BLOCK_BYTES, File, Loss};
use self::tree::{Inode, Tree};
use crate::random::Random;

/// The number of an op under way.
pub type DiskOpId = u64;

/// What the disk does badly, in parts per million of ops, and how slowly.
#[derive(Clone, Debug, Default)]
pub struct DiskFaults {
    /// Writes that end with [`Fault::Device`].
    pub write_errors: u32,
    /// Syncs of any kind that end with [`Fault::Device`].
    pub sync_errors: u32,
    /// Reads that end with [`Fault::Device`].
    pub read_errors: u32,
    /// Ops that take up to a second.
    pub slow_ops: u32,
}

/// A mistake built into the disk on purpose, to see that the checkers find it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PlantedInDisk {
    /// Durable writes end while the bytes are only in the cache.
    AcknowledgeBeforeDurable,
    /// Syncing a directory does nothing.
    SkipDirectorySync,
    /// Syncing a file or the file system does nothing.
    SkipFileSync,
}

/// The disk of one node.
#[derive(Debug)]
pub struct Disk {
    tree: Tree,
    files: BTreeMap<Inode, File>,
    /// Open files, by the numbers of shard and file.
    open: BTreeMap<(u16, u32), OpenFile>,
    under_way: BTreeMap<DiskOpId, Active>,
    next_op: DiskOpId,
    /// Counts what has ended, so that a sync knows what came before it.
    version: u64,
    capacity_bytes: u64,
    random: Random,
    /// Changed by the world as the run goes on.
    pub faults: DiskFaults,
    /// A mistake on purpose.
    pub planted: Option<PlantedInDisk>,
    /// The mistake is made with what lies below these paths.
    pub planted_below: &'static [&'static str],
}

#[derive(Debug)]
struct OpenFile {
    inode: Inode,
    how: OpenHow,
    path: PathBuf,
}

/// An op that has begun.
#[derive(Debug)]
struct Active {
    shard: ShardId,
    token: Token,
    op: Op,
    inode: Option<Inode>,
    /// The path of its file.
    path: PathBuf,
    /// What had ended when it began.
    began_at: u64,
    fails: bool,
}

impl Disk {
    /// An empty disk of `capacity_bytes` whose decisions are drawn from `random`.
    #[must_use]
    pub fn new(capacity_bytes: u64, random: Random) -> Self {
        Self {
            tree: Tree::new(),
            files: BTreeMap::new(),
            open: BTreeMap::new(),
            under_way: BTreeMap::new(),
            next_op: 0,
            version: 0,
            capacity_bytes,
            random,
            faults: DiskFaults::default(),
            planted: None,
            planted_below: &[""],
        }
    }

    /// Whether `op` is the disk's to carry out.
    #[must_use]
    pub fn takes(op: &Op) -> bool {
        !matches!(
            op,
            Op::Accept { .. } | Op::Receive { .. } | Op::Send { .. } | Op::CloseSocket { .. }
        )
    }

    /// Begins an op of a shard: its number, and how long it will take.
    pub fn begin(&mut self, shard: ShardId, token: Token, op: Op) -> (DiskOpId, Duration) {
        let open = self.file_of(&op).map(|file| self.opened(shard, file));
        let inode = open.map(|open| open.inode);
        let path = open.map(|open| open.path.clone()).unwrap_or_default();
        self.check(shard, &op, inode);
        let took = self.latency(&op);
        let fails = self.random.happens(self.error_rate(&op));
        let id = self.next_op;
        self.next_op += 1;
        let active = Active { shard, token, op, inode, path, began_at: self.version, fails };
        self.under_way.insert(id, active);
        (id, took)
    }

    /// Ends an op: whose it was, and what came of it. Nothing, if it is no longer under way.
    pub fn end(&mut self, id: DiskOpId) -> Option<(ShardId, Token, Result<Done, Fault>)> {
        let active = self.under_way.remove(&id)?;
        self.version += 1;
        let result = if active.fails { self.fail(&active) } else { self.carry_out(&active) };
        Some((active.shard, active.token, result))
    }

    /// The process ends at once. The cache survives; what was under way is done, half done or not.
    pub fn kill(&mut self) {
        for active in std::mem::take(&mut self.under_way).into_values() {
            self.version += 1;
            match self.random.below(3) {
                0 => {}
                1 => drop(self.carry_out(&active)),
                _ => self.carry_out_half(&active),
            }
        }
        self.open.clear();
        self.forget_unnamed();
    }

    /// The machine goes dark: as [`Disk::kill`], and the cache is lost, kept or torn.
    pub fn lose_power(&mut self) {
        self.kill();
        let loss =
            *self.random.pick(&[Loss::Everything, Loss::Nothing, Loss::Blocks, Loss::Sectors]);
        self.tree.lose_power(&mut self.random);
        for file in self.files.values_mut() {
            file.lose_power(loss, &mut self.random);
        }
        self.forget_unnamed();
    }

    /// Sets how much the disk holds; what is there already stays.
    pub fn set_capacity(&mut self, capacity_bytes: u64) {
        self.capacity_bytes = capacity_bytes;
    }

    /// How much space all files take.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.files.values().map(File::space).sum()
    }

    /// Flips one bit of a file whose path contains `part`; tells which file, if there is one.
    pub fn rot(&mut self, part: &str) -> Option<PathBuf> {
        let paths: Vec<(PathBuf, Inode)> = self
            .paths()
            .into_iter()
            .filter(|(path, _)| path.to_string_lossy().contains(part))
            .collect();
        if paths.is_empty() {
            return None;
        }
        let (path, inode) = self.random.pick(&paths).clone();
        let file = self.files.get_mut(&inode).expect("paths lists files");
        file.rot(&mut self.random).then_some(path)
    }

    /// Every file there is now, with its size.
    #[must_use]
    pub fn listing(&self) -> Vec<(PathBuf, u64)> {
        self.paths().into_iter().map(|(path, inode)| (path, self.files[&inode].size())).collect()
    }

    /// The bytes of a file as a read would see them now.
    #[must_use]
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let file = &self.files[&self.tree.find_file(path).ok()?];
        Some(file.read(0, u32::try_from(file.size()).expect("simulated files are small")))
    }

    fn carry_out(&mut self, active: &Active) -> Result<Done, Fault> {
        let done = Ok(Done::Complete);
        match &active.op {
            Op::Open { path, how } => self.open(active.shard, path, *how),
            Op::Write { position, bytes, durable, .. } => {
                self.write(active, *position, bytes, *durable)
            }
            Op::Read { position, size, .. } => {
                let read = self.file(active).read(*position, *size);
                Ok(Done::Read(Bytes::from(self.meet_writes(active, *position, read))))
            }
            Op::Sync { .. } => {
                if !self.errs(PlantedInDisk::SkipFileSync, &active.path) {
                    self.file(active).sync(active.began_at);
                }
                done
            }
            Op::Allocate { position, size, .. } => {
                let version = self.version;
                self.reserve(active, position + size)?;
                self.file(active).grow(version, position + size);
                done
            }
            Op::CloseFile { file } => {
                self.open.remove(&(active.shard.0, file.0));
                self.forget_unnamed();
                done
            }
            Op::Chore(chore) => self.do_chore(active.began_at, chore),
            Op::Accept { .. } | Op::Receive { .. } | Op::Send { .. } | Op::CloseSocket { .. } => {
                unreachable!("the network's op")
            }
        }
    }

    fn do_chore(&mut self, began_at: u64, chore: &Chore) -> Result<Done, Fault> {
        let version = self.version;
        match chore {
            Chore::MakeDir(path) => self.tree.make_dir(path, version)?,
            Chore::SyncDir(path) => {
                let dir = self.tree.find_dir(path)?;
                if !self.errs(PlantedInDisk::SkipDirectorySync, path) {
                    self.tree.sync_dir(dir, began_at);
                }
            }
            Chore::ListDir(path) => return self.list(path),
            Chore::RemoveDir(path) => self.tree.remove_dir(path, version)?,
            Chore::RemoveFile(path) => {
                self.tree.remove_file(path, version)?;
                self.forget_unnamed();
            }
            Chore::Rename { from, to } => {
                self.tree.rename(from, to, version)?;
                self.forget_unnamed();
            }
            Chore::Truncate { path, size } => {
                let inode = self.tree.find_file(path)?;
                self.files.get_mut(&inode).expect("a named file exists").truncate(*size);
            }
            Chore::Prewrite { path, size } => self.prewrite(path, *size, *size)?,
            Chore::SyncFileSystem => {
                if self.planted != Some(PlantedInDisk::SkipFileSync) {
                    self.files.values_mut().for_each(|file| file.sync(began_at));
                }
                self.tree.sync_all(began_at);
            }
            Chore::Space => {
                let total_bytes = self.capacity_bytes;
                let usable_bytes = total_bytes.saturating_sub(self.used_bytes());
                return Ok(Done::Space { total_bytes, usable_bytes });
            }
            Chore::Compute(Computation { bytes, wanted, work }) => {
                return Ok(Done::Computed(work(bytes, *wanted)));
            }
            Chore::Step(work) => work.step(),
        }
        Ok(Done::Complete)
    }

    /// What is left of an op that was cut off in the middle.
    fn carry_out_half(&mut self, active: &Active) {
        let version = self.version;
        match &active.op {
            Op::Write { position, bytes, .. } => {
                let inode = active.inode.expect("a write has a file");
                let file = self.files.get_mut(&inode).expect("an open file exists");
                file.write_torn(version, *position, bytes, &mut self.random);
            }
            Op::Sync { .. } => {
                let inode = active.inode.expect("a sync has a file");
                let file = self.files.get_mut(&inode).expect("an open file exists");
                // The process is gone: what is not durable yet stays cached, as after any kill.
                file.sync(self.random.between(0, active.began_at));
            }
            Op::Chore(Chore::Prewrite { path, size }) => {
                let blocks = size / BLOCK_BYTES as u64;
                let written = self.random.between(0, blocks) * BLOCK_BYTES as u64;
                // Cut off: whether it would have succeeded no longer matters.
                let _ = self.prewrite(path, written, *size);
            }
            _ => {}
        }
    }

    /// Ends an op with a device error, and leaves what such an error leaves.
    fn fail(&mut self, active: &Active) -> Result<Done, Fault> {
        match &active.op {
            Op::Write { .. } => self.carry_out_half(active),
            Op::Sync { .. } => {
                let inode = active.inode.expect("a sync has a file");
                let file = self.files.get_mut(&inode).expect("an open file exists");
                file.sync_badly(active.began_at, &mut self.random);
            }
            Op::Chore(Chore::SyncFileSystem) => {
                for file in self.files.values_mut() {
                    file.sync_badly(active.began_at, &mut self.random);
                }
            }
            _ => {}
        }
        Err(Fault::Device)
    }

    fn open(&mut self, shard: ShardId, path: &Path, how: OpenHow) -> Result<Done, Fault> {
        let inode = match self.tree.find_file(path) {
            Err(Fault::NotFound) if how == OpenHow::Create => self.make_file(path)?,
            found => found?,
        };
        let unused = |id: &u32| !self.open.contains_key(&(shard.0, *id));
        let file = FileId((0..).find(unused).expect("fewer than 2^32 files are open"));
        self.open.insert((shard.0, file.0), OpenFile { inode, how, path: path.to_owned() });
        Ok(Done::Opened { file, size: self.files[&inode].size() })
    }

    fn make_file(&mut self, path: &Path) -> Result<Inode, Fault> {
        let inode = self.tree.make_name(path, self.version)?;
        self.files.insert(inode, File::default());
        Ok(inode)
    }

    fn write(
        &mut self,
        active: &Active,
        position: u64,
        bytes: &Bytes,
        durable: bool,
    ) -> Result<Done, Fault> {
        let end = position + bytes.len() as u64;
        self.reserve(active, end)?;
        let version = self.version;
        let durable = durable && !self.errs(PlantedInDisk::AcknowledgeBeforeDurable, &active.path);
        // A copy: the shard's memory goes back to it when the op has ended.
        let copy = Bytes::copy_from_slice(bytes);
        let file = self.file(active);
        file.write(version, position, &copy);
        if durable {
            file.persist(position, bytes.len() as u64);
        }
        Ok(Done::Complete)
    }

    /// A read that meets writes under way sees some of their sectors.
    fn meet_writes(&mut self, active: &Active, position: u64, mut read: Vec<u8>) -> Vec<u8> {
        for other in self.under_way.values() {
            let Op::Write { position: start, bytes, .. } = &other.op else { continue };
            let end = start + bytes.len() as u64;
            let read_end = position + read.len() as u64;
            if other.inode == active.inode && position < end && *start < read_end {
                let (from, to) = (position.max(*start), read_end.min(end));
                let into = &mut read[(from - position) as usize..(to - position) as usize];
                let part = &bytes[(from - start) as usize..(to - start) as usize];
                file::mix_sectors(into, part, &mut self.random);
            }
        }
        read
    }

    fn list(&self, path: &Path) -> Result<Done, Fault> {
        let dir = self.tree.find_dir(path)?;
        let entry = |(name, inode): (&str, Inode)| DirEntry {
            name: name.to_owned(),
            is_dir: self.tree.is_dir(inode),
            size: self.files.get(&inode).map_or(0, File::size),
        };
        Ok(Done::Listed(self.tree.entries(dir).map(entry).collect()))
    }

    /// Makes a file of `written` zero bytes, of the `size` asked for.
    fn prewrite(&mut self, path: &Path, written: u64, size: u64) -> Result<(), Fault> {
        let there = self.tree.find_file(path);
        let had = there.map_or(0, |inode| self.files[&inode].space());
        if self.capacity_bytes < self.used_bytes() - had + size {
            return Err(Fault::NoSpace);
        }
        let inode = match there {
            Err(Fault::NotFound) => self.make_file(path)?,
            found => found?,
        };
        self.files.get_mut(&inode).expect("just found").prewrite(written);
        Ok(())
    }

    /// Whether the planted mistake is made here.
    fn errs(&self, planted: PlantedInDisk, path: &Path) -> bool {
        let is_meant = || self.planted_below.iter().any(|below| path.starts_with(below));
        self.planted == Some(planted) && is_meant()
    }

    /// Whether the file may grow to `end`.
    fn reserve(&mut self, active: &Active, end: u64) -> Result<(), Fault> {
        let space = self.file(active).space();
        let grows = end.next_multiple_of(BLOCK_BYTES as u64).saturating_sub(space);
        if grows != 0 && self.capacity_bytes < self.used_bytes() + grows {
            return Err(Fault::NoSpace);
        }
        Ok(())
    }

    fn file(&mut self, active: &Active) -> &mut File {
        let inode = active.inode.expect("an op on a file has one");
        self.files.get_mut(&inode).expect("an open file exists")
    }

    fn file_of(&self, op: &Op) -> Option<FileId> {
        match op {
            Op::Write { file, .. }
            | Op::Read { file, .. }
            | Op::Sync { file }
            | Op::Allocate { file, .. }
            | Op::CloseFile { file } => Some(*file),
            _ => None,
        }
    }

    fn opened(&self, shard: ShardId, file: FileId) -> &OpenFile {
        self.open
            .get(&(shard.0, file.0))
            .unwrap_or_else(|| panic!("{shard:?} never opened {file:?}"))
    }

    /// Refuses what a correct shard never asks for.
    fn check(&self, shard: ShardId, op: &Op, inode: Option<Inode>) {
        let block = BLOCK_BYTES as u64;
        match op {
            Op::Write { file, position, bytes, .. } => {
                assert!(position % block == 0, "write at {position}, between blocks");
                assert!(bytes.len() % BLOCK_BYTES == 0, "write of {} bytes", bytes.len());
                assert!(!bytes.is_empty(), "write of nothing");
                assert!(bytes.as_ptr().addr() % BLOCK_BYTES == 0, "write from unaligned memory");
                assert!(
                    self.opened(shard, *file).how != OpenHow::Read,
                    "write to a read-only file"
                );
                let end = position + bytes.len() as u64;
                assert!(!self.writes_overlap(inode, *position, end), "two writes, order unknown");
            }
            Op::Read { position, size, .. } => {
                assert!(position % block == 0, "read at {position}, between blocks");
                assert!(u64::from(*size) % block == 0 && *size != 0, "read of {size} bytes");
            }
            Op::CloseFile { file } => {
                let busy = |active: &Active| {
                    active.shard == shard && self.file_of(&active.op) == Some(*file)
                };
                assert!(!self.under_way.values().any(busy), "{file:?} closed with ops under way");
            }
            Op::Chore(Chore::Truncate { path, .. }) => {
                let inode = self.tree.find_file(path).ok();
                assert!(
                    inode.is_none() || !self.writes_overlap(inode, 0, u64::MAX),
                    "{path:?} cut with writes under way"
                );
            }
            _ => {}
        }
    }

    fn writes_overlap(&self, inode: Option<Inode>, from: u64, to: u64) -> bool {
        self.under_way.values().any(|active| match &active.op {
            Op::Write { position, bytes, .. } if active.inode == inode => {
                *position < to && from < position + bytes.len() as u64
            }
            _ => false,
        })
    }

    fn error_rate(&self, op: &Op) -> u32 {
        match op {
            Op::Write { .. } => self.faults.write_errors,
            Op::Read { .. } => self.faults.read_errors,
            Op::Sync { .. } | Op::Chore(Chore::SyncDir(_) | Chore::SyncFileSystem) => {
                self.faults.sync_errors
            }
            _ => 0,
        }
    }

    fn latency(&mut self, op: &Op) -> Duration {
        let (least, most) = match op {
            Op::CloseFile { .. } => (1, 20),
            Op::Open { .. } => (5, 200),
            Op::Read { .. } => (60, 800),
            Op::Write { .. } => (20, 1_500),
            Op::Sync { .. } | Op::Allocate { .. } => (50, 4_000),
            _ => (50, 10_000),
        };
        let most = if self.random.happens(self.faults.slow_ops) { 1_000_000 } else { most };
        self.random.latency(Duration::from_micros(least), Duration::from_micros(most))
    }

    /// Drops files no name and no shard refers to.
    fn forget_unnamed(&mut self) {
        let mut referenced = self.tree.referenced();
        referenced.extend(self.open.values().map(|open| open.inode));
        self.files.retain(|inode, _| referenced.contains(inode));
    }

    fn paths(&self) -> Vec<(PathBuf, Inode)> {
        let mut paths = Vec::new();
        let mut open = vec![(PathBuf::new(), tree::ROOT)];
        while let Some((path, dir)) = open.pop() {
            for (name, inode) in self.tree.entries(dir) {
                let found = (path.join(name), inode);
                if self.tree.is_dir(inode) { open.push(found) } else { paths.push(found) }
            }
        }
        paths.sort();
        paths
    }
}

#[cfg(test)]
#[path = "disk/tests.rs"]
mod tests;
