//! Inquiries: what pings, a knock and the stream together tell of a member that does not answer.
//!
//! ```text
//!   stream breaks, probe fails, somebody accuses -> inquiry
//!        -> silent: an accusation, with the reason (see `judge`)
//!        -> only its stream answers: its UDP is blocked, which is reported
//!        -> it answers: nothing was wrong
//! ```

use foca::State;
use rand::RngExt;

use super::{Core, timers::TimerKind};
use crate::{
    event::{Reason, Transport},
    id::NodeId,
    input::{Knock, Token},
    members::table::Status,
    output::Output,
    swim::{
        identity::Identity,
        inquiry::{Conclusion, Inquiry},
    },
    time::Time,
    wire::message::{DirectBody, Frame},
};

/// Nonce of the ping over a stream that stands in for a probe.
pub(super) const LATE_PROBE: u32 = 0;

impl Core {
    pub(super) fn nonce(&mut self) -> u32 {
        self.rng.random()
    }

    /// Our probe of that member failed.
    pub(super) fn probe_failed(&mut self, now: Time, identity: Identity, sent: Time) {
        let Some(entry) = self.table.get_mut(identity.id) else {
            return;
        };
        if entry.identity != identity || matches!(entry.swim, None | Some(State::Down)) {
            return;
        }
        if let Some(suspicion) = &mut entry.suspicion {
            suspicion.silent_since = suspicion.silent_since.min(sent);
        }
        if self.config.detection.evidence {
            self.start_inquiry(now, identity.id);
        } else {
            self.accuse(now, identity.id, Reason::Unreachable, sent);
        }
    }

    /// Finds out whether a member is really gone, and how.
    pub(super) fn start_inquiry(&mut self, now: Time, id: NodeId) {
        if !self.config.detection.evidence || !self.is_member() {
            return;
        }
        let timeout = self.detector.timeout(id);
        let nonce = self.nonce();
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let status = entry.status();
        let asked_already = entry
            .inquiry
            .as_ref()
            .is_some_and(|inquiry| !inquiry.is_about_udp());
        if asked_already || matches!(status, Status::Failed | Status::Left | Status::Evicted) {
            return;
        }
        let mut inquiry = Inquiry::new(now, nonce, timeout);
        if entry.returns.is_unsteady(now) {
            inquiry = inquiry.about_unsteady();
        }
        entry.inquiry = Some(Box::new(inquiry));
        self.count("inquiries");
        self.timers.set(TimerKind::Inquiry(id), now);
    }

    pub(super) fn knock(&mut self, id: NodeId) {
        let knock = self.token();
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let Some(inquiry) = &mut entry.inquiry else {
            return;
        };
        inquiry.knocking = Some(knock);
        let to = entry.identity.addr;
        self.knocks.insert(knock, id);
        self.outputs.push_back(Output::Knock { knock, to });
    }

    pub(super) fn knocked(&mut self, now: Time, knock: Token, answer: Knock) {
        let Some(id) = self.knocks.remove(&knock) else {
            return;
        };
        if self.holder_knocked(now, id, answer) {
            return;
        }
        let Some(inquiry) = self
            .table
            .get_mut(id)
            .and_then(|entry| entry.inquiry.as_mut())
        else {
            return;
        };
        if inquiry.knocking != Some(knock) {
            return;
        }
        inquiry.knocked(now, answer);
        self.look_at_inquiry(now, id);
    }

    pub(super) fn look_at_inquiry(&mut self, now: Time, id: NodeId) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let (identity, stream) = (entry.identity, entry.stream);
        let suspected = entry
            .suspicion
            .as_ref()
            .map(|suspicion| (suspicion.renewal, suspicion.incarnation));
        let Some(inquiry) = &mut entry.inquiry else {
            return;
        };
        let (nonce, started) = (inquiry.nonce, inquiry.started());
        let ping = inquiry.take_ping(now);
        let stream = stream.filter(|stream| ping && inquiry.take_stream_ping(*stream, suspected));
        let knock = inquiry.take_knock(now);
        let conclusion = inquiry.conclude(now);
        let next = inquiry.next();
        self.timers.set(TimerKind::Inquiry(id), next.max(now));
        if knock {
            self.knock(id);
        }
        if ping {
            let body = DirectBody::Ping {
                to: identity.life(),
                nonce,
                suspected,
            };
            self.send_direct(identity.addr, body.clone());
            if let Some(stream) = stream {
                self.send_frame(stream, &Frame::Direct(body));
            }
        }
        match conclusion {
            Some(Conclusion::Silent(reason)) => self.accuse(now, id, reason, started),
            Some(Conclusion::OnlyStream) => {
                self.end_inquiry(id);
                self.half_blocked(now, id, Transport::Udp);
            }
            Some(Conclusion::Nothing) => self.end_inquiry(id),
            None => {}
        }
    }

    /// Nothing more is to be found out about a member.
    pub(super) fn end_inquiry(&mut self, id: NodeId) {
        self.timers.clear(TimerKind::Inquiry(id));
        if let Some(entry) = self.table.get_mut(id) {
            entry.inquiry = None;
        }
    }

    /// A probe was answered over the stream, and not over UDP: by chance, or is that blocked?
    pub(super) fn look_for_blocked_udp(&mut self, now: Time, id: NodeId) {
        let timeout = self.detector.timeout(id);
        let nonce = self.nonce();
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        if entry.blocked.since(Transport::Udp).is_some() {
            self.half_blocked(now, id, Transport::Udp);
        } else if entry.inquiry.is_none() && entry.is_living() {
            entry.inquiry = Some(Box::new(Inquiry::about_udp(now, nonce, timeout)));
            self.timers.set(TimerKind::Inquiry(id), now);
        }
    }

    pub(super) fn probe_is_late(&mut self, target: Identity) {
        if !self.config.detection.evidence {
            return;
        }
        if let Some(stream) = self.table.get(target.id).and_then(|entry| entry.stream) {
            self.count("stream_probes");
            let body = DirectBody::Ping {
                to: target.life(),
                nonce: LATE_PROBE,
                suspected: None,
            };
            self.send_frame(stream, &Frame::Direct(body));
        }
    }
}
