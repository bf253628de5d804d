//! Responses in parts: what we say about records, in slices around the records themselves.
//!
//! A response that carries records is a list of byte slices, to be sent one after the other, so that
//! the records go out from where they lie. The first slice begins with the length of all of them.

use super::{ApiKey, write_response_header};
use crate::cursor::Writer;
use crate::frame::{begin_frame, end_frame};
use bytes::{Bytes, BytesMut};

/// Appends a whole response frame to `parts`: the header, and the body that `write_body` writes
/// into `out` and cuts where records come in.
///
/// # Panics
/// If `out` holds something: it would not be clear where that belongs.
pub(super) fn write_in_parts(
    out: &mut BytesMut,
    parts: &mut Vec<Bytes>,
    api_key: ApiKey,
    version: i16,
    correlation_id: i32,
    write_body: impl FnOnce(&mut BytesMut, &mut Parts<'_>),
) {
    assert!(out.is_empty());
    let frame = begin_frame(out);
    let place = parts.len();
    let mut cutting = Parts { parts, first: None, records_bytes: 0, handed_over_bytes: 0 };
    write_response_header(&mut Writer::new(out), api_key, version, correlation_id);
    write_body(out, &mut cutting);
    cutting.cut(out);

    let Parts { first, records_bytes, handed_over_bytes, .. } = cutting;
    let mut first = first.expect("cut at least once, just now");
    let elsewhere_bytes = handed_over_bytes - first.len() + records_bytes;
    end_frame(&mut first, frame, elsewhere_bytes);
    parts[place] = first.freeze();
}

/// A frame being cut into slices: what has been written, and what has been handed over.
pub(super) struct Parts<'b> {
    parts: &'b mut Vec<Bytes>,
    /// Held back until the whole length is known, because the frame's length stands in it.
    first: Option<BytesMut>,
    records_bytes: usize,
    handed_over_bytes: usize,
}

impl Parts<'_> {
    /// Cuts here, if anything has been written since the last cut.
    fn cut(&mut self, out: &mut BytesMut) {
        let written = out.split();
        self.handed_over_bytes += written.len();
        if self.first.is_none() {
            // The parts' order is kept by an empty place for the first one.
            self.first = Some(written);
            self.parts.push(Bytes::new());
        } else if !written.is_empty() {
            self.parts.push(written.freeze());
        }
    }

    /// Puts `records` behind what has been written so far.
    pub(super) fn insert(&mut self, out: &mut BytesMut, records: &[Bytes]) {
        let mut records = records.iter().filter(|slice| !slice.is_empty()).peekable();
        if records.peek().is_none() {
            return;
        }
        self.cut(out);
        for slice in records {
            self.records_bytes += slice.len();
            self.parts.push(slice.clone());
        }
    }
}
