//! What the values of a setting look like: kinds, with units and bounds, and how their texts are
//! read.

use std::fmt;
use std::net::SocketAddr;

use crate::limits;

/// What the values of a setting look like.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A whole number within bounds, both inclusive.
    Integer {
        /// What it counts.
        unit: Unit,
        /// The smallest value accepted.
        min: i64,
        /// The greatest value accepted.
        max: i64,
    },
    /// `true` or `false`.
    Boolean,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Any text.
    Text,
    /// A path of the file system.
    Path,
    /// An IP address (or `localhost`) and a port, to listen on.
    Address,
    /// The same, or `none`.
    AddressOrNone,
    /// A host name or address and a port, to be told to clients.
    Endpoint,
}

/// What a number counts. Bytes and times may be written with a suffix: `64KiB`, `7d`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unit {
    /// Things.
    Count,
    /// Bytes; suffixes `KiB`, `MiB`, `GiB`, `TiB`.
    Bytes,
    /// Milliseconds; suffixes `ms`, `s`, `m`, `h`, `d`.
    Millis,
    /// Minutes; suffixes `m`, `h`, `d`.
    Minutes,
    /// Hours; suffixes `h`, `d`.
    Hours,
}

/// A value that fits its setting.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Value {
    /// Nothing was given and there is no default.
    Unset,
    /// Of an integer setting, in its unit.
    Integer(i64),
    /// Of a boolean setting.
    Boolean(bool),
    /// Of all other kinds.
    Text(String),
}

pub(super) const fn count(min: i64, max: i64) -> Kind {
    Kind::Integer { unit: Unit::Count, min, max }
}

pub(super) const fn bytes(min: i64, max: i64) -> Kind {
    Kind::Integer { unit: Unit::Bytes, min, max }
}

pub(super) const fn millis(min: i64, max: i64) -> Kind {
    Kind::Integer { unit: Unit::Millis, min, max }
}

pub(super) const KIB: i64 = 1024;
pub(super) const MIB: i64 = 1024 * KIB;
pub(super) const GIB: i64 = 1024 * MIB;
pub(super) const TIB: i64 = 1024 * GIB;
pub(super) const I32_MAX: i64 = i32::MAX as i64;

impl Kind {
    /// Reads a value as people write it; otherwise says what was expected.
    pub fn parse(self, text: &str) -> Result<Value, String> {
        match self {
            Self::Integer { unit, min, max } => parse_integer(text, unit, min, max),
            Self::Boolean => match text.to_ascii_lowercase().as_str() {
                "true" => Ok(Value::Boolean(true)),
                "false" => Ok(Value::Boolean(false)),
                _ => Err("true or false".to_owned()),
            },
            Self::Choice(words) => words
                .iter()
                .find(|word| word.eq_ignore_ascii_case(text))
                .map(|word| Value::Text((*word).to_owned()))
                .ok_or_else(|| format!("one of {}", words.join(", "))),
            Self::Text | Self::Path if text.is_empty() => Err("some text".to_owned()),
            Self::Text | Self::Path => Ok(Value::Text(text.to_owned())),
            Self::Address => parse_address(text)
                .map(|address| Value::Text(address.to_string()))
                .ok_or_else(|| "an IP address and a port, such as 127.0.0.1:9092".to_owned()),
            Self::AddressOrNone if text.eq_ignore_ascii_case("none") => {
                Ok(Value::Text("none".to_owned()))
            }
            Self::AddressOrNone => Self::Address.parse(text).map_err(|_| {
                "an IP address and a port, such as 127.0.0.1:9644, or none".to_owned()
            }),
            Self::Endpoint => split_endpoint(text)
                .map(|(host, port)| Value::Text(format!("{host}:{port}")))
                .ok_or_else(|| "a host and a port, such as kafka.example.org:9092".to_owned()),
        }
    }

    /// The word for it in an explanation of all settings.
    #[must_use]
    pub fn describe(self) -> String {
        match self {
            Self::Integer { unit, min, max } => {
                let (what, suffixes) = match unit {
                    Unit::Count => ("a number", ""),
                    Unit::Bytes => ("a number of bytes", "; KiB, MiB, GiB or TiB may follow"),
                    Unit::Millis => ("a number of milliseconds", "; ms, s, m, h or d may follow"),
                    Unit::Minutes => ("a number of minutes", "; m, h or d may follow"),
                    Unit::Hours => ("a number of hours", "; h or d may follow"),
                };
                if max == i64::MAX {
                    format!("{what}, {min} or more{suffixes}")
                } else {
                    format!("{what} from {min} to {max}{suffixes}")
                }
            }
            Self::Boolean => "true or false".to_owned(),
            Self::Choice(words) => words.join(" or "),
            Self::Text => "text".to_owned(),
            Self::Path => "a path".to_owned(),
            Self::Address => "an IP address and a port".to_owned(),
            Self::AddressOrNone => "an IP address and a port, or none".to_owned(),
            Self::Endpoint => "a host and a port".to_owned(),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unset => Ok(()),
            Self::Integer(number) => number.fmt(f),
            Self::Boolean(flag) => flag.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

fn parse_integer(text: &str, unit: Unit, min: i64, max: i64) -> Result<Value, String> {
    let suffixes: &[(&str, i64)] = match unit {
        Unit::Bytes => &[("KiB", KIB), ("MiB", MIB), ("GiB", GIB), ("TiB", TIB)],
        // "ms" before "s" and "m": the longer suffix must be tried first.
        Unit::Millis => {
            &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)]
        }
        Unit::Minutes => &[("m", 1), ("h", 60), ("d", 24 * 60)],
        Unit::Hours => &[("h", 1), ("d", 24)],
        Unit::Count => &[],
    };
    let (digits, factor) = suffixes
        .iter()
        .find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?.trim_end(), *factor)))
        .unwrap_or((text, 1));

    let plain = digits.replace('_', "");
    let value = plain.parse::<i64>().ok().and_then(|number| number.checked_mul(factor));
    match value {
        Some(value) if min <= value && value <= max => Ok(Value::Integer(value)),
        _ => Err(Kind::Integer { unit, min, max }.describe()),
    }
}

/// `127.0.0.1:9092`, `[::1]:9092`, `localhost:9092`, `:9092`, with or without `PLAINTEXT://`.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let text = text.strip_prefix("PLAINTEXT://").unwrap_or(text);
    if let Some(port) = text.strip_prefix("localhost:") {
        return format!("127.0.0.1:{port}").parse().ok();
    }
    if let Some(port) = text.strip_prefix(':').or_else(|| text.strip_prefix("*:")) {
        return format!("0.0.0.0:{port}").parse().ok();
    }
    text.parse().ok()
}

/// The host and the port of `host:port`, `[::1]:port`, with or without `PLAINTEXT://`.
pub(crate) fn split_endpoint(text: &str) -> Option<(&str, u16)> {
    let text = text.strip_prefix("PLAINTEXT://").unwrap_or(text);
    let (host, port) = text.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    let plain = !host.is_empty() && host.len() <= limits::HOST_BYTES_MAX;
    let legal = host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._[]:".contains(&b));
    (plain && legal && port != 0).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_may_be_written_with_a_suffix() {
        let bytes = bytes(0, i64::MAX);
        let millis = millis(-1, i64::MAX);
        assert_eq!(bytes.parse("64KiB"), Ok(Value::Integer(65_536)));
        assert_eq!(bytes.parse("1_000"), Ok(Value::Integer(1000)));
        assert_eq!(millis.parse("7d"), Ok(Value::Integer(604_800_000)));
        assert_eq!(millis.parse("250ms"), Ok(Value::Integer(250)));
        assert_eq!(millis.parse("-1"), Ok(Value::Integer(-1)));
        assert!(millis.parse("9223372036854775807d").is_err(), "overflow is refused");
        let hours = Kind::Integer { unit: Unit::Hours, min: -1, max: I32_MAX };
        assert_eq!(hours.parse("72h"), Ok(Value::Integer(72)));
        assert_eq!(hours.parse("3d"), Ok(Value::Integer(72)));
        assert!(bytes.parse("64 parsecs").is_err());
    }

    #[test]
    fn listeners_are_written_as_in_kafka_or_plainly() {
        for text in ["PLAINTEXT://127.0.0.1:9092", "127.0.0.1:9092", "localhost:9092"] {
            assert_eq!(parse_address(text), "127.0.0.1:9092".parse().ok());
        }
        assert_eq!(parse_address(":9"), "0.0.0.0:9".parse().ok());
        assert_eq!(parse_address("SSL://127.0.0.1:9092"), None);
        assert_eq!(
            split_endpoint("PLAINTEXT://b-1.example.org:9092"),
            Some(("b-1.example.org", 9092))
        );
        assert_eq!(split_endpoint("host:0"), None);
    }
}
