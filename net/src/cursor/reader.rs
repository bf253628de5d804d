//! Fields read from front to back, within the bytes that are there and the memory they may cost.

use super::{ALLOWANCE_BASE_BYTES, ALLOWANCE_FACTOR, STRING_BYTES_MAX, TAGS_MAX, WireError};
use tidemill_record::TopicId;

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

    /// A 16-bit integer without a sign.
    #[inline]
    pub fn u16(&mut self) -> Result<u16, WireError> {
        Ok(u16::from_be_bytes(self.array()?))
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

    /// A 64-bit fraction. Any bits are one, infinities and what is no number included.
    #[inline]
    pub fn f64(&mut self) -> Result<f64, WireError> {
        Ok(f64::from_be_bytes(self.array()?))
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
