//! Who is in a group, as `tidemill group describe` tells it: everybody, also who reads nothing, and of
//! each with which protocol.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tidemill_client::kafka::describe_groups::group_type;
use tidemill_client::{GroupView, MemberView};

use super::NOTHING;
use crate::cli::failure::Failure;
use crate::cli::{counted, print_table};

/// A column: its head, whether there is anything to tell in it, and what it tells.
type Column = (&'static str, bool, fn(&MemberView) -> String);

/// Prints a row for each member.
pub(super) fn print_members(group: &GroupView) -> Result<(), Failure> {
    let any = |tells: fn(&MemberView) -> bool| group.members.iter().any(tells);
    let columns: [Column; 8] = [
        ("MEMBER", true, |member| member.name.clone()),
        ("CLIENT", true, |member| or_nothing(Some(member.client.clone()))),
        // Kafka's brokers tell it as Java prints an address without a name.
        ("HOST", true, |member| member.host.trim_start_matches('/').to_owned()),
        ("INSTANCE", any(|member| member.instance.is_some()), |member| {
            or_nothing(member.instance.clone())
        }),
        // Where members of two protocols may be; elsewhere it is the group's.
        ("PROTOCOL", group.kind == group_type::CONSUMER, |member| {
            or_nothing(Some(member.kind.to_owned()))
        }),
        ("EPOCH", any(|member| member.epoch.is_some()), |member| {
            or_nothing(member.epoch.map(|epoch| epoch.to_string()))
        }),
        ("PARTITIONS", true, |member| member.partitions.len().to_string()),
        ("TARGET", any(|member| member.target.is_some()), |member| {
            or_nothing(member.target.as_ref().map(|target| target.len().to_string()))
        }),
    ];
    let shown = || columns.iter().filter(|(_, is_shown, _)| *is_shown);
    let heads: Vec<&str> = shown().map(|(head, ..)| *head).collect();
    let rows = group.members.iter().map(|member| shown().map(|(.., cell)| cell(member)).collect());
    print_table(&heads, rows.collect())
}

fn or_nothing(text: Option<String>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or_else(|| NOTHING.to_owned())
}

/// What is easily overlooked among many members: those of the other protocol in a group on its way from
/// one to the other, and those that read nothing.
pub(super) fn what_stands_out(group: &GroupView) -> Vec<String> {
    let count = |matches: fn(&&MemberView) -> bool| group.members.iter().filter(matches).count();
    let classic = count(|member| member.kind == group_type::CLASSIC);
    let newer = count(|member| member.kind == group_type::CONSUMER);
    let mut notes = Vec::new();
    if 0 < classic && 0 < newer {
        let classic = counted(classic as u64, "member speaks", "members speak");
        notes.push(format!("{classic} the classic protocol, {newer} the consumer protocol"));
    }
    let idle = count(|member| member.partitions.is_empty());
    // Where nobody seems to read, the group is being shared out, or it is of a kind not understood.
    if 0 < idle && idle < group.members.len() {
        notes.push(counted(idle as u64, "member reads", "members read") + " nothing");
    }
    notes
}

/// An object for each member.
pub(super) fn members_as_json(group: &GroupView) -> Value {
    let members = group.members.iter().map(|member| {
        json!({
            "name": member.name,
            "instance": member.instance,
            "client": member.client,
            "host": member.host,
            "protocol": Some(member.kind).filter(|kind| !kind.is_empty()),
            "epoch": member.epoch,
            "partitions": member.partitions.len(),
            "assignment": by_topic(&member.partitions),
            "target": member.target.as_ref().map(|target| by_topic(target)),
        })
    });
    Value::Array(members.collect())
}

/// Partitions by topic, in order.
fn by_topic(partitions: &[(String, i32)]) -> BTreeMap<&str, Vec<i32>> {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for (topic, number) in partitions {
        topics.entry(topic).or_default().push(*number);
    }
    topics.values_mut().for_each(|numbers| numbers.sort_unstable());
    topics
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(kind: &'static str, reads: &[i32]) -> MemberView {
        MemberView {
            name: "m".to_owned(),
            instance: None,
            client: "c".to_owned(),
            host: "/127.0.0.1".to_owned(),
            kind,
            epoch: None,
            partitions: reads.iter().map(|number| ("t".to_owned(), *number)).collect(),
            target: None,
        }
    }

    fn group(members: Vec<MemberView>) -> GroupView {
        GroupView {
            state: "Stable".to_owned(),
            kind: group_type::CONSUMER,
            assignor: "uniform".to_owned(),
            coordinator: 1,
            epoch: Some(4),
            assignment_epoch: Some(4),
            members,
        }
    }

    /// Who moves a group member by member wants to know who is left, and who got nothing.
    #[test]
    fn members_of_the_other_protocol_and_idle_ones_stand_out() {
        let (classic, newer) = (group_type::CLASSIC, group_type::CONSUMER);
        let mixed = group(vec![member(classic, &[0]), member(newer, &[1]), member(newer, &[])]);
        let told = what_stands_out(&mixed);
        let protocols = "1 member speaks the classic protocol, 2 the consumer protocol";
        assert_eq!(told, [protocols, "1 member reads nothing"]);
        assert!(what_stands_out(&group(vec![member(newer, &[0, 1])])).is_empty());
        assert!(what_stands_out(&group(Vec::new())).is_empty());
    }

    #[test]
    fn what_a_member_reads_is_told_by_topic_in_order() {
        let told = members_as_json(&group(vec![member(group_type::CONSUMER, &[2, 0])]));
        assert_eq!(told[0]["assignment"], json!({"t": [0, 2]}));
        assert_eq!((&told[0]["partitions"], &told[0]["protocol"]), (&json!(2), &json!("consumer")));
    }
}
