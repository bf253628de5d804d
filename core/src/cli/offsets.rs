//! Where in partitions something begins or ends, as people say it: the same words in all commands.

use std::collections::BTreeMap;

use tidemill_client::{Admin, Isolation, Start};

use super::brokers::Bootstrap;
use super::failure::Failure;

/// A place in each of some partitions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Place {
    /// The first record that is kept.
    Beginning,
    /// After the last record.
    End,
    /// This offset.
    At(i64),
    /// So many records before the end.
    Last(i64),
    /// The first record of this time or later, in milliseconds since 1970.
    Since(i64),
}

/// Reads a place; the counterpart of what help texts say.
pub(super) fn parse_place(text: &str) -> Result<Place, String> {
    let number = |text: &str| text.parse::<i64>().ok().filter(|number| 0 <= *number);
    let place = match text {
        "beginning" | "earliest" => Some(Place::Beginning),
        "end" | "latest" => Some(Place::End),
        text => match (text.strip_prefix("s@"), text.strip_prefix('-')) {
            (Some(ms), _) => number(ms).map(Place::Since),
            (None, Some(count)) => number(count).map(Place::Last),
            (None, None) => number(text).map(Place::At),
        },
    };
    place.ok_or_else(|| "beginning, end, an offset, -N or s@MS".to_owned())
}

/// Partitions of a topic, about which offsets are asked.
pub(super) struct Partitions<'a> {
    bootstrap: &'a Bootstrap,
    admin: &'a mut Admin,
    topic: &'a str,
    numbers: &'a [i32],
    isolation: Isolation,
}

impl<'a> Partitions<'a> {
    pub(super) fn new(
        bootstrap: &'a Bootstrap,
        admin: &'a mut Admin,
        topic: &'a str,
        numbers: &'a [i32],
    ) -> Self {
        Self { bootstrap, admin, topic, numbers, isolation: Isolation::ReadUncommitted }
    }

    /// They end where a reader that sees this comes to an end.
    pub(super) fn seen_by(self, isolation: Isolation) -> Self {
        Self { isolation, ..self }
    }

    /// The first offsets that are kept.
    pub(super) fn firsts(&mut self) -> Result<BTreeMap<i32, i64>, Failure> {
        self.at(Start::Earliest)
    }

    /// The offsets after the last records.
    pub(super) fn ends(&mut self) -> Result<BTreeMap<i32, i64>, Failure> {
        self.at(Start::Latest)
    }

    fn at(&mut self, start: Start) -> Result<BTreeMap<i32, i64>, Failure> {
        let found = self.admin.list_offsets(self.topic, self.numbers, start, self.isolation);
        found.map_err(|error| self.bootstrap.failure(error))
    }

    /// The offset that a place has in each partition, from the first to the end.
    pub(super) fn find(&mut self, place: Place) -> Result<BTreeMap<i32, i64>, Failure> {
        match place {
            Place::Beginning => self.firsts(),
            Place::End => self.ends(),
            Place::At(offset) => {
                let reaching = self.reaching(offset)?;
                let (firsts, ends) = (self.firsts()?, self.ends()?);
                match firsts.iter().find(|(_, first)| offset < **first) {
                    Some((at, first)) => Err(self.no_such_offset(*at, offset, *first, ends[at])),
                    None => Ok(reaching),
                }
            }
            Place::Last(count) => {
                let (firsts, ends) = (self.firsts()?, self.ends()?);
                let back = |(at, end): (i32, i64)| (at, (end - count).max(firsts[&at]));
                Ok(ends.into_iter().map(back).collect())
            }
            Place::Since(ms) => {
                let ends = self.ends()?;
                let found = self.at(Start::Time(ms))?;
                // None that young: those to come.
                let or_end = |(at, offset)| (at, if offset < 0 { ends[&at] } else { offset });
                Ok(found.into_iter().map(or_end).collect())
            }
        }
    }

    /// This offset in each partition; none may end before it.
    pub(super) fn reaching(&mut self, offset: i64) -> Result<BTreeMap<i32, i64>, Failure> {
        let (firsts, ends) = (self.firsts()?, self.ends()?);
        match ends.iter().find(|(_, end)| **end < offset) {
            Some((at, end)) => Err(self.no_such_offset(*at, offset, firsts[at], *end)),
            None => Ok(ends.into_keys().map(|partition| (partition, offset)).collect()),
        }
    }

    fn no_such_offset(&self, partition: i32, asked: i64, first: i64, end: i64) -> Failure {
        let topic = self.topic;
        let there = if first == end {
            format!("it is empty; the next record will be {end}")
        } else {
            format!("its records are {first} to {}", end - 1)
        };
        Failure::new(format!("partition {partition} of {topic} has no offset {asked}"))
            .because(there)
            .fix("say beginning, end or -N instead, or choose a partition with -p")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_said_as_in_kcat() {
        assert_eq!(parse_place("beginning"), Ok(Place::Beginning));
        assert_eq!(parse_place("end"), Ok(Place::End));
        assert_eq!(parse_place("17"), Ok(Place::At(17)));
        assert_eq!(parse_place("-5"), Ok(Place::Last(5)));
        assert_eq!(parse_place("s@1700000000000"), Ok(Place::Since(1_700_000_000_000)));
        assert!(parse_place("middle").is_err());
        assert!(parse_place("--5").is_err());
    }
}
