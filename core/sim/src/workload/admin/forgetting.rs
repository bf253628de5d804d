//! The administrator makes groups forget: all they are, or what they have committed of a partition.
//! Beside members that come and go, commits under way, and transactions that are open.

use bytes::Bytes;
use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::delete_groups::{DeleteGroupsRequest, DeleteGroupsResponse};
use tidemill_net::kafka::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
    OffsetDeleteResponse,
};

use super::{Admin, Ask};
use crate::checker::offsets::DeletionEnd;
use crate::checker::{Place, Verdict, Violation, check};
use crate::workload::Scene;
use crate::workload::map::read;

/// What is to be forgotten.
#[derive(Clone, Debug)]
pub(super) struct Forget {
    version: i16,
    group: String,
    /// The offset of this partition; none: the whole group.
    of: Option<Place>,
    /// Its name with the checker.
    number: usize,
}

impl Admin {
    pub(super) fn forget(&mut self, scene: &mut Scene<'_, '_>) {
        let groups: Vec<String> = scene.history.offsets.groups().cloned().collect();
        if groups.is_empty() {
            return;
        }
        let group = scene.random.pick(&groups).clone();
        if scene.random.coin() {
            return self.delete_group(group, scene);
        }
        let places: Vec<Place> = scene.history.offsets.places(&group).copied().collect();
        if !places.is_empty() {
            let place = *scene.random.pick(&places);
            self.delete_offset(group, place, scene);
        }
    }

    fn delete_group(&mut self, group: String, scene: &mut Scene<'_, '_>) {
        let version = scene.random.between(0, 2) as i16;
        let request = DeleteGroupsRequest { groups_names: vec![group.clone()] };
        let number = scene.history.deleting(&group, None);
        let ask = Ask::Forget(Forget { version, group, of: None, number });
        self.ask(ask, version, &request, scene);
    }

    fn delete_offset(&mut self, group: String, place: Place, scene: &mut Scene<'_, '_>) {
        let Some(name) = self.map.name(place.topic) else { return };
        let partitions = vec![OffsetDeleteRequestPartition { partition_index: place.partition }];
        let request = OffsetDeleteRequest {
            group_id: group.clone(),
            topics: vec![OffsetDeleteRequestTopic { name: name.to_owned(), partitions }],
        };
        let number = scene.history.deleting(&group, Some(place));
        let ask = Ask::Forget(Forget { version: 0, group, of: Some(place), number });
        self.ask(ask, 0, &request, scene);
    }
}

/// Nobody knows what became of it.
pub(super) fn lost(forget: &Forget, scene: &mut Scene<'_, '_>) {
    let Forget { group, of, number, .. } = forget;
    scene.history.deletion_over(group, *of, *number, DeletionEnd::Unknown);
}

pub(super) fn forgotten(forget: &Forget, frame: &Bytes, scene: &mut Scene<'_, '_>) -> Verdict {
    let error = error(forget, frame)?;
    let Forget { group, of, number, .. } = forget;
    scene.port.say(format!("{group} is to forget {of:?}: {error}"));
    let end = match error {
        ErrorCode::None => DeletionEnd::Done,
        ErrorCode::NonEmptyGroup
        | ErrorCode::GroupIdNotFound
        | ErrorCode::GroupSubscribedToTopic
        | ErrorCode::UnknownTopicOrPartition => DeletionEnd::Refused,
        // What could not be written may be there after a crash.
        error => {
            check(error.is_retriable(), "what a group keeps can be deleted", || {
                format!("{of:?} of {group}: {error}")
            })?;
            DeletionEnd::Unknown
        }
    };
    scene.history.deletion_over(group, *of, *number, end);
    Ok(())
}

fn error(forget: &Forget, frame: &Bytes) -> Result<ErrorCode, Violation> {
    let version = forget.version;
    let told = if forget.of.is_none() {
        let response: DeleteGroupsResponse = read(version, frame)?;
        response.results.first().map(|result| result.error_code)
    } else {
        let response: OffsetDeleteResponse = read(version, frame)?;
        let mut partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
        let partition = partitions.next().map(|partition| partition.error_code);
        Some(response.error_code).filter(|error| !error.is_none()).or(partition)
    };
    check(told.is_some(), "every deletion is answered", || format!("{forget:?}"))?;
    Ok(told.unwrap_or_default())
}
