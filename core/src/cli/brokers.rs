//! The brokers a command speaks to, through [`tidemill_client`]: which are meant, how patiently they
//! are asked, and what is added to the client's words for who sits at a command line.
//!
//! Start reading at [`Bootstrap`].

use std::time::{Duration, Instant};

use clap::Args;
use tidemill_client::kafka::ErrorCode;
use tidemill_client::{
    Address, Admin, ClusterConfig, ConnectionConfig, Error, ErrorKind, TopicView,
};

use super::failure::Failure;
use crate::config::settings::nearest_of;

/// How we call ourselves.
const CLIENT_ID: &str = "tidemill-cli";

/// The broker that is meant if none is named.
const USUAL_BROKER: &str = "127.0.0.1:9092";

/// How long something is tried again while it may work later.
pub(super) const RETRY_FOR: Duration = Duration::from_secs(30);

/// How long a person waits without being told what for.
pub(super) const SILENT_FOR: Duration = Duration::from_secs(1);

/// How often a person who waits is told what for.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Which broker a client command talks to.
#[derive(Args, Debug)]
pub(super) struct Bootstrap {
    /// A broker of the cluster.
    #[arg(
        short = 'b',
        long = "bootstrap-server",
        value_name = "HOST:PORT",
        default_value = USUAL_BROKER,
        value_parser = parse_bootstrap
    )]
    address: Address,
}

fn parse_bootstrap(text: &str) -> Result<Address, String> {
    text.parse().map_err(|_| "one broker as HOST or HOST:PORT, such as 127.0.0.1:9092".to_owned())
}

impl Bootstrap {
    /// How the cluster is dealt with; `create_topics`: asking for a topic may make it.
    pub(super) fn cluster(&self, create_topics: bool) -> ClusterConfig {
        ClusterConfig {
            bootstrap: vec![self.address.clone()],
            connection: ConnectionConfig {
                client_id: CLIENT_ID.into(),
                ..ConnectionConfig::default()
            },
            request_timeout: RETRY_FOR,
            create_topics,
            ..ClusterConfig::default()
        }
    }

    /// An admin that does not wait for a broker that is not there, and tells what it waits for.
    pub(super) fn admin(&self, create_topics: bool) -> Result<Admin, Failure> {
        let admin = Admin::with_config(self.cluster(create_topics)).map_err(|e| self.failure(e))?;
        let mut patience = Patience::default();
        Ok(admin.giving_up_early().telling(move |error| patience.tell(error)))
    }

    /// One topic, waited for while it is being made.
    pub(super) fn topic(&self, admin: &mut Admin, name: &str) -> Result<TopicView, Failure> {
        admin.topic(name).map_err(|error| match error.kind() {
            ErrorKind::Refused(ErrorCode::UnknownTopicOrPartition) => {
                self.no_topic(admin, name, error)
            }
            _ => self.failure(error),
        })
    }

    /// A topic that is not there: mistyped, or not made yet.
    pub(super) fn no_topic(&self, admin: &mut Admin, name: &str, error: Error) -> Failure {
        let flag = self.flag();
        // Only to help: if it cannot be told, nothing is lost.
        let topics = admin.topics().unwrap_or_default();
        let meant = nearest_of(name, topics.keys().map(|topic| &**topic));
        let fix = match meant {
            Some(meant) => {
                format!(
                    "did you mean {meant}? `tidemill topic create {name}{flag}` makes a new one"
                )
            }
            None => format!(
                "`tidemill topic list{flag}` names those there are, `tidemill topic create \
                 {name}{flag}` makes it"
            ),
        };
        let mut failure = Failure::from(error);
        failure.explanation.what = format!("no topic {name}");
        failure.fix(fix)
    }

    /// The partitions that were asked for, all if none were; they exist.
    pub(super) fn partitions(
        &self,
        admin: &mut Admin,
        topic: &str,
        asked: &[i32],
    ) -> Result<Vec<i32>, Failure> {
        let count = self.topic(admin, topic)?.partitions.len() as i32;
        match asked.iter().find(|partition| !(0..count).contains(*partition)) {
            Some(missing) => {
                let has = match count {
                    1 => "only partition 0".to_owned(),
                    _ => format!("partitions 0 to {}", count - 1),
                };
                Err(Failure::usage(format!("topic {topic} has {has}, not {missing}")))
            }
            None if asked.is_empty() => Ok((0..count).collect()),
            None => Ok(asked.to_vec()),
        }
    }

    /// What the client says, with what helps at a command line.
    pub(super) fn failure(&self, error: Error) -> Failure {
        let is_nobody_there = error.kind() == ErrorKind::Unreachable;
        let mut failure = Failure::from(error);
        if is_nobody_there {
            failure.explanation.what = format!("cannot reach a broker at {}", self.address);
            let fix = "start one with `tidemill start`, or name another with --bootstrap-server HOST:PORT";
            return failure.fix(fix);
        }
        failure
    }

    /// How a command for the same broker is told which it is; nothing if it is the usual one.
    pub(super) fn flag(&self) -> String {
        let address = self.address.to_string();
        if address == USUAL_BROKER { String::new() } else { format!(" -b {address}") }
    }
}

/// How long something has been tried again in vain, and what a person was told of it.
#[derive(Debug)]
pub(super) struct Patience {
    start: Instant,
    told: Option<Instant>,
}

impl Default for Patience {
    fn default() -> Self {
        Self { start: Instant::now(), told: None }
    }
}

impl Patience {
    /// Says what is waited for, now and then.
    pub(super) fn tell(&mut self, error: &Error) {
        if self.told.is_none_or(|told| TOLD_EVERY <= told.elapsed()) {
            self.told = Some(Instant::now());
            eprintln!("tidemill: waiting: {}", error.explanation().in_one_line());
        }
    }

    /// Whether it has been tried for as long as makes sense.
    pub(super) fn is_over(&self) -> bool {
        RETRY_FOR <= self.start.elapsed()
    }
}
