//! The offsets that groups commit: OffsetCommit, OffsetFetch, OffsetDelete.
//!
//! Groups keep offsets by the names of topics; from version 10 on clients name topics by their
//! ids. The shard that was asked knows both, and which partitions there are: a commit for one that
//! does not exist is refused here, the rest goes to the group's coordinator.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tidemill_net::kafka::offset_commit::{
    BY_ID_FROM as COMMIT_BY_ID_FROM, OffsetCommitRequest, OffsetCommitRequestPartition,
    OffsetCommitRequestTopic, OffsetCommitResponse, OffsetCommitResponseTopic,
};
use tidemill_net::kafka::offset_delete::{OffsetDeleteRequest, OffsetDeleteResponse};
use tidemill_net::kafka::offset_fetch::{
    BY_ID_FROM as FETCH_BY_ID_FROM, OffsetFetchRequest, OffsetFetchRequestGroup,
    OffsetFetchRequestTopic, OffsetFetchResponse, OffsetFetchResponseGroup,
    OffsetFetchResponsePartition, OffsetFetchResponseTopic,
};
use tidemill_net::kafka::topic_partitions::{PartitionError, TopicErrors};
use tidemill_net::kafka::txn_offset_commit::{
    IMPLICIT_ADD_FROM, TxnOffsetCommitRequest, TxnOffsetCommitResponse,
};
use tidemill_net::kafka::{ErrorCode, Request as _, TopicRef};
use tidemill_record::{Producer, ProducerEpoch, ProducerId, TopicId};

use super::groups::{Purpose, error_of, is_group_name};
use super::transactions::is_transactional_id;
use super::{ReplyForm, name_once};
use crate::coordinator::offsets::Committed;
use crate::coordinator::request::{
    ByTopic, Commit, DeleteOffsets, FetchOffsets, Reply, Request, Who,
};
use crate::limits::GROUP_NAME_BYTES_MAX;
use crate::message::InTransaction;
use crate::partition::Times;
use crate::shard::Shard;

/// From this version on a group that does not exist is told as such (KIP-848).
const GROUP_ID_NOT_FOUND_FROM: i16 = 9;

/// From this version on a producer knows the error that tells it to abort (KIP-890).
const ABORTABLE_FROM: i16 = 4;

/// One group whose offsets are fetched.
pub struct FetchedGroup {
    group_id: String,
    /// Topics that the request names and nobody knows.
    unknown: Vec<OffsetFetchResponseTopic>,
    /// It is answered by its coordinator; if not, with this error.
    refused: Option<ErrorCode>,
    request: OffsetFetchRequestGroup,
}

/// The answer to a commit of offsets, while its coordinator is asked.
pub struct CommitAnswer {
    /// The error of a partition of which nothing could be asked is there already.
    topics: Vec<OffsetCommitResponseTopic>,
    is_in_transaction: bool,
}

impl CommitAnswer {
    fn of(request: &OffsetCommitRequest) -> Self {
        let topics = request.topics.iter().map(|topic| topic.failed(ErrorCode::None));
        Self { topics: topics.collect(), is_in_transaction: false }
    }

    fn of_transaction(request: &TxnOffsetCommitRequest) -> Self {
        let topics = request.topics.iter().map(|topic| topic.failed(ErrorCode::None));
        Self { topics: topics.collect(), is_in_transaction: true }
    }

    /// Says what the coordinator has told of each partition that was asked.
    fn fill(&mut self, mut told: impl Iterator<Item = ErrorCode>) {
        let all = self.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
        for partition in all.filter(|partition| partition.error_code == ErrorCode::None) {
            partition.error_code = told.next().expect("one for each part that was asked");
        }
    }
}

impl Shard {
    // Committing.

    pub(crate) fn handle_offset_commit(
        &mut self,
        reply: ReplyForm,
        request: OffsetCommitRequest,
        times: Times,
    ) {
        if GROUP_NAME_BYTES_MAX < request.group_id.len() {
            let response = request.error_response(ErrorCode::InvalidGroupId);
            return self.reply_message(reply, &response);
        }
        let mut answer = CommitAnswer::of(&request);
        let mut offsets = Vec::new();
        let expire_ms = expire_ms(request.retention_time_ms, times);
        for (topic, told) in request.topics.iter().zip(&mut answer.topics) {
            for (partition, told) in topic.partitions.iter().zip(&mut told.partitions) {
                match self.name_of(reply.version, topic, partition.partition_index) {
                    Ok(name) => {
                        let committed = committed(partition, expire_ms, times);
                        offsets.push((name, partition.partition_index, committed));
                    }
                    Err(error) => told.error_code = error,
                }
            }
        }
        if offsets.is_empty() {
            return self.finish_commit(reply, answer, None);
        }
        let unknown_group = if GROUP_ID_NOT_FOUND_FROM <= reply.version {
            ErrorCode::GroupIdNotFound
        } else {
            ErrorCode::IllegalGeneration
        };
        let commit = Commit {
            group: request.group_id.as_str().into(),
            who: Who {
                member: request.member_id.as_str().into(),
                instance: request.group_instance_id.as_deref().map(Arc::from),
                generation: request.generation_id_or_member_epoch,
            },
            unknown_group,
            knows_epochs: GROUP_ID_NOT_FOUND_FROM <= reply.version,
            offsets,
        };
        let purpose = Purpose::Commit(answer);
        self.ask_group(reply, Request::Commit(commit), purpose, times);
    }

    /// The name under which a group keeps the offset of a partition, if that exists.
    fn name_of(
        &self,
        version: i16,
        topic: &OffsetCommitRequestTopic,
        partition: i32,
    ) -> Result<Arc<str>, ErrorCode> {
        let by_id = COMMIT_BY_ID_FROM <= version;
        let named = if by_id { TopicRef::Id(topic.topic_id) } else { TopicRef::Name(&topic.name) };
        let found = self.find_partition(named, partition)?;
        let topic = self.image.topic(found.topic).expect("its partition was just found");
        Ok(Arc::clone(&topic.name))
    }

    /// Answers a commit: what could be said before its coordinator was asked is said already, and
    /// that tells of the rest.
    pub(super) fn finish_commit(
        &mut self,
        reply: ReplyForm,
        mut answer: CommitAnswer,
        told: Option<Reply>,
    ) {
        match told {
            Some(Reply::Committed(results)) => answer.fill(results.into_iter()),
            Some(other) => answer.fill(std::iter::repeat(error_of(&other))),
            None => {}
        }
        let CommitAnswer { topics, is_in_transaction } = answer;
        match is_in_transaction {
            false => {
                let response = OffsetCommitResponse { topics, ..Default::default() };
                self.reply_message(reply, &response);
            }
            true => {
                let response = TxnOffsetCommitResponse { topics, ..Default::default() };
                self.reply_message(reply, &response);
            }
        }
    }

    // Committing in a transaction.

    pub(crate) fn handle_txn_offset_commit(
        &mut self,
        reply: ReplyForm,
        request: TxnOffsetCommitRequest,
        times: Times,
    ) {
        if !is_group_name(&request.group_id) || !is_transactional_id(&request.transactional_id) {
            let error = match is_group_name(&request.group_id) {
                true => ErrorCode::InvalidRequest,
                false => ErrorCode::InvalidGroupId,
            };
            return self.reply_message(reply, &request.error_response(error));
        }
        let mut answer = CommitAnswer::of_transaction(&request);
        let mut offsets = Vec::new();
        for (topic, told) in request.topics.iter().zip(&mut answer.topics) {
            for (partition, told) in topic.partitions.iter().zip(&mut told.partitions) {
                let found =
                    self.find_partition(TopicRef::Name(&topic.name), partition.partition_index);
                let found = match found {
                    Ok(found) => self.image.topic(found.topic).expect("it was just found"),
                    Err(error) => {
                        told.error_code = error;
                        continue;
                    }
                };
                let metadata = partition.committed_metadata.as_deref();
                let committed = Committed {
                    offset: partition.committed_offset,
                    leader_epoch: partition.committed_leader_epoch,
                    metadata: metadata.unwrap_or_default().into(),
                    commit_ms: times.wall_ms,
                    expire_ms: None,
                };
                offsets.push((Arc::clone(&found.name), partition.partition_index, committed));
            }
        }
        if offsets.is_empty() {
            return self.finish_commit(reply, answer, None);
        }
        let commit = Commit {
            group: request.group_id.as_str().into(),
            who: Who {
                member: request.member_id.as_str().into(),
                instance: request.group_instance_id.as_deref().map(Arc::from),
                generation: request.generation_id,
            },
            unknown_group: ErrorCode::IllegalGeneration,
            knows_epochs: true,
            offsets,
        };
        let producer = Producer {
            id: ProducerId(request.producer_id),
            epoch: ProducerEpoch(request.producer_epoch),
        };
        let transaction = InTransaction {
            transactional_id: request.transactional_id.as_str().into(),
            adds_partition: IMPLICIT_ADD_FROM <= reply.version,
            may_be_told_to_abort: ABORTABLE_FROM <= reply.version,
        };
        let commit = Request::CommitInTransaction(commit, producer.id);
        let purpose = Purpose::Commit(answer);
        self.ask_group_in_transaction(reply, transaction, producer, commit, purpose, times);
    }

    // Fetching.

    pub(crate) fn handle_offset_fetch(
        &mut self,
        reply: ReplyForm,
        request: OffsetFetchRequest,
        times: Times,
    ) {
        let by_id = FETCH_BY_ID_FROM <= reply.version;
        let mut fetched = Vec::new();
        let mut asked = Vec::new();
        let require_stable = request.require_stable;
        for request in each_once(request.into_groups(reply.version)) {
            let group = FetchedGroup {
                group_id: request.group_id.clone(),
                unknown: Vec::new(),
                refused: None,
                request,
            };
            let (group, topics) = self.resolve(group, by_id);
            let question = FetchOffsets {
                group: group.group_id.as_str().into(),
                topics,
                member: group.request.member_id.as_deref().map(Arc::from),
                epoch: group.request.member_epoch,
                require_stable,
            };
            if group.refused.is_none() {
                let partition = self.partition_of_group(&group.group_id);
                let question = Request::FetchOffsets(question);
                asked.push(partition.map(|partition| (partition, question)));
            }
            fetched.push(group);
        }
        self.ask_coordinators(reply, asked, Purpose::Fetch(fetched), times);
    }

    /// The topics a group's offsets are wanted of, by their names; those that nobody knows are
    /// answered already.
    fn resolve(
        &self,
        mut group: FetchedGroup,
        by_id: bool,
    ) -> (FetchedGroup, Option<ByTopic<i32>>) {
        if GROUP_NAME_BYTES_MAX < group.group_id.len() {
            group.refused = Some(ErrorCode::InvalidGroupId);
            return (group, None);
        }
        let Some(topics) = &group.request.topics else { return (group, None) };
        let mut known = Vec::new();
        for topic in topics {
            match self.topic_wanted(topic, by_id) {
                Some(name) => known.push((name, topic.partition_indexes.clone())),
                None => group.unknown.push(topic.failed(ErrorCode::UnknownTopicId)),
            }
        }
        (group, Some(known))
    }

    fn topic_wanted(&self, topic: &OffsetFetchRequestTopic, by_id: bool) -> Option<Arc<str>> {
        if by_id {
            return self.image.topic(topic.topic_id).map(|topic| Arc::clone(&topic.name));
        }
        let known = self.image.topic_named(&topic.name).map(|topic| Arc::clone(&topic.name));
        Some(known.unwrap_or_else(|| topic.name.as_str().into()))
    }

    pub(super) fn finish_offset_fetch(
        &mut self,
        reply: ReplyForm,
        groups: Vec<FetchedGroup>,
        mut answers: impl Iterator<Item = Reply>,
    ) {
        let by_id = FETCH_BY_ID_FROM <= reply.version;
        let groups = groups.into_iter().map(|group| {
            if let Some(error) = group.refused {
                return group.request.failed(error);
            }
            match answers.next().expect("one answer for each group that was asked about") {
                Reply::Offsets(found) => {
                    let known = found.into_iter();
                    let known = known.filter_map(|(name, found)| {
                        Some(fetched_topic(&name, self.id_of(&name, by_id)?, found))
                    });
                    OffsetFetchResponseGroup {
                        group_id: group.group_id,
                        topics: known.chain(group.unknown).collect(),
                        error_code: ErrorCode::None,
                    }
                }
                other => group.request.failed(error_of(&other)),
            }
        });
        let groups = groups.collect();
        self.reply_message(reply, &OffsetFetchResponse::of(reply.version, groups));
    }

    /// The id of a topic, where topics are told by their ids; none if it has none any more.
    fn id_of(&self, name: &str, by_id: bool) -> Option<TopicId> {
        if !by_id {
            return Some(TopicId::ZERO);
        }
        self.image.topic_named(name).map(|topic| topic.id)
    }

    // Deleting.

    pub(crate) fn handle_offset_delete(
        &mut self,
        reply: ReplyForm,
        request: OffsetDeleteRequest,
        times: Times,
    ) {
        if !is_group_name(&request.group_id) {
            let response = request.error_response(ErrorCode::InvalidGroupId);
            return self.reply_message(reply, &response);
        }
        let (mut known, mut topics) = (Vec::new(), Vec::new());
        for topic in &request.topics {
            for partition in topic.partitions.iter().map(|partition| partition.partition_index) {
                let found = self.find_partition(TopicRef::Name(&topic.name), partition);
                known.push(found.err().unwrap_or(ErrorCode::None));
                let named = found.ok().and_then(|found| self.image.topic(found.topic));
                topics.extend(named.map(|named| (Arc::clone(&named.name), vec![partition])));
            }
        }
        let group = request.group_id.as_str().into();
        let purpose = Purpose::DeleteOffsets(request, known);
        let delete = Request::DeleteOffsets(DeleteOffsets { group, topics });
        self.ask_group(reply, delete, purpose, times);
    }

    pub(super) fn finish_offset_delete(
        &mut self,
        reply: ReplyForm,
        request: OffsetDeleteRequest,
        known: &[ErrorCode],
        answer: Option<Reply>,
    ) {
        if let Some(Reply::Refused(error)) = answer {
            return self.reply_message(reply, &request.error_response(error));
        }
        let told = answer.map(|reply| match reply {
            Reply::OffsetsDeleted(results) => Ok(results),
            other => Err(error_of(&other)),
        });
        let mut results = merge(known, told);
        let topics = request.topics.into_iter().map(|topic| {
            let partitions = topic.partitions.into_iter().map(|partition| PartitionError {
                partition_index: partition.partition_index,
                error_code: results.next().expect("one for each partition"),
            });
            TopicErrors { topic: topic.name, partitions: partitions.collect() }
        });
        let topics = topics.collect();
        self.reply_message(reply, &OffsetDeleteResponse { topics, ..Default::default() });
    }
}

/// Of which groups, topics and partitions offsets are wanted, each named once.
fn each_once(mut groups: Vec<OffsetFetchRequestGroup>) -> Vec<OffsetFetchRequestGroup> {
    let mut whole: HashSet<String> = HashSet::new();
    let mut seen: HashMap<String, HashMap<(String, TopicId), HashSet<i32>>> = HashMap::new();
    groups.retain_mut(|group| {
        let Some(topics) = &mut group.topics else { return whole.insert(group.group_id.clone()) };
        let seen = seen.entry(group.group_id.clone()).or_default();
        let was_empty = topics.is_empty();
        topics.retain_mut(|topic| {
            let seen = seen.entry((topic.name.clone(), topic.topic_id)).or_default();
            name_once(&mut topic.partition_indexes, seen)
        });
        was_empty || !topics.is_empty()
    });
    groups
}

/// The errors of all parts of a request: those known before, and for the others the coordinator's.
fn merge(
    known: &[ErrorCode],
    told: Option<Result<Vec<ErrorCode>, ErrorCode>>,
) -> impl Iterator<Item = ErrorCode> {
    let (told, all) = match told {
        Some(Ok(told)) => (told, None),
        Some(Err(error)) => (Vec::new(), Some(error)),
        None => (Vec::new(), None),
    };
    let mut told = told.into_iter();
    known.iter().map(move |known| match (known, all) {
        (ErrorCode::None, Some(error)) => error,
        (ErrorCode::None, None) => told.next().expect("one for each part that was asked"),
        (known, _) => *known,
    })
}

/// When an offset may be forgotten, if its client says how long it is to be kept.
fn expire_ms(retention_time_ms: i64, times: Times) -> Option<i64> {
    (0 <= retention_time_ms).then(|| times.wall_ms.saturating_add(retention_time_ms))
}

fn committed(
    partition: &OffsetCommitRequestPartition,
    expire_ms: Option<i64>,
    times: Times,
) -> Committed {
    Committed {
        offset: partition.committed_offset,
        leader_epoch: partition.committed_leader_epoch,
        metadata: partition.committed_metadata.as_deref().unwrap_or_default().into(),
        commit_ms: times.wall_ms,
        expire_ms,
    }
}

fn fetched_topic(
    name: &str,
    topic_id: TopicId,
    found: Vec<(i32, Result<Option<Committed>, ErrorCode>)>,
) -> OffsetFetchResponseTopic {
    let partitions = found.into_iter().map(|(partition, committed)| match committed {
        Err(error_code) => OffsetFetchResponsePartition {
            error_code,
            ..OffsetFetchResponsePartition::none(partition)
        },
        Ok(None) => OffsetFetchResponsePartition::none(partition),
        Ok(Some(committed)) => OffsetFetchResponsePartition {
            partition_index: partition,
            committed_offset: committed.offset,
            committed_leader_epoch: committed.leader_epoch,
            metadata: Some(committed.metadata.to_string()),
            error_code: ErrorCode::None,
        },
    });
    OffsetFetchResponseTopic { name: name.to_owned(), topic_id, partitions: partitions.collect() }
}
