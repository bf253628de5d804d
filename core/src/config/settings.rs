//! Every setting of the broker: its name, its kind with unit and bounds, its default, its meaning.
//!
//! Kafka's names and Kafka's meanings where Kafka has the setting; names of our own begin with
//! `tidemill.`. The tables are the only place that knows a name, a default or a bound: the command
//! line, the file and the answer to DescribeConfigs are all read off them.
//!
//! Start reading at [`all`].

mod coordinators;
mod kind;
mod node;
mod topics;

use crate::limits;

pub(crate) use kind::split_endpoint;
pub use kind::{Kind, Unit, Value};

/// One row of a table.
#[derive(Debug)]
pub struct Setting {
    /// The name to use.
    pub name: &'static str,
    /// Other names that Kafka accepts for the same thing.
    pub aliases: &'static [&'static str],
    /// What its values look like.
    pub kind: Kind,
    /// The value if nobody gives one; empty means unset.
    pub default: &'static str,
    /// What it does, in one sentence or two.
    pub doc: &'static str,
}

const fn setting(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    doc: &'static str,
) -> Setting {
    Setting { name, aliases: &[], kind, default, doc }
}

const fn renamed(aliases: &'static [&'static str], mut setting: Setting) -> Setting {
    setting.aliases = aliases;
    setting
}

/// The tables, in the order in which they are explained to people.
static TABLES: [&[Setting]; 5] =
    [node::PLACE, topics::TOPICS, coordinators::GROUPS, coordinators::TRANSACTIONS, node::MEANS];

/// All settings, in the order in which they are explained to people.
pub fn all() -> impl Iterator<Item = &'static Setting> + Clone {
    TABLES.into_iter().flatten()
}

/// The row of this name or alias.
#[must_use]
pub fn find(name: &str) -> Option<&'static Setting> {
    all().find(|s| s.name == name || s.aliases.contains(&name))
}

/// The name most like `wrong`, if any is like it at all.
#[must_use]
pub fn nearest(wrong: &str) -> Option<&'static str> {
    let all = all().flat_map(|s| std::iter::once(s.name).chain(s.aliases.iter().copied()));
    nearest_of(wrong, all)
}

/// The one of `names` that is most like `wrong`, if any is like it at all; or else the only one that
/// goes on where `wrong` ends at a dot.
pub(crate) fn nearest_of<'a>(
    wrong: &str,
    names: impl Iterator<Item = &'a str> + Clone,
) -> Option<&'a str> {
    let plain = |name: &str| name.replace(['_', '-'], ".").to_ascii_lowercase();
    let wrong: String = plain(wrong).chars().take(limits::SETTING_NAME_BYTES_MAX).collect();
    let distance_to = |name: &str| {
        let name = plain(name);
        let short = name.strip_prefix("tidemill.").unwrap_or(&name);
        edits_between(&wrong, short).min(edits_between(&wrong, &name))
    };
    let nearest = names.clone().map(|name| (distance_to(name), name));
    let (distance, name) = nearest.min_by_key(|(distance, _)| *distance)?;
    if distance <= wrong.len() / 3 {
        return Some(name);
    }
    let goes_on = |name: &&str| {
        let name = plain(name);
        let short = name.strip_prefix("tidemill.").unwrap_or(&name);
        [&*name, short]
            .iter()
            .any(|name| name.strip_prefix(&*wrong).is_some_and(|rest| rest.starts_with('.')))
    };
    let mut longer = names.filter(goes_on);
    longer.next().filter(|_| longer.next().is_none())
}

/// How many letters must be inserted, removed or replaced to turn one text into the other.
fn edits_between(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}
#[cfg(test)]
mod tests {
    use tidemill_replication::config::{GROUP_CONFIGS, Layers, Source, node_config};
    use tidemill_replication::metadata::Configs;

    use super::*;

    /// It was told that no name is like it, though only its end was missing.
    #[test]
    fn a_name_cut_short_at_a_dot_is_completed_if_only_one_goes_on_there() {
        assert_eq!(nearest("tidemill.admin"), Some("tidemill.admin.listener"));
        assert_eq!(nearest("admin"), Some("tidemill.admin.listener"));
        assert_eq!(nearest("log.retention.mss"), Some("log.retention.ms"));
        assert_eq!(nearest("group"), None, "many go on");
        assert_eq!(nearest("nonsense.altogether"), None);
    }

    /// A default that its own setting refuses would only be met by the first user.
    #[test]
    fn every_default_fits_its_kind() {
        for setting in all().filter(|s| !s.default.is_empty()) {
            assert!(setting.kind.parse(setting.default).is_ok(), "{}", setting.name);
        }
    }

    /// A topic resolves what it inherits from the texts given here, and passes over what it does
    /// not take: so a setting must not accept what topics refuse.
    #[test]
    fn topics_accept_all_that_a_setting_accepts() {
        for setting in all() {
            let Some((definition, _)) = node_config(setting.name) else { continue };
            let values = match setting.kind {
                Kind::Integer { min, max, .. } => vec![min.to_string(), max.to_string()],
                Kind::Choice(words) => words.iter().map(|word| (*word).to_owned()).collect(),
                kind => panic!("{}: topics inherit no {kind:?}", setting.name),
            };
            for value in values {
                let none = Configs::default();
                let file = Configs::from([(setting.name.to_owned(), value.clone())]);
                let layers = Layers { topic: None, node: &none, cluster: &none, file: &file };
                let source = definition.effective(&layers).1;
                assert_eq!(source, Source::File, "{} = {value}", setting.name);
            }
        }
    }

    /// What holds for all groups by a setting must be what a group takes.
    #[test]
    fn groups_accept_all_that_a_setting_accepts() {
        let known = |name: &str| all().find(|setting| setting.name == name);
        for config in GROUP_CONFIGS {
            let definition = &config.definition;
            for (name, default) in config.bounds.iter().flatten() {
                assert_eq!(known(name).unwrap().default, default.to_string(), "{name}");
            }
            let on_node = definition.synonyms.first().and_then(|synonym| known(synonym.name));
            let Some(setting) = on_node else {
                assert!(config.bounds.is_none(), "{}", definition.name);
                continue;
            };
            assert_eq!(setting.default, definition.default, "{}", setting.name);
            let Kind::Integer { min, max, .. } = setting.kind else { panic!("{}", setting.name) };
            for value in [min, max] {
                definition.kind.check(&value.to_string()).unwrap();
            }
        }
    }

    #[test]
    fn no_two_settings_share_a_name() {
        let mut names: Vec<&str> =
            all().flat_map(|s| std::iter::once(s.name).chain(s.aliases.iter().copied())).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        assert!(names.iter().all(|n| n.len() <= limits::SETTING_NAME_BYTES_MAX));
    }

    #[test]
    fn a_slip_of_the_pen_is_recognised() {
        assert_eq!(nearest("num.partition"), Some("num.partitions"));
        assert_eq!(nearest("log_retention_ms"), Some("log.retention.ms"));
        assert_eq!(nearest("shards"), Some("tidemill.shards"));
        assert_eq!(nearest("zookeeper.connect"), None);
    }
}
