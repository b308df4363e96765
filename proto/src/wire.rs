//! Bytes on the wire: what is sent, how it is sealed, and how it is read without trust.

pub mod codec;
pub mod keyring;
pub mod message;
pub mod seal;

/// The longest frame of membership on a peer stream (bytes, without its length prefix).
pub const MAX_FRAME: usize = 1 << 20;
/// The longest frame that carries entries of partitions: the longest key and value, and room.
pub const MAX_DATA_FRAME: usize = 17 << 20;
