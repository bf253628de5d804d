//! Cycles: operations each of which comes before itself.
//!
//! One comes before another if it wrote the value just before the other's (`ww`), if the other read
//! what it wrote (`wr`), if they are of one process, or if it had ended when the other began. The
//! less it takes for a cycle, the worse: a knot of operations is filed under the first of `G`,
//! `G-process` and `G-realtime` in which it holds together.
//!
//! The order of time has as many arrows as there are pairs of operations. Instead, the ends of
//! operations are nodes in a row: an operation points at its own end, an end at the next one, and
//! the last end before an operation's beginning at that operation.

use std::collections::BTreeSet;

use super::anomaly::{Beside, Terms};
use super::graph::Graph;
use super::logs::Logs;
use super::operation::{Operation, Outcome};
use super::{Anomaly, Findings};

type Arrow = (usize, usize);

/// The shortest of so many cycles through a knot is shown.
const CYCLES_TRIED_MAX: usize = 20;

pub(crate) fn find(operations: &[Operation], logs: &Logs, terms: Terms, findings: &mut Findings) {
    let mut arrows = Arrows::of(operations, logs);
    arrows.look(Depends::Write, terms, findings);
    if terms.ww_edges {
        let all: Vec<Arrow> = arrows.wr.iter().chain(&arrows.ww).copied().collect();
        arrows.ww_and_wr = all;
    } else {
        arrows.ww_and_wr.clone_from(&arrows.wr);
    }
    arrows.look(Depends::Read, terms, findings);
}

/// Which dependencies a cycle is made of: one of these at least is part of it.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Depends {
    Write,
    Read,
}

/// All arrows, by their kinds.
struct Arrows<'a> {
    operations: &'a [Operation],
    nodes: usize,
    ww: Vec<Arrow>,
    wr: Vec<Arrow>,
    /// What a cycle of reads may be made of.
    ww_and_wr: Vec<Arrow>,
    process: Vec<Arrow>,
    realtime: Vec<Arrow>,
}

impl<'a> Arrows<'a> {
    fn of(operations: &'a [Operation], logs: &Logs) -> Self {
        let is_node: Vec<bool> = (operations.iter().zip(&logs.committed))
            .map(|(operation, committed)| *committed && operation.txn().is_some())
            .collect();
        let (realtime, nodes) = realtime(operations, &is_node);
        let ww = write_arrows(logs, &is_node);
        let wr = read_arrows(logs, &is_node);
        let process = process_arrows(operations, &is_node);
        Self { operations, nodes, ww, wr, ww_and_wr: Vec::new(), process, realtime }
    }

    fn look(&self, depends: Depends, terms: Terms, findings: &mut Findings) {
        let (all, decisive) = match depends {
            Depends::Write => (&self.ww, &self.ww),
            Depends::Read => (&self.ww_and_wr, &self.wr),
        };
        let besides = [
            (Beside::Nothing, &[][..]),
            (Beside::Process, &self.process),
            (Beside::Realtime, &self.realtime),
        ];
        let mut filed: Vec<BTreeSet<usize>> = Vec::new();
        for (beside, more) in besides {
            let mut graph = Graph::of(self.nodes);
            all.iter().chain(more).for_each(|(from, to)| graph.add(*from, *to));
            for knot in graph.knots() {
                let inside: Vec<Arrow> = (decisive.iter().copied())
                    .filter(|(from, to)| knot.contains(from) && knot.contains(to))
                    .collect();
                if inside.is_empty() || filed.iter().any(|smaller| smaller.is_subset(&knot)) {
                    continue;
                }
                let operations = knot.iter().filter(|node| **node < self.operations.len()).count();
                if terms.shown_operations_max < operations {
                    let exists = match depends {
                        Depends::Write => Anomaly::WriteCycleExists,
                        Depends::Read => Anomaly::ReadCycleExists,
                    };
                    findings.add(exists, || format!("a knot of {operations} operations"));
                } else {
                    let cycle = match depends {
                        Depends::Write => Anomaly::WriteCycle(beside),
                        Depends::Read => Anomaly::ReadCycle(beside),
                    };
                    findings.add(cycle, || self.show(&graph, &knot, &inside));
                }
                filed.push(knot);
            }
        }
    }

    /// The shortest of some cycles that close with one of these arrows.
    fn show(&self, graph: &Graph, knot: &BTreeSet<usize>, arrows: &[Arrow]) -> String {
        let ways = arrows.iter().take(CYCLES_TRIED_MAX);
        let ways = ways.filter_map(|(from, to)| graph.way(*to, *from, knot));
        let way = ways.min_by_key(Vec::len).expect("in a knot each is reached from each");
        let named = way.iter().filter_map(|node| self.operations.get(*node));
        let named = named.map(|op| format!("process {} at {}", op.process, op.begin));
        named.collect::<Vec<_>>().join(" → ") + " → the first"
    }
}

/// From the writer of each value to the writer of the next.
fn write_arrows(logs: &Logs, is_node: &[bool]) -> Vec<Arrow> {
    let mut arrows = Vec::new();
    for log in logs.keys.values() {
        let writer = |place: usize| log.writer_of.get(&log.value_at(place)).copied();
        let pairs = (1..log.order.len()).filter_map(|place| writer(place - 1).zip(writer(place)));
        arrows.extend(pairs.filter(|(a, b)| a != b && is_node[*a] && is_node[*b]));
    }
    arrows
}

/// From the writer of each value to its readers.
fn read_arrows(logs: &Logs, is_node: &[bool]) -> Vec<Arrow> {
    let mut arrows = BTreeSet::new();
    for log in logs.keys.values() {
        for (value, readers) in &log.readers_of {
            if let Some(writer) = log.writer_of.get(value) {
                arrows.extend(readers.iter().map(|reader| (*writer, *reader)));
            }
        }
    }
    arrows.into_iter().filter(|(a, b)| a != b && is_node[*a] && is_node[*b]).collect()
}

/// From each operation to the next one of its process.
fn process_arrows(operations: &[Operation], is_node: &[bool]) -> Vec<Arrow> {
    let mut last = std::collections::BTreeMap::new();
    let nodes = (0..operations.len()).filter(|index| is_node[*index]);
    nodes
        .filter_map(|index| Some((last.insert(operations[index].process, index)?, index)))
        .collect()
}

/// The arrows of time, and how many nodes there are with those that stand for ends.
fn realtime(operations: &[Operation], is_node: &[bool]) -> (Vec<Arrow>, usize) {
    let ended = |index: usize| match operations[index].outcome {
        Outcome::Ok => operations[index].end,
        Outcome::Fail | Outcome::Info => None,
    };
    let nodes = (0..operations.len()).filter(|index| is_node[*index]);
    let mut ends: Vec<(u64, usize)> =
        nodes.clone().filter_map(|index| Some((ended(index)?, index))).collect();
    ends.sort_unstable();
    let first = operations.len();
    let mut arrows = Vec::new();
    for (number, (_, index)) in ends.iter().enumerate() {
        arrows.push((*index, first + number));
        if 0 < number {
            arrows.push((first + number - 1, first + number));
        }
    }
    for index in nodes {
        let before = ends.partition_point(|(end, _)| *end < operations[index].begin);
        if 0 < before {
            arrows.push((first + before - 1, index));
        }
    }
    (arrows, first + ends.len())
}
