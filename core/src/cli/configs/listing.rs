//! `tidemill config get` of a kind without a name: all that is set of any topic, broker, group, user or
//! client, so that nobody needs to remember what was set a week ago.

use serde_json::{Map, Value, json};
use tidemill_client::kafka::describe_configs::{DescribeConfigsResourceResult, source};
use tidemill_client::{Admin, ConfigResource, QuotasView};

use super::{Get, Of, told};
use crate::cli::failure::Failure;
use crate::cli::print_line;
use crate::limits::SHARD_ID_STRIDE;

/// One setting of one of them.
struct Row {
    /// Kinds and names of what it is set on: `client`, `loader`; without a name, of all others.
    of: Vec<(String, Option<String>)>,
    name: String,
    value: String,
    origin: &'static str,
}

impl Get {
    /// Tells what is set of all of a kind.
    pub(super) fn list(&self) -> Result<(), Failure> {
        let mut admin = self.bootstrap.admin(false)?;
        let failed = |error| self.bootstrap.failure(error);
        let rows = match self.whose.of {
            Of::Topic => {
                let names = admin.topics().map_err(failed)?.into_keys();
                let all = names.map(|name| ConfigResource::Topic(name.to_string()));
                self.set_on(&mut admin, &all.collect::<Vec<_>>(), source::TOPIC)?
            }
            Of::Group => {
                let names = admin.groups_with_configs().map_err(failed)?.into_iter();
                let all: Vec<_> = names.map(ConfigResource::Group).collect();
                self.set_on(&mut admin, &all, source::GROUP)?
            }
            Of::Broker => self.set_on_brokers(&mut admin)?,
            Of::User | Of::Client => {
                let kind = if self.whose.of == Of::User { "user" } else { "client" };
                let all = admin.all_quotas().map_err(failed)?.into_iter().flat_map(rows_of_quotas);
                all.filter(|row| row.of.iter().any(|(of, _)| of == kind)).collect()
            }
        };
        if self.output.is_json() {
            return print_line(&Value::from_iter(rows.iter().map(Row::as_json)).to_string());
        }
        if rows.is_empty() {
            let kind = format!("{:?}", self.whose.of).to_lowercase();
            return print_line(&format!("nothing is set of any {kind}"));
        }
        let line = |row: &Row| format!("{}: {} = {}", row.of_in_words(), row.name, row.value);
        rows.iter().try_for_each(|row| print_line(&line(row)))
    }

    fn set_on(
        &self,
        admin: &mut Admin,
        all: &[ConfigResource],
        source: i8,
    ) -> Result<Vec<Row>, Failure> {
        let described = admin.describe_configs_of_all(all);
        let described = described.map_err(|error| self.bootstrap.failure(error))?.into_iter();
        Ok(described.flat_map(|(of, configs)| rows_of(&of, configs, source)).collect())
    }

    /// What is set on all brokers, and on each. The shards of a tidemill are told as brokers, but have
    /// the settings of their node.
    fn set_on_brokers(&self, admin: &mut Admin) -> Result<Vec<Row>, Failure> {
        let failed = |error| self.bootstrap.failure(error);
        let nodes = admin.cluster().map_err(failed)?.nodes;
        let is_shard =
            |id: i32| SHARD_ID_STRIDE <= id && nodes.contains_key(&(id % SHARD_ID_STRIDE));
        let of_nodes = nodes.keys().filter(|id| !is_shard(**id));
        let of_nodes = of_nodes.map(|id| (ConfigResource::Node(*id), source::DYNAMIC_BROKER));
        let of_all = (ConfigResource::Nodes, source::DYNAMIC_DEFAULT_BROKER);
        let mut rows = Vec::new();
        for (of, source) in std::iter::once(of_all).chain(of_nodes) {
            let configs = admin.describe_configs(&of).map_err(failed)?;
            rows.extend(rows_of(&of, configs, source));
        }
        Ok(rows)
    }
}

fn rows_of(
    of: &ConfigResource,
    configs: Vec<DescribeConfigsResourceResult>,
    source: i8,
) -> Vec<Row> {
    let (kind, entity) = match of {
        ConfigResource::Topic(name) => ("topic", Some(name.clone())),
        ConfigResource::Group(name) => ("group", Some(name.clone())),
        ConfigResource::Node(id) => ("broker", Some(id.to_string())),
        ConfigResource::Nodes => ("broker", None),
    };
    let own = configs.into_iter().filter(|config| config.config_source == source).map(told);
    let of = vec![(kind.to_owned(), entity)];
    own.map(|(name, value, origin)| Row { of: of.clone(), name, value, origin }).collect()
}

fn rows_of_quotas(view: QuotasView) -> Vec<Row> {
    let kind = |wire: &str| if wire == "client-id" { "client".to_owned() } else { wire.to_owned() };
    let of: Vec<_> = view.of.iter().map(|(wire, name)| (kind(wire), name.clone())).collect();
    let row =
        |name, value: f64| Row { of: of.clone(), name, value: value.to_string(), origin: "set" };
    view.quotas.into_iter().map(|quota| row(quota.name, quota.value)).collect()
}

impl Row {
    fn of_in_words(&self) -> String {
        let parts = self.of.iter().map(|(kind, name)| match (kind.as_str(), name) {
            (kind, Some(name)) => format!("{kind} {name}"),
            ("broker", None) => "all brokers".to_owned(),
            (kind, None) => format!("{kind}s without quotas of their own"),
        });
        parts.collect::<Vec<_>>().join(", ")
    }

    fn as_json(&self) -> Value {
        let of = self.of.iter().map(|(kind, name)| (kind.clone(), json!(name)));
        let setting = [("name", &*self.name), ("value", &*self.value), ("origin", self.origin)];
        let setting = setting.map(|(field, text)| (field.to_owned(), json!(text)));
        Value::Object(of.chain(setting).collect::<Map<String, Value>>())
    }
}

#[cfg(test)]
mod tests {
    use tidemill_client::Quota;

    use super::*;

    /// A quota may be of a client of one user, and of those that have none of their own.
    #[test]
    fn whose_a_quota_is_is_told_in_words_and_as_fields() {
        let of = |parts: &[(&str, Option<&str>)]| QuotasView {
            of: parts.iter().map(|(k, n)| ((*k).to_owned(), n.map(str::to_owned))).collect(),
            quotas: vec![Quota { name: "producer_byte_rate".to_owned(), value: 5.0 }],
        };
        let told = |parts: &[(&str, Option<&str>)]| {
            let row = rows_of_quotas(of(parts)).remove(0);
            (row.of_in_words(), row.as_json())
        };
        let (words, fields) = told(&[("user", Some("ann")), ("client-id", None)]);
        assert_eq!(words, "user ann, clients without quotas of their own");
        assert_eq!((&fields["user"], &fields["client"]), (&json!("ann"), &Value::Null));
        assert_eq!(
            (&fields["name"], &fields["value"]),
            (&json!("producer_byte_rate"), &json!("5"))
        );
        assert_eq!(told(&[("client-id", Some("loader"))]).0, "client loader");
    }
}
