//! Amounts as people write them: `20k`, `1.5MB/s`, `max`, `100..2000`.

use std::str::FromStr;
use std::time::Duration;

use crate::workload::{Shape, VALUE_BYTES_MAX, VALUE_BYTES_MIN};

/// A number with a decimal prefix and perhaps a unit: `500`, `20k`, `1.5MB`. Whether it had bytes
/// for its unit.
pub fn quantity(text: &str) -> Result<(f64, bool), String> {
    let text = text.trim();
    let digits =
        text.find(|c: char| !c.is_ascii_digit() && !".-".contains(c)).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is no number"))?;
    let unit = unit.trim().trim_end_matches("/s");
    let bytes = unit.ends_with('B');
    let factor = match unit.trim_end_matches('B') {
        "" => 1.0,
        "k" | "K" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        _ => return Err(format!("{text:?} has an unknown unit: k, M, G, B are known")),
    };
    Ok((number * factor, bytes))
}

/// A number of bytes per second, at least one.
pub fn bytes_per_second(text: &str) -> Result<f64, String> {
    let (number, _) = quantity(text)?;
    // Below one a single answer would pause its reader for weeks, or for more than a clock can say.
    if number.is_finite() && 1.0 <= number {
        Ok(number)
    } else {
        Err("a rate is at least one byte per second".to_owned())
    }
}

/// The longest time: no run takes a year, and clocks can add it up.
const SECONDS_MAX: f64 = 365.0 * 24.0 * 3600.0;

/// Seconds, perhaps none.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| format!("{text:?} is no number of seconds"))?;
    of_seconds(number)
}

/// A time, from seconds.
pub fn of_seconds(number: f64) -> Result<Duration, String> {
    if (0.0..=SECONDS_MAX).contains(&number) {
        Ok(Duration::from_secs_f64(number))
    } else {
        Err("a time is not negative, and at most a year".to_owned())
    }
}

/// Milliseconds, perhaps none.
pub fn milliseconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| format!("{text:?} is no number of milliseconds"))?;
    of_seconds(number / 1e3)
}

/// Some time, not none.
pub fn some_seconds(text: &str) -> Result<Duration, String> {
    let duration = seconds(text)?;
    if duration.is_zero() { Err("no time at all".to_owned()) } else { Ok(duration) }
}

/// How much is produced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// As much as is answered: a closed loop.
    Max,
    /// So many records per second.
    Records(f64),
    /// So many bytes of values per second.
    Bytes(f64),
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "max" {
            return Ok(Self::Max);
        }
        let (number, bytes) = quantity(text)?;
        if number <= 0.0 || !number.is_finite() {
            return Err("a rate is above zero, or max".to_owned());
        }
        Ok(if bytes { Self::Bytes(number) } else { Self::Records(number) })
    }
}

impl Rate {
    /// Records per second, of this shape; none for a closed loop.
    #[must_use]
    pub fn records(self, shape: &Shape) -> Option<f64> {
        match self {
            Self::Max => None,
            Self::Records(rate) => Some(rate),
            Self::Bytes(rate) => {
                Some(rate / ((shape.value_bytes_min + shape.value_bytes_max) as f64 / 2.0))
            }
        }
    }
}

/// How large values are: all sizes between the two are as likely.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sizes {
    /// The smallest.
    pub min: usize,
    /// The largest.
    pub max: usize,
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            let size = text.trim().parse::<usize>().ok();
            let size = size.filter(|size| (VALUE_BYTES_MIN..=VALUE_BYTES_MAX).contains(size));
            size.ok_or_else(|| {
                format!("a value has {VALUE_BYTES_MIN} to {VALUE_BYTES_MAX} bytes, or MIN..MAX")
            })
        };
        let (min, max) = match text.split_once("..") {
            Some((min, max)) => (number(min)?, number(max)?),
            None => (number(text)?, number(text)?),
        };
        if min <= max { Ok(Self { min, max }) } else { Err(format!("{text} goes backwards")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rates are records, or bytes if they say so.
    #[test]
    fn rates_have_units() {
        let shape = Shape::of_bytes(1000);
        let rate = |text: &str| text.parse::<Rate>().unwrap().records(&shape);
        assert_eq!(rate("max"), None);
        assert_eq!(rate("250"), Some(250.0));
        assert_eq!(rate("1.5M"), Some(1_500_000.0));
        assert_eq!(rate("20MB/s"), Some(20_000.0));
        assert_eq!("-5".parse::<Rate>().unwrap_err(), "a rate is above zero, or max");
        for text in ["0", "", "fast", "10T"] {
            text.parse::<Rate>().unwrap_err();
        }
    }

    /// Sizes are one, or a range within what a value can be.
    /// A rate near zero made a pause that no clock can hold, and a panic.
    #[test]
    fn a_readers_rate_is_at_least_a_byte() {
        assert_eq!(bytes_per_second("1MB"), Ok(1e6));
        for text in ["0", "0.00000000000001", "0.5"] {
            bytes_per_second(text).unwrap_err();
        }
    }

    #[test]
    fn sizes_are_one_or_a_range() {
        assert_eq!("100".parse(), Ok(Sizes { min: 100, max: 100 }));
        assert_eq!("40..2000".parse(), Ok(Sizes { min: 40, max: 2000 }));
        for text in ["39", "", "2000..100", "1..100"] {
            text.parse::<Sizes>().unwrap_err();
        }
    }

    /// Times are seconds or milliseconds, and never less than nothing.
    #[test]
    fn times_are_not_negative() {
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(milliseconds("2"), Ok(Duration::from_millis(2)));
        for text in ["-1", "nan", "inf", "1e300", "soon"] {
            seconds(text).unwrap_err();
        }
        some_seconds("0").unwrap_err();
    }
}
