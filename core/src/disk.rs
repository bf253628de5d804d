//! The shard's files: carries out on the edge what storage and the metadata log ask for.
//!
//! Both name files by what they are and never open one. Here a file is opened on its first
//! request, kept open while it is in use, and closed again when too many are open. Requests on a
//! file that is still being opened wait behind the open. Nothing here decides about data: each
//! request becomes one op (or one chore) and each op's end becomes one [`Finished`].
//!
//! Start reading at [`Disk::submit`].

use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use slab::Slab;
use tidemill_record::IdMap;
use tidemill_replication::quorum::io as metadata;
use tidemill_runtime::edge::{Chore, Done, Edge, Fault, FileId, Op, OpenHow};
use tidemill_storage::io as storage;

use crate::limits::FILES_OPEN_MAX;
use crate::token::{TokenKind, token};

/// Where directories go that nobody knows.
const QUARANTINE: &str = "quarantine";

/// Who asked, and so who is told the end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Owner {
    /// The logs and the journal of this shard.
    Storage,
    /// The recovery of all shards' journals at start.
    Recovery,
    /// The metadata log.
    Metadata,
    /// A partition whose batch is made anew before it is appended.
    Rework,
    /// The compaction of a log.
    Compaction,
    /// Those who want to know how large the disk is.
    Space,
}

/// A file, as the one calls it that asks.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum FileName {
    /// Of the logs and journals.
    Storage(storage::FileName),
    /// Of the metadata log.
    Metadata(metadata::FileName),
}

impl FileName {
    /// Its path below the data directory.
    fn path(&self) -> PathBuf {
        match self {
            Self::Storage(name) => PathBuf::from(name.to_string()),
            Self::Metadata(name) => PathBuf::from(name.to_string()),
        }
    }
}

/// One request.
#[derive(Debug)]
pub struct Request {
    /// Who asks.
    pub owner: Owner,
    /// The owner's name for it.
    pub id: u64,
    /// What is to be done.
    pub work: Work,
}

/// What is to be done.
#[derive(Debug)]
pub enum Work {
    /// Something on one file.
    File {
        /// Which file.
        name: FileName,
        /// Whether it may be made by this request.
        create: bool,
        /// What to do with it.
        op: FileOp,
    },
    /// Close a file if it is open and idle.
    Close(FileName),
    /// File system work away from the shard. Open descriptors of `forget` are closed first.
    Chore {
        /// What to do, with paths below the data directory.
        chore: Chore,
        /// Files that are gone or replaced afterwards.
        forget: Vec<FileName>,
    },
    /// Move a directory below `quarantine/`.
    Quarantine(PathBuf),
}

/// What to do with an open file.
#[derive(Debug)]
pub enum FileOp {
    /// Nothing: it only has to be there.
    Touch,
    /// Write aligned bytes.
    Write {
        /// Byte position.
        position: u64,
        /// What to write.
        bytes: Bytes,
        /// Whether it is on stable storage when complete.
        durable: bool,
    },
    /// Read aligned bytes.
    Read {
        /// Byte position.
        position: u64,
        /// How many.
        size: u32,
    },
    /// Make completed writes durable.
    Sync,
    /// Reserve space.
    Allocate {
        /// From where.
        position: u64,
        /// How much.
        size: u64,
    },
}

/// The end of a request.
#[derive(Debug)]
pub struct Finished {
    /// Who asked.
    pub owner: Owner,
    /// The owner's name for it.
    pub id: u64,
    /// What came of it.
    pub result: Result<Done, Fault>,
}

/// The open files and requests under way of one shard.
#[derive(Default)]
pub struct Disk {
    files: IdMap<FileName, File>,
    /// Names of open files in about the order of their last use, for closing idle ones.
    clock: VecDeque<FileName>,
    in_flight: Slab<InFlight>,
    finished: VecDeque<Finished>,
    submitted: u64,
    bytes_written: u64,
    bytes_read: u64,
}

struct File {
    state: State,
    in_flight: u32,
    recently_used: bool,
    forget: bool,
}

enum State {
    Opening { waiting: VecDeque<(Owner, u64, FileOp)> },
    Open(FileId),
}

enum InFlight {
    Open { name: FileName },
    File { name: FileName, owner: Owner, id: u64 },
    Close,
    Chore { owner: Owner, id: u64 },
    QuarantineDir { path: PathBuf, owner: Owner, id: u64 },
}

impl Disk {
    /// Starts a request; its end comes out of [`Disk::poll_finished`].
    pub fn submit<E: Edge>(&mut self, request: Request, edge: &mut E) {
        let Request { owner, id, work } = request;
        self.submitted += 1;
        match work {
            Work::File { name, create, op } => {
                self.submit_on_file(owner, id, name, create, op, edge)
            }
            Work::Close(name) => {
                self.forget(&name, edge);
                self.finished.push_back(Finished { owner, id, result: Ok(Done::Complete) });
            }
            Work::Chore { chore, forget } => {
                for name in &forget {
                    self.forget(name, edge);
                }
                let index = self.in_flight.insert(InFlight::Chore { owner, id });
                edge.submit(token(TokenKind::Disk, index), Op::Chore(chore));
            }
            Work::Quarantine(path) => {
                let index = self.in_flight.insert(InFlight::QuarantineDir { path, owner, id });
                let chore = Chore::MakeDir(PathBuf::from(QUARANTINE));
                edge.submit(token(TokenKind::Disk, index), Op::Chore(chore));
            }
        }
    }

    /// Takes the end of one of this disk's ops.
    pub fn handle_completion<E: Edge>(
        &mut self,
        index: usize,
        result: Result<Done, Fault>,
        edge: &mut E,
    ) {
        match self.in_flight.remove(index) {
            InFlight::Open { name } => self.opened(name, result, edge),
            InFlight::File { name, owner, id } => {
                let file = self.files.get_mut(&name).expect("a file stays known while in use");
                file.in_flight -= 1;
                if file.in_flight == 0 && file.forget {
                    self.forget(&name, edge);
                }
                self.finished.push_back(Finished { owner, id, result });
            }
            InFlight::Close => {}
            InFlight::Chore { owner, id } => {
                self.finished.push_back(Finished { owner, id, result });
            }
            InFlight::QuarantineDir { path, owner, id } => {
                self.quarantine(path, owner, id, result, edge);
            }
        }
    }

    /// The next request that has ended.
    pub fn poll_finished(&mut self) -> Option<Finished> {
        self.finished.pop_front()
    }

    /// How many requests there have been.
    pub fn submitted(&self) -> u64 {
        self.submitted
    }

    /// Bytes asked to be written and to be read since the start.
    pub fn bytes_moved(&self) -> (u64, u64) {
        (self.bytes_written, self.bytes_read)
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.finished.is_empty()
    }

    fn submit_on_file<E: Edge>(
        &mut self,
        owner: Owner,
        id: u64,
        name: FileName,
        create: bool,
        op: FileOp,
        edge: &mut E,
    ) {
        match self.files.entry(name) {
            Entry::Occupied(mut entry) => {
                let name = entry.key().clone();
                let file = entry.get_mut();
                file.recently_used = true;
                file.forget = false;
                match &mut file.state {
                    State::Opening { waiting } => waiting.push_back((owner, id, op)),
                    State::Open(file_id) => {
                        let file_id = *file_id;
                        self.run(owner, id, name, file_id, op, edge);
                    }
                }
            }
            Entry::Vacant(entry) => {
                let name = entry.key().clone();
                entry.insert(File {
                    state: State::Opening { waiting: VecDeque::from([(owner, id, op)]) },
                    in_flight: 0,
                    recently_used: true,
                    forget: false,
                });
                let how = if create { OpenHow::Create } else { OpenHow::Write };
                let path = name.path();
                let index = self.in_flight.insert(InFlight::Open { name });
                edge.submit(token(TokenKind::Disk, index), Op::Open { path, how });
            }
        }
    }

    fn run<E: Edge>(
        &mut self,
        owner: Owner,
        id: u64,
        name: FileName,
        file: FileId,
        op: FileOp,
        edge: &mut E,
    ) {
        let op = match op {
            FileOp::Touch => {
                self.finished.push_back(Finished { owner, id, result: Ok(Done::Complete) });
                return;
            }
            FileOp::Write { position, bytes, durable } => {
                self.bytes_written += bytes.len() as u64;
                Op::Write { file, position, bytes, durable }
            }
            FileOp::Read { position, size } => {
                self.bytes_read += u64::from(size);
                Op::Read { file, position, size }
            }
            FileOp::Sync => Op::Sync { file },
            FileOp::Allocate { position, size } => Op::Allocate { file, position, size },
        };
        self.files.get_mut(&name).expect("the caller has just seen it").in_flight += 1;
        let index = self.in_flight.insert(InFlight::File { name, owner, id });
        edge.submit(token(TokenKind::Disk, index), op);
    }

    fn opened<E: Edge>(&mut self, name: FileName, result: Result<Done, Fault>, edge: &mut E) {
        let file = self.files.get_mut(&name).expect("it is being opened");
        let State::Opening { waiting } = &mut file.state else {
            unreachable!("a file is opened once");
        };
        let waiting = std::mem::take(waiting);
        match result {
            Ok(Done::Opened { file: file_id, .. }) => {
                file.state = State::Open(file_id);
                self.clock.push_back(name.clone());
                for (owner, id, op) in waiting {
                    self.run(owner, id, name.clone(), file_id, op, edge);
                }
                self.close_some(edge);
            }
            other => {
                let fault = other.err().unwrap_or(Fault::Other(0));
                self.files.remove(&name);
                for (owner, id, _) in waiting {
                    self.finished.push_back(Finished { owner, id, result: Err(fault) });
                }
            }
        }
    }

    /// Closes a file that is open and idle; one in use is closed at the end of its last request.
    fn forget<E: Edge>(&mut self, name: &FileName, edge: &mut E) {
        let Some(file) = self.files.get_mut(name) else { return };
        let State::Open(file_id) = file.state else {
            file.forget = true;
            return;
        };
        if 0 < file.in_flight {
            file.forget = true;
            return;
        }
        self.files.remove(name);
        let index = self.in_flight.insert(InFlight::Close);
        edge.submit(token(TokenKind::Disk, index), Op::CloseFile { file: file_id });
    }

    /// Closes idle files while more than [`FILES_OPEN_MAX`] are open: second chance, at most one
    /// round of the clock.
    fn close_some<E: Edge>(&mut self, edge: &mut E) {
        let mut steps = self.clock.len();
        while FILES_OPEN_MAX < self.files.len() && 0 < steps {
            steps -= 1;
            let name = self.clock.pop_front().expect("steps counts its entries");
            match self.files.get_mut(&name) {
                Some(file) if file.recently_used || 0 < file.in_flight => {
                    file.recently_used = false;
                    self.clock.push_back(name);
                }
                Some(_) => self.forget(&name, edge),
                None => {}
            }
        }
        // Forgotten files leave their name behind in the clock: sweep before they pile up.
        if 2 * self.files.len() + FILES_OPEN_MAX < self.clock.len() {
            let files = &self.files;
            self.clock.retain(|name| files.contains_key(name));
        }
    }

    fn quarantine<E: Edge>(
        &mut self,
        path: PathBuf,
        owner: Owner,
        id: u64,
        result: Result<Done, Fault>,
        edge: &mut E,
    ) {
        if let Err(fault) = result {
            self.finished.push_back(Finished { owner, id, result: Err(fault) });
            return;
        }
        let name = path.to_string_lossy().replace('/', "-");
        let chore = Chore::Rename { from: path, to: Path::new(QUARANTINE).join(name) };
        let index = self.in_flight.insert(InFlight::Chore { owner, id });
        edge.submit(token(TokenKind::Disk, index), Op::Chore(chore));
    }
}

/// The question how large the disk is. It has no name: there is one at a time.
pub fn space_request() -> Request {
    let work = Work::Chore { chore: Chore::Space, forget: Vec::new() };
    Request { owner: Owner::Space, id: 0, work }
}

/// Work on a batch that is made anew. It has no name: there is one at a time.
pub fn rework_request(chore: Chore) -> Request {
    Request { owner: Owner::Rework, id: 0, work: Work::Chore { chore, forget: Vec::new() } }
}

/// A request of storage (or of its recovery) in this module's words.
pub fn storage_request(owner: Owner, request: storage::Request) -> Request {
    use storage::Action;
    let dir_path = |dir: storage::DirName| PathBuf::from(dir.to_string());
    let name = FileName::Storage;
    let on_file = |file, op| Work::File { name: name(file), create: false, op };
    let chore = |chore, forget| Work::Chore { chore, forget };
    let work = match request.action {
        Action::Create { file } => Work::File { name: name(file), create: true, op: FileOp::Touch },
        Action::Write { file, position, bytes, durable } => {
            on_file(file, FileOp::Write { position, bytes, durable })
        }
        Action::Read { file, position, size } => on_file(file, FileOp::Read { position, size }),
        Action::Sync { file } => on_file(file, FileOp::Sync),
        Action::Allocate { file, position, size } => {
            on_file(file, FileOp::Allocate { position, size })
        }
        Action::Truncate { file, size } => {
            chore(Chore::Truncate { path: name(file).path(), size }, Vec::new())
        }
        Action::Prewrite { file, size } => prewrite(name(file), size),
        Action::Remove { file } => remove(name(file)),
        Action::Rename { from, to } => rename(name(from), name(to)),
        Action::Close { file } => Work::Close(name(file)),
        Action::MakeDir { dir } => chore(Chore::MakeDir(dir_path(dir)), Vec::new()),
        Action::SyncDir { dir } => chore(Chore::SyncDir(dir_path(dir)), Vec::new()),
        Action::ListDir { dir } => chore(Chore::ListDir(dir_path(dir)), Vec::new()),
        Action::RemoveDir { dir } => chore(Chore::RemoveDir(dir_path(dir)), Vec::new()),
        Action::Quarantine { dir } => Work::Quarantine(dir_path(dir)),
        Action::SyncFileSystem => chore(Chore::SyncFileSystem, Vec::new()),
    };
    Request { owner, id: request.id.0, work }
}

/// A request of the metadata log in this module's words.
pub fn metadata_request(request: metadata::Request) -> Request {
    use metadata::Action;
    let dir_path = |dir: metadata::DirName| PathBuf::from(dir.to_string());
    let name = FileName::Metadata;
    let on_file = |file, op| Work::File { name: name(file), create: false, op };
    let chore = |chore| Work::Chore { chore, forget: Vec::new() };
    let work = match request.action {
        Action::Write { file, position, bytes, durable } => {
            on_file(file, FileOp::Write { position, bytes, durable })
        }
        Action::Read { file, position, size } => on_file(file, FileOp::Read { position, size }),
        Action::Sync { file } => on_file(file, FileOp::Sync),
        Action::Prewrite { file, size } => prewrite(name(file), size),
        Action::Remove { file } => remove(name(file)),
        Action::Rename { from, to } => rename(name(from), name(to)),
        Action::Close { file } => Work::Close(name(file)),
        Action::MakeDir { dir } => chore(Chore::MakeDir(dir_path(dir))),
        Action::SyncDir { dir } => chore(Chore::SyncDir(dir_path(dir))),
        Action::ListDir { dir } => chore(Chore::ListDir(dir_path(dir))),
    };
    Request { owner: Owner::Metadata, id: request.id.0, work }
}

fn prewrite(name: FileName, size: u64) -> Work {
    Work::Chore { chore: Chore::Prewrite { path: name.path(), size }, forget: vec![name] }
}

fn remove(name: FileName) -> Work {
    Work::Chore { chore: Chore::RemoveFile(name.path()), forget: vec![name] }
}

fn rename(from: FileName, to: FileName) -> Work {
    let chore = Chore::Rename { from: from.path(), to: to.path() };
    Work::Chore { chore, forget: vec![from, to] }
}

/// The end of a request in the words of one of those who ask: they do not know one another.
macro_rules! completion_in {
    ($($words:ident)::+, $finished:expr) => {{
        use $($words)::+::{Completion, Fault as ToldFault, Outcome, RequestId};
        let Finished { id, result, .. } = $finished;
        let result = match result {
            Ok(Done::Read(bytes)) => Ok(Outcome::Bytes(bytes)),
            Ok(Done::Listed(entries)) => {
                let names = entries.into_iter().map(|entry| (entry.name, entry.size));
                Ok(Outcome::Names(names.collect()))
            }
            Ok(_) => Ok(Outcome::Done),
            Err(Fault::NoSpace) => Err(ToldFault::NoSpace),
            Err(Fault::Device) => Err(ToldFault::Device),
            Err(Fault::NotFound) => Err(ToldFault::NotFound),
            Err(Fault::Disconnected) => Err(ToldFault::Other(libc::EPIPE)),
            Err(Fault::TooManyOpen) => Err(ToldFault::Other(libc::EMFILE)),
            Err(Fault::Other(errno)) => Err(ToldFault::Other(errno)),
        };
        Completion { id: RequestId(id), result }
    }};
}

/// The end of a request in the metadata log's words.
pub fn metadata_completion(finished: Finished) -> tidemill_replication::quorum::io::Completion {
    completion_in!(tidemill_replication::quorum::io, finished)
}

/// The end of a request in storage's words.
pub fn storage_completion(finished: Finished) -> tidemill_storage::io::Completion {
    completion_in!(tidemill_storage::io, finished)
}
