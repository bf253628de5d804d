//! Quotas of clients: how many bytes a second a user or a client may produce and fetch.
//!
//! A quota belongs to an *entity*: a user, a client by how it calls itself, or one of each; and in
//! the place of a name there may be the default, for all that have no quota of their own. Which
//! one counts for a client is Kafka's order, from the most special to the most general
//! ([`Quotas::of`]).
//!
//! Start reading at [`Entity`].

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use crate::controller::Error;
use crate::limits::{QUOTA_ENTITIES_MAX, QUOTA_NAME_BYTES_MAX};
use crate::metadata::Record;

/// Whom a quota is for, in one respect.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Who {
    /// Everybody who is not named in a quota of their own.
    Default,
    /// One.
    Named(String),
}

/// Whom a quota is for. At least one of the two is said.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Entity {
    /// Which user.
    pub user: Option<Who>,
    /// Which client, by how it calls itself.
    pub client: Option<Who>,
}

/// What is bounded, in bytes a second.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Bound {
    /// What is produced.
    Produce = 1,
    /// What is fetched.
    Fetch = 2,
}

/// The quotas of one entity.
pub type Bounds = BTreeMap<Bound, u64>;

/// All quotas.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Quotas {
    entities: BTreeMap<Entity, Bounds>,
}

/// One change of a quota, as a request names it.
#[derive(Clone, Debug)]
pub struct Change {
    /// The quota's name: see [`Bound::name`].
    pub key: String,
    /// What it is to be; none if it goes.
    pub value: Option<f64>,
}

impl fmt::Display for Entity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = [("user", &self.user), ("client", &self.client)];
        let mut between = "";
        for (kind, who) in said.into_iter().filter_map(|(kind, who)| Some((kind, who.as_ref()?))) {
            match who {
                Who::Default => write!(f, "{between}any {kind}")?,
                Who::Named(name) => write!(f, "{between}{kind} {name:?}")?,
            }
            between = ", ";
        }
        Ok(())
    }
}

impl Bound {
    /// All there are.
    pub const ALL: [Bound; 2] = [Bound::Produce, Bound::Fetch];

    /// Kafka's name for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Produce => "producer_byte_rate",
            Self::Fetch => "consumer_byte_rate",
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Bound> {
        Self::ALL.into_iter().find(|bound| *bound as u8 == number)
    }
}

impl Quotas {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entities.is_empty()
    }

    /// All entities that have quotas, and these.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Entity, &Bounds)> {
        self.entities.iter()
    }

    /// The bytes a second of an entity, if they are bounded.
    #[must_use]
    pub fn rate(&self, entity: &Entity, bound: Bound) -> Option<u64> {
        self.entities.get(entity)?.get(&bound).copied()
    }

    /// The quota that counts for a client: whose it is, and how much.
    #[must_use]
    pub fn of(&self, user: &str, client: &str, bound: Bound) -> Option<(&Entity, u64)> {
        let named = |name: &str| Some(Who::Named(name.to_owned()));
        let default = || Some(Who::Default);
        let found = |user: Option<Who>, client: Option<Who>| {
            let (entity, bounds) = self.entities.get_key_value(&Entity { user, client })?;
            Some((entity, *bounds.get(&bound)?))
        };
        // Kafka's order (KIP-55). Whoever names a user comes last in the map: often nobody does.
        if self.entities.last_key_value().is_some_and(|(last, _)| last.user.is_some()) {
            for user in [named(user), default()] {
                let clients = [named(client), default(), None].into_iter();
                let mut found = clients.filter_map(|client| found(user.clone(), client));
                if let Some(found) = found.next() {
                    return Some(found);
                }
            }
        }
        found(None, named(client)).or_else(|| found(None, default()))
    }

    /// Whether a change fits: false if there would be more entities than there may be.
    pub(crate) fn fits(&self, entity: &Entity, rate: Option<u64>) -> bool {
        let is_new = rate.is_some() && !self.entities.contains_key(entity);
        !is_new || self.entities.len() < QUOTA_ENTITIES_MAX
    }

    /// Sets a quota or, with no rate, removes it: what a [`Record::QuotaChanged`] means.
    pub fn set(&mut self, entity: &Entity, bound: Bound, rate: Option<u64>) {
        match (self.entities.entry(entity.clone()), rate) {
            (entry, Some(rate)) => {
                entry.or_default().insert(bound, rate);
            }
            (Entry::Occupied(mut entry), None) => {
                entry.get_mut().remove(&bound);
                if entry.get().is_empty() {
                    entry.remove();
                }
            }
            (Entry::Vacant(_), None) => {}
        }
    }
}

/// An entity as requests name it: pairs of a type and a name, no name for the default.
pub fn entity_from<'a>(
    parts: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
) -> Result<Entity, Error> {
    let refuse = |why: String| Err(Error::InvalidRequest(why));
    let mut entity = Entity { user: None, client: None };
    for (kind, name) in parts {
        let place = match kind {
            "user" => &mut entity.user,
            "client-id" => &mut entity.client,
            "ip" => return refuse("quotas of addresses are not carried out here".to_owned()),
            other => return refuse(format!("there are no quotas for a {other:?}")),
        };
        let who = match name {
            None => Who::Default,
            Some("") => return refuse(format!("the name of a {kind} is empty")),
            Some(name) if QUOTA_NAME_BYTES_MAX < name.len() => {
                return refuse(format!("a name has at most {QUOTA_NAME_BYTES_MAX} bytes"));
            }
            Some(name) => Who::Named(name.to_owned()),
        };
        if place.replace(who).is_some() {
            return refuse(format!("more than one {kind} is named"));
        }
    }
    if entity.user.is_none() && entity.client.is_none() {
        return refuse("no entity is named".to_owned());
    }
    Ok(entity)
}

/// Changes of an entity's quotas, all or none. No record at all means that all is so already.
pub fn decide_alter_quotas(
    quotas: &Quotas,
    entity: &Entity,
    changes: &[Change],
) -> Result<Vec<Record>, Error> {
    let mut records = Vec::new();
    for (i, change) in changes.iter().enumerate() {
        // First this: so few are known that one is soon named twice.
        let bound = bound_named(&change.key)?;
        if changes[..i].iter().any(|other| other.key == change.key) {
            return Err(Error::InvalidRequest(format!("{:?} is changed twice", change.key)));
        }
        let rate = change.value.map(|value| rate_of(&change.key, value)).transpose()?;
        if !quotas.fits(entity, rate) {
            let why = format!("more than {QUOTA_ENTITIES_MAX} users and clients with quotas");
            return Err(Error::InvalidRequest(why));
        }
        if quotas.rate(entity, bound) != rate {
            records.push(Record::QuotaChanged { entity: entity.clone(), bound, rate });
        }
    }
    Ok(records)
}

fn bound_named(key: &str) -> Result<Bound, Error> {
    let bound = Bound::ALL.into_iter().find(|bound| bound.name() == key);
    bound.ok_or_else(|| {
        let why = match key {
            "request_percentage" | "controller_mutation_rate" | "connection_creation_rate" => {
                format!("{key} is not carried out here; byte rates are")
            }
            _ => format!("there is no quota {key:?}"),
        };
        Error::InvalidRequest(why)
    })
}

/// As in Kafka: a whole number above zero, within what a fraction may miss it by.
fn rate_of(key: &str, value: f64) -> Result<u64, Error> {
    const NEAR: f64 = 1e-6;
    // 2^53: above it fractions skip whole numbers.
    const MOST: f64 = 9_007_199_254_740_992.0;
    let refuse = |why: &str| Err(Error::InvalidRequest(format!("{key} {why}")));
    if value.is_nan() || value <= 0.0 || MOST < value {
        return refuse("must be above 0 and at most 2^53");
    }
    let rate = value.round();
    if NEAR < (rate - value).abs() {
        return refuse("must be a whole number");
    }
    if rate < 1.0 { refuse("must be above 0 and at most 2^53") } else { Ok(rate as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entity(user: Option<&str>, client: Option<&str>) -> Entity {
        let who = |name: &str| match name {
            "*" => Who::Default,
            name => Who::Named(name.to_owned()),
        };
        Entity { user: user.map(who), client: client.map(who) }
    }

    /// The more special quota counts: user and client, user, then client; named before default.
    #[test]
    fn the_most_special_quota_counts() {
        let order = [
            (None, Some("*")),
            (None, Some("c")),
            (Some("*"), None),
            (Some("*"), Some("*")),
            (Some("*"), Some("c")),
            (Some("u"), None),
            (Some("u"), Some("*")),
            (Some("u"), Some("c")),
        ];
        let mut quotas = Quotas::default();
        assert_eq!(quotas.of("u", "c", Bound::Fetch), None);
        for (rate, (user, client)) in (1..).zip(order) {
            quotas.set(&entity(user, client), Bound::Fetch, Some(rate));
            let (counts, found) = quotas.of("u", "c", Bound::Fetch).unwrap();
            assert_eq!((counts, found), (&entity(user, client), rate));
            assert_eq!(quotas.of("u", "c", Bound::Produce), None);
        }
        assert_eq!(quotas.of("v", "d", Bound::Fetch).unwrap().1, 4, "the defaults of both");
    }

    /// What is set twice to the same is written once; what is removed leaves nothing.
    #[test]
    fn quotas_change_one_by_one() {
        let mut quotas = Quotas::default();
        let of = entity(None, Some("c"));
        let mut change = |key: &str, value| {
            let changes = [Change { key: key.to_owned(), value }];
            let records = decide_alter_quotas(&quotas, &of, &changes)?;
            for record in &records {
                let Record::QuotaChanged { entity, bound, rate } = record else { panic!() };
                quotas.set(entity, *bound, *rate);
            }
            Ok::<_, Error>((records.len(), quotas.iter().len()))
        };
        assert_eq!(change("producer_byte_rate", Some(1024.0)), Ok((1, 1)));
        assert_eq!(change("producer_byte_rate", Some(1_024.000_000_1)), Ok((0, 1)));
        assert_eq!(change("consumer_byte_rate", None), Ok((0, 1)));
        assert_eq!(change("producer_byte_rate", None), Ok((1, 0)));
        for (key, value) in [
            ("producer_byte_rate", 0.0),
            ("producer_byte_rate", -1.0),
            ("producer_byte_rate", 0.5),
            ("producer_byte_rate", 1e-9),
            ("producer_byte_rate", f64::NAN),
            ("producer_byte_rate", f64::INFINITY),
            ("request_percentage", 50.0),
            ("speed", 1.0),
        ] {
            let refused = change(key, Some(value));
            assert!(matches!(refused, Err(Error::InvalidRequest(_))), "{key} {value}");
        }
    }

    /// An entity names a user, a client, or both, each once.
    #[test]
    fn entities_are_users_and_clients() {
        let named = entity_from([("client-id", Some("c")), ("user", None)]);
        assert_eq!(named, Ok(entity(Some("*"), Some("c"))));
        let wrong: [&[(&str, Option<&str>)]; 5] = [
            &[],
            &[("user", Some("a")), ("user", None)],
            &[("user", Some(""))],
            &[("ip", Some("127.0.0.1"))],
            &[("planet", None)],
        ];
        for parts in wrong {
            let refused = entity_from(parts.iter().copied());
            assert!(matches!(refused, Err(Error::InvalidRequest(_))), "{parts:?}");
        }
    }
}
