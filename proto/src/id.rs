//! Who is who: node ids, lives, cluster ids, partitions.
//!
//! A [`NodeId`] names a node for as long as its data directory exists. A [`Life`] is one
//! run of its process: the id with a generation that grows at each start. Every message
//! that may only concern one run names the life, so that a leftover of an earlier run
//! never does harm to a later one.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A random 64-bit id of a node, kept in its data directory, so that it survives restarts.
///
/// Shown to people, and in JSON, as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// A random 64-bit id of a cluster, minted by the node that bootstrapped it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u64);

/// Text that is not 16 hexadecimal digits was given where an id was wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an id of 16 hexadecimal digits")]
pub struct ParseIdError(String);

macro_rules! hex_id {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                if text.len() != 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(ParseIdError(text.to_owned()));
                }
                match u64::from_str_radix(text, 16) {
                    Ok(value) => Ok(Self(value)),
                    Err(_) => Err(ParseIdError(text.to_owned())),
                }
            }
        }

        // Hexadecimal where people read, eight fixed bytes on the wire: ids are random,
        // so that a variable-length integer would be longer.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.to_be_bytes().serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = String::deserialize(deserializer)?;
                    text.parse().map_err(de::Error::custom)
                } else {
                    <[u8; 8]>::deserialize(deserializer).map(|b| Self(u64::from_be_bytes(b)))
                }
            }
        }
    };
}

hex_id!(NodeId);
hex_id!(ClusterId);

/// One life of a node: a run of its process.
///
/// The generation is `max(stored + 1, unix milliseconds)` at the start, so that it grows
/// with every start even if the clock went back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Life {
    /// The node.
    pub id: NodeId,
    /// Which of its runs.
    pub generation: u64,
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.id, self.generation)
    }
}

/// The number of a partition, from 0 to the cluster's number of partitions less one.
pub type PartitionId = u16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_sixteen_digits_both_ways() {
        let id = NodeId(0xab);
        assert_eq!(id.to_string(), "00000000000000ab");
        assert_eq!("00000000000000ab".parse(), Ok(id));
        for wrong in ["", "ab", "00000000000000ag", "+0000000000000ab"] {
            assert!(wrong.parse::<NodeId>().is_err(), "{wrong:?} was taken");
        }
    }
}
