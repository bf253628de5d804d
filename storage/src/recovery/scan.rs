//! Reading one shard's journal: from the first window needed to the last one written.
//!
//! Windows follow one another by sequence and by checksum, within a file and from one file to the
//! next. Where the row ends, either nothing more was written, or the last writes were torn by the
//! crash, or something durable is damaged. A window tells: each carries the highest sequence that
//! had been reported durable before it. So if any later window carries a mark at or above the bad
//! one, the bad one had been reported durable, and it is damage. Otherwise nobody was told of it,
//! and the journal ends there.
//!
//! Start reading at [`Scan::take`].

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::block::{BLOCK_BYTES, is_aligned};
use crate::checkpoint::ReplayFrom;
use crate::layout::{Entry, WINDOW_MAGIC, WindowError, WindowHeader};
use crate::mistake::{self, Mistake};

/// How much is read at once, unless a window is longer.
const READ_BYTES: u64 = 1 << 20;

/// A file whose beginning tells nothing is searched only so far.
const UNKNOWN_SEARCH_BYTES: u64 = 8 << 20;

/// What replay is told.
#[derive(Debug)]
pub(super) enum Item {
    /// An entry, and its payload, proved.
    Entry(Entry, Bytes),
    /// An entry whose payload is damaged.
    Damaged(Entry),
    /// Whole windows are lost: any log may have had entries in them.
    Lost,
}

/// One file of the journal.
#[derive(Clone, Copy, Debug)]
pub(super) struct File {
    /// Its size.
    pub(super) size: u64,
    /// The header at its beginning, unproved.
    pub(super) head: Option<WindowHeader>,
}

#[derive(Debug)]
enum Mode {
    /// Window after window.
    Follow,
    /// The row has ended: anything later that is sound is looked for, here and in these files.
    Search { file: u32, position: u64, until: u64, queue: VecDeque<(u32, u64, u64)> },
    /// Nothing more will be found.
    Done,
}

/// A window whose head is sound while its payload or trailer is not.
#[derive(Debug)]
struct Suspect {
    header: WindowHeader,
    checksum: u32,
    entries: Vec<(Entry, Option<Bytes>)>,
}

/// The scan of one journal.
#[derive(Debug)]
pub(super) struct Scan {
    shard: u16,
    incarnation: u64,
    window_bytes_max: u64,
    files: BTreeMap<u32, File>,
    mode: Mode,
    /// Where the next window should be.
    file: u32,
    position: u64,
    expected: u64,
    /// `None` after lost windows: then the checksum of the one before is not known.
    previous_checksum: Option<u32>,
    needed_bytes: u64,
    suspect: Option<Suspect>,
    searched: bool,
    /// Sound windows found by searching, by sequence: file, position, mark.
    found: BTreeMap<u64, (u32, u64, u64)>,
    /// Windows accepted.
    pub(super) windows: u64,
    newer_format: Option<(u32, u16)>,
}

impl Scan {
    /// A scan from `from` on.
    pub(super) fn new(
        shard: u16,
        incarnation: u64,
        window_bytes_max: u64,
        files: BTreeMap<u32, File>,
        from: ReplayFrom,
    ) -> Self {
        let mut scan = Self {
            shard,
            incarnation,
            window_bytes_max,
            mode: Mode::Follow,
            file: from.file_number,
            position: from.position,
            expected: from.sequence,
            previous_checksum: Some(from.previous_checksum),
            needed_bytes: 0,
            suspect: None,
            searched: false,
            found: BTreeMap::new(),
            windows: 0,
            newer_format: None,
            files,
        };
        if scan.file_size() <= scan.position && !scan.jump() {
            scan.begin_search();
        }
        scan
    }

    /// A window that a newer program wrote, if one was met: its file and version.
    pub(super) fn newer_format(&self) -> Option<(u32, u16)> {
        self.newer_format
    }

    /// What to read next: file, position, size. `None` when the scan has ended.
    pub(super) fn next_read(&self) -> Option<(u32, u64, u32)> {
        let (file, position, end) = match &self.mode {
            Mode::Follow => (self.file, self.position, self.files.get(&self.file)?.size),
            Mode::Search { file, position, until, .. } => (*file, *position, *until),
            Mode::Done => return None,
        };
        let size = READ_BYTES.max(self.needed_bytes).min(end.saturating_sub(position));
        Some((file, position, size as u32))
    }

    /// Takes the bytes read where [`Scan::next_read`] said.
    pub(super) fn take(&mut self, bytes: &Bytes, items: &mut Vec<Item>) {
        match self.mode {
            Mode::Follow => self.follow(bytes, items),
            Mode::Search { .. } => self.search(bytes, items),
            Mode::Done => {}
        }
    }

    // --- following the row ---

    fn follow(&mut self, bytes: &Bytes, items: &mut Vec<Item>) {
        let mut at = 0;
        while at < bytes.len() {
            let rest = bytes.slice(at..);
            match self.accept(&rest) {
                Ok((header, checksum, entries)) => {
                    items.extend(entries.into_iter().map(|(e, payload)| Item::Entry(e, payload)));
                    self.pass(&header, checksum);
                    at += header.window_bytes() as usize;
                }
                Err(WindowError::NeedsBytes(needed)) => {
                    let more = self.position + needed <= self.file_size()
                        && (at != 0 || self.needed_bytes < needed);
                    if more {
                        self.needed_bytes = needed;
                        return;
                    }
                    return self.row_ended(items);
                }
                Err(WindowError::NewerFormat { found }) => {
                    self.newer_format = Some((self.file, found));
                    self.mode = Mode::Done;
                    return;
                }
                Err(WindowError::NotAWindow) => return self.row_ended(items),
            }
        }
        if self.file_size() <= self.position {
            self.row_ended(items);
        }
    }

    fn file_size(&self) -> u64 {
        self.files.get(&self.file).map_or(0, |file| file.size)
    }

    /// The window at the front of `bytes`, if it is the one expected and whole.
    #[allow(clippy::type_complexity)]
    fn accept(
        &mut self,
        bytes: &Bytes,
    ) -> Result<(WindowHeader, u32, Vec<(Entry, Bytes)>), WindowError> {
        let (header, entries, checksum) = WindowHeader::decode(bytes, self.window_bytes_max)?;
        let is_next = header.incarnation == self.incarnation
            && header.shard == self.shard
            && header.sequence == self.expected
            && header.file_number == self.file
            && self.previous_checksum.is_none_or(|crc| crc == header.previous_checksum);
        let is_next =
            is_next || (mistake::is_made(Mistake::ReplayOldWindows) && header.shard == self.shard);
        if !is_next {
            return Err(WindowError::NotAWindow);
        }
        let window = header.window_bytes();
        if (bytes.len() as u64) < window {
            return Err(WindowError::NeedsBytes(window));
        }
        let window = bytes.slice(..window as usize);
        let mut payload_at = header.payload_at();
        let mut proved = Vec::with_capacity(entries.len());
        for entry in entries {
            let end = payload_at + entry.payload_bytes() as usize;
            let payload = window.slice(payload_at..end);
            payload_at = end;
            let sound = entry.payload_is_sound(&payload);
            proved.push((entry, sound.then_some(payload)));
        }
        let all_sound = proved.iter().all(|(_, payload)| payload.is_some());
        if all_sound && header.trailer_is_sound(&window, checksum) {
            let entries = proved.into_iter().filter_map(|(e, p)| Some((e, p?))).collect();
            return Ok((header, checksum, entries));
        }
        self.suspect = Some(Suspect { header, checksum, entries: proved });
        Err(WindowError::NotAWindow)
    }

    /// Goes on behind a window.
    fn pass(&mut self, header: &WindowHeader, checksum: u32) {
        self.windows += 1;
        self.position += header.window_bytes();
        self.expected += 1;
        self.previous_checksum = Some(checksum);
        self.needed_bytes = 0;
        self.suspect = None;
    }

    /// The expected window is not here: in the next file, or nowhere.
    fn row_ended(&mut self, items: &mut Vec<Item>) {
        self.needed_bytes = 0;
        if self.jump() {
            return;
        }
        if self.searched {
            self.judge(items);
        } else {
            self.begin_search();
        }
    }

    /// Goes to the file that begins with the expected window, if there is one.
    fn jump(&mut self) -> bool {
        let begins = |file: &File| {
            file.head.is_some_and(|head| {
                head.incarnation == self.incarnation
                    && head.shard == self.shard
                    && head.sequence == self.expected
            })
        };
        let next = self.files.iter().find(|(_, file)| begins(file)).map(|(&number, _)| number);
        let target = next.map(|number| (number, 0));
        let target = target.or_else(|| self.found.get(&self.expected).map(|at| (at.0, at.1)));
        match target {
            Some(target) if target != (self.file, self.position) => {
                (self.file, self.position) = target;
                self.suspect = None;
                self.mode = Mode::Follow;
                true
            }
            _ => false,
        }
    }

    // --- searching behind its end ---

    fn begin_search(&mut self) {
        self.searched = true;
        let mut queue = VecDeque::new();
        let here = self.files.get(&self.file).map_or(0, |file| file.size);
        // What a window whose head is sound holds is its own.
        let own = self.suspect.as_ref().map_or(BLOCK_BYTES as u64, |s| s.header.window_bytes());
        let position = self.position + own;
        if position < here {
            queue.push_back((self.file, position, here));
        }
        // The expected window may have been too long for the rest of this file.
        let may_be_elsewhere = here < self.position + READ_BYTES;
        for (&number, file) in &self.files {
            if number == self.file {
                continue;
            }
            match file.head.filter(|head| head.incarnation == self.incarnation) {
                Some(head) if head.sequence < self.expected => {}
                Some(_) => queue.push_back((number, 0, file.size)),
                None if may_be_elsewhere && 0 < file.size => {
                    queue.push_back((number, 0, file.size.min(UNKNOWN_SEARCH_BYTES)));
                }
                None => {}
            }
        }
        self.search_next(queue);
    }

    fn search_next(&mut self, mut queue: VecDeque<(u32, u64, u64)>) {
        self.mode = match queue.pop_front() {
            Some((file, position, until)) => Mode::Search { file, position, until, queue },
            None => Mode::Done,
        };
    }

    fn search(&mut self, bytes: &Bytes, items: &mut Vec<Item>) {
        let Mode::Search { file, position, until, queue } = &mut self.mode else { return };
        let (file, start, until) = (*file, *position, *until);
        let mut at = 0;
        let mut needed = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let mut step = BLOCK_BYTES;
            if rest.starts_with(&WINDOW_MAGIC) {
                match WindowHeader::decode(rest, self.window_bytes_max) {
                    Ok((header, ..)) => {
                        let ours = header.incarnation == self.incarnation
                            && header.shard == self.shard
                            && header.file_number == file
                            && self.expected < header.sequence;
                        if ours {
                            let place = (file, start + at as u64, header.mark);
                            self.found.insert(header.sequence, place);
                        }
                        step = header.window_bytes() as usize;
                    }
                    Err(WindowError::NeedsBytes(more)) if at != 0 || self.needed_bytes < more => {
                        // Read again from here on, with enough of it.
                        needed = more;
                        break;
                    }
                    Err(_) => {}
                }
            }
            at += step;
        }
        self.needed_bytes = needed;
        let reached = start + at as u64;
        if bytes.is_empty() || until <= reached {
            self.needed_bytes = 0;
            if queue.is_empty() {
                return self.judge(items);
            }
            let queue = std::mem::take(queue);
            return self.search_next(queue);
        }
        if let Mode::Search { position, .. } = &mut self.mode {
            *position = reached;
        }
        debug_assert!(is_aligned(reached));
    }

    /// Everything that can be known is known: was the expected window ever reported durable?
    fn judge(&mut self, items: &mut Vec<Item>) {
        let mut later = self.found.range(self.expected + 1..);
        let is_damage = later.any(|(_, (.., mark))| self.expected <= *mark)
            && !mistake::is_made(Mistake::DamageIsTornTail);
        if !is_damage {
            // A torn tail, or simply the end: nobody was told of what would follow.
            self.mode = Mode::Done;
            return;
        }
        self.mode = Mode::Follow;
        if let Some(suspect) = self.suspect.take() {
            let tell = |(entry, payload): (Entry, Option<Bytes>)| match payload {
                Some(payload) => Item::Entry(entry, payload),
                None => Item::Damaged(entry),
            };
            items.extend(suspect.entries.into_iter().map(tell));
            self.pass(&suspect.header, suspect.checksum);
            if self.file_size() <= self.position {
                self.row_ended(items);
            }
            return;
        }
        items.push(Item::Lost);
        let next = self.found.range(self.expected + 1..).next().map(|(&s, &at)| (s, at));
        let (sequence, (file, position, _)) = next.expect("one of them was the evidence");
        (self.file, self.position, self.expected) = (file, position, sequence);
        self.previous_checksum = None;
        self.needed_bytes = 0;
    }
}
