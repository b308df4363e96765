//! The one module that names bincode: values to bytes and back, with bounds.
//!
//! Everything decoded here came from outside. Three bounds hold whatever the bytes say: the
//! input is cut to the real cap by the caller ([`super::MAX_FRAME`], the datagram limit),
//! bincode may claim at most `MEMORY_LIMIT` bytes of memory while it decodes (its limit
//! counts sizes in memory, hence the headroom over the frame's), and no byte may be left over.

use serde::{Serialize, de::DeserializeOwned};

/// The most memory that one decoded value may claim (bytes).
const MEMORY_LIMIT: usize = 8 << 20;
/// The same for what carries entries, whose values may be long ([`super::MAX_DATA_FRAME`]).
const LARGE_MEMORY_LIMIT: usize = 64 << 20;

/// Bytes that do not say what they should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not a value of that type, or one that is too large.
    #[error("malformed")]
    Malformed,
    /// A value, and then more bytes.
    #[error("{0} bytes left over")]
    LeftOver(usize),
}

fn config() -> impl bincode::config::Config {
    limited::<MEMORY_LIMIT>()
}

fn limited<const LIMIT: usize>() -> impl bincode::config::Config {
    bincode::config::standard()
        .with_big_endian()
        .with_variable_int_encoding()
        .with_limit::<LIMIT>()
}

/// Encodes a value of our own. Types that are sent contain nothing that serde cannot encode,
/// so that this cannot fail.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(128);
    encode_into(value, &mut bytes);
    bytes
}

/// Like [`encode`], behind what is there already.
pub fn encode_into<T: Serialize>(value: &T, bytes: &mut Vec<u8>) {
    let written = bincode::serde::encode_into_std_write(value, bytes, config());
    debug_assert!(written.is_ok(), "encoding into memory failed: {written:?}");
}

/// Decodes a value that takes up all of `bytes`.
///
/// # Errors
/// If it is anything else.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let (value, used) = decode_prefix(bytes)?;
    if used < bytes.len() {
        return Err(DecodeError::LeftOver(bytes.len() - used));
    }
    Ok(value)
}

/// Like [`decode`], for values that carry entries.
///
/// # Errors
/// As there.
pub fn decode_large<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let (value, used) = decode_large_prefix(bytes)?;
    if used < bytes.len() {
        return Err(DecodeError::LeftOver(bytes.len() - used));
    }
    Ok(value)
}

/// The same for a value at the beginning of `bytes`; tells how many of them it took.
///
/// # Errors
/// If there is none.
pub fn decode_large_prefix<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), DecodeError> {
    bincode::serde::decode_from_slice(bytes, limited::<LARGE_MEMORY_LIMIT>())
        .map_err(|_which| DecodeError::Malformed)
}

/// Decodes a value at the beginning of `bytes`, and tells how many of them it took.
///
/// # Errors
/// If there is none.
pub fn decode_prefix<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), DecodeError> {
    bincode::serde::decode_from_slice(bytes, config()).map_err(|_which| DecodeError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_that_lies_claims_no_memory() {
        // A vector of 2^60 elements, in seven bytes.
        let mut bytes = vec![253];
        bytes.extend_from_slice(&(1u64 << 60).to_be_bytes());
        assert_eq!(decode::<Vec<u64>>(&bytes), Err(DecodeError::Malformed));
    }

    #[test]
    fn left_over_bytes_are_refused() {
        let mut bytes = encode(&7u32);
        assert_eq!(decode::<u32>(&bytes), Ok(7));
        bytes.push(0);
        assert_eq!(decode::<u32>(&bytes), Err(DecodeError::LeftOver(1)));
    }
}
