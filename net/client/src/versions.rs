//! What one broker speaks, and what of it both sides know.

use tidemill_net::kafka::api_versions::ApiVersionsResponse;
use tidemill_net::kafka::{APIS, ApiKey};

/// The versions a broker told us, for the APIs we know.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Versions {
    /// Lowest and highest, in the order of [`APIS`].
    ranges: [Option<(i16, i16)>; APIS.len()],
}

impl Versions {
    /// Before anything is known.
    pub(crate) const UNKNOWN: Versions = Versions { ranges: [None; APIS.len()] };

    /// What an answer says.
    pub fn from_answer(answer: &ApiVersionsResponse) -> Versions {
        let mut versions = Versions::UNKNOWN;
        for told in &answer.api_keys {
            if let Some(at) = APIS.iter().position(|api| api.key.to_wire() == told.api_key) {
                versions.ranges[at] = Some((told.min_version, told.max_version));
            }
        }
        versions
    }

    /// What the broker speaks of an API, lowest and highest; `None` if nothing.
    pub fn of(&self, api: ApiKey) -> Option<(i16, i16)> {
        let at = APIS.iter().position(|known| known.key == api);
        self.ranges[at.expect("every API is in the table")]
    }

    /// The highest version both sides know that is at most `highest`.
    pub fn pick(&self, api: ApiKey, highest: i16) -> Option<i16> {
        let (low, high) = self.of(api)?;
        let ours = api.api();
        let version = high.min(ours.max).min(highest);
        (low.max(ours.served_min) <= version).then_some(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_net::kafka::api_versions::ApiVersion;

    fn speaks(api: ApiKey, min_version: i16, max_version: i16) -> Versions {
        let told = ApiVersion { api_key: api.to_wire(), min_version, max_version };
        Versions::from_answer(&ApiVersionsResponse {
            api_keys: vec![told],
            ..ApiVersionsResponse::default()
        })
    }

    /// The highest version both know is taken, and none that only one side knows.
    #[test]
    fn the_highest_common_version_is_picked() {
        let all = i16::MAX;
        assert_eq!(speaks(ApiKey::Fetch, 4, 99).pick(ApiKey::Fetch, all), Some(18));
        assert_eq!(speaks(ApiKey::Fetch, 0, 11).pick(ApiKey::Fetch, all), Some(11));
        assert_eq!(speaks(ApiKey::Fetch, 0, 3).pick(ApiKey::Fetch, all), None, "too old");
        assert_eq!(speaks(ApiKey::Fetch, 19, 25).pick(ApiKey::Fetch, all), None, "too new");
        assert_eq!(speaks(ApiKey::Fetch, 4, 18).pick(ApiKey::Fetch, 12), Some(12));
        assert_eq!(speaks(ApiKey::Fetch, 4, 18).pick(ApiKey::Produce, all), None, "not told");
    }
}
