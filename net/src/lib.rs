//! What Tidemill speaks: bytes in, requests out; responses in, bytes out.
//!
//! Nothing here touches a socket, a clock or a file. A frame is cut out of a stream of bytes by
//! [`frame`], its fields are read and written with [`cursor`], and [`kafka`] knows what they mean.
//!
//! Every byte that comes in is taken for hostile: no length is believed before the bytes are
//! there, nothing is allocated by a number the wire merely claims, and bad input ends in an error
//! value, never in a panic. What a message may allocate is bounded by [`cursor::Reader`].
//!
//! Both directions of each message can be written and read, because the load generator, the
//! simulator and the tests are clients of the same protocol.
//!
//! The admin port's HTTP is in [`http`].
//!
//! Start reading at [`kafka`].

pub mod cursor;
pub mod frame;
pub mod http;
pub mod kafka;
