//! Judges what real clients saw: anomalies in a recorded history of sends, polls and transactions.
//!
//! The simulator's own [`checker`](crate::checker) watches a broker from inside its world. Real
//! clients against a real broker leave only a record of what they asked and what they were told;
//! [`judge`] finds in it whatever a Kafka broker must never show. The definitions are those of
//! Jepsen's workload for Kafka, and the keys are its names; ours are told apart below.
//!
//! A history is JSON lines, one per operation, in any order ([`operation`] says what each field
//! means; times are microseconds of one clock):
//!
//! ```text
//! {"process":1,"type":"ok","begin":10,"end":25,"f":{"assign":[0,1]}}
//! {"process":1,"type":"ok","begin":30,"end":62,"f":{"txn":{"steps":[{"send":[0,17,4]},{"poll":[[1,0,3],[1,2,5]]}]}}}
//! {"process":2,"type":"info","begin":31,"f":{"txn":{"steps":[{"send":[0,18,null]}]}}}
//! {"process":9,"type":"ok","begin":70,"end":71,"f":{"ends":[[0,5,5],[1,3,3]]}}
//! ```
//!
//! It should end with processes that read every key from its beginning to its end after all faults
//! are over: what nobody has polled by then counts as lost.
//!
//! | file | keys |
//! |---|---|
//! | [`values`] | `inconsistent-offsets`, `duplicate`, `G1a`, `precommitted-read`, `lost-write`, `unseen`; ours: `phantom`, `torn-transaction` |
//! | [`order`] | `poll-skip`, `nonmonotonic-poll`, `int-poll-skip`, `int-nonmonotonic-poll`, `nonmonotonic-send`, `int-nonmonotonic-send`, `int-send-skip` |
//! | [`cycles`] | `G0`, `G1c`, each also `-process` and `-realtime`; `PL-1-cycle-exists`, `PL-2-cycle-exists` |
//! | [`bounds`] | ours: `end-regression`, `offset-gap` |
//! | [`lag`] | no anomalies: `worst-realtime-lag`, `consume-counts` |
//!
//! [`anomaly`] says which of them are allowed, and when.
//!
//! Start reading at [`judge`].

pub mod anomaly;
pub mod operation;

pub mod bounds;
pub mod cycles;
pub mod lag;
pub mod order;
pub mod values;

mod graph;
mod logs;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

pub use anomaly::{Anomaly, Terms};
pub use operation::{Key, Offset, Operation, Outcome, Value, parse};

use self::lag::Lag;
use self::logs::Logs;
use self::operation::Action;

/// So many pieces of evidence are kept of each anomaly; all are counted.
const EVIDENCE_MAX: usize = 5;

/// What was found in a history.
#[derive(Debug)]
pub struct Report {
    /// How many operations with steps ended in each way.
    pub counts: BTreeMap<Outcome, u64>,
    /// What was found of each anomaly; those that were not found are not there.
    pub found: BTreeMap<Anomaly, Finding>,
    /// How far consumers were behind: for information.
    pub lag: Lag,
    terms: Terms,
}

/// How often an anomaly was found, and the first pieces of evidence.
#[derive(Debug, Default)]
pub struct Finding {
    /// How often.
    pub count: u64,
    /// The first few, in words.
    pub evidence: Vec<String>,
}

/// What the rules write into.
#[derive(Default)]
pub(crate) struct Findings(BTreeMap<Anomaly, Finding>);

impl Findings {
    fn add(&mut self, anomaly: Anomaly, evidence: impl FnOnce() -> String) {
        let finding = self.0.entry(anomaly).or_default();
        finding.count += 1;
        if finding.evidence.len() < EVIDENCE_MAX {
            finding.evidence.push(evidence());
        }
    }
}

/// Finds every anomaly of a history. `ww_edges` asks for cycles that the order of writes takes part
/// in; they are no fault, for transactions of Kafka do not isolate writes.
#[must_use]
pub fn judge(mut operations: Vec<Operation>, ww_edges: bool) -> Report {
    operations.sort_by_key(|operation| (operation.begin, operation.process));
    let subscribe = operations.iter().any(|op| matches!(op.action, Action::Subscribe(_)));
    let terms = Terms { subscribe, ww_edges, ..Terms::default() };
    judge_by(&operations, terms)
}

/// The same, with all the terms given, of operations in the order in which they began.
fn judge_by(operations: &[Operation], terms: Terms) -> Report {
    let logs = Logs::of(operations);
    let mut findings = Findings::default();
    values::find(operations, &logs, &mut findings);
    order::find(operations, &logs, &mut findings);
    cycles::find(operations, &logs, terms, &mut findings);
    bounds::find(operations, &logs, &mut findings);
    let mut counts = BTreeMap::new();
    for operation in operations.iter().filter(|operation| operation.txn().is_some()) {
        *counts.entry(operation.outcome).or_default() += 1;
    }
    Report { counts, found: findings.0, lag: lag::measure(operations, &logs), terms }
}

impl Report {
    /// Whether nothing was found but what is allowed.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.forbidden().next().is_none()
    }

    /// What was found and is not allowed.
    pub fn forbidden(&self) -> impl Iterator<Item = Anomaly> {
        self.found.keys().copied().filter(|anomaly| !anomaly.is_allowed(self.terms))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |outcome| self.counts.get(&outcome).copied().unwrap_or(0);
        let [ok, fail, info] = [Outcome::Ok, Outcome::Fail, Outcome::Info].map(count);
        writeln!(f, "operations: {ok} ok, {fail} fail, {info} info")?;
        for (anomaly, finding) in &self.found {
            let allowed = if anomaly.is_allowed(self.terms) { "allowed" } else { "forbidden" };
            writeln!(f, "{allowed} {anomaly} {}", finding.count)?;
            for evidence in finding.evidence.iter().filter(|_| allowed == "forbidden") {
                writeln!(f, "  {evidence}")?;
            }
        }
        writeln!(f, "{}", self.lag)?;
        write!(f, "verdict: {}", if self.is_clean() { "clean" } else { "anomalies" })
    }
}
