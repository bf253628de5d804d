//! `tidemill group`: list, describe, reset and delete groups of any Kafka cluster.
//!
//! How far a group is behind is told in records and in seconds: the age of the first record that it
//! has not committed. That record is read for it, one per partition.

mod share;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use serde_json::json;
use tidemill_client::kafka::ErrorCode;
use tidemill_client::kafka::describe_groups::group_type;
use tidemill_client::{
    Admin, Consumer, ConsumerConfig, Error, ErrorKind, GroupOffsets, GroupView, ListedGroup,
    MemberView, Start,
};

use super::brokers::Bootstrap;
use super::failure::Failure;
use super::offsets::{Partitions, Place, parse_place};
use super::{Output, counted, print_line, print_table};

/// How long the records that tell a group's delay are waited for, all together.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// What is shown where there is nothing.
const NOTHING: &str = "-";

/// `tidemill group …`
#[derive(Debug, Subcommand)]
pub(super) enum GroupCommand {
    /// List all groups with their states.
    List(List),
    /// Show a group's members, its offsets, and how far it is behind, in records and in seconds.
    Describe(Named),
    /// Set the offsets of a group that nobody is in, or where a share group begins.
    Reset(Reset),
    /// Delete groups that nobody is in, and all they have committed.
    Delete(Delete),
}

/// `tidemill group list …`
#[derive(Args, Debug)]
pub(super) struct List {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    bootstrap: Bootstrap,
}

/// `tidemill group describe …`
#[derive(Args, Debug)]
pub(super) struct Named {
    /// The group.
    name: String,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    bootstrap: Bootstrap,
}

/// `tidemill group reset …`
#[derive(Args, Debug)]
pub(super) struct Reset {
    /// The group.
    name: String,
    /// Of which topic; may be repeated [default: all that the group has committed]
    #[arg(short, long = "topic", value_name = "TOPIC")]
    topics: Vec<String>,
    /// Of which partition; may be repeated [default: all]
    #[arg(short, long = "partition", value_name = "PARTITION")]
    partitions: Vec<i32>,
    /// Where the group goes on: beginning, end, an offset, -N (the last N), or s@MS (since a time)
    #[arg(long, value_name = "PLACE", allow_hyphen_values = true, value_parser = parse_place)]
    to: Place,
    /// Show what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    bootstrap: Bootstrap,
}

/// `tidemill group delete …`
#[derive(Args, Debug)]
pub(super) struct Delete {
    /// The groups.
    #[arg(required = true)]
    names: Vec<String>,
    /// Have share groups only forget what they have read of this topic; may be repeated
    #[arg(short, long = "topic", value_name = "TOPIC")]
    topics: Vec<String>,
    #[command(flatten)]
    bootstrap: Bootstrap,
}

impl GroupCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::List(list) => list.run(),
            Self::Describe(named) => named.run(),
            Self::Reset(reset) => reset.run(),
            Self::Delete(delete) => delete.run(),
        }
    }
}

impl List {
    fn run(self) -> Result<(), Failure> {
        let mut admin = self.bootstrap.admin(false)?;
        let groups = admin.groups().map_err(|error| self.bootstrap.failure(error))?;
        if self.output.is_json() {
            let rows: Vec<_> = groups
                .iter()
                .map(|group| {
                    json!({
                        "name": group.name,
                        "state": group.state,
                        "type": group.kind,
                        "protocol_type": group.protocol_type,
                    })
                })
                .collect();
            return print_line(&json!(rows).to_string());
        }
        let rows = groups.into_iter().map(|group| vec![group.name, group.state, group.kind]);
        print_table(&["GROUP", "STATE", "TYPE"], rows.collect())
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
}

impl Named {
    fn run(self) -> Result<(), Failure> {
        let mut admin = self.bootstrap.admin(false)?;
        let group = find(&self.bootstrap, &mut admin, &self.name)?;
        if group.kind == group_type::SHARE {
            return self.tell_share_group(&mut admin, &group);
        }
        let committed = admin.group_offsets(&self.name);
        let committed = committed.map_err(|error| self.bootstrap.failure(error))?;
        let rows = self.rows(&mut admin, &group, &committed)?;
        if self.output.is_json() {
            return print_line(&self.as_json(&group, &rows).to_string());
        }
        self.tell_group(&group)?;
        let cells = rows.iter().map(|row| {
            let or_nothing = |text: Option<String>| text.unwrap_or_else(|| NOTHING.to_owned());
            vec![
                row.topic.to_string(),
                row.partition.to_string(),
                or_nothing(row.committed.map(|offset| offset.to_string())),
                row.end.to_string(),
                or_nothing(row.lag().map(|lag| lag.to_string())),
                or_nothing(row.lag_seconds().map(|seconds| format!("{seconds:.1}"))),
                or_nothing(row.member.map(|member| member.name.clone())),
                or_nothing(row.member.map(|member| member.host.clone())),
            ]
        });
        let heads = ["TOPIC", "PARTITION", "OFFSET", "END", "LAG", "LAG_S", "MEMBER", "HOST"];
        print_table(&heads, cells.collect())
    }

    /// What there is to say of the group as a whole.
    fn tell_group(&self, group: &GroupView) -> Result<(), Failure> {
        let members = counted(group.members.len() as u64, "member", "members");
        let assignor = match group.assignor.as_str() {
            "" => String::new(),
            assignor => format!("  assignor {assignor}"),
        };
        let Self { name, .. } = self;
        let GroupView { state, kind, coordinator, .. } = group;
        print_line(&format!(
            "{name}  {state}  {members}  type {kind}{assignor}  coordinator {coordinator}"
        ))
    }

    /// Every partition that the group has committed for, or a member reads.
    fn rows<'a>(
        &self,
        admin: &mut Admin,
        group: &'a GroupView,
        committed: &GroupOffsets,
    ) -> Result<Vec<Row<'a>>, Failure> {
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
    fn ends_of(
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

    fn as_json(&self, group: &GroupView, rows: &[Row<'_>]) -> serde_json::Value {
        let partitions: Vec<_> = rows
            .iter()
            .map(|row| {
                json!({
                    "topic": *row.topic,
                    "partition": row.partition,
                    "offset": row.committed,
                    "end_offset": row.end,
                    "lag_records": row.lag(),
                    "lag_seconds": row.lag_seconds(),
                    "member": row.member.map(|member| &member.name),
                })
            })
            .collect();
        self.group_as_json(group, &partitions)
    }

    fn group_as_json(
        &self,
        group: &GroupView,
        partitions: &[serde_json::Value],
    ) -> serde_json::Value {
        let members: Vec<_> = group
            .members
            .iter()
            .map(|member| {
                json!({
                    "name": member.name,
                    "instance": member.instance,
                    "client": member.client,
                    "host": member.host,
                    "partitions": member.partitions.len(),
                })
            })
            .collect();
        json!({
            "name": self.name,
            "state": group.state,
            "type": group.kind,
            "assignor": group.assignor,
            "coordinator": group.coordinator,
            "members": members,
            "partitions": partitions,
        })
    }
}

/// A group of any kind; it exists.
fn find(bootstrap: &Bootstrap, admin: &mut Admin, name: &str) -> Result<GroupView, Failure> {
    if let Some(found) = find_any(bootstrap, admin, name)? {
        return Ok(found);
    }
    let list = format!("`tidemill group list{}` shows all there are", bootstrap.flag());
    Err(Failure::new(format!("no group {name}")).fix(list))
}

/// A group of any kind, if there is one of this name.
fn find_any(
    bootstrap: &Bootstrap,
    admin: &mut Admin,
    name: &str,
) -> Result<Option<GroupView>, Failure> {
    let found = match admin.group(name) {
        Ok(None) => admin.share_group(name),
        found => found,
    };
    found.map_err(|error| bootstrap.failure(error))
}

/// Refuses a share group, whose members read in another way than those of the groups here.
pub(super) fn check_that_it_is_no_share_group(
    bootstrap: &Bootstrap,
    admin: &mut Admin,
    name: &str,
) -> Result<(), Failure> {
    let groups = admin.groups().map_err(|error| bootstrap.failure(error))?;
    let is_share = |group: &ListedGroup| group.name == name && group.kind == group_type::SHARE;
    if groups.iter().any(is_share) {
        return Err(Failure::new(format!("cannot be a member of group {name}"))
            .because("it is a share group")
            .fix(
                "kafka-console-share-consumer.sh of Apache Kafka 4.2 or later reads as a member",
            ));
    }
    Ok(())
}

/// How old the first record from each of these offsets on is, where there is one.
fn ages_of(
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

impl Reset {
    fn run(self) -> Result<(), Failure> {
        let mut admin = self.bootstrap.admin(false)?;
        let (is_share, before) = self.offsets_before(&mut admin)?;
        let wanted: BTreeSet<Arc<str>> = match self.topics.is_empty() {
            true => before.keys().map(|(topic, _)| Arc::clone(topic)).collect(),
            false => self.topics.iter().map(|topic| topic.as_str().into()).collect(),
        };
        if wanted.is_empty() {
            let fix = "name the topics whose offsets are to be set with --topic";
            let verb = if is_share { "read" } else { "committed" };
            let what = format!("group {} has {verb} nothing", self.name);
            return Err(Failure::new(what).fix(fix));
        }
        if !self.partitions.is_empty() && 1 < wanted.len() {
            let fix = "name one topic with --topic";
            return Err(Failure::usage("partitions are those of one topic").fix(fix));
        }
        let mut after = GroupOffsets::new();
        for topic in wanted {
            let numbers = self.bootstrap.partitions(&mut admin, &topic, &self.partitions)?;
            let (bootstrap, numbers) = (&self.bootstrap, &numbers[..]);
            let mut partitions = Partitions::new(bootstrap, &mut admin, &topic, numbers);
            let found = partitions.find(self.to)?.into_iter();
            after.extend(found.map(|(number, offset)| ((Arc::clone(&topic), number), offset)));
        }
        if !self.dry_run {
            let done = match is_share {
                true => admin.alter_share_group_offsets(&self.name, &after),
                false => admin.commit_group_offsets(&self.name, &after),
            };
            done.map_err(|error| self.bootstrap.failure(error))?;
        }
        self.tell(&before, &after)
    }

    /// Whether it is a share group, and what was committed before, or where it has begun. Nobody may
    /// be in the group, or its members would go on where they are and commit that.
    fn offsets_before(&self, admin: &mut Admin) -> Result<(bool, GroupOffsets), Failure> {
        let name = &self.name;
        let group = find_any(&self.bootstrap, admin, name)?;
        let is_share = group.as_ref().is_some_and(|group| group.kind == group_type::SHARE);
        let members = group.map_or(0, |group| group.members.len()) as u64;
        if 0 < members {
            let members = counted(members, "member", "members");
            return Err(Failure::new(format!("cannot set the offsets of group {name}"))
                .because(format!("it has {members}, who would go on where they are"))
                .fix("stop them first; who was killed is out when its session is over"));
        }
        let before = match is_share {
            true => admin.share_group_offsets(name).map(share::starts),
            false => admin.group_offsets(name),
        };
        let before = before.map_err(|error| self.bootstrap.failure(error))?;
        Ok((is_share, before))
    }

    fn tell(&self, before: &GroupOffsets, after: &GroupOffsets) -> Result<(), Failure> {
        if self.output.is_json() {
            let rows: Vec<_> = after
                .iter()
                .map(|(at, offset)| {
                    json!({
                        "topic": *at.0,
                        "partition": at.1,
                        "before": before.get(at),
                        "offset": offset,
                    })
                })
                .collect();
            return print_line(&json!(rows).to_string());
        }
        let rows = after.iter().map(|(at, offset)| {
            let before = before.get(at).map_or_else(|| NOTHING.to_owned(), i64::to_string);
            vec![at.0.to_string(), at.1.to_string(), before, offset.to_string()]
        });
        print_table(&["TOPIC", "PARTITION", "BEFORE", "OFFSET"], rows.collect())?;
        if self.dry_run {
            print_line("nothing was changed: this was a dry run")?;
        }
        Ok(())
    }
}

impl Delete {
    fn run(self) -> Result<(), Failure> {
        let mut admin = self.bootstrap.admin(false)?;
        let topics: BTreeSet<Arc<str>> =
            self.topics.iter().map(|name| Arc::from(&**name)).collect();
        for name in &self.names {
            let deleted = match topics.is_empty() {
                true => admin.delete_group(name),
                false => admin.delete_share_group_offsets(name, &topics),
            };
            if let Err(error) = deleted {
                return Err(self.why_not(name, error));
            }
            match topics.is_empty() {
                true => print_line(&format!("deleted {name}"))?,
                false => print_line(&format!("{name} has forgotten {}", self.topics.join(", ")))?,
            }
        }
        Ok(())
    }

    fn why_not(&self, name: &str, error: Error) -> Failure {
        let cannot = Failure::new(format!("cannot delete group {name}"));
        let flag = self.bootstrap.flag();
        match error.kind() {
            ErrorKind::Refused(ErrorCode::NonEmptyGroup) => cannot
                .because(format!(
                    "somebody is in it: `tidemill group describe {name}{flag}` names its members"
                ))
                .fix("stop them first; who was killed is out when its session is over"),
            ErrorKind::Refused(ErrorCode::GroupIdNotFound) => cannot
                .because(match self.topics.is_empty() {
                    true => "there is no such group",
                    false => "there is no such share group",
                })
                .fix(format!("`tidemill group list{flag}` names those there are")),
            _ => self.bootstrap.failure(error),
        }
    }
}
