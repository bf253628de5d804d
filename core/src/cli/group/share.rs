//! `tidemill group describe` of a share group: how far it has come in each partition, and who is in it.
//!
//! Several members may read the same partition, and each record goes to one of them. So it is told how
//! many read a partition, and of each member how many partitions it reads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::json;
use tidemill_client::{Admin, GroupOffsets, GroupView, ShareProgress};

use super::NOTHING;
use super::describe::{Named, ages_of, behind_in_words};
use crate::cli::failure::Failure;

/// How far a group has come, where it has begun.
pub(super) fn starts(progress: BTreeMap<(Arc<str>, i32), ShareProgress>) -> GroupOffsets {
    progress.into_iter().filter_map(|(at, progress)| Some((at, progress.start?))).collect()
}

/// One partition of a share group.
struct Row {
    topic: Arc<str>,
    partition: i32,
    progress: ShareProgress,
    end: i64,
    /// The age of the first record that is not dealt with.
    lag_seconds: Option<f64>,
    /// How many members read it.
    members: usize,
}

impl Named {
    pub(super) fn tell_share_group(
        &self,
        admin: &mut Admin,
        group: &GroupView,
    ) -> Result<(), Failure> {
        let rows = match self.only.has_offsets() {
            true => self.share_rows(admin, group)?,
            false => Vec::new(),
        };
        if self.output.is_json() {
            return self.tell_json(group, rows.iter().map(Row::as_json).collect());
        }
        let lags = rows.iter().map(|row| (row.progress.lag, row.lag_seconds));
        let behind = (!rows.is_empty()).then(|| behind_in_words(lags));
        let heads = ["TOPIC", "PARTITION", "START", "END", "LAG", "LAG_S", "MEMBERS"];
        self.tell_text(group, behind, &heads, rows.iter().map(Row::cells).collect())
    }

    /// Every partition that the group has begun to read, or that a member reads.
    fn share_rows(&self, admin: &mut Admin, group: &GroupView) -> Result<Vec<Row>, Failure> {
        let known = admin.share_group_offsets(&self.name);
        let known = known.map_err(|error| self.bootstrap.failure(error))?;
        let mut readers: BTreeMap<(Arc<str>, i32), usize> = BTreeMap::new();
        let read = group.members.iter().flat_map(|member| &member.partitions);
        for (topic, number) in read {
            *readers.entry((topic.as_str().into(), *number)).or_default() += 1;
        }
        let all: BTreeSet<&(Arc<str>, i32)> = known.keys().chain(readers.keys()).collect();
        let ends = self.ends_of(admin, &all)?;
        let starts = starts(known.clone());
        let lagging = starts.iter().filter(|(at, _)| known[*at].lag != Some(0));
        let lagging = lagging.filter(|(at, start)| ends.get(at).is_some_and(|end| *start < end));
        let lagging = lagging.map(|((topic, number), start)| (Arc::clone(topic), *number, *start));
        let ages = ages_of(&self.bootstrap, lagging.collect())?;
        let rows = all.into_iter().map(|at| {
            let unknown = ShareProgress { start: None, lag: None };
            let progress = known.get(at).copied().unwrap_or(unknown);
            Row {
                topic: Arc::clone(&at.0),
                partition: at.1,
                progress,
                end: ends.get(at).copied().unwrap_or(0),
                lag_seconds: match progress.lag {
                    Some(0) => Some(0.0),
                    _ => ages.get(at).map(|age| age.as_secs_f64()),
                },
                members: readers.get(at).copied().unwrap_or(0),
            }
        });
        Ok(rows.collect())
    }
}

impl Row {
    fn cells(&self) -> Vec<String> {
        let or_nothing = |text: Option<String>| text.unwrap_or_else(|| NOTHING.to_owned());
        vec![
            self.topic.to_string(),
            self.partition.to_string(),
            or_nothing(self.progress.start.map(|start| start.to_string())),
            self.end.to_string(),
            or_nothing(self.progress.lag.map(|lag| lag.to_string())),
            or_nothing(self.lag_seconds.map(|seconds| format!("{seconds:.1}"))),
            self.members.to_string(),
        ]
    }

    fn as_json(&self) -> serde_json::Value {
        json!({
            "topic": *self.topic,
            "partition": self.partition,
            "start_offset": self.progress.start,
            "end_offset": self.end,
            "lag_records": self.progress.lag,
            "lag_seconds": self.lag_seconds,
            "members": self.members,
        })
    }
}
