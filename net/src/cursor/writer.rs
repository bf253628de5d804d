//! Fields written from front to back.

use super::STRING_BYTES_MAX;
use bytes::{BufMut, BytesMut};
use tidemill_record::TopicId;

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

    /// A 16-bit integer without a sign.
    pub fn u16(&mut self, value: u16) {
        self.out.put_u16(value);
    }

    /// A 32-bit integer.
    pub fn i32(&mut self, value: i32) {
        self.out.put_i32(value);
    }

    /// A 64-bit integer.
    pub fn i64(&mut self, value: i64) {
        self.out.put_i64(value);
    }

    /// A 64-bit fraction.
    pub fn f64(&mut self, value: f64) {
        self.out.put_f64(value);
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
