//! Quotas: how much users and clients may do.

use tidemill_net::kafka::alter_client_quotas::{
    AlterClientQuotasRequest, QuotaChange, QuotaChanges,
};
use tidemill_net::kafka::describe_client_quotas::{
    ComponentFilter, DescribeClientQuotasRequest, QuotaEntity, QuotaValue, QuotasOfEntity,
    entity_type, match_type,
};

use super::{Admin, controller};
use crate::cluster::Peer;
use crate::error::Error;

/// Whose quotas.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum QuotaOf {
    /// A user; without a name, all that have none of their own.
    User(Option<String>),
    /// A client, by how it calls itself; without a name, all that have none of their own.
    Client(Option<String>),
}

/// One quota.
#[derive(Clone, Debug, PartialEq)]
pub struct Quota {
    /// Its name, `producer_byte_rate` for instance.
    pub name: String,
    /// How much.
    pub value: f64,
}

/// Whose quotas, and what they are.
#[derive(Clone, Debug, PartialEq)]
pub struct QuotasView {
    /// Kind (`user`, `client-id`, `ip`) and name, of which there may be two at once; without a name, all
    /// that have no quotas of their own.
    pub of: Vec<(String, Option<String>)>,
    /// The quotas.
    pub quotas: Vec<Quota>,
}

impl QuotaOf {
    fn parts(&self) -> (&'static str, &Option<String>) {
        match self {
            Self::User(name) => (entity_type::USER, name),
            Self::Client(name) => (entity_type::CLIENT_ID, name),
        }
    }

    fn in_words(&self) -> String {
        let (kind, name) = self.parts();
        format!("{kind} {}", name.as_deref().unwrap_or("(default)"))
    }
}

impl Admin {
    /// The quotas that are set for these, and for no others.
    pub fn quotas(&mut self, of: &QuotaOf) -> Result<Vec<Quota>, Error> {
        let (kind, name) = of.parts();
        let match_type = if name.is_some() { match_type::EXACT } else { match_type::DEFAULT };
        let component =
            ComponentFilter { entity_type: kind.to_owned(), match_type, matched: name.clone() };
        let request = DescribeClientQuotasRequest { components: vec![component], strict: true };
        let what = format!("cannot tell the quotas of {}", of.in_words());
        let entries = self.quota_entries(what, &request)?;
        let values = entries.into_iter().flat_map(|entry| entry.values);
        Ok(values.map(quota).collect())
    }

    /// All quotas that are set, of whomever.
    pub fn all_quotas(&mut self) -> Result<Vec<QuotasView>, Error> {
        let request = DescribeClientQuotasRequest { components: Vec::new(), strict: false };
        let entries = self.quota_entries("cannot list the quotas".to_owned(), &request)?;
        let views = entries.into_iter().map(|entry| QuotasView {
            of: entry.entity.into_iter().map(|part| (part.entity_type, part.entity_name)).collect(),
            quotas: entry.values.into_iter().map(quota).collect(),
        });
        Ok(views.collect())
    }

    fn quota_entries(
        &mut self,
        what: String,
        request: &DescribeClientQuotasRequest,
    ) -> Result<Vec<QuotasOfEntity>, Error> {
        self.call(
            what,
            |_| Peer::Any,
            request,
            |answer| {
                let entries = answer.entries.clone().unwrap_or_default();
                Some((answer.error_code, answer.error_message.clone(), entries))
            },
        )
    }

    /// Sets quotas, or takes them off where there is no value; all or none.
    pub fn alter_quotas(
        &mut self,
        of: &QuotaOf,
        changes: &[(String, Option<f64>)],
    ) -> Result<(), Error> {
        let (kind, name) = of.parts();
        let change = |(name, value): &(String, Option<f64>)| QuotaChange {
            key: name.clone(),
            value: value.unwrap_or_default(),
            remove: value.is_none(),
        };
        let entity = QuotaEntity { entity_type: kind.to_owned(), entity_name: name.clone() };
        let changes =
            QuotaChanges { entity: vec![entity], ops: changes.iter().map(change).collect() };
        let request = AlterClientQuotasRequest { entries: vec![changes], validate_only: false };
        let what = format!("cannot change the quotas of {}", of.in_words());
        self.call(what, controller, &request, |answer| {
            let altered = answer.entries.first()?;
            Some((altered.error_code, altered.error_message.clone(), ()))
        })
    }
}

fn quota(set: QuotaValue) -> Quota {
    Quota { name: set.key, value: set.value }
}
