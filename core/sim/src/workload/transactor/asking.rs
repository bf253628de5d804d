//! What a producer of transactions asks of coordinators.

use tidemill_net::kafka::add_offsets_to_txn::AddOffsetsToTxnRequest;
use tidemill_net::kafka::add_partitions_to_txn::AddPartitionsToTxnRequest;
use tidemill_net::kafka::end_txn::EndTxnRequest;
use tidemill_net::kafka::find_coordinator::{FindCoordinatorRequest, key_type};
use tidemill_net::kafka::init_producer_id::InitProducerIdRequest;
use tidemill_net::kafka::offset_fetch::OffsetFetchRequestGroup;
use tidemill_net::kafka::topic_partitions::TopicPartitions;
use tidemill_net::kafka::txn_offset_commit::{
    TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};

use super::{Ask, Scene, Step, Transactor, Whose};
use crate::checker::offsets::Floor;
use crate::checker::{Place, Verdict};
use crate::network::BOOTSTRAP_PORT;
use crate::workload::offsets;

/// From here on a producer may say who it was.
const EXPECTED_FROM: i16 = 3;

impl Transactor {
    /// Looks for a coordinator first, if it is not known; true if it is.
    fn knows(&mut self, whose: Whose, scene: &mut Scene<'_, '_>) -> bool {
        if self.coordinators[whose as usize].is_some() {
            return true;
        }
        let (key, key_type) = match whose {
            Whose::Transactions => (self.id.clone(), key_type::TRANSACTION),
            Whose::Group => (self.group.clone(), key_type::GROUP),
        };
        let request =
            FindCoordinatorRequest { key: key.clone(), key_type, coordinator_keys: vec![key] };
        self.ask(BOOTSTRAP_PORT, Ask::Find(whose), self.flow.find, &request, scene);
        false
    }

    pub(super) fn init(&mut self, scene: &mut Scene<'_, '_>) -> Verdict {
        if !self.knows(Whose::Transactions, scene) {
            return Ok(());
        }
        let expected = self.producer.filter(|_| EXPECTED_FROM <= self.flow.init);
        let expected = expected.filter(|_| self.random.coin()).map(|(producer, _)| producer);
        let request = InitProducerIdRequest {
            transactional_id: Some(self.id.clone()),
            transaction_timeout_ms: self.timeout.as_millis() as i32,
            producer_id: expected.map_or(-1, |producer| producer.id.0),
            producer_epoch: expected.map_or(-1, |producer| producer.epoch.0),
        };
        let asked = scene.history.transactions.asking(&self.id);
        let to = self.port_of(Whose::Transactions);
        self.ask(to, Ask::Init(asked), self.flow.init, &request, scene);
        Ok(())
    }

    /// The older flow: partitions are named before anything is written to them.
    pub(super) fn name_partitions(&mut self, scene: &mut Scene<'_, '_>) -> Verdict {
        if !self.knows(Whose::Transactions, scene) {
            return Ok(());
        }
        let Some((producer, _)) = self.producer else { return Ok(()) };
        let Some(open) = &mut self.open else { return Ok(()) };
        open.is_known = true;
        let places: Vec<Place> = open.unnamed.iter().copied().collect();
        let topics = places.iter().map(|place| TopicPartitions {
            topic: self.name_of(*place, scene),
            partitions: vec![place.partition],
        });
        let request = AddPartitionsToTxnRequest {
            v3_and_below_transactional_id: self.id.clone(),
            v3_and_below_producer_id: producer.id.0,
            v3_and_below_producer_epoch: producer.epoch.0,
            v3_and_below_topics: topics.collect(),
            ..AddPartitionsToTxnRequest::default()
        };
        let to = self.port_of(Whose::Transactions);
        self.ask(to, Ask::Add(places), self.flow.add, &request, scene);
        Ok(())
    }

    /// The older flow: so is the group.
    pub(super) fn name_group(&mut self, scene: &mut Scene<'_, '_>) -> Verdict {
        if !self.knows(Whose::Transactions, scene) || !self.knows(Whose::Group, scene) {
            return Ok(());
        }
        let Some((producer, _)) = self.producer else { return Ok(()) };
        let request = AddOffsetsToTxnRequest {
            transactional_id: self.id.clone(),
            producer_id: producer.id.0,
            producer_epoch: producer.epoch.0,
            group_id: self.group.clone(),
        };
        let to = self.port_of(Whose::Transactions);
        self.ask(to, Ask::AddOffsets, self.flow.add_offsets, &request, scene);
        Ok(())
    }

    pub(super) fn commit_offsets(&mut self, scene: &mut Scene<'_, '_>) -> Verdict {
        if !self.knows(Whose::Group, scene) {
            return Ok(());
        }
        let places = self.map.lasting_places();
        let Some((producer, _)) = self.producer else { return Ok(()) };
        let Some(open) = &mut self.open else { return Ok(()) };
        if open.offsets.is_empty() && !places.is_empty() {
            for _ in 0..self.random.between(1, 2) {
                let place = *self.random.pick(&places);
                let (number, offsets) = (open.number, &mut scene.history.offsets);
                let offset = offsets.committing(&self.group, place, Some(number), false);
                open.offsets.retain(|(other, _)| *other != place);
                open.offsets.push((place, offset));
            }
        } else {
            for (place, offset) in &open.offsets {
                scene.history.offsets.committing_again(&self.group, *place, *offset);
            }
        }
        open.is_known = true;
        let offsets = open.offsets.clone();
        let topics = offsets.iter().map(|(place, offset)| TxnOffsetCommitRequestTopic {
            name: self.name_of(*place, scene),
            partitions: vec![TxnOffsetCommitRequestPartition {
                partition_index: place.partition,
                committed_offset: *offset,
                ..TxnOffsetCommitRequestPartition::default()
            }],
        });
        let request = TxnOffsetCommitRequest {
            transactional_id: self.id.clone(),
            group_id: self.group.clone(),
            producer_id: producer.id.0,
            producer_epoch: producer.epoch.0,
            topics: topics.collect(),
            ..TxnOffsetCommitRequest::default()
        };
        let to = self.port_of(Whose::Group);
        self.ask(to, Ask::CommitOffsets, self.flow.commit_offsets, &request, scene);
        Ok(())
    }

    pub(super) fn end(&mut self, scene: &mut Scene<'_, '_>) -> Verdict {
        if !self.knows(Whose::Transactions, scene) {
            return Ok(());
        }
        let Some((producer, _)) = self.producer else { return Ok(()) };
        let Some(open) = &mut self.open else { return Ok(()) };
        if !open.is_known {
            // Nobody has heard of it.
            self.open = None;
            self.step = Step::Idle;
            return Ok(());
        }
        open.ends_asked += 1;
        if open.commits {
            scene.history.transactions.asking_to_commit(open.number);
        }
        let request = EndTxnRequest {
            transactional_id: self.id.clone(),
            producer_id: producer.id.0,
            producer_epoch: producer.epoch.0,
            committed: open.commits,
        };
        let to = self.port_of(Whose::Transactions);
        self.ask(to, Ask::End, self.flow.end, &request, scene);
        Ok(())
    }

    /// Looks what is committed, waiting for what is not decided yet.
    pub(super) fn fetch_offsets(&mut self, scene: &mut Scene<'_, '_>) -> Verdict {
        if !self.knows(Whose::Group, scene) {
            return Ok(());
        }
        // At the end it waits. At other times what is not decided must not show, and what was just
        // committed need not show yet: the group may not have heard.
        let waits = self.step == Step::Looking;
        let places = self.map.lasting_places().into_iter();
        let floor = |place| (place, scene.history.floor_of_offset(&self.group, place, waits));
        let wanted: Vec<(Place, Floor)> = places.map(floor).collect();
        if wanted.is_empty() {
            self.is_done = self.step == Step::Looking;
            return Ok(());
        }
        let asker = OffsetFetchRequestGroup {
            group_id: self.group.clone(),
            ..OffsetFetchRequestGroup::default()
        };
        let places = wanted.iter().map(|(place, _)| place);
        let request = offsets::question(asker, places, &self.map, waits);
        let to = self.port_of(Whose::Group);
        self.ask(to, Ask::FetchOffsets(wanted), self.flow.fetch_offsets, &request, scene);
        Ok(())
    }
}
