//! Requests on their way to the disk, and what each one is for.
//!
//! Counts what is under way on each file, because a file is removed only after the last request
//! on it has ended.

use std::collections::VecDeque;

use tidemill_record::IdMap;

use crate::io::{Action, FileName, Request, RequestId};

/// Requests handed out, or about to be; each with its purpose `P`.
#[derive(Debug)]
pub(crate) struct Requests<P> {
    next_id: u64,
    queue: VecDeque<Request>,
    purposes: IdMap<RequestId, (P, Option<FileName>)>,
    busy: IdMap<FileName, u32>,
}

impl<P> Default for Requests<P> {
    fn default() -> Self {
        let (purposes, busy) = (IdMap::default(), IdMap::default());
        Self { next_id: 0, queue: VecDeque::new(), purposes, busy }
    }
}

impl<P> Requests<P> {
    /// Asks for `action`.
    pub(crate) fn ask(&mut self, purpose: P, action: Action) {
        let id = RequestId(self.next_id);
        self.next_id += 1;
        let file = partition_file(&action);
        if let Some(file) = &file {
            *self.busy.entry(file.clone()).or_default() += 1;
        }
        self.purposes.insert(id, (purpose, file));
        self.queue.push_back(Request { id, action });
    }

    /// The next request to hand out.
    pub(crate) fn poll(&mut self) -> Option<Request> {
        self.queue.pop_front()
    }

    /// A request has ended: what it was for.
    pub(crate) fn end(&mut self, id: RequestId) -> P {
        let (purpose, file) = self.purposes.remove(&id).expect("a request ends once");
        if let Some(file) = file {
            let left = self.busy.get_mut(&file).expect("it was counted");
            *left -= 1;
            if *left == 0 {
                self.busy.remove(&file);
            }
        }
        purpose
    }

    /// Whether requests on `file` are under way.
    pub(crate) fn is_busy(&self, file: &FileName) -> bool {
        self.busy.contains_key(file)
    }

    /// How many requests are under way.
    pub(crate) fn under_way(&self) -> usize {
        self.purposes.len()
    }
}

/// The file of a partition that `action` is on. Others are never removed while in use.
fn partition_file(action: &Action) -> Option<FileName> {
    let file = match action {
        Action::Create { file }
        | Action::Write { file, .. }
        | Action::Read { file, .. }
        | Action::Sync { file }
        | Action::Allocate { file, .. }
        | Action::Truncate { file, .. } => file,
        _ => return None,
    };
    matches!(file, FileName::Log { .. } | FileName::Index { .. }).then(|| file.clone())
}
