//! What a partition core is told when it begins.

use std::time::Duration;

use super::{host::SyncMode, omit::Omit};
use crate::id::NodeId;

/// Settings of a partition core.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// Which of the node's shards this is, and of how many.
    pub shard: (u16, u16),
    /// When data must be on the disk before it counts.
    pub sync: SyncMode,
    /// Time limits.
    pub timing: Timing,
    /// What an earlier life acknowledged may not be here: the machine stopped uncleanly, and data was
    /// not always synced (rule 8).
    pub forgetful: bool,
    /// The rule that is left out: none, but for tests that show what happens then.
    pub omit: Option<Omit>,
}

/// Time limits of partitions, and how fast copies are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Rank `r` among the members that live begins a take-over so much later, `r` times.
    pub rank: Duration,
    /// A proposal without progress for so long is begun anew, with a larger ballot.
    pub proposal: Duration,
    /// A promise that led to nothing for so long is followed by a proposal of one's own.
    pub promise: Duration,
    /// An owner that fences itself for a change gives it up after this.
    pub fence: Duration,
    /// A request is answered within this, if only by saying that it could not be.
    pub request: Duration,
    /// Exchanges that were not answered are repeated after this.
    pub retry: Duration,
    /// Copies are compared this often, even if nothing seems wrong.
    pub anti_entropy: Duration,
    /// Tables of owners are compared with somebody this often.
    pub routes: Duration,
    /// What is deleted is forgotten so long after all members knew of it.
    pub tombstone_grace: Duration,
    /// From the end of one walk through the store, for what is deleted or expired, to the next.
    pub sweep: Duration,
    /// A node makes and repairs copies at this rate at the most (bytes per second).
    pub transfer_rate: u64,
    /// Members of whom nobody has told count as failed once this node has been one for so long.
    pub unknown: Duration,
    /// Who is no member any more asks this often whether it may drop what it has.
    pub forget: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            rank: Duration::from_millis(50),
            proposal: Duration::from_millis(1000),
            promise: Duration::from_millis(800),
            fence: Duration::from_millis(200),
            request: Duration::from_millis(3000),
            retry: Duration::from_millis(250),
            anti_entropy: Duration::from_secs(60),
            routes: Duration::from_secs(30),
            transfer_rate: 64 << 20,
            tombstone_grace: Duration::from_secs(24 * 3600),
            sweep: Duration::from_secs(600),
            unknown: Duration::from_secs(10),
            forget: Duration::from_secs(5),
        }
    }
}
