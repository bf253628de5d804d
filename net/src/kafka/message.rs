//! One declarative definition per message, from which reading and writing follow.
//!
//! ```text
//! messages! {
//!     /// Asks for the topics.
//!     struct MetadataRequest of Metadata {                    // `of`: a whole message of this API
//!         /// Null asks for all.
//!         topics: Option<Vec<MetadataRequestTopic>> [0.., null 1],
//!         /// Whether topics may be created by asking.
//!         allow_auto_topic_creation: bool [4.., default true],
//!     }
//!     struct MetadataRequestTopic { ... }                     // a part of one
//! }
//! ```
//!
//! In brackets, in this order: the versions that carry the field (`4..` or `4..=10`); the version
//! from which it may be null; its tag, if it is a tagged field; its value where a version does
//! not carry it, if that is not the type's default. Fields stand in the order of the wire and
//! bear Kafka's names. From which version a message is flexible says the one table of all
//! APIs ([`super::APIS`]).
//!
//! A field that a version does not carry is left out when writing, and a tagged field that has
//! its default value too. Bytes after the last field are ignored when reading, as Kafka does.

use super::{ApiKey, ErrorCode};
use crate::cursor::{Reader, Wire, WireError, Writer};
use bytes::BytesMut;

/// A whole request or response.
pub trait Message: Wire + Default {
    /// The API this message belongs to.
    const API: ApiKey;

    /// Reads the message behind its header.
    fn decode(version: i16, body: &[u8]) -> Result<Self, WireError> {
        let form = Self::API.form(version).ok_or(WireError::UnsupportedVersion { version })?;
        Self::read(&mut Reader::new(body), form)
    }

    /// Writes the message behind whatever `out` already holds.
    ///
    /// # Panics
    /// If this API has no such version: who writes a message has chosen its version before.
    fn encode(&self, version: i16, out: &mut BytesMut) {
        let form = Self::API.form(version).expect("a version of this API");
        self.write(&mut Writer::new(out), form);
    }
}

/// A request, and what answers it.
pub trait Request: Message {
    /// The answer.
    type Response: Message;

    /// The answer when nothing of what was asked for could be done. It names every part of the
    /// request, because clients look for their own names in it.
    fn error_response(&self, error: ErrorCode) -> Self::Response;
}

/// Whether `version` is one of those that carry a field.
pub(crate) const fn carries(version: i16, since: i16, until: i16) -> bool {
    since <= version && version <= until
}

/// See the head of this file.
macro_rules! messages {
    ($(
        $(#[$meta:meta])*
        struct $name:ident $(of $api:ident)? {
            $(
                $(#[$field_meta:meta])*
                $field:ident: $type:ty [
                    $since:literal $(..=$until:literal)? $(..)?
                    $(, null $null:literal)? $(, tag $tag:literal)? $(, default $default:expr)?
                ],
            )*
        }
    )*) => { $(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $type, )*
        }

        impl Default for $name {
            fn default() -> Self {
                $name { $( $field: messages!(@default $($default)?), )* }
            }
        }

        impl $crate::cursor::Wire for $name {
            fn bytes_min(form: $crate::cursor::Form) -> usize {
                let mut size_bytes = usize::from(form.flexible);
                $(
                    if messages!(@carries form, $since $(, $until)?)
                        && messages!(@tag $($tag)?).is_none()
                    {
                        size_bytes += <$type as $crate::cursor::Wire>::bytes_min(form);
                    }
                )*
                size_bytes
            }

            fn read(
                reader: &mut $crate::cursor::Reader<'_>,
                form: $crate::cursor::Form,
            ) -> Result<Self, $crate::cursor::WireError> {
                let mut message = $name::default();
                $(
                    if messages!(@carries form, $since $(, $until)?)
                        && messages!(@tag $($tag)?).is_none()
                    {
                        message.$field = messages!(@read $type, reader, form $(, $null)?);
                    }
                )*
                reader.tagged_fields(form.flexible, |tag, reader| {
                    $(
                        if messages!(@carries form, $since $(, $until)?)
                            && messages!(@tag $($tag)?) == Some(tag)
                        {
                            message.$field = messages!(@read $type, reader, form $(, $null)?);
                            return Ok(true);
                        }
                    )*
                    let _ = (tag, reader);
                    Ok(false)
                })?;
                Ok(message)
            }

            fn write(
                &self,
                writer: &mut $crate::cursor::Writer<'_>,
                form: $crate::cursor::Form,
            ) {
                $(
                    if messages!(@carries form, $since $(, $until)?)
                        && messages!(@tag $($tag)?).is_none()
                    {
                        messages!(@write (&self.$field), $type, writer, form $(, $null)?);
                    }
                )*
                if !form.flexible {
                    return;
                }
                let tagged: &[bool] = &[$(
                    messages!(@carries form, $since $(, $until)?)
                        && messages!(@tag $($tag)?).is_some()
                        && self.$field != messages!(@default_of $type $(, $default)?),
                )*];
                let count = tagged.iter().filter(|&&present| present).count();
                writer.tag_count(count as u32, true);
                if count == 0 {
                    return;
                }
                let mut tagged = tagged.iter();
                $(
                    if let (Some(true), Some(tag)) = (tagged.next(), messages!(@tag $($tag)?)) {
                        writer.tagged_field(tag, |writer| {
                            messages!(@write (&self.$field), $type, writer, form $(, $null)?);
                        });
                    }
                )*
            }
        }

        #[cfg(test)]
        impl $crate::kafka::differential::Random for $name {
            fn random(
                seed: &mut $crate::kafka::differential::Seed,
                form: $crate::cursor::Form,
            ) -> Self {
                let mut message = $name::default();
                $(
                    if messages!(@carries form, $since $(, $until)?) {
                        message.$field = messages!(@random $type, seed, form $(, $null)?);
                    }
                )*
                message
            }
        }

        $(
            impl $crate::kafka::Message for $name {
                const API: $crate::kafka::ApiKey = $crate::kafka::ApiKey::$api;
            }
        )?
    )* };

    (@default) => { Default::default() };
    (@default $default:expr) => { $default };
    (@default_of $type:ty) => { <$type as Default>::default() };
    (@default_of $type:ty, $default:expr) => { $default };
    (@tag) => { None::<u32> };
    (@tag $tag:literal) => { Some::<u32>($tag) };
    (@carries $form:ident, $since:literal) => {
        $crate::kafka::message::carries($form.version, $since, i16::MAX)
    };
    (@carries $form:ident, $since:literal, $until:literal) => {
        $crate::kafka::message::carries($form.version, $since, $until)
    };
    (@read $type:ty, $reader:ident, $form:ident) => {
        <$type as $crate::cursor::Wire>::read($reader, $form)?
    };
    (@read $type:ty, $reader:ident, $form:ident, $null:literal) => {
        if $null <= $form.version {
            <$type as $crate::cursor::Wire>::read($reader, $form)?
        } else {
            <$type as $crate::cursor::NullableWire>::read_present($reader, $form)?
        }
    };
    (@write $value:expr, $type:ty, $writer:ident, $form:ident) => {
        <$type as $crate::cursor::Wire>::write($value, $writer, $form)
    };
    (@write $value:expr, $type:ty, $writer:ident, $form:ident, $null:literal) => {
        if $null <= $form.version {
            <$type as $crate::cursor::Wire>::write($value, $writer, $form)
        } else {
            <$type as $crate::cursor::NullableWire>::write_present($value, $writer, $form)
        }
    };
    (@random $type:ty, $seed:ident, $form:ident) => {
        <$type as $crate::kafka::differential::Random>::random_present($seed, $form)
    };
    (@random $type:ty, $seed:ident, $form:ident, $null:literal) => {
        if $null <= $form.version {
            <$type as $crate::kafka::differential::Random>::random($seed, $form)
        } else {
            <$type as $crate::kafka::differential::Random>::random_present($seed, $form)
        }
    };
}
pub(crate) use messages;

/// Structures that can be null: a byte before them says whether they are there.
macro_rules! nullable_structs {
    ($($name:ident)*) => { $(
        impl $crate::cursor::Wire for Option<$name> {
            fn bytes_min(_: $crate::cursor::Form) -> usize {
                1
            }
            fn read(
                reader: &mut $crate::cursor::Reader<'_>,
                form: $crate::cursor::Form,
            ) -> Result<Self, $crate::cursor::WireError> {
                if reader.i8()? < 0 {
                    return Ok(None);
                }
                <$name as $crate::cursor::Wire>::read(reader, form).map(Some)
            }
            fn write(
                &self,
                writer: &mut $crate::cursor::Writer<'_>,
                form: $crate::cursor::Form,
            ) {
                writer.i8(if self.is_some() { 1 } else { -1 });
                if let Some(present) = self {
                    $crate::cursor::Wire::write(present, writer, form);
                }
            }
        }

        impl $crate::cursor::NullableWire for Option<$name> {
            fn read_present(
                reader: &mut $crate::cursor::Reader<'_>,
                form: $crate::cursor::Form,
            ) -> Result<Self, $crate::cursor::WireError> {
                <$name as $crate::cursor::Wire>::read(reader, form).map(Some)
            }
            fn write_present(
                &self,
                writer: &mut $crate::cursor::Writer<'_>,
                form: $crate::cursor::Form,
            ) {
                match self {
                    Some(present) => $crate::cursor::Wire::write(present, writer, form),
                    None => $crate::cursor::Wire::write(&$name::default(), writer, form),
                }
            }
        }
    )* };
}
pub(crate) use nullable_structs;
