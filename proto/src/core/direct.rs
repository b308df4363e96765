//! What one member says to one other: foca's packets through the gate, pings, nacks.

use std::time::Duration;

use foca::{Member, State};

use super::{Core, Phase, inquire::LATE_PROBE, timers::TimerKind};
use crate::{
    event::Transport,
    id::{Life, NodeId},
    input::StreamId,
    members::table::Status,
    swim::{foca_codec::peek_source, identity::Identity},
    time::Time,
    wire::{
        codec,
        message::{Direct, DirectBody, Frame, KIND_DIRECT, News},
    },
};

/// Nacks owed at most.
const MAX_NACKS: usize = 1024;

impl Core {
    /// A foca packet. Only lives that were admitted reach foca, which by itself would take in
    /// anybody.
    pub(super) fn swim_packet(
        &mut self,
        now: Time,
        sender: NodeId,
        packet: &[u8],
        suspected: Option<u16>,
    ) {
        if !matches!(self.phase, Phase::Active) {
            return;
        }
        let Ok(source) = peek_source(packet) else {
            self.count("rejected_malformed");
            return;
        };
        let Some(entry) = self.table.get(sender) else {
            self.count("rejected_unknown_sender");
            return;
        };
        if source.id != sender || source.life() != entry.life() || entry.swim.is_none() {
            let later = source.id == sender && source.generation < entry.identity.generation;
            self.count("rejected_other_life");
            if later {
                self.tell_of_later_life(now, sender, source.addr);
            }
            return;
        }
        match entry.status() {
            Status::Left => return,
            Status::Evicted => {
                if let Some(record) = entry.record.clone() {
                    let body = DirectBody::News(News::Record(Box::new(record)));
                    self.send_direct(source.addr, body);
                }
                return;
            }
            Status::Alive | Status::Suspect | Status::Failed | Status::Leaving => {}
        }
        self.detector.handle_packet(now, packet);
        if let Some(incarnation) = suspected {
            self.refute(now, incarnation, true);
        }
    }

    pub(super) fn send_direct(&mut self, to: std::net::SocketAddr, body: DirectBody) {
        let direct = Direct {
            from: self.detector.identity().life(),
            body,
        };
        let bytes = codec::encode(&direct);
        let data = self.sealer.seal(&self.keys, KIND_DIRECT, &[&bytes]);
        self.send_datagram(to, data);
    }

    /// A direct message over UDP.
    pub(super) fn direct(&mut self, now: Time, sender: NodeId, direct: Direct) {
        if direct.from.id != sender {
            self.count("rejected_other_life");
            return;
        }
        self.direct_body(now, direct.from, direct.body, None);
    }

    /// A direct message, over UDP or over the given stream.
    pub(super) fn direct_body(
        &mut self,
        now: Time,
        from: Life,
        body: DirectBody,
        stream: Option<StreamId>,
    ) {
        let known = self.table.get(from.id).map(|entry| entry.life());
        if known != Some(from) {
            self.count("rejected_unknown_sender");
            return;
        }
        self.table.heard(from.id, now);
        match body {
            DirectBody::Ping {
                to,
                nonce,
                suspected,
            } => self.pinged(now, from, to, nonce, suspected, stream),
            DirectBody::Pong {
                nonce,
                renewal,
                incarnation,
            } => self.ponged(now, from, nonce, renewal, incarnation, stream.is_some()),
            DirectBody::Nack { target, probe } => self.detector.nacked(target, probe),
            DirectBody::News(news) => self.hear_news(now, from.id, news),
            DirectBody::Farewell(record) => {
                let address = record.addr;
                if record.life == from {
                    self.offer_record(now, *record, true);
                    self.send_direct(address, DirectBody::FarewellHeard);
                }
            }
            DirectBody::FarewellHeard => self.farewell_heard(now, from.id),
            DirectBody::Disowned { renewal } => {
                if renewal >= self.detector.identity().renewal
                    && matches!(self.phase, Phase::Active)
                {
                    self.detector.renew(now);
                }
            }
        }
    }

    fn pinged(
        &mut self,
        now: Time,
        from: Life,
        to: Life,
        nonce: u32,
        suspected: Option<(u32, u16)>,
        stream: Option<StreamId>,
    ) {
        let own = self.detector.identity();
        if to != own.life() || matches!(self.phase, Phase::Joining(_)) {
            return;
        }
        if let Some((renewal, incarnation)) = suspected
            && renewal == own.renewal
        {
            self.refute(now, incarnation, true);
        }
        let body = DirectBody::Pong {
            nonce,
            renewal: own.renewal,
            incarnation: self.detector.incarnation(),
        };
        match stream {
            Some(stream) => self.send_frame(stream, &Frame::Direct(body)),
            None => {
                if let Some(address) = self.table.get(from.id).map(|entry| entry.identity.addr) {
                    self.send_direct(address, body);
                }
            }
        }
        // After the answer, which may measure the way for the other side. And again even if a
        // greeting is under way: to who has just joined we were a stranger then.
        self.greet(now, from.id, true);
    }

    fn ponged(
        &mut self,
        now: Time,
        from: Life,
        nonce: u32,
        renewal: u32,
        incarnation: u16,
        over_stream: bool,
    ) {
        self.holder_answered(from.id, nonce);
        self.detector.alive_otherwise(now, from.id);
        if !over_stream {
            self.unblocked(now, from.id, Transport::Udp);
            self.look_for_blocked_streams(now, from.id, nonce);
        } else if nonce == LATE_PROBE {
            self.look_for_blocked_udp(now, from.id);
        }
        if self.greeting_answered(now, from.id, nonce) {
            return;
        }
        let Some(entry) = self.table.get_mut(from.id) else {
            return;
        };
        let ours = entry
            .inquiry
            .as_ref()
            .is_some_and(|inquiry| inquiry.nonce == nonce);
        if !ours {
            return;
        }
        if let Some(suspicion) = &mut entry.suspicion {
            suspicion.proof = Some(now);
        }
        let known = (entry.identity.renewal, entry.incarnation);
        let renewed = renewal > entry.identity.renewal;
        let identity = Identity {
            renewal,
            ..entry.identity
        };
        // What is down stays so until it has a new identity.
        let can_rise = renewed || entry.swim != Some(State::Down);
        let newer = (renewal, incarnation) > known && can_rise;
        if over_stream {
            if let Some(inquiry) = &mut entry.inquiry {
                inquiry.answered_over_stream();
            }
        } else {
            self.end_inquiry(from.id);
            self.timers.set_by(TimerKind::Mesh, now);
        }
        if newer {
            let alive = Member::new(identity, incarnation, State::Alive);
            self.detector.apply(now, alive, true);
        }
    }

    /// Somebody asked us to probe a member: if that does not answer us in time either, the
    /// asker shall at least know that we live.
    pub(super) fn owe_nack(&mut self, now: Time, by: NodeId, target: NodeId, probe: u8) {
        if !self.config.detection.lifeguard || self.nacks.len() >= MAX_NACKS {
            return;
        }
        let due = now
            + self
                .detector
                .timeout(target)
                .min(Duration::from_millis(100));
        self.nacks.insert((by, probe), (target, due));
        self.timers.set_by(TimerKind::Nack, due);
    }

    pub(super) fn send_nacks(&mut self, now: Time) {
        let due: Vec<_> = self
            .nacks
            .iter()
            .filter(|(_, (_, due))| *due <= now)
            .map(|((by, probe), (target, _))| (*by, *probe, *target))
            .collect();
        for (by, probe, target) in due {
            self.nacks.remove(&(by, probe));
            self.count("nacks_sent");
            if let Some(address) = self.table.get(by).map(|entry| entry.identity.addr) {
                self.send_direct(address, DirectBody::Nack { target, probe });
            }
        }
        if let Some(next) = self.nacks.values().map(|(_, due)| *due).min() {
            self.timers.set_by(TimerKind::Nack, next);
        }
    }
}
