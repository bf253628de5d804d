//! `tidemill consume --group`: a member of a group that prints its share.
//!
//! What is committed was printed and flushed: the same thread polls and prints, and only the next
//! poll says that it is done with. Who ends after some records goes back to the first that it did
//! not print; the group goes on from there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use tidemill_client::group::Share;
use tidemill_client::kafka::ErrorCode;
use tidemill_client::{ConsumerRecord, Error, ErrorKind, GroupConfig, GroupConsumer, Start};

use super::super::brokers::{Patience, RETRY_FOR};
use super::super::failure::Failure;
use super::super::group::check_that_it_is_no_share_group;
use super::super::offsets::Place;
use super::{Consume, Printer, Style, may_pass, unprintable};

/// How long the others wait for one that was killed.
const SESSION: Duration = Duration::from_secs(10);

/// How long a signal may go unnoticed.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(super) fn run(asked: &Consume, group: &str, style: &Style) -> Result<(), Failure> {
    let asked_to_stop = stop_on_signals()?;
    let mut member = member(asked, group)?;
    let mut printer = asked.printer(style);
    let mut patience = None;
    while !asked_to_stop.load(Ordering::Relaxed) {
        match member.poll(LOOK_EVERY) {
            Ok(records) => {
                patience = None;
                print(&records, &mut printer, &mut member)?;
                if printer.left == 0 || asked.exit && records.is_empty() && is_at_end(&member) {
                    break;
                }
            }
            Err(trouble) => {
                let patience = patience.get_or_insert_with(Patience::default);
                if !may_pass(&trouble) || patience.is_over() {
                    return Err(why_not(asked, group, trouble));
                }
                patience.tell(&trouble);
            }
        }
    }
    member.close(RETRY_FOR);
    printer.progress.finish();
    Ok(())
}

/// Why it cannot be read as a member of the group.
fn why_not(asked: &Consume, group: &str, trouble: Error) -> Failure {
    let bootstrap = &asked.bootstrap;
    if trouble.kind() == ErrorKind::Refused(ErrorCode::InconsistentGroupProtocol)
        && let Ok(mut admin) = bootstrap.admin(false)
        && let Err(why) = check_that_it_is_no_share_group(bootstrap, &mut admin, group)
    {
        return why;
    }
    asked.failure(trouble)
}

/// The first Ctrl-C or SIGTERM ends the reading: what was printed is committed, and the others need
/// not wait for one that is gone. The second one ends the process.
fn stop_on_signals() -> Result<Arc<AtomicBool>, Failure> {
    let asked = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, 1, Arc::clone(&asked))
            .and_then(|_| flag::register(signal, Arc::clone(&asked)))
            .map_err(|error| Failure::new("cannot wait for signals").because(error))?;
    }
    Ok(asked)
}

fn member(asked: &Consume, group: &str) -> Result<GroupConsumer, Failure> {
    let start = match asked.offset {
        Place::Beginning => Start::Earliest,
        Place::End => Start::Latest,
        Place::Since(ms) => Start::Time(ms),
        Place::At(_) | Place::Last(_) => {
            let what = "a group begins where it left off, the first time at beginning, end or s@MS";
            return Err(Failure::usage(what).fix("leave out --offset, or --group"));
        }
    };
    let bootstrap = &asked.bootstrap;
    bootstrap.topic(&mut bootstrap.admin(false)?, &asked.topic)?;
    let config = GroupConfig {
        reader: asked.config(),
        group: group.to_owned(),
        start,
        session_timeout: SESSION,
        ..GroupConfig::default()
    };
    let mut member = GroupConsumer::open(config).map_err(|error| bootstrap.failure(error))?;
    member.subscribe([&*asked.topic]);
    Ok(member)
}

/// Prints records until there are enough; the others are given back.
fn print(
    records: &[ConsumerRecord],
    printer: &mut Printer<'_>,
    member: &mut GroupConsumer,
) -> Result<(), Failure> {
    let mut given_back = BTreeSet::new();
    for record in records {
        if 0 < printer.left {
            printer.print(record).map_err(unprintable)?;
        } else if given_back.insert(record.partition) {
            member.seek(&record.topic, record.partition, Start::Offset(record.offset))?;
        }
    }
    printer.flush()
}

/// Whether nothing is left of what is ours; who has nothing yet is not at its end.
fn is_at_end(member: &GroupConsumer) -> bool {
    let mut shares = member.assigned().peekable();
    let is_read = |(topic, partition): &Share| {
        let end = member.readable_end(topic, *partition);
        end.is_some_and(|end| member.position(topic, *partition).is_some_and(|at| end <= at))
    };
    shares.peek().is_some() && shares.all(is_read)
}
