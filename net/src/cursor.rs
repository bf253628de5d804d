//! The primitives of Kafka's wire: a bounded [`Reader`] and a [`Writer`].
//!
//! Kafka has two forms of each message. The older one puts fixed-width lengths before strings,
//! bytes and arrays; the *flexible* one puts *compact* lengths (an unsigned varint of length plus
//! one, zero for null) and ends each structure with *tagged fields*. Methods that differ take
//! `flexible`.
//!
//! What the reader promises:
//! - it never reads past its bytes and never panics;
//! - an array's count is at most what the remaining bytes could hold;
//! - what is read from one message allocates at most [`ALLOWANCE_BASE_BYTES`] plus
//!   [`ALLOWANCE_FACTOR`] times its size, whatever the bytes claim: see [`Reader::allow`].

use bytes::{BufMut, Bytes, BytesMut};
use std::fmt;
use tidemill_record::TopicId;

/// How many tagged fields one structure may carry. Kafka defines four at most.
pub const TAGS_MAX: u32 = 64;

/// How long a string may be, in either form: Kafka refuses longer ones too.
pub const STRING_BYTES_MAX: usize = i16::MAX as usize;

/// What decoding any message may allocate, however small it is.
pub const ALLOWANCE_BASE_BYTES: usize = 64 * 1024;

/// What decoding a message may allocate for each of its bytes, beyond the base.
///
/// The smallest elements (an empty name) would take some twenty times their wire size, but real
/// ones are longer: no list of topics that exists needs more than five times.
pub const ALLOWANCE_FACTOR: usize = 7;

/// Why bytes are not the message they should be. Whoever sent them is at fault.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WireError {
    /// The message ends inside a field.
    Truncated {
        /// What the field needs.
        needed_bytes: usize,
        /// What is left.
        remaining_bytes: usize,
    },
    /// A length below -1, or -1 where null is not allowed.
    NegativeLength {
        /// The length that was sent.
        found: i32,
    },
    /// Null where the field must be present.
    UnexpectedNull,
    /// A varint longer than its value needs, or too large for its field.
    BadVarint,
    /// A string longer than [`STRING_BYTES_MAX`].
    StringTooLong {
        /// The length that was sent.
        size_bytes: usize,
    },
    /// A string that is not UTF-8.
    NotUtf8,
    /// A count of elements that the remaining bytes cannot hold.
    CountTooLarge {
        /// The count that was sent.
        count: usize,
        /// What is left of the message.
        remaining_bytes: usize,
    },
    /// So many tiny elements that decoding them would take far more memory than they did.
    AllowanceExceeded {
        /// What the elements would have taken.
        needed_bytes: usize,
        /// What is left of the allowance.
        remaining_bytes: usize,
    },
    /// More than [`TAGS_MAX`] tagged fields in one structure.
    TooManyTags {
        /// The count that was sent.
        count: u32,
    },
    /// Tagged fields must come in ascending order, each once.
    TagOutOfOrder {
        /// The tag that came too late.
        tag: u32,
    },
    /// A tagged field is longer than what it holds.
    TagTooLong {
        /// The bytes left over.
        remaining_bytes: usize,
    },
    /// The version is none that this message has.
    UnsupportedVersion {
        /// The version asked for.
        version: i16,
    },
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::Truncated { needed_bytes, remaining_bytes } => {
                write!(f, "a field of {needed_bytes} bytes where {remaining_bytes} are left")
            }
            WireError::NegativeLength { found } => write!(f, "a length of {found}"),
            WireError::UnexpectedNull => write!(f, "null where a value must be"),
            WireError::BadVarint => write!(f, "a varint too long or too large"),
            WireError::StringTooLong { size_bytes } => write!(f, "a string of {size_bytes} bytes"),
            WireError::NotUtf8 => write!(f, "a string that is not UTF-8"),
            WireError::CountTooLarge { count, remaining_bytes } => {
                write!(f, "{count} elements in {remaining_bytes} bytes")
            }
            WireError::AllowanceExceeded { needed_bytes, remaining_bytes } => {
                write!(
                    f,
                    "elements taking {needed_bytes} bytes where {remaining_bytes} are allowed"
                )
            }
            WireError::TooManyTags { count } => write!(f, "{count} tagged fields"),
            WireError::TagOutOfOrder { tag } => write!(f, "tagged field {tag} out of order"),
            WireError::TagTooLong { remaining_bytes } => {
                write!(f, "a tagged field with {remaining_bytes} bytes too many")
            }
            WireError::UnsupportedVersion { version } => write!(f, "version {version}"),
        }
    }
}

impl std::error::Error for WireError {}

/// Reads fields from front to back.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    size_bytes: usize,
    allowance_bytes: usize,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`, with the allowance their size brings.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        let allowance_bytes =
            ALLOWANCE_BASE_BYTES.saturating_add(bytes.len().saturating_mul(ALLOWANCE_FACTOR));
        Reader { rest: bytes, size_bytes: bytes.len(), allowance_bytes }
    }

    /// Where the next field begins.
    pub fn position(&self) -> usize {
        self.size_bytes - self.rest.len()
    }

    /// How many bytes have not been read.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Whether everything has been read.
    pub fn is_empty(&self) -> bool {
        self.remaining() == 0
    }

    /// Takes `needed_bytes` of memory out of this message's allowance, before it is allocated.
    pub fn allow(&mut self, needed_bytes: usize) -> Result<(), WireError> {
        let remaining_bytes = self.allowance_bytes;
        self.allowance_bytes = remaining_bytes
            .checked_sub(needed_bytes)
            .ok_or(WireError::AllowanceExceeded { needed_bytes, remaining_bytes })?;
        Ok(())
    }

    /// The next `size_bytes` bytes.
    #[inline]
    pub fn take(&mut self, size_bytes: usize) -> Result<&'a [u8], WireError> {
        let Some((taken, rest)) = self.rest.split_at_checked(size_bytes) else {
            return Err(self.truncated(size_bytes));
        };
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let Some((found, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(self.truncated(N));
        };
        self.rest = rest;
        Ok(*found)
    }

    #[cold]
    fn truncated(&self, needed_bytes: usize) -> WireError {
        WireError::Truncated { needed_bytes, remaining_bytes: self.rest.len() }
    }

    /// A byte that is not zero is true, as Kafka reads it.
    #[inline]
    pub fn bool(&mut self) -> Result<bool, WireError> {
        Ok(self.array::<1>()? != [0])
    }

    /// An 8-bit integer.
    #[inline]
    pub fn i8(&mut self) -> Result<i8, WireError> {
        Ok(i8::from_be_bytes(self.array()?))
    }

    /// A 16-bit integer.
    #[inline]
    pub fn i16(&mut self) -> Result<i16, WireError> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    /// A 32-bit integer.
    #[inline]
    pub fn i32(&mut self) -> Result<i32, WireError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    /// A 64-bit integer.
    #[inline]
    pub fn i64(&mut self) -> Result<i64, WireError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// A UUID, sixteen bytes as they are.
    #[inline]
    pub fn topic_id(&mut self) -> Result<TopicId, WireError> {
        Ok(TopicId(self.array()?))
    }

    /// An unsigned varint of at most 32 bits, in the fewest bytes that hold it.
    #[inline]
    pub fn unsigned_varint(&mut self) -> Result<u32, WireError> {
        // Nearly all are short.
        if let Some((&byte @ 0..0x80, rest)) = self.rest.split_first() {
            self.rest = rest;
            return Ok(u32::from(byte));
        }
        self.long_unsigned_varint()
    }

    fn long_unsigned_varint(&mut self) -> Result<u32, WireError> {
        let mut value = 0u32;
        for shift in (0..35).step_by(7) {
            let [byte] = self.array::<1>()?;
            let bits = u32::from(byte & 0x7f);
            if shift == 28 && 0x0f < bits {
                return Err(WireError::BadVarint);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                // A last group of zero bits says nothing: the same value has a shorter form.
                let overlong = bits == 0 && shift != 0;
                return if overlong { Err(WireError::BadVarint) } else { Ok(value) };
            }
        }
        Err(WireError::BadVarint)
    }

    /// The length before a string, `None` for null.
    #[inline]
    fn string_length(&mut self, flexible: bool) -> Result<Option<usize>, WireError> {
        let length = if flexible {
            (self.unsigned_varint()? as usize).checked_sub(1)
        } else {
            absent_if_minus_one(i32::from(self.i16()?))?
        };
        match length {
            Some(size_bytes) if STRING_BYTES_MAX < size_bytes => {
                Err(WireError::StringTooLong { size_bytes })
            }
            length => Ok(length),
        }
    }

    /// The length before bytes or an array, `None` for null.
    #[inline]
    fn length(&mut self, flexible: bool) -> Result<Option<usize>, WireError> {
        if flexible {
            Ok((self.unsigned_varint()? as usize).checked_sub(1))
        } else {
            absent_if_minus_one(self.i32()?)
        }
    }

    /// A string, or null.
    #[inline]
    pub fn nullable_string(&mut self, flexible: bool) -> Result<Option<&'a str>, WireError> {
        let Some(size_bytes) = self.string_length(flexible)? else {
            return Ok(None);
        };
        let bytes = self.take(size_bytes)?;
        std::str::from_utf8(bytes).map(Some).map_err(|_| WireError::NotUtf8)
    }

    /// A string.
    #[inline]
    pub fn string(&mut self, flexible: bool) -> Result<&'a str, WireError> {
        self.nullable_string(flexible)?.ok_or(WireError::UnexpectedNull)
    }

    /// Bytes, or null.
    #[inline]
    pub fn nullable_bytes(&mut self, flexible: bool) -> Result<Option<&'a [u8]>, WireError> {
        match self.length(flexible)? {
            Some(size_bytes) => self.take(size_bytes).map(Some),
            None => Ok(None),
        }
    }

    /// The number of elements of an array, or `None` for null. Each element takes at least
    /// `element_bytes_min`, so that a count that cannot be true is refused before any is read.
    #[inline]
    pub fn nullable_count(
        &mut self,
        flexible: bool,
        element_bytes_min: usize,
    ) -> Result<Option<usize>, WireError> {
        let Some(count) = self.length(flexible)? else {
            return Ok(None);
        };
        let remaining_bytes = self.remaining();
        if remaining_bytes / element_bytes_min.max(1) < count {
            return Err(WireError::CountTooLarge { count, remaining_bytes });
        }
        Ok(Some(count))
    }

    /// The number of elements of an array that may not be null.
    #[inline]
    pub fn count(&mut self, flexible: bool, element_bytes_min: usize) -> Result<usize, WireError> {
        self.nullable_count(flexible, element_bytes_min)?.ok_or(WireError::UnexpectedNull)
    }

    /// The tagged fields at the end of a flexible structure; nothing in the older form.
    ///
    /// `field` gets each tag with a reader of just its bytes, and says whether it knows it. What
    /// it does not know is passed over (KIP-482).
    pub fn tagged_fields(
        &mut self,
        flexible: bool,
        mut field: impl FnMut(u32, &mut Reader<'a>) -> Result<bool, WireError>,
    ) -> Result<(), WireError> {
        if !flexible {
            return Ok(());
        }
        let count = self.unsigned_varint()?;
        if TAGS_MAX < count {
            return Err(WireError::TooManyTags { count });
        }
        let mut previous = None;
        for _ in 0..count {
            let tag = self.unsigned_varint()?;
            if previous.is_some_and(|previous| tag <= previous) {
                return Err(WireError::TagOutOfOrder { tag });
            }
            previous = Some(tag);
            let size_bytes = self.unsigned_varint()? as usize;
            let bytes = self.take(size_bytes)?;
            let allowance_bytes = self.allowance_bytes;
            let mut inner = Reader { rest: bytes, size_bytes, allowance_bytes };
            if field(tag, &mut inner)? && !inner.is_empty() {
                return Err(WireError::TagTooLong { remaining_bytes: inner.remaining() });
            }
            self.allowance_bytes = inner.allowance_bytes;
        }
        Ok(())
    }

    /// Passes over tagged fields that mean nothing to us.
    #[inline]
    pub fn skip_tagged_fields(&mut self, flexible: bool) -> Result<(), WireError> {
        if flexible && let Some((0, rest)) = self.rest.split_first() {
            self.rest = rest;
            return Ok(());
        }
        self.tagged_fields(flexible, |_, _| Ok(false))
    }
}

fn absent_if_minus_one(length: i32) -> Result<Option<usize>, WireError> {
    match length {
        -1 => Ok(None),
        length => usize::try_from(length)
            .map(Some)
            .map_err(|_| WireError::NegativeLength { found: length }),
    }
}

/// Writes fields from front to back, behind whatever `out` already holds.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut BytesMut,
}

impl<'a> Writer<'a> {
    /// Appends to `out`.
    pub fn new(out: &'a mut BytesMut) -> Writer<'a> {
        Writer { out }
    }

    /// What has been written so far, and what was there before.
    pub fn out(&mut self) -> &mut BytesMut {
        self.out
    }

    /// A byte, 0 or 1.
    pub fn bool(&mut self, value: bool) {
        self.out.put_u8(u8::from(value));
    }

    /// An 8-bit integer.
    pub fn i8(&mut self, value: i8) {
        self.out.put_i8(value);
    }

    /// A 16-bit integer.
    pub fn i16(&mut self, value: i16) {
        self.out.put_i16(value);
    }

    /// A 32-bit integer.
    pub fn i32(&mut self, value: i32) {
        self.out.put_i32(value);
    }

    /// A 64-bit integer.
    pub fn i64(&mut self, value: i64) {
        self.out.put_i64(value);
    }

    /// A UUID, sixteen bytes as they are.
    pub fn topic_id(&mut self, value: TopicId) {
        self.out.put_slice(&value.0);
    }

    /// An unsigned varint, in the fewest bytes.
    pub fn unsigned_varint(&mut self, value: u32) {
        let mut rest = value;
        while 0x7f < rest {
            self.out.put_u8(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.out.put_u8(rest as u8);
    }

    fn length(&mut self, length: Option<usize>, flexible: bool) {
        let length = length
            .map(|length| i32::try_from(length).expect("what we send is bounded far below 2 GiB"));
        if flexible {
            self.unsigned_varint(length.map_or(0, |length| length as u32 + 1));
        } else {
            self.i32(length.unwrap_or(-1));
        }
    }

    /// A string, or null.
    ///
    /// One longer than [`STRING_BYTES_MAX`] is cut at a character: whatever came in by the wire
    /// is shorter, so only an explanation of ours can be that long, and its beginning is better
    /// than none.
    pub fn nullable_string(&mut self, text: Option<&str>, flexible: bool) {
        let text = text.map(|text| &text[..text.floor_char_boundary(STRING_BYTES_MAX)]);
        if flexible {
            self.length(text.map(str::len), true);
        } else {
            self.i16(text.map_or(-1, |text| text.len() as i16));
        }
        self.out.put_slice(text.unwrap_or("").as_bytes());
    }

    /// A string, cut as in [`Writer::nullable_string`].
    pub fn string(&mut self, text: &str, flexible: bool) {
        self.nullable_string(Some(text), flexible);
    }

    /// The length of bytes that follow, or null.
    pub fn bytes_length(&mut self, length: Option<usize>, flexible: bool) {
        self.length(length, flexible);
    }

    /// Bytes, or null.
    pub fn nullable_bytes(&mut self, bytes: Option<&[u8]>, flexible: bool) {
        self.length(bytes.map(<[u8]>::len), flexible);
        self.out.put_slice(bytes.unwrap_or(&[]));
    }

    /// The number of elements that follow, or null.
    pub fn nullable_count(&mut self, count: Option<usize>, flexible: bool) {
        self.length(count, flexible);
    }

    /// The number of elements that follow.
    pub fn count(&mut self, count: usize, flexible: bool) {
        self.length(Some(count), flexible);
    }

    /// The number of tagged fields that follow; nothing in the older form.
    pub fn tag_count(&mut self, count: u32, flexible: bool) {
        if flexible {
            self.unsigned_varint(count);
        }
    }

    /// One tagged field: its tag, its size, and what `write` writes.
    pub fn tagged_field(&mut self, tag: u32, write: impl FnOnce(&mut Writer<'_>)) {
        let mut content = BytesMut::new();
        write(&mut Writer::new(&mut content));
        self.unsigned_varint(tag);
        self.unsigned_varint(content.len() as u32);
        self.out.put_slice(&content);
    }
}

/// Which form of a message is meant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Form {
    /// The version of the API.
    pub version: i16,
    /// Whether lengths are compact and structures end with tagged fields.
    pub flexible: bool,
}

/// A value that knows its form on the wire.
pub trait Wire: Sized {
    /// The fewest bytes a value of this type can take.
    fn bytes_min(form: Form) -> usize;
    /// Reads one value.
    fn read(reader: &mut Reader<'_>, form: Form) -> Result<Self, WireError>;
    /// Writes one value.
    fn write(&self, writer: &mut Writer<'_>, form: Form);
}

/// A value that can be null in some versions of its message, and in others must be there.
pub trait NullableWire: Wire {
    /// Reads one value that may not be null.
    fn read_present(reader: &mut Reader<'_>, form: Form) -> Result<Self, WireError>;
    /// Writes one value where null has no form: an absent one goes out empty.
    fn write_present(&self, writer: &mut Writer<'_>, form: Form);
}

macro_rules! fixed_width {
    ($($type:ty, $bytes:literal, $method:ident;)*) => { $(
        impl Wire for $type {
            fn bytes_min(_: Form) -> usize {
                $bytes
            }
            fn read(reader: &mut Reader<'_>, _: Form) -> Result<Self, WireError> {
                reader.$method()
            }
            fn write(&self, writer: &mut Writer<'_>, _: Form) {
                writer.$method(*self);
            }
        }
    )* };
}

fixed_width! {
    bool, 1, bool;
    i8, 1, i8;
    i16, 2, i16;
    i32, 4, i32;
    i64, 8, i64;
    TopicId, 16, topic_id;
}

impl Wire for Option<String> {
    fn bytes_min(form: Form) -> usize {
        if form.flexible { 1 } else { 2 }
    }
    fn read(reader: &mut Reader<'_>, form: Form) -> Result<Self, WireError> {
        let Some(text) = reader.nullable_string(form.flexible)? else {
            return Ok(None);
        };
        reader.allow(text.len())?;
        Ok(Some(text.to_owned()))
    }
    fn write(&self, writer: &mut Writer<'_>, form: Form) {
        writer.nullable_string(self.as_deref(), form.flexible);
    }
}

impl Wire for String {
    fn bytes_min(form: Form) -> usize {
        Option::<String>::bytes_min(form)
    }
    fn read(reader: &mut Reader<'_>, form: Form) -> Result<Self, WireError> {
        Option::<String>::read(reader, form)?.ok_or(WireError::UnexpectedNull)
    }
    fn write(&self, writer: &mut Writer<'_>, form: Form) {
        writer.string(self, form.flexible);
    }
}

impl Wire for Option<Bytes> {
    fn bytes_min(form: Form) -> usize {
        if form.flexible { 1 } else { 4 }
    }
    fn read(reader: &mut Reader<'_>, form: Form) -> Result<Self, WireError> {
        let Some(bytes) = reader.nullable_bytes(form.flexible)? else {
            return Ok(None);
        };
        reader.allow(bytes.len())?;
        Ok(Some(Bytes::copy_from_slice(bytes)))
    }
    fn write(&self, writer: &mut Writer<'_>, form: Form) {
        writer.nullable_bytes(self.as_deref(), form.flexible);
    }
}

impl Wire for Bytes {
    fn bytes_min(form: Form) -> usize {
        Option::<Bytes>::bytes_min(form)
    }
    fn read(reader: &mut Reader<'_>, form: Form) -> Result<Self, WireError> {
        Option::<Bytes>::read(reader, form)?.ok_or(WireError::UnexpectedNull)
    }
    fn write(&self, writer: &mut Writer<'_>, form: Form) {
        writer.nullable_bytes(Some(self), form.flexible);
    }
}

impl<T: Wire> Wire for Option<Vec<T>> {
    fn bytes_min(form: Form) -> usize {
        if form.flexible { 1 } else { 4 }
    }
    fn read(reader: &mut Reader<'_>, form: Form) -> Result<Self, WireError> {
        let Some(count) = reader.nullable_count(form.flexible, T::bytes_min(form))? else {
            return Ok(None);
        };
        reader.allow(count.saturating_mul(size_of::<T>()))?;
        let mut elements = Vec::with_capacity(count);
        for _ in 0..count {
            elements.push(T::read(reader, form)?);
        }
        Ok(Some(elements))
    }
    fn write(&self, writer: &mut Writer<'_>, form: Form) {
        writer.nullable_count(self.as_ref().map(Vec::len), form.flexible);
        for element in self.iter().flatten() {
            element.write(writer, form);
        }
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn bytes_min(form: Form) -> usize {
        Option::<Vec<T>>::bytes_min(form)
    }
    fn read(reader: &mut Reader<'_>, form: Form) -> Result<Self, WireError> {
        Option::<Vec<T>>::read(reader, form)?.ok_or(WireError::UnexpectedNull)
    }
    fn write(&self, writer: &mut Writer<'_>, form: Form) {
        writer.count(self.len(), form.flexible);
        for element in self {
            element.write(writer, form);
        }
    }
}

macro_rules! nullable {
    ($([$($generics:tt)*] $type:ty;)*) => { $(
        impl<$($generics)*> NullableWire for Option<$type> {
            fn read_present(reader: &mut Reader<'_>, form: Form) -> Result<Self, WireError> {
                <$type>::read(reader, form).map(Some)
            }
            fn write_present(&self, writer: &mut Writer<'_>, form: Form) {
                match self {
                    Some(present) => present.write(writer, form),
                    None => <$type>::default().write(writer, form),
                }
            }
        }
    )* };
}

nullable! {
    [] String;
    [] Bytes;
    [T: Wire] Vec<T>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Writer<'_>)) -> BytesMut {
        let mut out = BytesMut::new();
        write(&mut Writer::new(&mut out));
        out
    }

    /// Each value has exactly one form, the shortest: the sizes at which it grows are well known.
    #[test]
    fn varints_are_read_as_written_and_only_in_their_shortest_form() {
        for (value, size_bytes) in
            [(0, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3), (1 << 28, 5), (u32::MAX, 5)]
        {
            let bytes = written(|writer| writer.unsigned_varint(value));
            assert_eq!(bytes.len(), size_bytes);
            assert_eq!(Reader::new(&bytes).unsigned_varint(), Ok(value));
        }
        for bad in [
            &[0x80, 0x00][..],                         // zero in two bytes
            &[0xff, 0x80, 0x00][..],                   // 127 in three
            &[0xff, 0xff, 0xff, 0xff, 0x1f][..],       // 33 bits
            &[0x80, 0x80, 0x80, 0x80, 0x80, 0x01][..], // six bytes
        ] {
            assert_eq!(Reader::new(bad).unsigned_varint(), Err(WireError::BadVarint), "{bad:?}");
        }
        assert!(matches!(
            Reader::new(&[0x80, 0x80]).unsigned_varint(),
            Err(WireError::Truncated { .. })
        ));
    }

    /// Null and empty are two things, in both forms.
    #[test]
    fn null_and_empty_are_told_apart() {
        for flexible in [false, true] {
            let bytes = written(|writer| {
                writer.nullable_string(None, flexible);
                writer.string("", flexible);
                writer.nullable_bytes(None, flexible);
                writer.nullable_bytes(Some(&[]), flexible);
                writer.nullable_count(None, flexible);
                writer.count(0, flexible);
            });
            let mut reader = Reader::new(&bytes);
            assert_eq!(reader.nullable_string(flexible), Ok(None));
            assert_eq!(reader.nullable_string(flexible), Ok(Some("")));
            assert_eq!(reader.nullable_bytes(flexible), Ok(None));
            assert_eq!(reader.nullable_bytes(flexible), Ok(Some(&[][..])));
            assert_eq!(reader.nullable_count(flexible, 1), Ok(None));
            assert_eq!(reader.count(flexible, 1), Ok(0));
            assert!(reader.is_empty());
            assert_eq!(Reader::new(&bytes).string(flexible), Err(WireError::UnexpectedNull));
        }
    }

    /// A count is refused when the bytes behind it could not hold as many elements.
    #[test]
    fn counts_are_bounded_by_what_is_left() {
        let mut bytes = 3_i32.to_be_bytes().to_vec();
        bytes.resize(4 + 12, 0);
        assert_eq!(Reader::new(&bytes).count(false, 4), Ok(3));
        assert_eq!(
            Reader::new(&bytes).count(false, 5),
            Err(WireError::CountTooLarge { count: 3, remaining_bytes: 12 })
        );
        assert_eq!(
            Reader::new(&(-2_i32).to_be_bytes()).count(false, 1),
            Err(WireError::NegativeLength { found: -2 })
        );
    }

    /// A list of empty names is true to its count and still must not take the memory it would.
    #[test]
    fn tiny_elements_exhaust_the_allowance() {
        let mut bytes = 200_000_i32.to_be_bytes().to_vec();
        bytes.resize(4 + 400_000, 0);
        let form = Form { version: 0, flexible: false };
        assert!(matches!(
            Vec::<String>::read(&mut Reader::new(&bytes), form),
            Err(WireError::AllowanceExceeded { .. })
        ));
        bytes.truncate(4 + 2_000);
        bytes[..4].copy_from_slice(&1_000_i32.to_be_bytes());
        assert_eq!(Vec::<String>::read(&mut Reader::new(&bytes), form).unwrap().len(), 1_000);
    }

    /// Kafka refuses strings above 32,767 bytes in either form; we never write one.
    #[test]
    fn strings_end_at_their_limit_and_at_a_character() {
        let long = "é".repeat(20_000);
        for flexible in [false, true] {
            let bytes = written(|writer| writer.string(&long, flexible));
            let read = Reader::new(&bytes).string(flexible).unwrap();
            assert_eq!(read.len(), STRING_BYTES_MAX - 1, "an é takes two bytes");
        }
        let mut bytes = written(|writer| writer.unsigned_varint(40_001));
        bytes.resize(3 + 40_000, b'x');
        assert_eq!(
            Reader::new(&bytes).string(true),
            Err(WireError::StringTooLong { size_bytes: 40_000 })
        );
        assert_eq!(Reader::new(&[0, 1, 0xff]).string(false), Err(WireError::NotUtf8));
    }

    /// Unknown tagged fields are passed over; what breaks their rules is refused.
    #[test]
    fn tagged_fields_are_passed_over_in_order_and_in_bounds() {
        let read = |bytes: &[u8]| {
            let mut seen = Vec::new();
            let mut reader = Reader::new(bytes);
            reader
                .tagged_fields(true, |tag, field| {
                    seen.push(tag);
                    Ok(tag == 1 && field.i8().is_ok())
                })
                .map(|()| (seen, reader.remaining()))
        };
        assert_eq!(read(&[2, 1, 1, 0, 9, 2, 7, 7, 42]), Ok((vec![1, 9], 1)));
        assert_eq!(read(&[2, 9, 0, 9, 0]), Err(WireError::TagOutOfOrder { tag: 9 }));
        assert_eq!(read(&[1, 1, 2, 0, 0]), Err(WireError::TagTooLong { remaining_bytes: 1 }));
        assert_eq!(read(&[65]), Err(WireError::TooManyTags { count: 65 }));
        assert!(matches!(read(&[1, 0, 5, 0]), Err(WireError::Truncated { .. })));
    }
}
