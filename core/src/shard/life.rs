//! How a shard comes to serve, and how it stops.
//!
//! ```text
//! Starting ── adopted ──> Serving ── told to stop ──> Stopping ──> Stopped
//!     └── the start failed, or a stop came before it had ended ──────^
//! ```
//!
//! Shard 0 starts the node and ends last. A stop answers what is under way, leaves replies some
//! seconds to go, and rests the storage.
//!
//! Start reading at [`Shard::step_stop`].

use std::time::Duration;

use tidemill_runtime::edge::{Edge, Instant, Op, ShardId};

use super::{IDLE_CHECK, Notice, Shard, Stage};
use crate::coordinator::Coordinator as GroupCoordinator;
use crate::message::{Adoption, Message};
use crate::partition::{Home, Times};
use crate::share;
use crate::token::{TokenKind, token};
use crate::topic_rules;
use crate::transaction::Coordinator as TransactionCoordinator;

/// How long a clean stop waits for clients to take their replies.
const STOP_WITHIN: Duration = Duration::from_secs(5);

impl Shard {
    /// Goes on with the start of the node; true if that led to something.
    pub(super) fn step_start<E: Edge<Message = Message>>(&mut self, edge: &mut E) -> bool {
        // It may have been told to stop in this very turn.
        if !matches!(self.stage, Stage::Starting | Stage::Serving) {
            return false;
        }
        let Some(mut startup) = self.startup.take() else { return false };
        let before = self.disk.submitted();
        match startup.step(self, edge) {
            None => {
                self.startup = Some(startup);
                return before != self.disk.submitted() || !self.own.is_empty();
            }
            Some(Ok(())) => {
                for shard in 0..self.settings.shards {
                    self.tell(ShardId(shard), Message::Serve);
                }
                let cluster = self.image.cluster().to_string();
                self.notify(Notice::Serving { cluster });
            }
            Some(Err(error)) => {
                self.notify(Notice::Failed(error));
                self.tell_others(|| Message::Stop);
                self.stage = Stage::Failed;
            }
        }
        true
    }

    pub(crate) fn adopt(&mut self, adoption: Adoption, times: Times) {
        if self.stage != Stage::Starting {
            return;
        }
        let Adoption { image, recovered } = adoption;
        self.image = image;
        let config = topic_rules::storage_config(&self.settings);
        let storage = tidemill_storage::ShardStorage::new(config, recovered);
        let compaction = topic_rules::compaction_limits(&self.settings);
        self.home = Some(Home::new(storage, self.settings.network_share(), compaction));
        topic_rules::adopt_all(self);
        self.take_up_all::<GroupCoordinator>(times);
        self.take_up_all::<share::Coordinator>(times);
        self.retention_at = times.now.after(self.settings.config.retention_check);
        self.idle_check_at = times.now.after(IDLE_CHECK);
        self.stage = Stage::Serving;
        self.tell_controller(Message::Adopted);
    }

    /// Lets clients in. Before all shards have adopted, a request could be passed on to one that
    /// knows nothing yet.
    pub(super) fn serve<E: Edge<Message = Message>>(&mut self, times: Times, edge: &mut E) {
        if self.stage == Stage::Serving {
            self.adopt_transactions(times);
            for (index, &listener) in self.listeners.iter().enumerate() {
                edge.submit(token(TokenKind::Accept, index), Op::Accept { listener });
            }
        }
    }

    pub(super) fn begin_stop(&mut self, times: Times) {
        match self.stage {
            Stage::Stopping { .. } | Stage::Failed | Stage::Stopped => return,
            Stage::Starting if self.id == ShardId(0) => {
                // Nothing is served yet: what recovery has not committed it does again next time.
                self.tell_others(|| Message::Stop);
                self.stage = Stage::Stopped;
                self.notify(Notice::Stopped);
                return;
            }
            Stage::Starting => {
                self.stage = Stage::Stopped;
                return;
            }
            Stage::Serving => {}
        }
        let others = if self.id == ShardId(0) { self.settings.shards - 1 } else { 0 };
        self.stage = Stage::Stopping { others, told: false };
        self.stop_by = times.now.after(STOP_WITHIN);
        if let Some(controller) = &mut self.controller {
            controller.begin_stop();
        }
        for (index, connection) in &mut self.connections {
            connection.drain();
            self.touched.push(index);
        }
        // Fetches that wait for records are answered with what there is.
        for job in self.jobs.ids() {
            self.fetch_expired(job, times);
            self.share_fetch_expired(job, times);
        }
        self.close_coordinators::<GroupCoordinator>();
        self.close_coordinators::<TransactionCoordinator>();
        self.close_coordinators::<share::Coordinator>();
        // What waits for others to be appended with it goes before the storage takes nothing more.
        self.step_coordinators::<GroupCoordinator>(times);
        let home = self.home.as_mut().expect("a serving shard has a home");
        home.stop(times.now);
    }

    /// Whether no more records are waited for.
    pub(crate) fn is_stopping(&self) -> bool {
        matches!(self.stage, Stage::Stopping { .. })
    }

    pub(super) fn step_stop(&mut self, now: Instant) {
        let unsent = self.outbox.iter().any(|queue| !queue.is_empty());
        let sent = self.own.is_empty() && !self.held_back && !unsent;
        if self.stage == Stage::Failed && sent {
            self.stage = Stage::Stopped;
        }
        let Stage::Stopping { others, told } = self.stage else { return };
        if let Some(controller) = &mut self.controller {
            // The others replay what is still being committed: they stop after that.
            if !controller.is_idle() {
                return;
            }
            if controller.tell_stop() {
                self.tell_others(|| Message::Stop);
            }
        }
        let home = self.home.as_ref().expect("a stopping shard has a home");
        // What is still to be sent may be for a shard that has stopped and takes nothing more.
        let answered = (self.connections.is_empty() && sent) || self.stop_by <= now;
        let at_rest = home.storage.is_stopped() && self.disk.is_idle();
        if !answered || !at_rest || 0 < others {
            return;
        }
        if !told {
            let stages = self.measures.meter.recorder.snapshot().to_text();
            tracing::debug!(shard = self.id.0, "where the time of requests went\n{stages}");
        }
        if self.id == ShardId(0) {
            self.stage = Stage::Stopped;
            self.notify(Notice::Stopped);
        } else if !told {
            self.tell_controller(Message::Stopped);
            self.stage = Stage::Stopping { others, told: true };
        } else if self.outbox[0].is_empty() {
            self.stage = Stage::Stopped;
        }
    }
}
