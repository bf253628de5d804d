//! What the consumer makes of answers: places found, records kept to be taken, trouble told.

use std::sync::Arc;
use std::time::Duration;

use tidemill_net::kafka::fetch::FetchPartitionResponse;
use tidemill_net::kafka::list_offsets::{ListOffsetsPartitionResponse, ListOffsetsResponse};
use tidemill_net::kafka::{ErrorCode, NodeEndpoint, TopicRef};

use super::super::fetched::Fetched;
use super::super::{Isolation, Start};
use super::{Asked, ConsumerCore, Part, Place, place};
use crate::cluster::Address;
use crate::connection::Reply;
use crate::error::Error;
use crate::time::Instant;

/// How long a topic may be missing before that is told.
const MISSING_PATIENCE: Duration = Duration::from_secs(5);

impl ConsumerCore {
    /// Topics that cannot be used are told, once for each new map: at once if there is no hope,
    /// and after a while if they may just be in the making.
    pub(super) fn look_for_missing(&mut self, now: Instant) {
        let mut missing = Vec::new();
        for part in &mut self.parts {
            let view = self.cluster.map().topic(&part.topic);
            let error = match view {
                Some(view) if !view.error.is_none() => view.error,
                Some(view) if view.partitions.len() <= part.partition.max(0) as usize => {
                    ErrorCode::UnknownTopicOrPartition
                }
                _ => {
                    part.missing_since = None;
                    continue;
                }
            };
            let since = *part.missing_since.get_or_insert(now);
            if !error.is_retriable() || MISSING_PATIENCE <= now.since(since) {
                let what = format!("cannot read partition {} of {}", part.partition, part.topic);
                missing.push(Error::refused(what, error, None));
            }
        }
        for error in missing {
            self.complain(error);
        }
    }

    /// The part that was asked for, if that is still meant.
    fn still_meant(&mut self, asked: Asked) -> Option<&mut Part> {
        self.parts.get_mut(asked.part).filter(|part| part.generation == asked.generation)
    }

    pub(super) fn take_loss(&mut self, asked: &[Asked], now: Instant) {
        for &asked in asked {
            let trouble = self.cluster.trouble().map(str::to_owned);
            if let Some(part) = self.still_meant(asked) {
                part.asked = false;
                part.trouble = trouble;
                self.rest(asked.part, now);
            }
        }
    }

    /// Asks again only after a while.
    pub(super) fn rest(&mut self, index: usize, now: Instant) {
        let part = &mut self.parts[index];
        part.failed_tries = part.failed_tries.saturating_add(1);
        part.not_before = now.plus(self.config.retry.delay(part.failed_tries, &mut self.random));
    }

    pub(super) fn take_offsets(&mut self, asked: &[Asked], reply: &Reply, now: Instant) {
        let Ok(answer) = reply.decode::<ListOffsetsResponse>() else {
            return self.take_loss(asked, now);
        };
        for &asked in asked {
            let Some(part) = self.still_meant(asked) else { continue };
            part.asked = false;
            let (topic, partition) = (Arc::clone(&part.topic), part.partition);
            let topics = answer.topics.iter().filter(|told| *told.name == *topic);
            let told = topics
                .flat_map(|told| &told.partitions)
                .find(|told| told.partition_index == partition);
            match told {
                Some(told) => self.take_offset(asked.part, told, now),
                None => self.rest(asked.part, now),
            }
        }
    }

    fn take_offset(&mut self, index: usize, told: &ListOffsetsPartitionResponse, now: Instant) {
        let part = &mut self.parts[index];
        match told.error_code {
            ErrorCode::None if 0 <= told.offset => {
                part.place = Place::At(told.offset);
                part.failed_tries = 0;
                part.trouble = None;
            }
            // No record is that young.
            ErrorCode::None => part.place = Place::Find(Start::Latest),
            error => self.take_error(index, error, now),
        }
    }

    fn take_error(&mut self, index: usize, error: ErrorCode, now: Instant) {
        self.rest(index, now);
        let part = &mut self.parts[index];
        part.trouble = Some(error.to_string());
        if error.is_retriable() {
            return self.cluster.refresh(now);
        }
        let what = format!("cannot read partition {} of {}", part.partition, part.topic);
        self.complain(Error::refused(what, error, None));
    }

    pub(super) fn take_records(&mut self, asked: &[Asked], reply: &Reply, now: Instant) {
        let response = match reply.fetch() {
            Ok(response) if response.error_code.is_none() => response,
            _ => return self.take_loss(asked, now),
        };
        for (at, &asked) in asked.iter().enumerate() {
            if self.still_meant(asked).is_none() {
                continue;
            }
            self.parts[asked.part].asked = false;
            let fits = |told: &&FetchPartitionResponse<'_>| self.is_about(asked.part, told);
            let told = response.partitions.get(at).filter(fits);
            match told.or_else(|| response.partitions.iter().find(fits)) {
                Some(told) => {
                    let endpoints = &response.node_endpoints;
                    self.take_partition(asked, told, endpoints, now);
                }
                None => self.rest(asked.part, now),
            }
        }
    }

    fn is_about(&self, index: usize, told: &FetchPartitionResponse<'_>) -> bool {
        let part = &self.parts[index];
        let same_topic = match told.topic {
            TopicRef::Name(name) => name == &*part.topic,
            TopicRef::Id(id) => {
                self.cluster.map().topic(&part.topic).is_some_and(|view| view.id == id)
            }
        };
        same_topic && told.partition == part.partition
    }

    fn take_partition(
        &mut self,
        asked: Asked,
        told: &FetchPartitionResponse<'_>,
        endpoints: &[NodeEndpoint<'_>],
        now: Instant,
    ) {
        let index = asked.part;
        let part = &mut self.parts[index];
        match told.error_code {
            ErrorCode::None => {
                part.failed_tries = 0;
                part.trouble = None;
                part.readable_end = Some(match self.config.isolation {
                    Isolation::ReadUncommitted => told.high_watermark,
                    Isolation::ReadCommitted => told.last_stable_offset,
                });
                if let Some(records) = told.records.first() {
                    let aborted = told.aborted_transactions.as_deref().unwrap_or(&[]);
                    part.holds = true;
                    self.fetched.push_back((asked, Fetched::new(records.clone(), aborted)));
                }
            }
            ErrorCode::OffsetOutOfRange => self.leave_range(index, now),
            error => {
                let hinted = told.current_leader.is_some_and(|hint| {
                    let endpoint = endpoints.iter().find(|e| e.node_id == hint.leader_id);
                    let address = endpoint.and_then(|endpoint| {
                        let port = u16::try_from(endpoint.port).ok()?;
                        Some(Address { host: endpoint.host.into(), port })
                    });
                    let (topic, partition) = (Arc::clone(&part.topic), part.partition);
                    self.cluster.map_mut().take_hint(&topic, partition, hint, address)
                });
                if !hinted {
                    self.take_error(index, error, now);
                }
            }
        }
    }

    /// The position does not exist: the policy says where to go on.
    fn leave_range(&mut self, index: usize, now: Instant) {
        if let Some(reset) = self.config.reset {
            self.rest(index, now);
            self.go_on_at(index, place(reset));
            return;
        }
        self.take_error(index, ErrorCode::OffsetOutOfRange, now);
    }
}
