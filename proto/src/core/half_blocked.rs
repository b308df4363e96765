//! Half-blocked networks: a member that UDP reaches and TCP does not, or the reverse.
//!
//! ```text
//!   a late probe is answered over the stream only  -> pings for some seconds, both ways
//!     answered over the stream only                -> its UDP is blocked
//!   a probe or a ping is answered over UDP         -> it is not
//!   a dial to it fails                             -> one ping
//!     answered over UDP at once, twice in a row    -> its TCP is blocked
//!   a stream to it is open                         -> it is not
//! ```
//!
//! This is told to operators, who have a firewall to look at, and it is never evidence of
//! death. A member that neither way reaches is the business of inquiries.

use std::time::Duration;

use super::{Core, join::millis, mesh::MESH_PATIENCE};
use crate::{
    event::{Event, Transport},
    id::NodeId,
    input::DialError,
    members::table::Entry,
    swim::limits::Bucket,
    time::Time,
    wire::message::DirectBody,
};

/// So many dials in a row must have failed while UDP worked: one may fail by chance, or because a
/// process that was paused wakes only now.
const FINDINGS: u32 = 2;
/// A dial is repeated after [`MESH_PATIENCE`], doubled so many times at most.
const MAX_DOUBLINGS: u32 = 3;
/// So many members are told of at once, and one more after each pause: a firewall may be
/// between this node and all others.
const TOLD_AT_ONCE: u32 = 16;
const TOLD_PAUSE: Duration = Duration::from_secs(10);

/// Dials to a member that failed, one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct DialFailure {
    at: Time,
    failures: u32,
    /// How many of them found that UDP worked meanwhile.
    findings: u32,
    /// Of the ping that asks whether it does, while no answer has come.
    nonce: Option<u32>,
}

impl DialFailure {
    /// When the mesh may dial again.
    pub(super) fn next_attempt(&self) -> Time {
        let doublings = self.failures.saturating_sub(1).min(MAX_DOUBLINGS);
        self.at + MESH_PATIENCE * (1 << doublings)
    }
}

/// The limit on what is told about all members together.
pub(super) fn tellings() -> Bucket {
    Bucket::new(TOLD_AT_ONCE, TOLD_PAUSE)
}

impl Core {
    /// A dial to a member failed: asks over UDP whether it is there all the same.
    pub(super) fn no_stream_to(&mut self, now: Time, id: NodeId, error: &DialError) {
        let nonce = self.nonce();
        let failure = self.dial_failures.entry(id).or_insert(DialFailure {
            at: now,
            failures: 0,
            findings: 0,
            nonce: None,
        });
        failure.at = now;
        failure.failures = failure.failures.saturating_add(1);
        failure.nonce = Some(nonce);
        // Two keys that do not fit are no firewall's doing.
        if *error == DialError::Untrusted {
            return;
        }
        if let Some(identity) = self.table.get(id).map(|entry| entry.identity) {
            let body = DirectBody::Ping {
                to: identity.life(),
                nonce,
                suspected: None,
            };
            self.send_direct(identity.addr, body);
        }
    }

    /// A member answered a ping over UDP: perhaps the one that was sent because no stream to
    /// it could be opened.
    pub(super) fn look_for_blocked_streams(&mut self, now: Time, id: NodeId, nonce: u32) {
        // An answer that comes late may be that of a process that was paused: no way worked.
        let patience = self.detector.timeout(id) * 2;
        let Some(failure) = self.dial_failures.get_mut(&id) else {
            return;
        };
        if failure.nonce != Some(nonce) || now > failure.at + patience {
            return;
        }
        failure.nonce = None;
        failure.findings = failure.findings.saturating_add(1);
        if failure.findings >= FINDINGS {
            self.half_blocked(now, id, Transport::Tcp);
        }
    }

    /// One way to a member does not work, while the other does.
    pub(super) fn half_blocked(&mut self, now: Time, id: NodeId, blocked: Transport) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        if !entry.blocked.begin(blocked, now) {
            return;
        }
        if !self.blocked_told.take(now) {
            // Found again with the next failed probe or dial, and told then.
            self.count("half_blocked_untold");
            return;
        }
        entry.blocked.was_told(blocked, now);
        let who = entry.who();
        self.count("half_blocked");
        self.emit(Event::MemberHalfBlocked { who, blocked });
    }

    /// A way to a member works.
    pub(super) fn unblocked(&mut self, now: Time, id: NodeId, blocked: Transport) {
        // Asked with every answer to a probe, and hardly ever so.
        let is_blocked = |entry: &Entry| entry.blocked.since(blocked).is_some();
        if !self.table.get(id).is_some_and(is_blocked) {
            return;
        }
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        if let Some(since) = entry.blocked.end(blocked) {
            let who = entry.who();
            self.emit(Event::MemberUnblocked {
                who,
                blocked,
                blocked_ms: millis(now.saturating_since(since)),
            });
        }
    }
}
