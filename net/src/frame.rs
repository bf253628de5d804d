//! Frames: a stream of bytes cut into messages, each behind its length.
//!
//! ```text
//! | length: i32 | length bytes ... | length: i32 | ...
//! ```
//!
//! A receiver asks [`frame_size`] before it makes room for anything, so a length nobody meant can
//! cost it nothing. A sender writes the frame behind [`begin_frame`] and closes it with
//! [`end_frame`].

use bytes::{BufMut, BytesMut};

/// How many bytes the length before each frame takes.
pub const LENGTH_BYTES: usize = 4;

/// Why the bytes are no frame. There is no way to find the next one: close the connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FrameError {
    /// A frame cannot have less than no bytes.
    NegativeLength {
        /// The length that was sent.
        found: i32,
    },
    /// More than the receiver is willing to hold.
    TooLarge {
        /// The length that was sent.
        size_bytes: usize,
        /// What is allowed.
        limit_bytes: usize,
    },
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FrameError::NegativeLength { found } => write!(f, "a frame of {found} bytes"),
            FrameError::TooLarge { size_bytes, limit_bytes } => {
                write!(f, "a frame of {size_bytes} bytes, where {limit_bytes} are allowed")?;
                match other_protocol(*size_bytes) {
                    Some(other) => write!(f, ": this looks like {other}"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl std::error::Error for FrameError {}

/// Whose first bytes make such a length.
fn other_protocol(length: usize) -> Option<&'static str> {
    let first = u32::try_from(length).ok()?.to_be_bytes();
    match &first {
        // A handshake record, of version 3.0 to 3.4.
        [0x16, 3, 0..=4, _] => Some("TLS"),
        b"GET " | b"POST" | b"PUT " | b"HEAD" | b"OPTI" | b"DELE" | b"PRI " | b"CONN" => {
            Some("HTTP")
        }
        b"SSH-" => Some("SSH"),
        _ => None,
    }
}

/// The size of the frame that `received` begins with, its own length prefix included; `None`
/// while not even the prefix has arrived.
///
/// The frame is complete once `received` is at least that long. `limit_bytes` bounds what comes
/// after the prefix.
pub fn frame_size(received: &[u8], limit_bytes: usize) -> Result<Option<usize>, FrameError> {
    let Some(prefix) = received.first_chunk::<LENGTH_BYTES>() else {
        return Ok(None);
    };
    let length = i32::from_be_bytes(*prefix);
    let size_bytes =
        usize::try_from(length).map_err(|_| FrameError::NegativeLength { found: length })?;
    if limit_bytes < size_bytes {
        return Err(FrameError::TooLarge { size_bytes, limit_bytes });
    }
    Ok(Some(LENGTH_BYTES + size_bytes))
}

/// A frame being written: where it began.
#[derive(Debug)]
#[must_use = "a frame without its length cannot be read"]
pub struct OpenFrame {
    start: usize,
}

/// Leaves room for the length; what is written to `out` from now on is the frame.
pub fn begin_frame(out: &mut BytesMut) -> OpenFrame {
    let start = out.len();
    out.put_i32(0);
    OpenFrame { start }
}

/// Writes the length of what has been written since [`begin_frame`], and `more_bytes` besides
/// that the sender will put right behind it.
pub fn end_frame(out: &mut BytesMut, frame: OpenFrame, more_bytes: usize) {
    let size_bytes = out.len() - frame.start - LENGTH_BYTES + more_bytes;
    let length = i32::try_from(size_bytes).expect("what we send is bounded far below 2 GiB");
    out[frame.start..frame.start + LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size is known as soon as the prefix is there, long before the frame is.
    #[test]
    fn the_size_is_told_from_the_prefix_alone() {
        for cut in 0..LENGTH_BYTES {
            assert_eq!(frame_size(&[0, 0, 0, 9][..cut], 100), Ok(None));
        }
        assert_eq!(frame_size(&[0, 0, 0, 9], 100), Ok(Some(13)));
        assert_eq!(frame_size(&[0, 0, 0, 0, 77], 100), Ok(Some(4)));
    }

    /// A length is refused before anybody makes room for it.
    #[test]
    fn absurd_lengths_are_refused_at_once() {
        assert_eq!(
            frame_size(&[0x7f, 0xff, 0xff, 0xff], 1 << 20),
            Err(FrameError::TooLarge { size_bytes: 0x7fff_ffff, limit_bytes: 1 << 20 })
        );
        assert_eq!(
            frame_size(&[0xff, 0xff, 0xff, 0xff], 1 << 20),
            Err(FrameError::NegativeLength { found: -1 })
        );
        assert_eq!(frame_size(&100i32.to_be_bytes(), 100), Ok(Some(104)), "the limit is inclusive");
        assert!(frame_size(&101i32.to_be_bytes(), 100).is_err());
    }

    /// A client that expects TLS, or a browser, meets only a closed connection: the log says why.
    #[test]
    fn the_first_bytes_of_other_protocols_are_recognised() {
        let told = |bytes: &[u8]| frame_size(bytes, 100 << 20).unwrap_err().to_string();
        assert!(told(&[0x16, 3, 1, 2]).ends_with("this looks like TLS"));
        assert!(told(b"GET / HTTP/1.1").ends_with("this looks like HTTP"));
        assert!(told(&[0x7f, 0, 0, 0]).ends_with("are allowed"));
    }

    /// What is written comes out again, also behind other frames and with bytes sent apart.
    #[test]
    fn a_written_frame_is_read_back() {
        let mut out = BytesMut::new();
        let first = begin_frame(&mut out);
        out.put_slice(b"one");
        end_frame(&mut out, first, 0);
        let second = begin_frame(&mut out);
        out.put_slice(b"three");
        end_frame(&mut out, second, 10);

        assert_eq!(frame_size(&out, 100), Ok(Some(7)));
        assert_eq!(&out[4..7], b"one");
        assert_eq!(frame_size(&out[7..], 100), Ok(Some(4 + 5 + 10)));
    }
}
