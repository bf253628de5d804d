//! The format strings of `consume -f`, as kcat has them.
//!
//! ```text
//! %t topic   %p partition   %o offset   %T timestamp in ms   %h headers
//! %k key     %K key's length            %s value             %S value's length
//! %R value's length as four bytes, big endian               %% a percent sign
//! \n \r \t \0 \\ \xNN
//! ```

use std::io::{self, Write};

/// A format string, taken apart once.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Part {
    Text(Vec<u8>),
    Topic,
    Partition,
    Offset,
    Timestamp,
    Headers,
    Key,
    KeyLength,
    Value,
    ValueLength,
    ValueLengthBinary,
}

/// One record, as the printing commands see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Printed<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) timestamp_ms: i64,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: &'a [(&'a [u8], Option<&'a [u8]>)],
    /// What stands for a key or value that is null.
    pub(super) null: &'a [u8],
}

impl Template {
    /// Takes a format string apart.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut plain = Vec::new();
        let mut rest = unescape(text)?.into_iter().peekable();
        while let Some(byte) = rest.next() {
            if byte != b'%' {
                plain.push(byte);
                continue;
            }
            let part = match rest.next() {
                Some(b'%') => {
                    plain.push(b'%');
                    continue;
                }
                Some(b't') => Part::Topic,
                Some(b'p') => Part::Partition,
                Some(b'o') => Part::Offset,
                Some(b'T') => Part::Timestamp,
                Some(b'h') => Part::Headers,
                Some(b'k') => Part::Key,
                Some(b'K') => Part::KeyLength,
                Some(b's') => Part::Value,
                Some(b'S') => Part::ValueLength,
                Some(b'R') => Part::ValueLengthBinary,
                Some(other) => return Err(format!("%{} means nothing", char::from(other))),
                None => return Err("a lone % at the end; write %% for a percent sign".to_owned()),
            };
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(part);
        }
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self { parts })
    }

    /// Prints one record.
    pub(super) fn print(&self, out: &mut impl Write, record: &Printed<'_>) -> io::Result<()> {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.write_all(text)?,
                Part::Topic => out.write_all(record.topic.as_bytes())?,
                Part::Partition => write!(out, "{}", record.partition)?,
                Part::Offset => write!(out, "{}", record.offset)?,
                Part::Timestamp => write!(out, "{}", record.timestamp_ms)?,
                Part::Headers => print_headers(out, record)?,
                Part::Key => out.write_all(record.key.unwrap_or(record.null))?,
                Part::KeyLength => write!(out, "{}", length(record.key))?,
                Part::Value => out.write_all(record.value.unwrap_or(record.null))?,
                Part::ValueLength => write!(out, "{}", length(record.value))?,
                Part::ValueLengthBinary => out.write_all(&length(record.value).to_be_bytes())?,
            }
        }
        Ok(())
    }
}

/// The length of a key or value, -1 for null.
fn length(bytes: Option<&[u8]>) -> i32 {
    bytes.map_or(-1, |bytes| i32::try_from(bytes.len()).expect("a record is below 2 GiB"))
}

fn print_headers(out: &mut impl Write, record: &Printed<'_>) -> io::Result<()> {
    for (index, (key, value)) in record.headers.iter().enumerate() {
        if index != 0 {
            out.write_all(b",")?;
        }
        out.write_all(key)?;
        out.write_all(b"=")?;
        out.write_all(value.unwrap_or(b"NULL"))?;
    }
    Ok(())
}

/// Turns `\n`, `\t`, `\x1f` and their like into the bytes they mean.
pub(super) fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match rest.next() {
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'0') => 0,
            Some(b'\\') => b'\\',
            Some(b'x') => {
                let mut digit = || rest.next().and_then(|d| char::from(d).to_digit(16));
                match (digit(), digit()) {
                    (Some(high), Some(low)) => (high * 16 + low) as u8,
                    _ => return Err("\\x wants two hexadecimal digits".to_owned()),
                }
            }
            _ => return Err("a \\ wants one of n, r, t, 0, x or \\ after it".to_owned()),
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(format: &str, key: Option<&[u8]>, value: Option<&[u8]>) -> Vec<u8> {
        let headers = [(&b"a"[..], Some(&b"1"[..])), (&b"b"[..], None)];
        let record = Printed {
            topic: "t",
            partition: 2,
            offset: 30,
            timestamp_ms: 400,
            key,
            value,
            headers: &headers,
            null: b"NULL",
        };
        let mut out = Vec::new();
        Template::parse(format).unwrap().print(&mut out, &record).unwrap();
        out
    }

    #[test]
    fn each_token_prints_its_part_of_the_record() {
        let out = printed("%t/%p@%o %T %k(%K)=%s(%S) %h 100%%\\n", Some(b"k"), Some(b"value"));
        assert_eq!(out, b"t/2@30 400 k(1)=value(5) a=1,b=NULL 100%\n");
    }

    #[test]
    fn null_is_told_apart_from_empty_by_its_length() {
        assert_eq!(printed("%K %S", None, Some(b"")), b"-1 0");
    }

    #[test]
    fn values_of_any_bytes_can_be_framed_by_their_length() {
        assert_eq!(printed("%R%s", None, Some(b"\n\0")), b"\0\0\0\x02\n\0");
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for bad in ["%", "%q", "\\", "\\q", "\\x1", "\\xgg"] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }
}
