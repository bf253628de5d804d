//! `tidemill group`: list, describe, reset and delete groups of any Kafka cluster.
//!
//! Start reading at [`GroupCommand`]; what `describe` tells is in `group/describe.rs`.

mod describe;
mod members;
mod share;

use std::collections::BTreeSet;
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::json;
use tidemill_client::kafka::ErrorCode;
use tidemill_client::kafka::describe_groups::group_type;
use tidemill_client::{Admin, Error, ErrorKind, GroupOffsets, GroupView, ListedGroup};

use super::brokers::Bootstrap;
use super::failure::Failure;
use super::offsets::{Partitions, Place, parse_place};
use super::{Output, counted, print_line, print_table};

/// What is shown where there is nothing.
const NOTHING: &str = "-";

/// `tidemill group …`
#[derive(Debug, Subcommand)]
pub(super) enum GroupCommand {
    /// List all groups with their states.
    List(List),
    /// Show a group's members, its offsets, and how far it is behind, in records and in seconds.
    Describe(describe::Named),
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
