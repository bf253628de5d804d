//! Phases in a TOML file: a load that changes while it goes on.
//!
//! ```toml
//! warm_up = 2             # seconds before the first phase, with its load; not counted
//!
//! [[phase]]
//! name = "steady"
//! seconds = 30
//! rate = "20k"            # as --rate; a number is records per second
//! arrival = "poisson"     # as --arrival
//! value_bytes = "100..2000"
//! slo = "p99<5ms"         # as --slo, of this phase
//! ```
//!
//! What a phase does not say is as on the command line. Phases follow each other without a pause,
//! on the same connections: what falls due in one counts as its own, however late its answer.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use crate::amount::{Rate, Sizes, of_seconds};
use crate::arrival::Pattern;
use crate::search::Objective;
use crate::settings::Phase;
use crate::trouble::Trouble;
use crate::workload::Shape;

/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// More phases would be too many to read.
const PHASES_MAX: usize = 1_000;

/// What holds where a phase says nothing.
#[derive(Clone, Debug)]
pub struct Usual {
    /// How long.
    pub duration: Duration,
    /// How much.
    pub rate: Rate,
    /// Spread over time how.
    pub pattern: Pattern,
    /// What records look like.
    pub shape: Shape,
    /// What has to be fulfilled.
    pub objective: Option<Objective>,
}

impl Usual {
    /// The one phase of a run that has no file of them.
    #[must_use]
    pub fn phase(&self) -> Phase {
        let Self { duration, rate, pattern, shape, objective } = self;
        Phase {
            name: String::new(),
            duration: *duration,
            arrival: pattern.at(rate.records(shape)),
            shape: *shape,
            objective: objective.clone(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    warm_up: Option<f64>,
    #[serde(default, rename = "phase")]
    phases: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: Option<String>,
    seconds: Option<f64>,
    rate: Option<Amount>,
    arrival: Option<String>,
    value_bytes: Option<Amount>,
    slo: Option<String>,
}

/// A number, or a text that says more.
#[derive(Deserialize)]
#[serde(untagged)]
enum Amount {
    Whole(u64),
    Fraction(f64),
    Text(String),
}

impl Amount {
    fn to_text(&self) -> String {
        match self {
            Self::Whole(number) => number.to_string(),
            Self::Fraction(number) => number.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

/// Reads a file of phases: them, and the time before the first one if the file tells it.
pub fn read(path: &Path, usual: &Usual) -> Result<(Vec<Phase>, Option<Duration>), Trouble> {
    let wrong = |why: String| Trouble::usage(format!("{}: {why}", path.display()));
    let size = fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if FILE_BYTES_MAX < size {
        return Err(wrong("too large for a file of phases".to_owned()));
    }
    let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    parse(&text, usual).map_err(wrong)
}

fn parse(text: &str, usual: &Usual) -> Result<(Vec<Phase>, Option<Duration>), String> {
    let document: Document = toml::from_str(text).map_err(|error| error.to_string())?;
    if document.phases.is_empty() || PHASES_MAX < document.phases.len() {
        return Err(format!("it has {} phases, not 1 to {PHASES_MAX}", document.phases.len()));
    }
    let warm_up = document.warm_up.map(of_seconds).transpose()?;
    let mut phases: Vec<Phase> = Vec::new();
    for (nth, entry) in document.phases.iter().enumerate() {
        let name = entry.name.clone().unwrap_or_else(|| (nth + 1).to_string());
        let phase =
            entry.phase(name.clone(), usual).map_err(|why| format!("phase {name}: {why}"))?;
        if phases.iter().any(|other| other.name == name) {
            return Err(format!("two phases are named {name}"));
        }
        phases.push(phase);
    }
    Ok((phases, warm_up))
}

impl Entry {
    fn phase(&self, name: String, usual: &Usual) -> Result<Phase, String> {
        // Names stand in the tags of histogram logs.
        if name.is_empty() || name.contains([',', ':', '=']) || name.contains(char::is_whitespace) {
            return Err("a name has no space, comma, colon or equals sign".to_owned());
        }
        let mut own = usual.clone();
        if let Some(seconds) = self.seconds {
            own.duration = of_seconds(seconds)?;
        }
        if let Some(rate) = &self.rate {
            own.rate = rate.to_text().parse()?;
        }
        if let Some(pattern) = &self.arrival {
            own.pattern = pattern.parse()?;
        }
        if let Some(sizes) = &self.value_bytes {
            let Sizes { min, max } = sizes.to_text().parse()?;
            (own.shape.value_bytes_min, own.shape.value_bytes_max) = (min, max);
        }
        if let Some(objective) = &self.slo {
            own.objective = Some(objective.parse()?);
        }
        if own.duration.is_zero() {
            return Err("no time at all".to_owned());
        }
        Ok(Phase { name, ..own.phase() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrival::Arrival;

    fn usual() -> Usual {
        Usual {
            duration: Duration::from_secs(10),
            rate: Rate::Records(10_000.0),
            pattern: Pattern::Constant,
            shape: Shape::of_bytes(1024),
            objective: None,
        }
    }

    /// The example that the documents show is read, and says what it seems to say.
    #[test]
    fn the_example_is_read() {
        let (phases, warm_up) = parse(include_str!("../examples/phases.toml"), &usual()).unwrap();
        assert_eq!(warm_up, Some(Duration::from_secs(2)));
        let names: Vec<&str> = phases.iter().map(|phase| phase.name.as_str()).collect();
        assert_eq!(names, ["steady", "rush", "after"]);
        assert_eq!(phases[0].arrival, Arrival::Poisson(5_000.0));
        assert_eq!(phases[1].arrival, Arrival::Bursts(20_000.0, 200));
        assert_eq!(phases[1].shape.value_bytes_max, 2_000);
        assert!(phases[2].objective.is_some());
    }

    /// What a phase does not say is as usual.
    #[test]
    fn a_phase_says_what_is_different() {
        let (phases, warm_up) = parse("[[phase]]\nrate = 500\n[[phase]]\n", &usual()).unwrap();
        assert_eq!(warm_up, None);
        assert_eq!(phases[0].arrival, Arrival::Constant(500.0));
        assert_eq!(phases[1].arrival, Arrival::Constant(10_000.0));
        assert_eq!((phases[0].name.as_str(), phases[1].name.as_str()), ("1", "2"));
        assert_eq!(phases[0].duration, Duration::from_secs(10));
    }

    /// A mistake is told where it stands.
    #[test]
    fn mistakes_are_told() {
        let told = |text: &str| parse(text, &usual()).unwrap_err();
        assert!(told("").contains("0 phases"));
        assert!(told("[[phase]]\nrat = 5\n").contains("rat"));
        assert!(told("[[phase]]\nname = \"a\"\nrate = \"fast\"\n").contains("phase a"));
        assert!(told("[[phase]]\nname = \"a b\"\n").contains("space"));
        assert!(told("[[phase]]\nname = \"a\"\n[[phase]]\nname = \"a\"\n").contains("two phases"));
        assert!(told("[[phase]]\nseconds = 0\n").contains("no time"));
    }
}
