//! A disk in memory that crashes on command, for the tests of storage.
//!
//! It is as bad as a real one may be, and no worse:
//! - a completed write that was not synced survives a crash in any subset of its 512-byte
//!   sectors; so does a write that was under way, durable or not;
//! - a new, renamed or removed name survives only if its directory was synced, each change by
//!   itself; a rename happens as a whole or not at all;
//! - a file's size grows durably with a sync or a durable write, else perhaps;
//! - after a failed sync the unsynced bytes are lost, though they can be read until the crash
//!   and the next sync succeeds.
//!
//! It also checks what storage promises about its requests: alignment, no two writes to the same
//! bytes at once, no file removed while something is under way on it, appends only into space
//! that was reserved.
//!
//! A test submits what `poll_request` gives, lets any of the pending requests end
//! ([`Disk::complete`]), clones the disk wherever it wants to cut, and cuts ([`Disk::crash`]).
// Each test binary has this as a module of its own, and uses a part of it.
#![allow(dead_code, unreachable_pub)]

mod file;
mod random;

use std::collections::BTreeMap;

use file::File;
pub use random::Random;
use random::{Luck, tear};
use tidemill_storage::block::is_aligned;
use tidemill_storage::io::{Action, Completion, DirName, Fault, FileName, Outcome, Request};

/// What the device writes as a whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// What of the unsynced survives a crash.
#[derive(Clone, Copy, Debug)]
pub enum Survival {
    /// Only what was synced.
    Nothing,
    /// All of it, also what was under way.
    Everything,
    /// Each sector and each change of a name by the toss of a coin.
    Torn {
        /// Decides.
        seed: u64,
    },
}

/// The disk.
#[derive(Clone, Debug)]
pub struct Disk {
    files: Vec<File>,
    /// Names as they are now.
    names: BTreeMap<String, Node>,
    /// Names as they are after a crash at this moment, unless changes survive by luck.
    durable_names: BTreeMap<String, Node>,
    /// Changes of names that are not durable yet, oldest first.
    changes: Vec<Change>,
    pending: Vec<Request>,
    faults: Vec<Rule>,
    /// Bytes that can still be allocated; `None`: no limit.
    pub free_bytes: Option<u64>,
    /// Requests ended so far.
    pub completed: u64,
    /// Bytes that were asked for, of all reads so far.
    pub read_bytes: u64,
    random: Random,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Node {
    Dir,
    File(usize),
}

#[derive(Clone, Debug)]
struct Change {
    dir: String,
    /// Names and what they stand for afterwards.
    sets: Vec<(String, Option<Node>)>,
}

#[derive(Clone, Copy, Debug)]
struct Rule {
    on: fn(&Action) -> bool,
    fault: Fault,
    /// How many matching requests go well before it; then one fails.
    after: u32,
}

impl Disk {
    /// An empty disk with the data directory, and a seed for what it leaves to chance.
    pub fn new(seed: u64) -> Self {
        let root = BTreeMap::from([(DirName::Data.to_string(), Node::Dir)]);
        Self {
            files: Vec::new(),
            names: root.clone(),
            durable_names: root,
            changes: Vec::new(),
            pending: Vec::new(),
            faults: Vec::new(),
            free_bytes: None,
            completed: 0,
            read_bytes: 0,
            random: Random(seed),
        }
    }

    /// The directories that the node makes before it starts storage.
    pub fn with_root_dirs(mut self) -> Self {
        for dir in [DirName::Journals, DirName::Partitions] {
            self.names.insert(dir.to_string(), Node::Dir);
            self.durable_names.insert(dir.to_string(), Node::Dir);
        }
        self
    }

    /// Takes a request. Nothing happens before it completes.
    pub fn submit(&mut self, request: Request) {
        self.check_promises(&request.action);
        self.pending.push(request);
    }

    /// Requests under way, in the order they were submitted.
    pub fn pending(&self) -> &[Request] {
        &self.pending
    }

    /// Ends the pending request number `at`.
    pub fn complete(&mut self, at: usize) -> Completion {
        let request = self.pending.remove(at);
        self.completed += 1;
        if let Action::Read { size, .. } = request.action {
            self.read_bytes += u64::from(size);
        }
        let result = match self.fault_for(&request.action) {
            Some(fault) => {
                self.fail(&request.action);
                Err(fault)
            }
            None => self.carry_out(&request.action),
        };
        Completion { id: request.id, result }
    }

    /// Ends some pending request, if there is one.
    pub fn complete_any(&mut self) -> Option<Completion> {
        if self.pending.is_empty() {
            return None;
        }
        let at = self.random.below(self.pending.len() as u64) as usize;
        Some(self.complete(at))
    }

    /// Ends the oldest pending request, if there is one.
    pub fn complete_oldest(&mut self) -> Option<Completion> {
        (!self.pending.is_empty()).then(|| self.complete(0))
    }

    /// Lets `after` requests that match `on` go well and the one after them fail.
    pub fn fail_when(&mut self, on: fn(&Action) -> bool, after: u32, fault: Fault) {
        self.faults.push(Rule { on, fault, after });
    }

    /// Nothing fails any more, and there is space.
    pub fn heal(&mut self) {
        self.faults.clear();
        self.free_bytes = None;
    }

    /// The power goes and comes back. What was under way is forgotten, or done in part.
    pub fn crash(&mut self, survival: Survival) {
        let mut luck = Luck::of(survival);
        for request in std::mem::take(&mut self.pending) {
            self.leave_under_way(&request.action);
        }
        self.faults.clear();
        for change in std::mem::take(&mut self.changes) {
            if luck.toss() {
                apply(&mut self.durable_names, &change);
            }
        }
        drop_orphans(&mut self.durable_names);
        self.names = self.durable_names.clone();
        for file in &mut self.files {
            file.crash(&mut luck);
        }
    }

    /// The bytes of a file as a read sees them.
    pub fn file(&self, name: &FileName) -> Option<&[u8]> {
        self.find(name).map(|file| &self.files[file].now[..])
    }

    /// Puts a file there, durable, directories and all.
    pub fn put_file(&mut self, name: &FileName, bytes: &[u8]) {
        let mut dir = Some(name.dir());
        while let Some(known) = dir {
            self.names.insert(known.to_string(), Node::Dir);
            self.durable_names.insert(known.to_string(), Node::Dir);
            dir = (known != DirName::Data).then(|| known.parent());
        }
        let file = self.new_file();
        self.files[file].now = bytes.to_vec();
        self.files[file].durable = bytes.to_vec();
        self.names.insert(name.to_string(), Node::File(file));
        self.durable_names.insert(name.to_string(), Node::File(file));
    }

    /// Flips bits of a byte on the device: it rots.
    pub fn rot(&mut self, name: &FileName, position: usize, mask: u8) {
        let file = self.find(name).expect("a file that exists");
        self.files[file].now[position] ^= mask;
        self.files[file].durable[position] ^= mask;
    }

    /// The paths of all files below `prefix`, in order.
    pub fn paths(&self, prefix: &str) -> Vec<&str> {
        let below = |(path, node): (&'_ String, &Node)| {
            matches!(node, Node::File(_)) && path.starts_with(prefix)
        };
        self.names
            .iter()
            .filter(|&(path, node)| below((path, node)))
            .map(|(path, _)| path.as_str())
            .collect()
    }

    fn find(&self, name: &FileName) -> Option<usize> {
        match self.names.get(&name.to_string()) {
            Some(Node::File(file)) => Some(*file),
            _ => None,
        }
    }

    fn new_file(&mut self) -> usize {
        self.files.push(File::default());
        self.files.len() - 1
    }

    fn change(&mut self, dir: DirName, sets: Vec<(String, Option<Node>)>) {
        let change = Change { dir: dir.to_string(), sets };
        apply(&mut self.names, &change);
        self.changes.push(change);
    }

    fn fault_for(&mut self, action: &Action) -> Option<Fault> {
        let at = self.faults.iter().position(|rule| (rule.on)(action))?;
        if 0 < self.faults[at].after {
            self.faults[at].after -= 1;
            return None;
        }
        Some(self.faults.remove(at).fault)
    }

    // --- what requests do ---

    fn carry_out(&mut self, action: &Action) -> Result<Outcome, Fault> {
        match action {
            Action::Create { file } => {
                self.need_dir(&file.dir())?;
                if self.find(file).is_none() {
                    let node = Node::File(self.new_file());
                    self.change(file.dir(), vec![(file.to_string(), Some(node))]);
                }
            }
            Action::Write { file, position, bytes, durable } => {
                let at = self.find(file).ok_or(Fault::NotFound)?;
                self.files[at].write(*position as usize, bytes);
                if *durable {
                    self.files[at].sync_range(*position as usize, bytes);
                }
            }
            Action::Read { file, position, size } => {
                let at = self.find(file).ok_or(Fault::NotFound)?;
                return Ok(Outcome::Bytes(self.files[at].read(*position, *size)));
            }
            Action::Sync { file } => {
                let at = self.find(file).ok_or(Fault::NotFound)?;
                self.files[at].sync();
            }
            Action::Allocate { file, position, size } => {
                let at = self.find(file).ok_or(Fault::NotFound)?;
                let end = (position + size) as usize;
                let more = end.saturating_sub(self.files[at].now.len()) as u64;
                self.take_space(more)?;
                self.files[at].grow(end);
            }
            Action::Truncate { file, size } => {
                let at = self.find(file).ok_or(Fault::NotFound)?;
                let now = self.files[at].now.len() as u64;
                // Only a forged journal asks for more than there is.
                self.take_space(size.saturating_sub(now))?;
                self.give_space(now.saturating_sub(*size));
                self.files[at].now.resize(*size as usize, 0);
                self.files[at].sync();
            }
            Action::Prewrite { file, size } => {
                self.need_dir(&file.dir())?;
                let old = self.find(file).map_or(0, |at| self.files[at].now.len() as u64);
                self.take_space(size.saturating_sub(old))?;
                let at = self.new_file();
                self.files[at].now = vec![0; *size as usize];
                self.files[at].sync();
                self.change(file.dir(), vec![(file.to_string(), Some(Node::File(at)))]);
            }
            Action::Remove { file } => {
                if let Some(at) = self.find(file) {
                    self.give_space(self.files[at].now.len() as u64);
                    self.change(file.dir(), vec![(file.to_string(), None)]);
                }
            }
            Action::Rename { from, to } => {
                let node = Node::File(self.find(from).ok_or(Fault::NotFound)?);
                let sets = vec![(from.to_string(), None), (to.to_string(), Some(node))];
                assert_eq!(from.dir(), to.dir(), "renamed across directories");
                self.change(from.dir(), sets);
            }
            Action::Close { .. } => {}
            Action::MakeDir { dir } => {
                self.need_dir(&dir.parent())?;
                if !self.names.contains_key(&dir.to_string()) {
                    self.change(dir.parent(), vec![(dir.to_string(), Some(Node::Dir))]);
                }
            }
            Action::SyncDir { dir } => {
                self.need_dir(dir)?;
                self.sync_dirs(|changed| changed == dir.to_string());
            }
            Action::ListDir { dir } => return self.list(dir).map(Outcome::Names),
            Action::RemoveDir { dir } => {
                if !self.list(dir)?.is_empty() {
                    const ENOTEMPTY: i32 = 39;
                    return Err(Fault::Other(ENOTEMPTY));
                }
                self.change(dir.parent(), vec![(dir.to_string(), None)]);
            }
            Action::Quarantine { dir } => self.quarantine(dir)?,
            Action::SyncFileSystem => {
                self.files.iter_mut().for_each(File::sync);
                self.sync_dirs(|_| true);
            }
        }
        Ok(Outcome::Done)
    }

    fn need_dir(&self, dir: &DirName) -> Result<(), Fault> {
        match self.names.get(&dir.to_string()) {
            Some(Node::Dir) => Ok(()),
            _ => Err(Fault::NotFound),
        }
    }

    fn take_space(&mut self, bytes: u64) -> Result<(), Fault> {
        if let Some(free) = &mut self.free_bytes {
            *free = free.checked_sub(bytes).ok_or(Fault::NoSpace)?;
        }
        Ok(())
    }

    fn give_space(&mut self, bytes: u64) {
        if let Some(free) = &mut self.free_bytes {
            *free += bytes;
        }
    }

    fn sync_dirs(&mut self, matches: impl Fn(&str) -> bool) {
        let (synced, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.changes).into_iter().partition(|c| matches(&c.dir));
        self.changes = rest;
        for change in &synced {
            apply(&mut self.durable_names, change);
        }
    }

    fn list(&self, dir: &DirName) -> Result<Vec<(String, u64)>, Fault> {
        self.need_dir(dir)?;
        let prefix = match dir {
            DirName::Data => String::new(),
            _ => format!("{dir}/"),
        };
        let mut names = Vec::new();
        for (path, node) in &self.names {
            let Some(name) = path.strip_prefix(&prefix) else { continue };
            if name.contains('/') || *path == DirName::Data.to_string() {
                continue;
            }
            let size = match node {
                Node::Dir => 0,
                Node::File(at) => self.files[*at].now.len() as u64,
            };
            names.push((name.to_string(), size));
        }
        Ok(names)
    }

    fn quarantine(&mut self, dir: &DirName) -> Result<(), Fault> {
        self.need_dir(dir)?;
        let (old, inside) = (dir.to_string(), format!("{dir}/"));
        let moved: Vec<_> = self
            .names
            .iter()
            .filter(|(path, _)| **path == old || path.starts_with(&inside))
            .map(|(path, node)| (path.clone(), *node))
            .collect();
        let mut sets = vec![("quarantine".to_string(), Some(Node::Dir))];
        for (path, node) in moved {
            sets.push((format!("quarantine/{}", path.replace('/', "-")), Some(node)));
            sets.push((path, None));
        }
        self.change(dir.parent(), sets);
        Ok(())
    }

    // --- what goes wrong ---

    fn fail(&mut self, action: &Action) {
        match action {
            Action::Write { file, position, bytes, .. } => {
                let Some(at) = self.find(file) else { return };
                // What the device holds now is unknown: any of the sectors may be there.
                let torn = tear(&self.files[at].now, *position as usize, bytes, &mut self.random);
                self.files[at].write(*position as usize, &torn);
            }
            Action::Sync { file } => {
                let Some(at) = self.find(file) else { return };
                self.files[at].forget_unsynced();
            }
            Action::SyncFileSystem => self.files.iter_mut().for_each(File::forget_unsynced),
            _ => {}
        }
    }

    /// What a request that was under way may leave behind is the same as what a completed one
    /// that was not synced leaves.
    fn leave_under_way(&mut self, action: &Action) {
        match action {
            Action::Write { file, position, bytes, .. } => {
                let Some(at) = self.find(file) else { return };
                self.files[at].write(*position as usize, bytes);
            }
            Action::Truncate { file, size } => {
                let Some(at) = self.find(file) else { return };
                self.files[at].cut(*size as usize);
            }
            Action::Read { .. }
            | Action::Sync { .. }
            | Action::SyncDir { .. }
            | Action::SyncFileSystem
            | Action::ListDir { .. }
            | Action::Close { .. }
            | Action::Prewrite { .. } => {}
            _ => drop(self.carry_out(action)),
        }
    }

    // --- what storage promises ---

    fn check_promises(&self, action: &Action) {
        match action {
            Action::Write { file, position, bytes, .. } => {
                assert!(!bytes.is_empty(), "an empty write to {file}");
                assert!(is_aligned(*position) && is_aligned(bytes.len() as u64), "{file}");
                assert!(is_aligned(bytes.as_ptr() as u64), "unaligned memory for {file}");
                self.check_reserved(file, position + bytes.len() as u64);
                self.check_alone(file, *position, bytes.len() as u64);
            }
            Action::Read { file, position, size } => {
                assert!(is_aligned(*position) && is_aligned(u64::from(*size)), "{file}");
                assert!(0 < *size, "an empty read of {file}");
            }
            Action::Remove { file } | Action::Rename { from: file, .. } => {
                let busy = self.pending.iter().any(|request| is_on(&request.action, file));
                assert!(!busy, "{file} is removed or renamed while a request on it is under way");
            }
            _ => {}
        }
    }

    /// Only an allocation may meet a full disk, so writes to these go into reserved space.
    fn check_reserved(&self, file: &FileName, end: u64) {
        if let (FileName::Log { .. } | FileName::Journal { .. }, Some(at)) = (file, self.find(file))
        {
            let reserved = self.files[at].now.len() as u64;
            assert!(end <= reserved, "{file} is written up to {end}, reserved {reserved}");
        }
    }

    fn check_alone(&self, file: &FileName, position: u64, size: u64) {
        for request in &self.pending {
            if let Action::Write { file: other, position: start, bytes, .. } = &request.action {
                let apart = position + size <= *start || start + bytes.len() as u64 <= position;
                assert!(apart || other != file, "two writes at once to {file} at {position}");
            }
        }
    }
}

fn is_on(action: &Action, name: &FileName) -> bool {
    match action {
        Action::Create { file }
        | Action::Write { file, .. }
        | Action::Read { file, .. }
        | Action::Sync { file }
        | Action::Allocate { file, .. }
        | Action::Truncate { file, .. }
        | Action::Prewrite { file, .. }
        | Action::Remove { file } => file == name,
        Action::Rename { from, to } => from == name || to == name,
        _ => false,
    }
}

fn apply(names: &mut BTreeMap<String, Node>, change: &Change) {
    for (path, node) in &change.sets {
        match node {
            Some(node) => names.insert(path.clone(), *node),
            None => names.remove(path),
        };
    }
}

/// A name is reached through its directory only.
fn drop_orphans(names: &mut BTreeMap<String, Node>) {
    let dirs: Vec<String> = names
        .iter()
        .filter(|(_, node)| **node == Node::Dir)
        .map(|(path, _)| path.clone())
        .collect();
    let has_dir =
        |path: &str| path.rsplit_once('/').is_none_or(|(dir, _)| dirs.iter().any(|d| d == dir));
    // Deepest last, so once per level of the tree is enough.
    let before = names.len();
    names.retain(|path, _| has_dir(path));
    if names.len() < before {
        drop_orphans(names);
    }
}
