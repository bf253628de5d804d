//! The start of the node, on shard 0: from what is on disk to serving clients.
//!
//! ```text
//! metadata recovered ─ this start is recorded (raises every leader epoch, durably)
//!   └─ storage recovered ─ every shard adopts its partitions ─ serving
//! ```
//!
//! No step begins before the one before it is durable. Nothing is accepted from clients until all
//! shards have adopted. Start reading at [`Startup::step`].

use std::collections::HashSet;
use std::sync::Arc;

use tidemill_record::{NodeId, PartitionId, TopicId, TopicPartition};
use tidemill_replication::identity::NodeEpoch;
use tidemill_replication::metadata::{Image, Record};
use tidemill_replication::quorum;
use tidemill_runtime::edge::{Edge, ShardId};
use tidemill_storage::error::Damage;
use tidemill_storage::recovery::{Known, Recovered, Recovery};

use crate::controller::Controller;
use crate::disk::{Owner, metadata_request, storage_request};
use crate::message::{Adoption, Message};
use crate::placement;
use crate::random::Random;
use crate::shard::{Settings, Shard};
use crate::topic_rules;

/// Why the node cannot start. What was durable is as it was.
#[derive(Debug)]
pub enum StartError {
    /// The metadata log.
    Metadata(quorum::RecoverError),
    /// This start could not be recorded.
    Announce(String),
    /// Partitions' logs and the journals.
    Storage(tidemill_storage::RecoverError),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Metadata(quorum::RecoverError::OtherNode { configured, found }) => write!(
                f,
                "the data directory belongs to node {0}, and node.id is {1}: start with \
                 node.id={0}, or name another directory with --data-dir",
                found.0, configured.0
            ),
            Self::Metadata(error) => write!(f, "the metadata cannot be recovered: {error}"),
            Self::Announce(error) => write!(f, "this start could not be recorded: {error}"),
            Self::Storage(error) => write!(f, "the logs cannot be recovered: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// The steps of the start.
pub struct Startup {
    settings: Arc<Settings>,
    stage: Stage,
}

enum Stage {
    Metadata(Box<quorum::Recovery>),
    /// The record of this start is on its way to the disk.
    Announcing {
        log: Box<quorum::Log>,
        image: Image,
        incarnation: u64,
    },
    Storage {
        recovery: Box<Recovery>,
        log: Box<quorum::Log>,
        image: Image,
        incarnation: u64,
    },
    /// So many shards have not adopted yet.
    Adopting {
        missing: u16,
    },
}

impl Startup {
    /// A start that has not begun.
    pub fn new(settings: Arc<Settings>) -> Self {
        let mut random = Random::new(settings.seed);
        let mut seed = || u128::from_be_bytes(random.uuid());
        let recovery = quorum::Recovery::new(quorum::Start {
            node: NodeId(settings.config.node_id),
            cluster_seed: seed(),
            directory_seed: seed(),
        });
        Self { settings, stage: Stage::Metadata(Box::new(recovery)) }
    }

    /// A request of the metadata log has ended.
    pub fn metadata_completed(&mut self, completion: quorum::io::Completion) {
        match &mut self.stage {
            Stage::Metadata(recovery) => recovery.handle_completion(completion),
            Stage::Announcing { log, .. } | Stage::Storage { log, .. } => {
                log.handle_completion(completion);
            }
            Stage::Adopting { .. } => unreachable!("the controller has the log by now"),
        }
    }

    /// A request of storage's recovery has ended.
    pub fn storage_completed(&mut self, completion: tidemill_storage::io::Completion) {
        let Stage::Storage { recovery, .. } = &mut self.stage else {
            unreachable!("only a recovery under way asks for anything");
        };
        recovery.handle_completion(completion);
    }

    /// A shard has adopted its partitions.
    pub fn adopted(&mut self) {
        if let Stage::Adopting { missing } = &mut self.stage {
            *missing -= 1;
        }
    }

    /// Goes as far as it can. `Some` when the start has ended, one way or the other.
    pub fn step<E: Edge<Message = Message>>(
        &mut self,
        shard: &mut Shard,
        edge: &mut E,
    ) -> Option<Result<(), StartError>> {
        loop {
            let stage = std::mem::replace(&mut self.stage, Stage::Adopting { missing: 0 });
            let (stage, waits) = match self.step_stage(stage, shard, edge) {
                Ok(stepped) => stepped,
                Err(error) => return Some(Err(error)),
            };
            self.stage = stage;
            if let Stage::Adopting { missing: 0 } = self.stage {
                return Some(Ok(()));
            }
            if waits {
                return None;
            }
        }
    }

    fn step_stage<E: Edge<Message = Message>>(
        &mut self,
        stage: Stage,
        shard: &mut Shard,
        edge: &mut E,
    ) -> Result<(Stage, bool), StartError> {
        match stage {
            Stage::Metadata(mut recovery) => {
                while let Some(request) = recovery.poll_request() {
                    shard.disk.submit(metadata_request(request), edge);
                }
                match recovery.poll_done() {
                    None => Ok((Stage::Metadata(recovery), true)),
                    Some(Ok(recovered)) => Ok((self.announce(recovered)?, false)),
                    Some(Err(error)) => Err(StartError::Metadata(error)),
                }
            }
            Stage::Announcing { mut log, mut image, incarnation } => {
                while let Some(request) = log.poll_request() {
                    shard.disk.submit(metadata_request(request), edge);
                }
                if let Some(fault) = log.fault() {
                    return Err(StartError::Announce(format!("{fault:?}")));
                }
                if log.is_out_of_space() && log.committed().0 == 0 {
                    return Err(StartError::Announce("no space is left".to_owned()));
                }
                let mut announced = false;
                while let Some((_, record)) = log.poll_committed() {
                    image.replay(&record).expect("decided from this image");
                    announced |= matches!(record, Record::NodeStarted { .. });
                }
                if !announced {
                    return Ok((Stage::Announcing { log, image, incarnation }, true));
                }
                let recovery = Box::new(self.recover_storage(&image, incarnation));
                Ok((Stage::Storage { recovery, log, image, incarnation }, false))
            }
            Stage::Storage { mut recovery, mut log, image, incarnation } => {
                while let Some(request) = log.poll_request() {
                    shard.disk.submit(metadata_request(request), edge);
                }
                while let Some(request) = recovery.poll_request() {
                    shard.disk.submit(storage_request(Owner::Recovery, request), edge);
                }
                match recovery.poll_finished() {
                    None => Ok((Stage::Storage { recovery, log, image, incarnation }, true)),
                    Some(Ok(recovered)) => {
                        let missing = self.settings.shards;
                        self.hand_out(*log, image, recovered, shard);
                        Ok((Stage::Adopting { missing }, true))
                    }
                    Some(Err(error)) => Err(StartError::Storage(error)),
                }
            }
            Stage::Adopting { missing } => Ok((Stage::Adopting { missing }, true)),
        }
    }

    /// Records this start: from now on no earlier process's epochs are valid.
    fn announce(&self, recovered: quorum::Recovered) -> Result<Stage, StartError> {
        let quorum::Recovered { mut log, image, identity, torn_tail, .. } = recovered;
        if torn_tail {
            tracing::info!("the metadata log ended in a write that a crash had cut off");
        }
        let node_epoch = NodeEpoch(image.node_epoch(identity.node).0 + 1);
        let started = Record::NodeStarted {
            node: identity.node,
            node_epoch,
            directory: identity.directory,
            shards: self.settings.shards,
        };
        log.propose(vec![started]).map_err(|error| StartError::Announce(format!("{error:?}")))?;
        let incarnation = u64::from(node_epoch.0);
        Ok(Stage::Announcing { log: Box::new(log), image, incarnation })
    }

    fn recover_storage(&self, image: &Image, incarnation: u64) -> Recovery {
        let shards = self.settings.shards;
        let home = |id: TopicPartition| placement::home(id, shards).0;
        let mut partitions = Vec::new();
        let mut compacted = HashSet::new();
        for topic in image.topics() {
            let is_compacted = topic_rules::is_compacted(&self.settings, image, &topic.configs);
            for number in 0..topic.partitions.len() as i32 {
                let id = TopicPartition { topic: topic.id, partition: PartitionId(number) };
                partitions.push((id, home(id)));
                if is_compacted {
                    compacted.insert(id);
                }
            }
        }
        let deleted: HashSet<TopicId> = image.tombstones().map(|(id, _)| id).collect();
        let config = topic_rules::storage_config(&self.settings);
        Recovery::new(config, Known { partitions, deleted, compacted, shards, incarnation })
    }

    /// Gives every shard what it starts from, and the metadata log to the controller.
    fn hand_out(&self, log: quorum::Log, image: Image, recovered: Recovered, shard: &mut Shard) {
        let Recovered { shards, report } = recovered;
        tracing::info!(
            logs = report.logs,
            windows = report.windows,
            drained_bytes = report.drained_bytes,
            "storage recovered"
        );
        for damage in &report.damaged {
            let Damage { partition, offsets } = damage;
            topic_rules::tell_damage(&image, &self.settings, *partition, offsets);
        }
        for path in &report.quarantined {
            tracing::warn!(path, "nobody knows this directory: moved below quarantine/");
        }
        let controller = Controller::new(log, &self.settings, report.removed_topics);
        shard.controller = Some(controller);
        for (number, recovered) in shards.into_iter().enumerate() {
            let adoption = Adoption { image: image.clone(), recovered };
            shard.tell(ShardId(number as u16), Message::Adopt(Box::new(adoption)));
        }
    }
}
