//! The newest that is known of a key.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::version::{Version, Wall};

/// A value, or that there is none any more, with the version that says which is newer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Which write it comes from.
    pub version: Version,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// From then on it counts as deleted.
    pub expires: Option<Wall>,
}

impl Entry {
    /// A deletion.
    pub fn tombstone(version: Version) -> Self {
        Self {
            version,
            value: None,
            expires: None,
        }
    }

    /// The value, unless it was deleted or has expired.
    pub fn live(&self, now: Wall) -> Option<&Bytes> {
        self.value.as_ref().filter(|_| !self.is_expired(now))
    }

    /// Whether its time is over.
    pub fn is_expired(&self, now: Wall) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }

    /// Bytes that it takes with its key, roughly.
    pub fn size(&self, key: &[u8]) -> usize {
        const OVERHEAD: usize = 40;
        key.len() + self.value.as_ref().map_or(0, Bytes::len) + OVERHEAD
    }
}
