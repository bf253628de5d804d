//! DescribeClientQuotas and AlterClientQuotas (KIP-546), and what a quota does to a request.
//!
//! Byte rates of users and clients are carried out: see [`crate::quota`]. Kafka's other quotas are
//! refused, since silence would make somebody believe that they hold.

use std::collections::BTreeSet;
use std::time::Duration;

use tidemill_net::kafka::alter_client_quotas::{
    AlterClientQuotasRequest, AlterClientQuotasResponse, QuotaChanges, QuotaChangesResult,
};
use tidemill_net::kafka::describe_client_quotas::{
    ComponentFilter, DescribeClientQuotasRequest, DescribeClientQuotasResponse, QuotaEntity,
    QuotaValue, QuotasOfEntity, entity_type, match_type,
};
use tidemill_net::kafka::{ErrorCode, Request as _};
use tidemill_replication::controller::Error;
use tidemill_replication::metadata::{Image, Record};
use tidemill_replication::quota::{
    Bound, Bounds, Change, Entity, Who, decide_alter_quotas, entity_from,
};

use super::ReplyForm;
use crate::connection::ReplySlot;
use crate::controller::{Outcome, Proposal, code};
use crate::limits::REQUEST_WAIT_MS_DEFAULT;
use crate::partition::Times;
use crate::shard::Shard;

/// What must hold of an entity.
struct Filter<'a> {
    user: Option<Match<'a>>,
    client: Option<Match<'a>>,
    strict: bool,
}

/// What must hold of one part of an entity.
enum Match<'a> {
    Exactly(&'a str),
    Default,
    Any,
}

impl Shard {
    pub(crate) fn handle_describe_quotas(
        &mut self,
        reply: ReplyForm,
        request: &DescribeClientQuotasRequest,
    ) {
        let response = match Filter::from_request(request) {
            Ok(filter) => {
                let all = self.image.quotas().iter();
                let found = all.filter(|(entity, _)| filter.lets_through(entity));
                let entries = found.map(|(entity, bounds)| tell(entity, bounds)).collect();
                DescribeClientQuotasResponse { entries: Some(entries), ..Default::default() }
            }
            Err((error, why)) => {
                let mut response = request.error_response(error);
                response.error_message = Some(why);
                response
            }
        };
        self.reply_message(reply, &response);
    }

    pub(crate) fn handle_alter_quotas(
        &mut self,
        reply: ReplyForm,
        request: AlterClientQuotasRequest,
        times: Times,
    ) {
        self.change(reply, Proposal::Quotas(request), REQUEST_WAIT_MS_DEFAULT, times);
    }

    /// The client of a request has spent `bytes`, or those of its request: how long it is told to
    /// keep quiet, and is not read.
    #[inline]
    pub(crate) fn throttle(&mut self, slot: ReplySlot, bound: Bound, bytes: Option<u64>) -> i32 {
        match self.image.quotas().is_empty() {
            true => 0,
            false => self.throttle_by_quota(slot, bound, bytes),
        }
    }

    /// How many bytes one answer to the client of a request may bring: none if it owes too much.
    #[inline]
    pub(crate) fn room(&mut self, slot: ReplySlot, bound: Bound) -> u64 {
        match self.image.quotas().is_empty() {
            true => u64::MAX,
            false => self.room_by_quota(slot, bound),
        }
    }

    fn room_by_quota(&mut self, slot: ReplySlot, bound: Bound) -> u64 {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(slot.connection.index) else {
            return u64::MAX;
        };
        let client = connection.client_id.as_deref().unwrap_or_default();
        self.spending.room(self.image.quotas(), client, bound, now).unwrap_or(u64::MAX)
    }

    fn throttle_by_quota(&mut self, slot: ReplySlot, bound: Bound, bytes: Option<u64>) -> i32 {
        let now = self.now;
        let request = |shard: &mut Self| Some(u64::from(shard.measured(slot)?.size_bytes));
        let Some(bytes) = bytes.or_else(|| request(self)) else { return 0 };
        let Some(connection) = self.connections.get_mut(slot.connection.index) else { return 0 };
        if connection.id != slot.connection {
            return 0;
        }
        let client = connection.client_id.as_deref().unwrap_or_default();
        let quotas = self.image.quotas();
        let wait = self.spending.spend(quotas, client, bound, bytes, now);
        if wait < Duration::from_millis(1) {
            return 0;
        }
        let until = now.after(wait);
        if connection.mute(until) {
            self.spending.mute(connection.id, until);
        }
        i32::try_from(wait.as_millis()).unwrap_or(i32::MAX)
    }
}

/// Changes of quotas: the records, and what the client is answered.
pub fn decide(image: &Image, request: &AlterClientQuotasRequest) -> (Vec<Record>, Outcome) {
    // What one entry changes, the next one sees.
    let mut quotas = image.quotas().clone();
    let mut records = Vec::new();
    let mut named: BTreeSet<Entity> = BTreeSet::new();
    let entries = request.entries.iter().map(|asked| {
        let decided = entity_of(asked).and_then(|entity| {
            if named.contains(&entity) {
                return Err(Error::InvalidRequest("the entity is named twice".to_owned()));
            }
            let change = |op: &tidemill_net::kafka::alter_client_quotas::QuotaChange| Change {
                key: op.key.clone(),
                value: (!op.remove).then_some(op.value),
            };
            let changes: Vec<Change> = asked.ops.iter().map(change).collect();
            let decided = decide_alter_quotas(&quotas, &entity, &changes)?;
            named.insert(entity);
            Ok(decided)
        });
        let mut result =
            QuotaChangesResult { entity: asked.entity.clone(), ..QuotaChangesResult::default() };
        match decided {
            Ok(decided) => {
                for record in &decided {
                    if let Record::QuotaChanged { entity, bound, rate } = record {
                        quotas.set(entity, *bound, *rate);
                    }
                }
                records.extend(decided);
            }
            Err(error) => {
                result.error_code = code(&error);
                result.error_message = Some(error.to_string());
            }
        }
        result
    });
    let entries = entries.collect();
    if request.validate_only {
        records.clear();
    }
    (records, Outcome::Quotas(AlterClientQuotasResponse { entries, ..Default::default() }))
}

fn entity_of(asked: &QuotaChanges) -> Result<Entity, Error> {
    entity_from(asked.entity.iter().map(|part| (&*part.entity_type, part.entity_name.as_deref())))
}

fn tell(entity: &Entity, bounds: &Bounds) -> QuotasOfEntity {
    let part = |kind: &str, who: &Option<Who>| {
        let entity_name = match who.as_ref()? {
            Who::Default => None,
            Who::Named(name) => Some(name.clone()),
        };
        Some(QuotaEntity { entity_type: kind.to_owned(), entity_name })
    };
    let parts =
        [part(entity_type::USER, &entity.user), part(entity_type::CLIENT_ID, &entity.client)];
    let value = |(bound, rate): (&Bound, &u64)| QuotaValue {
        key: bound.name().to_owned(),
        value: *rate as f64,
    };
    QuotasOfEntity {
        entity: parts.into_iter().flatten().collect(),
        values: bounds.iter().map(value).collect(),
    }
}

impl<'a> Filter<'a> {
    fn from_request(
        request: &'a DescribeClientQuotasRequest,
    ) -> Result<Filter<'a>, (ErrorCode, String)> {
        let refuse = |why: &str| Err((ErrorCode::InvalidRequest, why.to_owned()));
        let mut filter = Filter { user: None, client: None, strict: request.strict };
        let mut ip = None;
        for component in &request.components {
            let place = match component.entity_type.as_str() {
                entity_type::USER => &mut filter.user,
                entity_type::CLIENT_ID => &mut filter.client,
                entity_type::IP => &mut ip,
                "" => return refuse("an entity without a type"),
                other => {
                    let why = format!("there are no quotas for a {other:?}");
                    return Err((ErrorCode::UnsupportedVersion, why));
                }
            };
            let Some(matched) = match_of(component) else {
                return refuse("neither a name, the default, nor any");
            };
            if place.replace(matched).is_some() {
                return refuse("a type of entities is named twice");
            }
        }
        match ip {
            None => Ok(filter),
            Some(_) if filter.user.is_some() || filter.client.is_some() => {
                refuse("an address has neither user nor client")
            }
            // No address has a quota.
            Some(_) => Ok(Filter { user: None, client: None, strict: true }),
        }
    }

    fn lets_through(&self, entity: &Entity) -> bool {
        let fits = |wanted: &Option<Match<'_>>, found: &Option<Who>| match (wanted, found) {
            (None, found) => found.is_none() || !self.strict,
            (Some(Match::Any), found) => found.is_some(),
            (Some(Match::Default), found) => *found == Some(Who::Default),
            (Some(Match::Exactly(name)), Some(Who::Named(found))) => name == found,
            (Some(Match::Exactly(_)), _) => false,
        };
        fits(&self.user, &entity.user) && fits(&self.client, &entity.client)
    }
}

fn match_of(component: &ComponentFilter) -> Option<Match<'_>> {
    match (component.match_type, &component.matched) {
        (match_type::EXACT, Some(name)) => Some(Match::Exactly(name)),
        (match_type::DEFAULT, None) => Some(Match::Default),
        (match_type::SPECIFIED, None) => Some(Match::Any),
        _ => None,
    }
}
