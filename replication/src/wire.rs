//! Reading and writing of our own bytes: big-endian integers, length-prefixed strings, bounded.
//!
//! Reading never panics and never allocates by a length that the bytes merely claim.

use std::fmt;

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DecodeError {
    /// The bytes end inside a field.
    TooShort,
    /// Bytes follow the last field.
    TooLong,
    /// A kind this program does not know; a newer one may have written it.
    UnknownKind(u8),
    /// A version of this kind that this program does not know; a newer one wrote it.
    NewerVersion {
        /// Which kind.
        kind: u8,
        /// Which version of it.
        version: u8,
    },
    /// A field holds what it must not.
    Invalid(&'static str),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort => f.write_str("the bytes end inside a field"),
            Self::TooLong => f.write_str("bytes follow the last field"),
            Self::UnknownKind(kind) => write!(f, "kind {kind} is not known to this version"),
            Self::NewerVersion { kind, version } => {
                write!(f, "version {version} of kind {kind} is not known to this version")
            }
            Self::Invalid(what) => write!(f, "{what}"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// A cursor over bytes to be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn take(&mut self, size: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.rest.split_at_checked(size).ok_or(DecodeError::TooShort)?;
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        Ok(self.take(N)?.try_into().expect("take returns what was asked for"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, DecodeError> {
        self.array().map(i32::from_be_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_be_bytes)
    }

    /// A number of things that each take at least `size_min` bytes: more cannot follow.
    pub(crate) fn count(&mut self, max: usize, size_min: usize) -> Result<usize, DecodeError> {
        let count = self.u32()? as usize;
        if max < count {
            return Err(DecodeError::Invalid("more elements than allowed"));
        }
        if self.rest.len() / size_min < count {
            return Err(DecodeError::TooShort);
        }
        Ok(count)
    }

    pub(crate) fn bytes(&mut self, max: usize) -> Result<&'a [u8], DecodeError> {
        let size = self.u32()? as usize;
        if max < size {
            return Err(DecodeError::Invalid("a field longer than allowed"));
        }
        self.take(size)
    }

    pub(crate) fn string(&mut self, max: usize) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.bytes(max)?).map_err(|_| DecodeError::Invalid("text not UTF-8"))
    }

    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::TooLong) }
    }
}

/// What a [`Reader`] reads, appended to a vector.
pub(crate) trait Write {
    fn put(&mut self, bytes: &[u8]);

    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_be_bytes());
    }

    fn put_i32(&mut self, value: i32) {
        self.put(&value.to_be_bytes());
    }

    fn put_i64(&mut self, value: i64) {
        self.put(&value.to_be_bytes());
    }

    fn put_count(&mut self, count: usize) {
        self.put_u32(u32::try_from(count).expect("counts are bounded far below 2^32"));
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        self.put_count(bytes.len());
        self.put(bytes);
    }

    fn put_string(&mut self, text: &str) {
        self.put_bytes(text.as_bytes());
    }
}

impl Write for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}
