//! `tidemill group describe`: the state of a group, how far it has come in each partition, and who is
//! in it, also who reads nothing.
//!
//! How far a group is behind is told in records and in seconds: the age of the first record that it
//! has not committed. That record is read for it, one per partition.
//!
//! Start reading at [`Named::run`]; of share groups `share.rs` tells.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::{Value, json};
use tidemill_client::kafka::describe_groups::group_type;
use tidemill_client::{
    Admin, Consumer, ConsumerConfig, GroupOffsets, GroupView, MemberView, Start,
};

use super::members::{members_as_json, print_members, what_stands_out};
use super::{NOTHING, find};
use crate::cli::brokers::Bootstrap;
use crate::cli::failure::Failure;
use crate::cli::offsets::Partitions;
use crate::cli::{Output, counted, print_line, print_table};

/// How long the records that tell a group's delay are waited for, all together.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// `tidemill group describe …`
#[derive(Args, Debug)]
pub(in crate::cli) struct Named {
    /// The group.
    pub(super) name: String,
    #[command(flatten)]
    pub(super) only: Only,
    #[command(flatten)]
    pub(super) output: Output,
    #[command(flatten)]
    pub(super) bootstrap: Bootstrap,
}

/// Which part of the whole is asked for, if not all of it.
#[derive(Args, Debug)]
#[group(multiple = false)]
pub(super) struct Only {
    /// Show only the state of the group as a whole.
    #[arg(long)]
    state: bool,
    /// Show only who is in it.
    #[arg(long)]
    members: bool,
    /// Show only how far it has come, by partition.
    #[arg(long)]
    offsets: bool,
}

impl Only {
    pub(super) fn has_offsets(&self) -> bool {
        !self.state && !self.members
    }

    pub(super) fn has_members(&self) -> bool {
        !self.state && !self.offsets
    }
}

/// One partition of a group: how far it has come, and whose it is.
struct Row<'a> {
    topic: Arc<str>,
    partition: i32,
    /// The next record to consume, if anything was committed.
    committed: Option<i64>,
    end: i64,
    /// The age of the first record that was not committed.
    behind: Option<Duration>,
    member: Option<&'a MemberView>,
}

impl Row<'_> {
    fn lag(&self) -> Option<i64> {
        self.committed.map(|committed| (self.end - committed).max(0))
    }

    fn lag_seconds(&self) -> Option<f64> {
        match (self.lag(), self.behind) {
            (Some(0), _) => Some(0.0),
            (_, behind) => behind.map(|behind| behind.as_secs_f64()),
        }
    }

    fn cells(&self) -> Vec<String> {
        let or_nothing = |text: Option<String>| text.unwrap_or_else(|| NOTHING.to_owned());
        vec![
            self.topic.to_string(),
            self.partition.to_string(),
            or_nothing(self.committed.map(|offset| offset.to_string())),
            self.end.to_string(),
            or_nothing(self.lag().map(|lag| lag.to_string())),
            or_nothing(self.lag_seconds().map(|seconds| format!("{seconds:.1}"))),
            or_nothing(self.member.map(|member| member.name.clone())),
            or_nothing(self.member.map(|member| member.client.clone())),
        ]
    }

    fn as_json(&self) -> Value {
        json!({
            "topic": *self.topic,
            "partition": self.partition,
            "offset": self.committed,
            "end_offset": self.end,
            "lag_records": self.lag(),
            "lag_seconds": self.lag_seconds(),
            "member": self.member.map(|member| &member.name),
            "client": self.member.map(|member| &member.client),
        })
    }
}

impl Named {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut admin = self.bootstrap.admin(false)?;
        let mut group = find(&self.bootstrap, &mut admin, &self.name)?;
        // Who looks again and again finds everybody in the same place.
        group.members.sort_by(|a, b| {
            (&a.client, &a.instance, &a.name).cmp(&(&b.client, &b.instance, &b.name))
        });
        if group.kind == group_type::SHARE {
            return self.tell_share_group(&mut admin, &group);
        }
        let rows = match self.only.has_offsets() {
            true => self.rows(&mut admin, &group)?,
            false => Vec::new(),
        };
        if self.output.is_json() {
            return self.tell_json(&group, rows.iter().map(Row::as_json).collect());
        }
        let lags = rows.iter().map(|row| (row.lag(), row.lag_seconds()));
        let behind = (!rows.is_empty()).then(|| behind_in_words(lags));
        let heads = ["TOPIC", "PARTITION", "OFFSET", "END", "LAG", "LAG_S", "MEMBER", "CLIENT"];
        self.tell_text(&group, behind, &heads, rows.iter().map(Row::cells).collect())
    }

    /// The parts that were asked for: the group as a whole, its partitions, its members.
    pub(super) fn tell_text(
        &self,
        group: &GroupView,
        behind: Option<String>,
        heads: &[&str],
        partitions: Vec<Vec<String>>,
    ) -> Result<(), Failure> {
        self.tell_group(group)?;
        for note in behind.into_iter().chain(what_stands_out(group)) {
            print_line(&format!("  {note}"))?;
        }
        if self.only.has_offsets() {
            if partitions.is_empty() {
                let nobody =
                    if group.members.is_empty() { "" } else { ", and no partition is shared out" };
                print_line(&format!("  nothing is committed{nobody}"))?;
            } else {
                print_line("")?;
                print_table(heads, partitions)?;
            }
        }
        if self.only.has_members() && !group.members.is_empty() {
            print_line("")?;
            print_members(group)?;
        }
        Ok(())
    }

    /// What there is to say of the group as a whole.
    fn tell_group(&self, group: &GroupView) -> Result<(), Failure> {
        let members = counted(group.members.len() as u64, "member", "members");
        let assignor = match group.assignor.as_str() {
            "" => String::new(),
            assignor => format!("  assignor {assignor}"),
        };
        let epoch = match (group.epoch, group.assignment_epoch) {
            (None, _) => String::new(),
            (Some(epoch), Some(assigned)) if assigned != epoch => {
                format!("  epoch {epoch} (shared out for {assigned})")
            }
            (Some(epoch), _) => format!("  epoch {epoch}"),
        };
        let Self { name, .. } = self;
        let GroupView { state, kind, coordinator, .. } = group;
        print_line(&format!(
            "{name}  {state}  {members}  type {kind}{assignor}{epoch}  coordinator {coordinator}"
        ))
    }

    /// Every partition that the group has committed for, or a member reads.
    fn rows<'a>(&self, admin: &mut Admin, group: &'a GroupView) -> Result<Vec<Row<'a>>, Failure> {
        let committed = admin.group_offsets(&self.name);
        let committed = committed.map_err(|error| self.bootstrap.failure(error))?;
        let mut owners: BTreeMap<(Arc<str>, i32), &MemberView> = BTreeMap::new();
        for member in &group.members {
            let read = member.partitions.iter();
            owners.extend(read.map(|(topic, number)| ((topic.as_str().into(), *number), member)));
        }
        let all: BTreeSet<&(Arc<str>, i32)> = committed.keys().chain(owners.keys()).collect();
        let ends = self.ends_of(admin, &all)?;
        let lags =
            committed.iter().filter(|(at, offset)| ends.get(at).is_some_and(|e| *offset < e));
        let lagging: Vec<(Arc<str>, i32, i64)> =
            lags.map(|((topic, number), offset)| (Arc::clone(topic), *number, *offset)).collect();
        let ages = ages_of(&self.bootstrap, lagging)?;
        let rows = all.into_iter().map(|at| Row {
            topic: Arc::clone(&at.0),
            partition: at.1,
            committed: committed.get(at).copied(),
            end: ends.get(at).copied().unwrap_or(0),
            behind: ages.get(at).copied(),
            member: owners.get(at).copied(),
        });
        Ok(rows.collect())
    }

    /// Where these partitions end.
    pub(super) fn ends_of(
        &self,
        admin: &mut Admin,
        all: &BTreeSet<&(Arc<str>, i32)>,
    ) -> Result<GroupOffsets, Failure> {
        let mut ends = GroupOffsets::new();
        let topics: BTreeSet<&Arc<str>> = all.iter().map(|(topic, _)| topic).collect();
        for topic in topics {
            let of_topic = all.iter().filter(|(name, _)| name == topic);
            let numbers: Vec<i32> = of_topic.map(|(_, number)| *number).collect();
            let bootstrap = &self.bootstrap;
            let mut partitions = Partitions::new(bootstrap, admin, topic, &numbers);
            let found = partitions.ends()?.into_iter();
            ends.extend(found.map(|(number, end)| ((Arc::clone(topic), number), end)));
        }
        Ok(ends)
    }

    /// The parts that were asked for, as one object.
    pub(super) fn tell_json(
        &self,
        group: &GroupView,
        partitions: Vec<Value>,
    ) -> Result<(), Failure> {
        let mut whole = json!({
            "name": self.name,
            "state": group.state,
            "type": group.kind,
            "assignor": group.assignor,
            "coordinator": group.coordinator,
            "epoch": group.epoch,
            "assignment_epoch": group.assignment_epoch,
        });
        if self.only.has_members() {
            whole["members"] = members_as_json(group);
        }
        if self.only.has_offsets() {
            whole["partitions"] = Value::Array(partitions);
        }
        print_line(&whole.to_string())
    }
}

/// How far a group is behind as a whole, of each partition's lag in records and in seconds.
pub(super) fn behind_in_words(lags: impl Iterator<Item = (Option<i64>, Option<f64>)>) -> String {
    let (mut records, mut seconds, mut known, mut unknown) = (0, 0.0_f64, 0, 0);
    for (lag, age) in lags {
        records += lag.unwrap_or(0);
        seconds = seconds.max(age.unwrap_or(0.0));
        known += u64::from(lag.is_some());
        unknown += u64::from(lag.is_none());
    }
    if known == 0 {
        return "nothing is committed".to_owned();
    }
    let mut words = format!("behind by {}", counted(records as u64, "record", "records"));
    if 0.0 < seconds {
        words.push_str(&format!(", {seconds:.1} s"));
    }
    if 0 < unknown {
        let partitions = counted(unknown, "partition", "partitions");
        words.push_str(&format!("; nothing is committed in {partitions}"));
    }
    words
}

/// How old the first record from each of these offsets on is, where there is one.
pub(super) fn ages_of(
    bootstrap: &Bootstrap,
    offsets: Vec<(Arc<str>, i32, i64)>,
) -> Result<BTreeMap<(Arc<str>, i32), Duration>, Failure> {
    let mut ages = BTreeMap::new();
    if offsets.is_empty() {
        return Ok(ages);
    }
    let config = ConsumerConfig {
        cluster: bootstrap.cluster(false),
        // The first batch comes whole in any case.
        partition_bytes: 1,
        // What was committed may have been deleted meanwhile.
        reset: Some(Start::Earliest),
        ..ConsumerConfig::default()
    };
    let mut consumer = Consumer::open(config).map_err(|error| bootstrap.failure(error))?;
    let count = offsets.len();
    let starts = offsets.into_iter().map(|(topic, at, offset)| (topic, at, Start::Offset(offset)));
    consumer.assign(starts);
    let until = Instant::now() + READ_WITHIN;
    while ages.len() < count && Instant::now() < until {
        let left = until.saturating_duration_since(Instant::now());
        let records = consumer.poll(left).map_err(|error| bootstrap.failure(error))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        for record in records {
            let at = (Arc::clone(&record.topic), record.partition);
            if ages.contains_key(&at) {
                continue;
            }
            let made = Duration::from_millis(u64::try_from(record.timestamp_ms).unwrap_or(0));
            ages.insert(at, now.saturating_sub(made));
            consumer.pause(&record.topic, record.partition).map_err(|e| bootstrap.failure(e))?;
        }
    }
    Ok(ages)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A group that has committed nothing is not up to date.
    #[test]
    fn how_far_a_group_is_behind_counts_no_partition_without_a_commit() {
        let told = |lags: &[(Option<i64>, Option<f64>)]| behind_in_words(lags.iter().copied());
        assert_eq!(told(&[(None, None), (None, None)]), "nothing is committed");
        assert_eq!(told(&[(Some(0), Some(0.0))]), "behind by 0 records");
        assert_eq!(told(&[(Some(1), Some(2.5)), (Some(0), None)]), "behind by 1 record, 2.5 s");
        let some = told(&[(Some(7), Some(2.0)), (None, None)]);
        assert_eq!(some, "behind by 7 records, 2.0 s; nothing is committed in 1 partition");
    }
}
