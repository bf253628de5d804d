//! Values that know their own form on the wire: numbers, texts, bytes, lists, and nulls.

use super::{Form, Reader, WireError, Writer};
use bytes::Bytes;
use tidemill_record::TopicId;

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
    u16, 2, u16;
    i32, 4, i32;
    i64, 8, i64;
    f64, 8, f64;
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
