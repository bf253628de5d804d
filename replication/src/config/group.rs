//! Configs of groups: Kafka's of version 4.3, and what is in force for one group.
//!
//! ```text
//! the group's override > the node's file, under another name > default
//! ```
//!
//! A group has overrides whether or not anybody is in it. What a group may be set to is bounded by
//! settings of the node (`group.consumer.min.session.timeout.ms`), so that whoever may change
//! groups cannot make them a burden. The bounds hold when a value is set: what was set before they
//! were changed stays in force. Those of Streams' groups are missing, since there are none.
//!
//! Start reading at [`GroupConfig`].

use super::Kind::{Boolean, Choice, Int, Text};
use super::{Definition, Described, Kind, Layers, Source, Synonym, SynonymValue, ValueError};
use crate::metadata::Configs;

const INT_MAX: i64 = i32::MAX as i64;

/// One config of groups.
#[derive(Clone, Copy, Debug)]
pub struct GroupDefinition {
    /// What it is, as of a topic.
    pub definition: Definition,
    /// The settings of the node that bound it, with their defaults.
    pub bounds: Option<[(&'static str, i64); 2]>,
}

/// All configs of groups, in the order of their names.
pub static GROUP_CONFIGS: &[GroupDefinition] = &[
    number(
        "consumer.assignment.interval.ms",
        &on_node("group.consumer.assignment.interval.ms"),
        [0, INT_MAX],
        "1000",
        None,
        "Accepted for Kafka's sake: shares are made when they are due.",
    ),
    number(
        "consumer.heartbeat.interval.ms",
        &on_node("group.consumer.heartbeat.interval.ms"),
        [1, INT_MAX],
        "5000",
        Some([
            ("group.consumer.min.heartbeat.interval.ms", 5000),
            ("group.consumer.max.heartbeat.interval.ms", 15_000),
        ]),
        "How often members of a group of the newer kind are asked to say that they live.",
    ),
    number(
        "consumer.session.timeout.ms",
        &on_node("group.consumer.session.timeout.ms"),
        [1, INT_MAX],
        "45000",
        Some([
            ("group.consumer.min.session.timeout.ms", 45_000),
            ("group.consumer.max.session.timeout.ms", 60_000),
        ]),
        "How long a member of a group of the newer kind may be silent.",
    ),
    number(
        "share.assignment.interval.ms",
        &on_node("group.share.assignment.interval.ms"),
        [0, INT_MAX],
        "1000",
        None,
        "Accepted for Kafka's sake: shares are made when they are due.",
    ),
    of_groups_only(
        "share.auto.offset.reset",
        Text,
        "latest",
        "Where a share group that never read a partition begins: latest, earliest, or \
         by_duration: and how long ago, as in PT1H.",
    ),
    number(
        "share.delivery.count.limit",
        &on_node("group.share.delivery.count.limit"),
        [2, INT_MAX],
        "5",
        Some([
            ("group.share.min.delivery.count.limit", 2),
            ("group.share.max.delivery.count.limit", 10),
        ]),
        "How often a record is given to members of a share group at most.",
    ),
    number(
        "share.heartbeat.interval.ms",
        &on_node("group.share.heartbeat.interval.ms"),
        [1, INT_MAX],
        "5000",
        Some([
            ("group.share.min.heartbeat.interval.ms", 5000),
            ("group.share.max.heartbeat.interval.ms", 15_000),
        ]),
        "How often members of a share group are asked to say that they live.",
    ),
    of_groups_only(
        "share.isolation.level",
        Choice(&["read_committed", "read_uncommitted"]),
        "read_uncommitted",
        "Whether a share group is given records of transactions only when these are committed.",
    ),
    number(
        "share.partition.max.record.locks",
        &on_node("group.share.partition.max.record.locks"),
        [100, INT_MAX],
        "2000",
        Some([
            ("group.share.min.partition.max.record.locks", 100),
            ("group.share.max.partition.max.record.locks", 4000),
        ]),
        "How many records of a partition the members of a share group have in hand at most.",
    ),
    number(
        "share.record.lock.duration.ms",
        &on_node("group.share.record.lock.duration.ms"),
        [1000, INT_MAX],
        "30000",
        Some([
            ("group.share.min.record.lock.duration.ms", 15_000),
            ("group.share.max.record.lock.duration.ms", 60_000),
        ]),
        "How long a member of a share group may keep a record in hand.",
    ),
    of_groups_only(
        "share.renew.acknowledge.enable",
        Boolean,
        "true",
        "Whether members of a share group may ask to keep a record in hand for longer.",
    ),
    number(
        "share.session.timeout.ms",
        &on_node("group.share.session.timeout.ms"),
        [1, INT_MAX],
        "45000",
        Some([
            ("group.share.min.session.timeout.ms", 45_000),
            ("group.share.max.session.timeout.ms", 60_000),
        ]),
        "How long a member of a share group may be silent.",
    ),
];

/// What is in force for one group.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GroupConfig {
    /// For groups of the newer kind (KIP-848).
    pub consumer: ConsumerConfig,
    /// For share groups (KIP-932).
    pub share: ShareConfig,
}

/// What is in force for a group of the newer kind.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ConsumerConfig {
    /// How long a member may be silent.
    pub session_ms: u64,
    /// How often members are asked to say that they live.
    pub heartbeat_ms: u64,
}

/// What is in force for a share group.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ShareConfig {
    /// How long a member may be silent.
    pub session_ms: u64,
    /// How often members are asked to say that they live.
    pub heartbeat_ms: u64,
    /// How long a member may keep a record in hand.
    pub record_lock_ms: u64,
    /// How often a record is given out at most.
    pub delivery_count_limit: u32,
    /// How many records of a partition are in hand at most.
    pub partition_record_locks_max: u32,
    /// Where it begins in a partition it never read.
    pub auto_offset_reset: OffsetReset,
    /// Whether it is given records of transactions only when these are committed.
    pub read_committed: bool,
    /// Whether members may ask to keep a record in hand for longer.
    pub renew_acknowledge: bool,
}

/// Where a share group begins in a partition it never read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OffsetReset {
    /// Behind the last record.
    Latest,
    /// At the first record.
    Earliest,
    /// At the first record that is not older.
    ByDuration {
        /// Than this.
        ms: u64,
    },
}

impl GroupConfig {
    /// What is in force on a node for groups without overrides.
    #[must_use]
    pub fn of_node(file: &Configs) -> Self {
        Self::resolve(&Configs::new(), file)
    }

    /// What is in force for a group of these overrides, where `self` is for those without.
    #[must_use]
    pub fn with(&self, overrides: &Configs) -> Self {
        let mut config = *self;
        for (name, value) in overrides {
            config.set(name, value);
        }
        config
    }

    fn resolve(overrides: &Configs, file: &Configs) -> Self {
        let none = Configs::new();
        let layers = Layers { topic: Some(overrides), node: &none, cluster: &none, file };
        let mut config = Self {
            consumer: ConsumerConfig { session_ms: 0, heartbeat_ms: 0 },
            share: ShareConfig {
                session_ms: 0,
                heartbeat_ms: 0,
                record_lock_ms: 0,
                delivery_count_limit: 0,
                partition_record_locks_max: 0,
                auto_offset_reset: OffsetReset::Latest,
                read_committed: false,
                renew_acknowledge: true,
            },
        };
        for GroupDefinition { definition, .. } in GROUP_CONFIGS {
            config.set(definition.name, &definition.effective(&layers).0);
        }
        config
    }

    /// Takes one value, unless it is none that the config takes.
    fn set(&mut self, name: &str, value: &str) {
        let value = value.trim();
        if group_config(name).is_none_or(|config| config.definition.kind.check(value).is_err()) {
            return;
        }
        let number = || value.parse::<u32>().unwrap_or(0);
        let is_true = || value.eq_ignore_ascii_case("true");
        let (consumer, share) = (&mut self.consumer, &mut self.share);
        match name {
            "consumer.session.timeout.ms" => consumer.session_ms = number().into(),
            "consumer.heartbeat.interval.ms" => consumer.heartbeat_ms = number().into(),
            "share.session.timeout.ms" => share.session_ms = number().into(),
            "share.heartbeat.interval.ms" => share.heartbeat_ms = number().into(),
            "share.record.lock.duration.ms" => share.record_lock_ms = number().into(),
            "share.delivery.count.limit" => share.delivery_count_limit = number(),
            "share.partition.max.record.locks" => share.partition_record_locks_max = number(),
            "share.isolation.level" => share.read_committed = value == "read_committed",
            "share.renew.acknowledge.enable" => share.renew_acknowledge = is_true(),
            "share.auto.offset.reset" => {
                if let Some(reset) = OffsetReset::parse(value) {
                    share.auto_offset_reset = reset;
                }
            }
            _ => {}
        }
    }
}

impl OffsetReset {
    /// Reads `latest`, `earliest` or `by_duration:PnDTnHnMn.nS`; a duration is not negative.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "latest" => Some(Self::Latest),
            "earliest" => Some(Self::Earliest),
            text => {
                let ms = duration_ms(text.strip_prefix("by_duration:")?)?;
                Some(Self::ByDuration { ms })
            }
        }
    }
}

/// A duration of ISO 8601 in days, hours, minutes and seconds, of which these may be a fraction.
fn duration_ms(text: &str) -> Option<u64> {
    let upper = text.to_ascii_uppercase();
    let rest = upper.strip_prefix('P')?;
    let (days, time) = match rest.split_once('T') {
        Some((days, time)) if !time.is_empty() => (days, time),
        Some(_) => return None,
        None => (rest, ""),
    };
    if days.is_empty() && time.is_empty() {
        return None;
    }
    let mut ms = parts_ms(days, &[('D', 86_400_000)])?;
    ms = ms.checked_add(parts_ms(time, &[('H', 3_600_000), ('M', 60_000), ('S', 1000)])?)?;
    Some(ms)
}

/// The sum of numbers that are followed by their units, in the order of these, each once at most.
fn parts_ms(mut text: &str, units: &[(char, u64)]) -> Option<u64> {
    let mut sum = 0u64;
    for &(unit, factor) in units {
        let Some((number, rest)) = text.split_once(unit) else { continue };
        let (whole, fraction) = match number.split_once('.') {
            Some((whole, fraction)) if unit == 'S' => (whole, fraction),
            Some(_) => return None,
            None => (number, ""),
        };
        if !fraction.bytes().all(|byte| byte.is_ascii_digit()) || 9 < fraction.len() {
            return None;
        }
        // `u64` would read a sign.
        let is_number = !whole.is_empty() && whole.bytes().all(|byte| byte.is_ascii_digit());
        let whole: u64 = whole.parse().ok().filter(|_| is_number)?;
        let thousandths = format!("{fraction:0<3}")[..3].parse::<u64>().ok()?;
        sum = sum.checked_add(whole.checked_mul(factor)?)?.checked_add(thousandths)?;
        text = rest;
    }
    text.is_empty().then_some(sum)
}

/// The config of groups of this name.
#[must_use]
pub fn group_config(name: &str) -> Option<&'static GroupDefinition> {
    let by_name = |config: &GroupDefinition| config.definition.name.cmp(name);
    let place = GROUP_CONFIGS.binary_search_by(by_name).ok()?;
    Some(&GROUP_CONFIGS[place])
}

/// Whether a setting of nodes is in force for groups that do not say otherwise, or bounds them.
#[must_use]
pub fn is_of_groups(name: &str) -> bool {
    GROUP_CONFIGS.iter().any(|config| {
        let names = config.definition.synonyms.iter().map(|synonym| synonym.name);
        let bounds = config.bounds.iter().flatten().map(|(name, _)| *name);
        names.chain(bounds).any(|known| known == name)
    })
}

/// Whether a group may be set to this, where `file` is what the node's file sets.
pub fn check_group_value(
    config: &GroupDefinition,
    value: &str,
    file: &Configs,
) -> Result<(), ValueError> {
    config.kind_within(file).check(value)?;
    let is_reset = config.definition.name == "share.auto.offset.reset";
    if is_reset && OffsetReset::parse(value).is_none() {
        let kind = Choice(&["latest", "earliest", "by_duration: and a duration such as PT1H"]);
        return Err(ValueError { value: value.to_owned(), kind });
    }
    Ok(())
}

/// Rules between the configs of one group; the text says which is broken.
pub fn check_group_together(overrides: &Configs, file: &Configs) -> Result<(), String> {
    let config = GroupConfig::resolve(overrides, file);
    let pairs = [
        ("consumer", config.consumer.session_ms, config.consumer.heartbeat_ms),
        ("share", config.share.session_ms, config.share.heartbeat_ms),
    ];
    for (kind, session_ms, heartbeat_ms) in pairs {
        // What nobody asked to change is the node's own affair.
        let names = [".session.timeout.ms", ".heartbeat.interval.ms"];
        let is_set = names.iter().any(|name| overrides.contains_key(&format!("{kind}{name}")));
        if is_set && session_ms <= heartbeat_ms {
            return Err(format!(
                "{kind}.session.timeout.ms must be above {kind}.heartbeat.interval.ms"
            ));
        }
    }
    Ok(())
}

/// All configs of a group, in the order of their names.
#[must_use]
pub fn describe_group(overrides: &Configs, file: &Configs) -> Vec<Described> {
    let none = Configs::new();
    let layers = Layers { topic: Some(overrides), node: &none, cluster: &none, file };
    let describe = |config: &GroupDefinition| {
        let definition = &config.definition;
        let of_group = |source| match source {
            Source::Topic => Source::Group,
            other => other,
        };
        let (value, source) = definition.effective(&layers);
        let synonyms = definition.values(&layers).into_iter();
        let synonyms = synonyms.map(|v| SynonymValue { source: of_group(v.source), ..v });
        Described {
            name: definition.name.to_owned(),
            value: value.into_owned(),
            source: of_group(source),
            is_read_only: false,
            synonyms: synonyms.collect(),
            kind: definition.kind,
            doc: definition.doc,
        }
    };
    GROUP_CONFIGS.iter().map(describe).collect()
}

impl GroupDefinition {
    /// Its kind with the bounds that a node's file sets. What the node's file gives to all groups
    /// is good for each of them.
    fn kind_within(&self, file: &Configs) -> Kind {
        let (Int(min, max), Some(bounds)) = (self.definition.kind, self.bounds) else {
            return self.definition.kind;
        };
        let set = |name: &str| file.get(name).and_then(|value| value.trim().parse::<i64>().ok());
        let [low, high] = bounds.map(|(name, default)| set(name).unwrap_or(default));
        let own = self.definition.synonyms.iter().find_map(|synonym| set(synonym.name));
        let own = own.unwrap_or(low);
        Int(min.max(low.min(own)), max.min(high.max(own)))
    }
}

const fn number(
    name: &'static str,
    synonyms: &'static [Synonym],
    [min, max]: [i64; 2],
    default: &'static str,
    bounds: Option<[(&'static str, i64); 2]>,
    doc: &'static str,
) -> GroupDefinition {
    GroupDefinition {
        definition: Definition { name, kind: Int(min, max), default, synonyms, doc },
        bounds,
    }
}

const fn on_node(name: &'static str) -> [Synonym; 1] {
    [Synonym { name, factor: 1 }]
}

const fn of_groups_only(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    doc: &'static str,
) -> GroupDefinition {
    GroupDefinition {
        definition: Definition { name, kind, default, synonyms: &[], doc },
        bounds: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configs(pairs: &[(&str, &str)]) -> Configs {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// The table is found in by bisection, and whatever nobody sets may be set.
    #[test]
    fn the_table_is_in_order_and_each_default_may_be_set() {
        assert!(GROUP_CONFIGS.is_sorted_by(|a, b| a.definition.name < b.definition.name));
        for config in GROUP_CONFIGS {
            let default = config.definition.default;
            assert_eq!(check_group_value(config, default, &Configs::new()), Ok(()));
            assert!(group_config(config.definition.name).is_some());
        }
        assert!(is_of_groups("group.share.max.delivery.count.limit"));
        assert!(is_of_groups("group.consumer.session.timeout.ms"));
        assert!(!is_of_groups("group.max.size"));
    }

    /// A group's own value hides the node's, which hides the default.
    #[test]
    fn the_nearest_setting_is_in_force() {
        let file = configs(&[("group.consumer.session.timeout.ms", "50000")]);
        let node = GroupConfig::of_node(&file);
        assert_eq!(node.consumer.session_ms, 50_000);
        assert_eq!(node.share.delivery_count_limit, 5);
        assert_eq!(node.share.auto_offset_reset, OffsetReset::Latest);
        assert!(node.share.renew_acknowledge && !node.share.read_committed);

        let group = configs(&[
            ("consumer.session.timeout.ms", "55000"),
            ("share.auto.offset.reset", "by_duration:PT1H"),
            ("share.isolation.level", "read_committed"),
            ("share.renew.acknowledge.enable", "False"),
            ("share.delivery.count.limit", "many"),
        ]);
        let group = node.with(&group);
        assert_eq!(group.consumer.session_ms, 55_000);
        assert_eq!(group.share.auto_offset_reset, OffsetReset::ByDuration { ms: 3_600_000 });
        assert!(group.share.read_committed && !group.share.renew_acknowledge);
        assert_eq!(group.share.delivery_count_limit, 5, "no number is passed over");
    }

    /// What is told of a group names where it comes from.
    #[test]
    fn a_group_is_told_with_the_names_its_values_have_on_the_node() {
        let file = configs(&[("group.consumer.session.timeout.ms", "50000")]);
        let group = configs(&[("consumer.heartbeat.interval.ms", "6000")]);
        let told = describe_group(&group, &file);
        let line = |name: &str| told.iter().find(|line| line.name == name).unwrap();
        let session = line("consumer.session.timeout.ms");
        assert_eq!((session.value.as_str(), session.source), ("50000", Source::File));
        assert_eq!(session.synonyms[0].name, "group.consumer.session.timeout.ms");
        let heartbeat = line("consumer.heartbeat.interval.ms");
        assert_eq!((heartbeat.value.as_str(), heartbeat.source), ("6000", Source::Group));
        assert_eq!(line("share.isolation.level").source, Source::Default);
    }

    /// A group may be set to what the node's bounds allow, and to what the node itself does.
    #[test]
    fn a_group_keeps_within_the_bounds_of_the_node() {
        let none = Configs::new();
        let session = group_config("consumer.session.timeout.ms").unwrap();
        assert!(check_group_value(session, "44999", &none).is_err());
        assert!(check_group_value(session, "60000", &none).is_ok());
        assert!(check_group_value(session, "60001", &none).is_err());
        let bounds = configs(&[
            ("group.consumer.min.session.timeout.ms", "1000"),
            ("group.consumer.max.session.timeout.ms", "70000"),
        ]);
        assert!(check_group_value(session, "1000", &bounds).is_ok());
        assert!(check_group_value(session, "70001", &bounds).is_err());
        let own = configs(&[("group.consumer.session.timeout.ms", "9000")]);
        assert!(check_group_value(session, "9000", &own).is_ok());
        assert!(check_group_value(session, "8999", &own).is_err());
    }

    /// Members are asked for a sign of life more often than they are given up.
    #[test]
    fn a_session_is_longer_than_the_time_between_heartbeats() {
        let file = configs(&[("group.share.heartbeat.interval.ms", "50000")]);
        assert_eq!(check_group_together(&Configs::new(), &file), Ok(()));
        let group = configs(&[("share.session.timeout.ms", "50000")]);
        assert!(check_group_together(&group, &file).is_err());
        assert!(check_group_together(&group, &Configs::new()).is_ok());
    }

    /// Durations are those of ISO 8601 that Java's `Duration` reads, without a sign.
    #[test]
    fn a_duration_back_is_read_as_java_reads_it() {
        let ms = |text: &str| match OffsetReset::parse(&format!("by_duration:{text}")) {
            Some(OffsetReset::ByDuration { ms }) => Some(ms),
            _ => None,
        };
        assert_eq!(ms("P1D"), Some(86_400_000));
        assert_eq!(ms("P2DT3H4M5.25S"), Some(2 * 86_400_000 + 3 * 3_600_000 + 4 * 60_000 + 5250));
        assert_eq!(ms("pt0.0015s"), Some(1));
        for wrong in ["", "P", "PT", "P1DT", "PT-1H", "-PT1H", "PT1.5H", "PT1S1M", "P1M", "PT+1S"] {
            assert_eq!(ms(wrong), None, "{wrong}");
        }
        assert_eq!(ms("P99999999999999999D"), None, "beyond every clock");
        assert_eq!(OffsetReset::parse("none"), None);
    }
}
