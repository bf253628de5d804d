//! A directed graph of numbered nodes: its knots (strongly connected components), and the shortest
//! way between two nodes of one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Nodes and the arrows between them.
pub(crate) struct Graph {
    arrows: Vec<Vec<usize>>,
}

impl Graph {
    pub(crate) fn of(nodes: usize) -> Self {
        Self { arrows: vec![Vec::new(); nodes] }
    }

    pub(crate) fn add(&mut self, from: usize, to: usize) {
        self.arrows[from].push(to);
    }

    /// All sets of more than one node in which each can be reached from each: Tarjan's algorithm,
    /// with a stack of its own, for histories are long.
    pub(crate) fn knots(&self) -> Vec<BTreeSet<usize>> {
        const UNSEEN: usize = usize::MAX;
        let nodes = self.arrows.len();
        let (mut number, mut low) = (vec![UNSEEN; nodes], vec![0; nodes]);
        let (mut open, mut is_open) = (Vec::new(), vec![false; nodes]);
        let (mut next, mut knots) = (0, Vec::new());
        for root in 0..nodes {
            if number[root] != UNSEEN {
                continue;
            }
            // Nodes on the way from the root, and which of their arrows comes next.
            let mut way = vec![(root, 0)];
            while let Some((node, turn)) = way.last_mut() {
                let node = *node;
                if *turn == 0 {
                    (number[node], low[node]) = (next, next);
                    next += 1;
                    open.push(node);
                    is_open[node] = true;
                }
                if let Some(&to) = self.arrows[node].get(*turn) {
                    *turn += 1;
                    if number[to] == UNSEEN {
                        way.push((to, 0));
                    } else if is_open[to] {
                        low[node] = low[node].min(number[to]);
                    }
                    continue;
                }
                way.pop();
                if let Some((before, _)) = way.last() {
                    low[*before] = low[*before].min(low[node]);
                }
                if low[node] == number[node] {
                    let at = open.iter().rposition(|open| *open == node);
                    let knot = open.split_off(at.expect("a node is open until its knot is cut"));
                    knot.iter().for_each(|node| is_open[*node] = false);
                    if 1 < knot.len() {
                        knots.push(knot.into_iter().collect());
                    }
                }
            }
        }
        knots
    }

    /// The shortest way from one node to another within a set, both ends included.
    pub(crate) fn way(
        &self,
        from: usize,
        to: usize,
        within: &BTreeSet<usize>,
    ) -> Option<Vec<usize>> {
        let mut came_from = BTreeMap::from([(from, from)]);
        let mut waiting = VecDeque::from([from]);
        while let Some(node) = waiting.pop_front() {
            if node == to {
                let mut way = vec![to];
                while way.last() != Some(&from) {
                    way.push(came_from[way.last().expect("it holds an end")]);
                }
                way.reverse();
                return Some(way);
            }
            for next in self.arrows[node].iter().filter(|next| within.contains(next)) {
                if !came_from.contains_key(next) {
                    came_from.insert(*next, node);
                    waiting.push_back(*next);
                }
            }
        }
        None
    }
}
