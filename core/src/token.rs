//! The names a shard gives its ops: what kind of thing is waiting, and which one.
//!
//! The kind lies in the top byte, the index below it. An index is not used again before the op
//! that carries it has completed, so a token never means two things at once.

use tidemill_runtime::edge::Token;

const INDEX_BITS: u32 = 56;

/// What an op was submitted for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum TokenKind {
    /// Taking connections; index: which listener.
    Accept = 1,
    /// Receiving from a client; index: connection.
    Receive = 2,
    /// Sending to a client; index: connection.
    Send = 3,
    /// Closing a client's socket; index: connection.
    Close = 4,
    /// A file request; index: [`crate::disk::Disk`]'s.
    Disk = 5,
}

/// The token for one op.
pub fn token(kind: TokenKind, index: usize) -> Token {
    debug_assert!((index as u64) < 1 << INDEX_BITS);
    Token((kind as u64) << INDEX_BITS | index as u64)
}

/// What a token was made from.
pub fn split(token: Token) -> (TokenKind, usize) {
    let index = (token.0 & ((1 << INDEX_BITS) - 1)) as usize;
    let kind = match token.0 >> INDEX_BITS {
        1 => TokenKind::Accept,
        2 => TokenKind::Receive,
        3 => TokenKind::Send,
        4 => TokenKind::Close,
        5 => TokenKind::Disk,
        other => unreachable!("no op was submitted with kind {other}"),
    };
    (kind, index)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What goes into a token comes out of it.
    #[test]
    fn a_token_gives_back_its_kind_and_index() {
        for kind in [TokenKind::Accept, TokenKind::Receive, TokenKind::Send, TokenKind::Disk] {
            assert_eq!(split(token(kind, 123_456)), (kind, 123_456));
        }
    }
}
