//! Calls about the settings of many things at once.

use std::collections::BTreeSet;

use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::describe_configs::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult,
    DescribeConfigsResult, resource,
};
use tidemill_net::kafka::list_config_resources::ListConfigResourcesRequest;

use super::{Admin, ConfigResource};
use crate::cluster::Peer;
use crate::error::{Error, ErrorKind};

/// How many resources are asked about at a time; each is answered with all settings it could have.
const AT_A_TIME: usize = 100;

impl Admin {
    /// All settings of each of these topics and groups; of those that are there.
    pub fn describe_configs_of_all(
        &mut self,
        all: &[ConfigResource],
    ) -> Result<Vec<(ConfigResource, Vec<DescribeConfigsResourceResult>)>, Error> {
        let mut told = Vec::with_capacity(all.len());
        for some in all.chunks(AT_A_TIME) {
            let resources = some.iter().map(|of| {
                let (resource_type, resource_name) = of.to_wire();
                DescribeConfigsResource { resource_type, resource_name, configuration_keys: None }
            });
            let request = DescribeConfigsRequest {
                resources: resources.collect(),
                ..DescribeConfigsRequest::default()
            };
            let what = "cannot tell the settings of all".to_owned();
            let mut results = self.call(
                what,
                |_| Peer::Any,
                &request,
                |answer| {
                    // Deleted since it was listed.
                    let gone = ErrorCode::UnknownTopicOrPartition;
                    let mut failed = answer.results.iter();
                    let failed =
                        failed.find(|of| !of.error_code.is_none() && of.error_code != gone);
                    let (code, words) = failed.map_or((ErrorCode::None, None), |of| {
                        (of.error_code, of.error_message.clone())
                    });
                    Some((code, words, answer.results.clone()))
                },
            )?;
            for of in some {
                let named = of.to_wire();
                let is_it = |told: &DescribeConfigsResult| {
                    (told.resource_type, &told.resource_name) == (named.0, &named.1)
                };
                let place = results.iter().position(is_it);
                let Some(place) = place else { continue };
                let result = results.swap_remove(place);
                if result.error_code.is_none() {
                    told.push((of.clone(), result.configs));
                }
            }
        }
        Ok(told)
    }

    /// The names of groups that may have settings of their own: those that the broker says have some,
    /// also where nobody is in them, and those there are. Brokers before Kafka 4.1 tell only the latter.
    pub fn groups_with_configs(&mut self) -> Result<BTreeSet<String>, Error> {
        let what = "cannot list the groups that have settings".to_owned();
        let request = ListConfigResourcesRequest { resource_types: vec![resource::GROUP] };
        let listed = self.call(
            what,
            |_| Peer::Any,
            &request,
            |answer| Some((answer.error_code, None, answer.config_resources.clone())),
        );
        let listed = match listed {
            Err(error) if error.kind() == ErrorKind::Unsupported => Vec::new(),
            listed => listed?,
        };
        // The first version of the call knew resources of another kind.
        let of_groups = listed.into_iter().filter(|of| of.resource_type == resource::GROUP);
        let mut names: BTreeSet<String> = of_groups.map(|of| of.resource_name).collect();
        names.extend(self.groups()?.into_iter().map(|group| group.name));
        Ok(names)
    }
}
