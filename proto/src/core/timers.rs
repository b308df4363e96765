//! What the core has timers for.

use crate::id::NodeId;

/// The core's own timers.
pub(super) type Timers = crate::timers::Timers<TimerKind>;

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TimerKind {
    /// Try to join again, or look how it stands.
    Join,
    /// Say that joining has not worked yet.
    JoinReport,
    /// Send what waits.
    Gossip,
    /// Give up streams over which no handshake was done.
    Handshake,
    /// Open a stream that is missing.
    Mesh,
    /// Dial somebody who was lost.
    Redial,
    /// Compare what is known with somebody.
    PushPull,
    /// Tell newcomers of each other.
    Newcomers,
    /// Tell whom a healing brought back.
    HealReport,
    /// Measure the way to a member again.
    Greeting(NodeId),
    /// Look at an inquiry.
    Inquiry(NodeId),
    /// A suspicion's window ends.
    Suspicion(NodeId),
    /// A helper's answer is overdue.
    Nack,
    /// Place partitions anew.
    Placement,
    /// Leaving takes too long, or can end.
    Leave,
    /// A change of keys takes too long.
    Keys,
    /// Forget who is gone for long.
    Forget,
    /// Write down who is known.
    Persist,
    /// A holder of a name or id had its time to answer.
    Holder(NodeId),
}
