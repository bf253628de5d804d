//! Where a broker listens.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The port Kafka's brokers listen on unless told otherwise.
const DEFAULT_PORT: u16 = 9092;

/// A host, by name or number, and a port.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Address {
    /// The host's name or address, without brackets.
    pub host: Arc<str>,
    /// The port.
    pub port: u16,
}

impl Address {
    /// The brokers of a list such as `one:9092,two:9092`. A port left out is 9092.
    pub fn parse_list(text: &str) -> Result<Vec<Address>, AddressError> {
        text.split(',').map(str::trim).filter(|text| !text.is_empty()).map(str::parse).collect()
    }
}

/// A text that is no address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AddressError {
    /// The text.
    pub text: String,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not HOST:PORT", self.text)
    }
}

impl std::error::Error for AddressError {}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        let wrong = || AddressError { text: text.to_owned() };
        let (host, port) = match text.strip_prefix('[') {
            // Brackets keep the colons of an IPv6 address from the one before the port.
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(wrong)?;
                (host, port.strip_prefix(':').filter(|port| !port.is_empty()))
            }
            None => match text.split_once(':') {
                Some((_, rest)) if rest.contains(':') => (text, None),
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let port = match port {
            Some(port) => port.parse().map_err(|_| wrong())?,
            None => DEFAULT_PORT,
        };
        if host.is_empty() {
            return Err(wrong());
        }
        Ok(Address { host: Arc::from(host), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names, numbers, IPv6 in brackets or bare, ports left out.
    #[test]
    fn addresses_are_read_as_people_write_them() {
        let parsed = |text: &str| text.parse::<Address>().unwrap();
        for (text, host, port) in [
            ("kafka", "kafka", 9092),
            ("kafka:1", "kafka", 1),
            ("10.0.0.1:19092", "10.0.0.1", 19092),
            ("[::1]:5", "::1", 5),
            ("::1", "::1", 9092),
        ] {
            let found = parsed(text);
            assert_eq!((&*found.host, found.port), (host, port), "{text}");
            assert_eq!(found.to_string().parse(), Ok(found));
        }
        for wrong in ["", ":9092", "kafka:port", "kafka:99999", "[::1"] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong:?}");
        }
        assert_eq!(Address::parse_list("a:1, b,").unwrap().len(), 2);
    }
}
