//! Quotas stay as they were set: none is lost, none appears that nobody asked for.
//!
//! Each is set once, to the number in its client's name.

use std::collections::BTreeMap;

use super::{Verdict, check};

/// All quotas that were ever asked for.
#[derive(Debug, Default)]
pub struct Quotas {
    /// By number: whether it was said to be set, so that it must be there.
    asked: BTreeMap<u64, bool>,
}

impl Quotas {
    /// Somebody asks for the next one.
    pub fn asking(&mut self) -> u64 {
        let number = self.asked.len() as u64 + 1;
        self.asked.insert(number, false);
        number
    }

    /// It was said to be set.
    pub fn told_set(&mut self, number: u64) {
        self.asked.insert(number, true);
    }

    /// Those that must be in a listing asked for now.
    #[must_use]
    pub fn expected(&self) -> Vec<u64> {
        self.asked.iter().filter(|(_, set)| **set).map(|(number, _)| *number).collect()
    }

    /// Quotas were listed, to a request sent when those `expected` had been set.
    pub fn listed(&self, told: Vec<(String, f64)>, expected: &[u64]) -> Verdict {
        let told: BTreeMap<String, f64> = told.into_iter().collect();
        for (name, rate) in &told {
            let asked = self
                .asked
                .keys()
                .any(|number| *name == format!("client-{number}") && *rate == *number as f64);
            check(asked, "no quota appears that nobody asked for", || format!("{name}: {rate}"))?;
        }
        for number in expected {
            let there = told.contains_key(&format!("client-{number}"));
            check(there, "a quota that was set stays", || format!("client-{number}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bad histories: a quota is gone after a crash, has another value, or came from nowhere.
    #[test]
    fn lost_changed_and_invented_quotas_are_found() {
        let mut quotas = Quotas::default();
        let (lost, kept) = (quotas.asking(), quotas.asking());
        assert!(quotas.expected().is_empty());
        quotas.told_set(kept);
        let listed = |number: u64, rate| vec![(format!("client-{number}"), rate)];
        quotas.listed(listed(kept, 2.0), &quotas.expected()).unwrap();
        let rule = |verdict: Verdict| verdict.unwrap_err().rule;
        let gone = quotas.listed(listed(lost, 1.0), &quotas.expected());
        assert_eq!(rule(gone), "a quota that was set stays");
        let changed = quotas.listed(listed(kept, 3.0), &[]);
        assert_eq!(rule(changed), "no quota appears that nobody asked for");
        let invented = quotas.listed(listed(9, 9.0), &[]);
        assert_eq!(rule(invented), "no quota appears that nobody asked for");
    }
}
