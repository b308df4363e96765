//! Requests and their answers, as clients of a node, and nodes among each other, exchange them.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    op::{Op, OpError, Outcome},
    version::Version,
};
use crate::id::PartitionId;

/// How many members must have a write before it is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ack {
    /// The owner alone (refused in strict clusters).
    One,
    /// A majority of the partition's configuration.
    #[default]
    Quorum,
    /// Every member of the partition's configuration.
    All,
}

/// What is asked of the owner of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Something about one key.
    Key {
        /// Which: 1 to [`super::MAX_KEY`] bytes.
        key: Bytes,
        /// What.
        op: Op,
        /// When a write is acknowledged.
        ack: Ack,
    },
    /// Keys of a partition, in an order of its own.
    Scan {
        /// Which partition.
        partition: PartitionId,
        /// Only what comes after this: the `next` of the page before.
        after: Option<Cursor>,
        /// At most so many keys.
        limit: u32,
    },
    /// How many keys a partition holds.
    Count {
        /// Which partition.
        partition: PartitionId,
    },
}

impl Request {
    /// Whether it changes nothing, so that it may be asked again.
    pub fn is_read(&self) -> bool {
        match self {
            Self::Key { op, .. } => op.is_read(),
            Self::Scan { .. } | Self::Count { .. } => true,
        }
    }
}

/// Where a scan goes on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cursor {
    /// The bucket of the last key seen.
    pub bucket: u16,
    /// The last key seen.
    pub key: Bytes,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// Of one about a key.
    Key(Outcome),
    /// Of a scan.
    Scan {
        /// Living keys with their versions.
        keys: Vec<(Bytes, Version)>,
        /// Where to go on; `None` at the end.
        next: Option<Cursor>,
    },
    /// Of a count: living keys.
    Count(u64),
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum RequestError {
    /// The operation cannot be done with what is there; nothing has changed.
    #[error(transparent)]
    Op(#[from] OpError),
    /// The request itself is not possible (too long a key, too large a value, `ack=one` in a strict
    /// cluster ...); nothing has changed.
    #[error("{0}")]
    Invalid(String),
    /// The partition cannot be served now; nothing has changed. The text says why and what
    /// would bring it back.
    #[error("{0}")]
    Unavailable(String),
    /// It was begun, and whether it was done is not known: it may have been, or may yet be.
    #[error("{0}")]
    Indeterminate(String),
}
