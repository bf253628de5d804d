//! A disk in memory that forgets: unsynced sectors and names are kept or lost by a seed.
//!
//! Sectors of 512 bytes survive a crash one by one; changes of names survive in order, as on a
//! journaling file system. A request under way at the crash may have happened in any part.
#![allow(dead_code)]

use std::collections::BTreeMap;

use bytes::Bytes;
use tidemill_record::NodeId;
use tidemill_replication::quorum::io::{
    Action, Completion, DirName, Fault, FileName, Outcome, Request,
};
use tidemill_replication::quorum::{Log, RecoverError, Recovered, Recovery, Start};

const SECTOR: usize = 512;

/// The configured start of the only node.
pub(crate) const START: Start = Start {
    node: NodeId(1),
    cluster_seed: 0x1111_2222_3333_4444_5555_6666_7777_8888,
    directory_seed: 0x9999_aaaa_bbbb_cccc_dddd_eeee_ffff_0001,
};

#[derive(Clone, Default)]
pub(crate) struct Disk {
    contents: Vec<Content>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Changes of names since the last sync of their directory, oldest first.
    unsynced: Vec<(String, Option<usize>)>,
    has_metadata_dir: bool,
    /// How many requests may still be carried out; then the power goes.
    pub(crate) requests_left: usize,
    pub(crate) requests_done: usize,
    /// The next matching request fails.
    pub(crate) fail_next: Option<(Matches, Fault)>,
    seed: u64,
}

#[derive(Clone, Default)]
struct Content {
    stable: Vec<u8>,
    seen: Vec<u8>,
}

/// Which requests are meant.
pub(crate) type Matches = fn(&Action) -> bool;

/// Something that asks for requests.
pub(crate) trait Asks {
    fn poll(&mut self) -> Option<Request>;
    fn complete(&mut self, completion: Completion);
}

impl Asks for Recovery {
    fn poll(&mut self) -> Option<Request> {
        self.poll_request()
    }
    fn complete(&mut self, completion: Completion) {
        self.handle_completion(completion);
    }
}

impl Asks for Log {
    fn poll(&mut self) -> Option<Request> {
        self.poll_request()
    }
    fn complete(&mut self, completion: Completion) {
        self.handle_completion(completion);
    }
}

/// The power is gone.
#[derive(Debug)]
pub(crate) struct PowerCut;

impl Disk {
    pub(crate) fn new() -> Self {
        Self { requests_left: usize::MAX, ..Self::default() }
    }

    /// Carries out all that is asked for until nothing is, or until the power goes.
    pub(crate) fn run(&mut self, asks: &mut impl Asks) -> Result<(), PowerCut> {
        while let Some(request) = asks.poll() {
            if self.requests_left == 0 {
                self.half_done(&request.action);
                return Err(PowerCut);
            }
            self.requests_left -= 1;
            self.requests_done += 1;
            let fails = self.fail_next.filter(|(matches, _)| matches(&request.action));
            let result = match fails {
                Some((_, fault)) => {
                    self.fail_next = None;
                    Err(fault)
                }
                None => self.carry_out(&request.action),
            };
            asks.complete(Completion { id: request.id, result });
        }
        Ok(())
    }

    /// Starts the node on this disk.
    pub(crate) fn recover(&mut self) -> Result<Result<Recovered, RecoverError>, PowerCut> {
        let mut recovery = Recovery::new(START);
        loop {
            if let Some(done) = recovery.poll_done() {
                return Ok(done);
            }
            let Some(request) = recovery.poll_request() else {
                panic!("recovery neither asks nor ends");
            };
            let mut once = Once { recovery: &mut recovery, request: Some(request) };
            self.run(&mut once)?;
        }
    }

    fn content(&mut self, file: FileName) -> Result<&mut Content, Fault> {
        let place = *self.names.get(&file.to_string()).ok_or(Fault::NotFound)?;
        Ok(&mut self.contents[place])
    }

    fn rename(&mut self, name: String, place: Option<usize>) {
        match place {
            Some(place) => self.names.insert(name.clone(), place),
            None => self.names.remove(&name),
        };
        self.unsynced.push((name, place));
    }

    /// Names of one directory are durable; those of others are not, whatever is true of some file
    /// systems.
    fn sync_names(&mut self, is_there: impl Fn(&str) -> bool) {
        self.durable_names.retain(|name, _| !is_there(name));
        let there = self.names.iter().filter(|(name, _)| is_there(name));
        self.durable_names.extend(there.map(|(name, place)| (name.clone(), *place)));
        self.unsynced.retain(|(name, _)| !is_there(name));
    }

    fn carry_out(&mut self, action: &Action) -> Result<Outcome, Fault> {
        match action {
            Action::Write { file, position, bytes, durable } => {
                assert_eq!(bytes.as_ptr() as usize % 4096, 0, "memory is aligned");
                assert_eq!((bytes.len() % 4096, position % 4096), (0, 0), "writes are aligned");
                let content = self.content(*file)?;
                let range = *position as usize..*position as usize + bytes.len();
                assert!(range.end <= content.seen.len(), "written space was made before");
                content.seen[range.clone()].copy_from_slice(bytes);
                if *durable {
                    content.stable[range].copy_from_slice(bytes);
                }
            }
            Action::Read { file, position, size } => {
                let content = self.content(*file)?;
                let start = content.seen.len().min(*position as usize);
                let end = content.seen.len().min(start + *size as usize);
                return Ok(Outcome::Bytes(Bytes::copy_from_slice(&content.seen[start..end])));
            }
            Action::Sync { file } => {
                let content = self.content(*file)?;
                content.stable.clone_from(&content.seen);
            }
            Action::Prewrite { file, size } => {
                let zeros = vec![0; *size as usize];
                self.contents.push(Content { stable: zeros.clone(), seen: zeros });
                self.rename(file.to_string(), Some(self.contents.len() - 1));
            }
            Action::Remove { file } => self.rename(file.to_string(), None),
            Action::Rename { from, to } => {
                let place = self.names.get(&from.to_string()).copied();
                let place = place.ok_or(Fault::NotFound)?;
                self.rename(to.to_string(), Some(place));
                self.rename(from.to_string(), None);
            }
            Action::Close { .. } => {}
            Action::MakeDir { .. } => self.has_metadata_dir = true,
            Action::SyncDir { dir } => self.sync_names(|name| match dir {
                DirName::Metadata => name.contains('/'),
                DirName::Data => !name.contains('/'),
            }),
            Action::ListDir { dir } => return self.list(&dir.to_string()),
        }
        Ok(Outcome::Done)
    }

    fn list(&self, dir: &str) -> Result<Outcome, Fault> {
        if dir == "metadata" && !self.has_metadata_dir {
            return Err(Fault::NotFound);
        }
        let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        let names = self.names.iter().filter_map(|(name, place)| {
            let name = name.strip_prefix(&prefix)?;
            let size = self.contents[*place].seen.len() as u64;
            (!name.contains('/')).then(|| (name.to_owned(), size))
        });
        Ok(Outcome::Names(names.collect()))
    }

    /// What a request may have done when the power went: any part.
    fn half_done(&mut self, action: &Action) {
        match action {
            Action::Write { file, position, bytes, .. } => {
                if self.content(*file).is_err() {
                    return;
                }
                let sectors: Vec<bool> =
                    (0..bytes.len() / SECTOR).map(|_| self.random().is_multiple_of(2)).collect();
                let content = self.content(*file).expect("found above");
                for (i, written) in sectors.into_iter().enumerate() {
                    if written {
                        let at = *position as usize + i * SECTOR;
                        let sector = &bytes[i * SECTOR..(i + 1) * SECTOR];
                        content.seen[at..at + SECTOR].copy_from_slice(sector);
                    }
                }
            }
            Action::Prewrite { .. } | Action::Rename { .. } | Action::Remove { .. } => {
                let _ = self.carry_out(action);
            }
            _ => {}
        }
    }

    /// The disk as the next start finds it.
    pub(crate) fn crash(&mut self, seed: u64) {
        self.seed ^= seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let kept = self.random() as usize % (self.unsynced.len() + 1);
        let mut names = self.durable_names.clone();
        // The halves of a rename are kept together.
        for (name, place) in self.unsynced.drain(..).take(kept) {
            match place {
                Some(place) => {
                    names.retain(|_, other| *other != place);
                    names.insert(name, place)
                }
                None => names.remove(&name),
            };
        }
        self.names.clone_from(&names);
        self.durable_names = names;
        for place in 0..self.contents.len() {
            let sectors = self.contents[place].seen.len() / SECTOR;
            for i in 0..sectors {
                let range = i * SECTOR..(i + 1) * SECTOR;
                let content = &self.contents[place];
                if content.seen[range.clone()] == content.stable[range.clone()] {
                    continue;
                }
                let keeps = self.random().is_multiple_of(2);
                let content = &mut self.contents[place];
                if keeps {
                    let (seen, stable) = (&content.seen, &mut content.stable);
                    stable[range.clone()].copy_from_slice(&seen[range]);
                } else {
                    let (seen, stable) = (&mut content.seen, &content.stable);
                    seen[range.clone()].copy_from_slice(&stable[range]);
                }
            }
        }
        self.requests_left = usize::MAX;
    }

    /// The names of all files.
    pub(crate) fn file_names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    /// The bytes of a file, to look at or to damage.
    pub(crate) fn bytes_of(&mut self, name: &str) -> &mut Vec<u8> {
        let place = self.names[name];
        &mut self.contents[place].seen
    }

    /// Somebody removed a file.
    pub(crate) fn lose(&mut self, name: &str) {
        self.names.remove(name);
        self.durable_names.remove(name);
    }

    /// Somebody put a file there.
    pub(crate) fn put(&mut self, name: &str, bytes: Vec<u8>) {
        self.has_metadata_dir = true;
        self.contents.push(Content { stable: bytes.clone(), seen: bytes });
        let place = self.contents.len() - 1;
        self.names.insert(name.to_owned(), place);
        self.durable_names.insert(name.to_owned(), place);
    }

    fn random(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.seed;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }
}

/// One request already polled from a recovery.
struct Once<'a> {
    recovery: &'a mut Recovery,
    request: Option<Request>,
}

impl Asks for Once<'_> {
    fn poll(&mut self) -> Option<Request> {
        self.request.take()
    }
    fn complete(&mut self, completion: Completion) {
        self.recovery.handle_completion(completion);
    }
}
