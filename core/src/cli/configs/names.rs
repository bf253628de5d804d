//! What a person is told who has mistyped the name of a setting, or of what it belongs to.

use tidemill_client::kafka::ErrorCode;
use tidemill_client::{Admin, ConfigResource, Error, ErrorKind};

use super::Target;
use crate::cli::brokers::Bootstrap;
use crate::cli::failure::Failure;
use crate::config::settings::nearest_of;

/// Kafka's names of all quotas, whether or not a broker carries them out.
const QUOTAS: [&str; 4] =
    ["producer_byte_rate", "consumer_byte_rate", "request_percentage", "controller_mutation_rate"];

/// What the broker says of a command about these settings; if one of them is the name of none, that,
/// with the one that was meant.
pub(super) fn refused<'a>(
    bootstrap: &Bootstrap,
    admin: &mut Admin,
    target: &Target,
    error: Error,
    names: impl Iterator<Item = &'a str>,
) -> Failure {
    match (error.kind(), target) {
        (
            ErrorKind::Refused(ErrorCode::UnknownTopicOrPartition),
            Target::Resource(ConfigResource::Topic(name)),
        ) => return bootstrap.no_topic(admin, name, error),
        (ErrorKind::Refused(ErrorCode::InvalidConfig | ErrorCode::InvalidRequest), _) => {}
        _ => return bootstrap.failure(error),
    }
    // Only to help: what the broker said is told in any case.
    let unknown = unknown(bootstrap, admin, target, names).ok().flatten();
    let mut failure = bootstrap.failure(error);
    if let Some(unknown) = unknown {
        failure.explanation.cause = unknown.explanation.cause;
        failure.explanation.fix = unknown.explanation.fix;
    }
    failure
}

/// Brokers take anything off that nobody knows, as if it had been set.
pub(super) fn check<'a>(
    bootstrap: &Bootstrap,
    admin: &mut Admin,
    target: &Target,
    names: impl Iterator<Item = &'a str>,
) -> Result<(), Failure> {
    unknown(bootstrap, admin, target, names)?.map_or(Ok(()), Err)
}

/// The first of these names that is no setting of the target, as a failure.
fn unknown<'a>(
    bootstrap: &Bootstrap,
    admin: &mut Admin,
    target: &Target,
    mut names: impl Iterator<Item = &'a str>,
) -> Result<Option<Failure>, Failure> {
    let (known, others) = match target {
        Target::Quota(_) => (QUOTAS.map(str::to_owned).to_vec(), QUOTAS.join(", ")),
        Target::Resource(of) => {
            let (known, whose) = known(bootstrap, admin, of)?;
            let command = format!("tidemill config get {whose} --all{}", bootstrap.flag());
            (known, format!("`{command}` names those there are"))
        }
    };
    let is_known = |name: &str| known.iter().any(|known| known == name);
    let Some(wrong) = names.find(|name| !is_known(name)) else { return Ok(None) };
    let fix = match nearest_of(wrong, known.iter().map(String::as_str)) {
        Some(meant) => format!("did you mean {meant}?"),
        None => match target {
            Target::Quota(_) => format!("those there are: {others}"),
            Target::Resource(_) => others,
        },
    };
    let word = if matches!(target, Target::Quota(_)) { "quota" } else { "setting" };
    let what = format!("there is no {word} {wrong}");
    Ok(Some(Failure::usage(what.clone()).because(what).fix(fix)))
}

/// The names of settings that it can have, and whose they are, as on the command line.
fn known(
    bootstrap: &Bootstrap,
    admin: &mut Admin,
    of: &ConfigResource,
) -> Result<(Vec<String>, String), Failure> {
    let mut of_whom = vec![of.clone()];
    if let ConfigResource::Nodes = of {
        // Of all brokers some brokers tell only what is set.
        let cluster = admin.cluster().map_err(|error| bootstrap.failure(error))?;
        of_whom.extend(cluster.nodes.keys().next().map(|id| ConfigResource::Node(*id)));
    }
    let mut names = Vec::new();
    for of in &of_whom {
        let configs = admin.describe_configs(of).map_err(|error| bootstrap.failure(error))?;
        names.extend(configs.into_iter().map(|config| config.name));
    }
    let whose = match of_whom.last() {
        Some(ConfigResource::Node(id)) => format!("broker {id}"),
        Some(ConfigResource::Topic(name)) => format!("topic {name}"),
        Some(ConfigResource::Group(name)) => format!("group {name}"),
        Some(ConfigResource::Nodes) | None => "broker".to_owned(),
    };
    Ok((names, whose))
}
