//! How foca knows a node: its id, its life, how often that life was renewed, its address.

use std::{fmt, net::SocketAddr};

use serde::{Deserialize, Serialize};

use crate::id::{Life, NodeId};

/// A member as foca sees it. It is repeated in each packet, so it holds nothing but what
/// identifies and reaches a member; names, tags and the like travel in records.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The node.
    pub id: NodeId,
    /// Which of its lives.
    pub generation: u64,
    /// How often this life was wrongly declared down and took a new identity: in SWIM, down
    /// is final for an identity.
    pub renewal: u32,
    /// Where it is reached.
    pub addr: SocketAddr,
}

impl Identity {
    /// Which life this identity belongs to.
    pub fn life(&self) -> Life {
        Life {
            id: self.id,
            generation: self.generation,
        }
    }

    /// What decides between two identities of one node: the larger wins.
    pub fn rank(&self) -> (u64, u32) {
        (self.generation, self.renewal)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}@{}.{}({})",
            self.id, self.generation, self.renewal, self.addr
        )
    }
}

impl foca::Identity for Identity {
    // Small and `Copy`: foca compares it in linear scans for each sender and each update.
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        Some(Self {
            renewal: self.renewal.checked_add(1)?,
            ..*self
        })
    }

    fn addr(&self) -> NodeId {
        self.id
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.rank() > adversary.rank()
    }
}
