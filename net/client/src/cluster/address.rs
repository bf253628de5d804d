//! Where a broker listens.

use std::fmt;
use std::net::Ipv6Addr;
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

    /// Reads an address as people write it; what cannot be one is told, not looked up as a name.
    fn from_str(text: &str) -> Result<Address, AddressError> {
        let wrong = || AddressError { text: text.to_owned() };
        // As brokers print their listeners.
        let plain = text.strip_prefix("PLAINTEXT://").unwrap_or(text);
        let (host, port) = match plain.strip_prefix('[') {
            // Brackets keep the colons of an IPv6 address from the one before the port.
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(wrong)?;
                host.parse::<Ipv6Addr>().map_err(|_| wrong())?;
                (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')) })
            }
            None if plain.parse::<Ipv6Addr>().is_ok() => (plain, None),
            None => match plain.split_once(':') {
                Some((host, port)) => (host, Some(Some(port))),
                None => (plain, None),
            },
        };
        let port = match port {
            Some(port) => port.and_then(|port| port.parse().ok()).ok_or_else(wrong)?,
            None => DEFAULT_PORT,
        };
        let is_name =
            !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || "/,@[]".contains(c));
        if port == 0 || !is_name {
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

    /// Names, numbers, IPv6 in brackets or bare, ports left out; what cannot be an address is told
    /// at once, not looked up as a name.
    #[test]
    fn addresses_are_read_as_people_write_them() {
        let parsed = |text: &str| text.parse::<Address>().unwrap();
        for (text, host, port) in [
            ("kafka", "kafka", 9092),
            ("kafka:1", "kafka", 1),
            ("10.0.0.1:19092", "10.0.0.1", 19092),
            ("[::1]:5", "::1", 5),
            ("[::1]", "::1", 9092),
            ("::1", "::1", 9092),
            ("PLAINTEXT://b-1.example.org:9093", "b-1.example.org", 9093),
        ] {
            let found = parsed(text);
            assert_eq!((&*found.host, found.port), (host, port), "{text}");
            assert_eq!(found.to_string().parse(), Ok(found));
        }
        for wrong in [
            "",
            ":9092",
            "kafka:",
            "kafka:0",
            "kafka:port",
            "kafka:99999",
            "[::1",
            "[::1]9092",
            "[kafka]:1",
            "a:1:2",
            "a:1,b:2",
            "http://host",
            "http://host:1",
            "two words:1",
        ] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong:?}");
        }
        assert_eq!(Address::parse_list("a:1, b,").unwrap().len(), 2);
    }
}
