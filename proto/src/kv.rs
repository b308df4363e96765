//! Keys and values: what a partition holds, and what can be asked of it.
//!
//! ```text
//!   request = key + operation ── owner of the key's partition ──> outcome
//!                                  reads the present entry, decides, stamps a version
//! ```
//!
//! An [`entry::Entry`] is the newest that is known of a key: a value, or that it was deleted. Entries
//! are merged by [`version::Version`] alone, so that it never matters how often, in which order or by
//! which way one arrives (last writer wins, with one owner deciding who is last).
//!
//! Reading order: [`version`], [`entry`], [`op`], [`request`].

pub mod entry;
pub mod op;
pub mod request;
pub mod version;

/// The longest key (bytes): a little less than 64 KiB, because stores count the length of a
/// key with its place before it in 16 bits.
pub const MAX_KEY: usize = (64 << 10) - 64;
/// The longest value that a cluster can be told to take (bytes).
pub const MAX_VALUE: usize = 16 << 20;
