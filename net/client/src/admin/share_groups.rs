//! Calls about share groups (KIP-932): who is in one, and where it begins to read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::alter_share_group_offsets::{
    AlterShareGroupOffsetsRequest, ShareGroupPartitionToAlter, ShareGroupTopicToAlter,
};
use tidemill_net::kafka::delete_share_group_offsets::{
    DeleteShareGroupOffsetsRequest, ShareGroupTopicToDelete,
};
use tidemill_net::kafka::describe_groups::group_type;
use tidemill_net::kafka::describe_share_group_offsets::{
    DescribeShareGroupOffsetsRequest, ShareGroupToDescribe,
};
use tidemill_net::kafka::share_group_describe::{ShareGroupDescribeRequest, ShareGroupMember};

use super::Admin;
use super::groups::{GroupOffsets, GroupView, MemberView, is_other_kind, named_partitions};
use crate::error::Error;

/// How far a share group has come in a partition.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ShareProgress {
    /// All records below are dealt with; none if the group has not begun there.
    pub start: Option<i64>,
    /// How many records are left to deal with; none if the broker does not say.
    pub lag: Option<i64>,
}

impl Admin {
    /// One share group and its members; none if there is no such share group. Several members may
    /// read the same partition.
    pub fn share_group(&mut self, name: &str) -> Result<Option<GroupView>, Error> {
        let what = format!("cannot describe share group {name}");
        let request = ShareGroupDescribeRequest {
            group_ids: vec![name.to_owned()],
            include_authorized_operations: false,
        };
        let told = self.ask_coordinator(&what, name, &request, |answer| {
            let group = answer.groups.first()?;
            Some((group.error_code, group.error_message.clone(), group.clone()))
        });
        match told {
            Ok((coordinator, group)) => Ok(Some(GroupView {
                state: group.group_state,
                kind: group_type::SHARE,
                assignor: group.assignor_name,
                coordinator,
                epoch: Some(group.group_epoch),
                assignment_epoch: Some(group.assignment_epoch),
                members: group.members.into_iter().map(member_of).collect(),
            })),
            Err(error) if is_other_kind(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How far a share group has come in each partition that it knows.
    pub fn share_group_offsets(
        &mut self,
        group: &str,
    ) -> Result<BTreeMap<(Arc<str>, i32), ShareProgress>, Error> {
        let what = format!("cannot tell how far share group {group} has come");
        let all = ShareGroupToDescribe { group_id: group.to_owned(), topics: None };
        let request = DescribeShareGroupOffsetsRequest { groups: vec![all] };
        let (_, topics) = self.ask_coordinator(&what, group, &request, |answer| {
            let group = answer.groups.first()?;
            Some((group.error_code, group.error_message.clone(), group.topics.clone()))
        })?;
        let known = |number: i64| (0 <= number).then_some(number);
        let mut offsets = BTreeMap::new();
        for topic in topics {
            let name: Arc<str> = topic.topic_name.into();
            for partition in topic.partitions.iter().filter(|p| p.error_code.is_none()) {
                let progress = ShareProgress {
                    start: known(partition.start_offset),
                    lag: known(partition.lag),
                };
                offsets.insert((Arc::clone(&name), partition.partition_index), progress);
            }
        }
        Ok(offsets)
    }

    /// Has a share group that nobody is in begin elsewhere: what it has dealt with from there on it
    /// reads again.
    pub fn alter_share_group_offsets(
        &mut self,
        group: &str,
        offsets: &GroupOffsets,
    ) -> Result<(), Error> {
        let what = format!("cannot set where share group {group} begins");
        let mut by_topic: BTreeMap<&Arc<str>, Vec<ShareGroupPartitionToAlter>> = BTreeMap::new();
        for ((topic, partition_index), start_offset) in offsets {
            let (partition_index, start_offset) = (*partition_index, *start_offset);
            let one = ShareGroupPartitionToAlter { partition_index, start_offset };
            by_topic.entry(topic).or_default().push(one);
        }
        let topics = by_topic.into_iter().map(|(topic, partitions)| ShareGroupTopicToAlter {
            topic_name: topic.to_string(),
            partitions,
        });
        let request =
            AlterShareGroupOffsetsRequest { group_id: group.to_owned(), topics: topics.collect() };
        self.ask_coordinator(&what, group, &request, |answer| {
            let parts = answer.responses.iter().flat_map(|topic| &topic.partitions);
            let parts = parts.map(|part| (part.error_code, part.error_message.clone()));
            let whole = (answer.error_code, answer.error_message.clone());
            Some(first_error(std::iter::once(whole).chain(parts)))
        })?;
        Ok(())
    }

    /// Has a share group that nobody is in forget topics, as if it had never read them.
    pub fn delete_share_group_offsets(
        &mut self,
        group: &str,
        topics: &BTreeSet<Arc<str>>,
    ) -> Result<(), Error> {
        let what = format!("cannot delete what share group {group} has read");
        let topics =
            topics.iter().map(|topic| ShareGroupTopicToDelete { topic_name: topic.to_string() });
        let request =
            DeleteShareGroupOffsetsRequest { group_id: group.to_owned(), topics: topics.collect() };
        self.ask_coordinator(&what, group, &request, |answer| {
            let all = answer.responses.iter();
            let all = all.map(|topic| (topic.error_code, topic.error_message.clone()));
            let whole = (answer.error_code, answer.error_message.clone());
            Some(first_error(std::iter::once(whole).chain(all)))
        })?;
        Ok(())
    }
}

/// The first thing that went wrong, with what was said of it.
fn first_error(
    mut all: impl Iterator<Item = (ErrorCode, Option<String>)>,
) -> (ErrorCode, Option<String>, ()) {
    let failed = all.find(|(code, _)| !code.is_none());
    let (code, words) = failed.unwrap_or((ErrorCode::None, None));
    (code, words, ())
}

fn member_of(member: ShareGroupMember) -> MemberView {
    MemberView {
        kind: group_type::SHARE,
        epoch: Some(member.member_epoch),
        partitions: named_partitions(member.assignment),
        target: None,
        name: member.member_id,
        instance: None,
        client: member.client_id,
        host: member.client_host,
    }
}
