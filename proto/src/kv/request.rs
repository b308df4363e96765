//! Requests and their answers, as clients of a node, and nodes among each other, exchange them.

use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    op::{Op, OpError, Outcome},
    version::Version,
};
use crate::id::{NodeId, PartitionId};

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

/// A word that says nothing about acknowledging.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected one, quorum or all")]
pub struct NoAck;

impl Ack {
    const WORDS: [(Self, &str); 3] = [
        (Self::One, "one"),
        (Self::Quorum, "quorum"),
        (Self::All, "all"),
    ];

    /// The word for it.
    pub fn word(self) -> &'static str {
        let found = Self::WORDS.iter().find(|(ack, _)| *ack == self);
        found.map_or("", |(_, word)| word)
    }
}

impl FromStr for Ack {
    type Err = NoAck;

    fn from_str(word: &str) -> Result<Self, NoAck> {
        let found = Self::WORDS.iter().find(|(_, text)| *text == word);
        found.map(|(ack, _)| *ack).ok_or(NoAck)
    }
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
    /// How many members have what the owner has of a key now. Answered as soon as as many do as
    /// are wanted, or patience is over.
    Copies {
        /// Which key.
        key: Bytes,
        /// A write of that version has been acknowledged: if the owner has only older ones, it
        /// is lost, and nobody counts.
        at_least: Option<Version>,
        /// So many members are enough.
        wanted: u8,
        /// So long is waited for them (milliseconds); at most [`MAX_PATIENCE`].
        patience: u32,
    },
    /// Which members have everything that a partition holds.
    Equal {
        /// Which partition.
        partition: PartitionId,
    },
}

/// The longest that an owner waits for members to confirm what they have (milliseconds): well
/// below the time in which every request is answered.
pub const MAX_PATIENCE: u32 = 1000;

impl Request {
    /// Whether it changes nothing, so that it may be asked again.
    pub fn is_read(&self) -> bool {
        match self {
            Self::Key { op, .. } => op.is_read(),
            Self::Scan { .. } | Self::Count { .. } | Self::Copies { .. } | Self::Equal { .. } => {
                true
            }
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
    /// Members that are known to have it, the owner included.
    Copies(u8),
    /// Members whose copies were compared with the owner's and found equal, and that have had every write
    /// since; the owner included.
    Equal(Vec<NodeId>),
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
