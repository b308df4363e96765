//! The probe in flight: who was asked, who answered, and what that says about this node.
//!
//! foca runs the exchange; here its packets are watched as they pass:
//!
//! ```text
//!   A ->[Ping n] B              sent: the probe begins
//!   A <-[Ack n] B               answered: a round trip is measured
//!   A ->[PingReq B, n] C        one nack is owed by C
//!   A <-[ForwardedAck B, n] C   answered by way of C: loss between A and B
//!   A <-(nack) C                C lives, and hears nothing of B either
//!   the next probe begins       closed: health improves, or worsens by the nacks still owed
//! ```

use foca::{Header, Message, State};

use super::{
    super::{foca_codec::FocaCodec, health, identity::Identity},
    Detector, Note, Seen,
};
use crate::{id::NodeId, time::Time};

/// The probe in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    pub(super) target: Identity,
    number: u8,
    sent: Time,
    pub(super) answered: bool,
    pub(super) indirect: bool,
    nacks_owed: u8,
}

impl Detector {
    /// The target of the probe in flight proved otherwise that it lives.
    pub fn alive_otherwise(&mut self, now: Time, id: NodeId) {
        if self
            .probe
            .is_some_and(|probe| probe.target.id == id && !probe.answered)
        {
            self.acknowledge_probe(now);
        }
    }

    /// A helper says that it lives, but heard nothing of the target either.
    pub fn nacked(&mut self, target: NodeId, number: u8) {
        if let Some(probe) = &mut self.probe
            && probe.target.id == target
            && probe.number == number
        {
            probe.nacks_owed = probe.nacks_owed.saturating_sub(1);
        }
    }

    pub(super) fn sent(&mut self, now: Time, header: &Header<Identity>) {
        match header.message {
            Message::Ping(number) => {
                self.probe = Some(Probe {
                    target: header.dst,
                    number,
                    sent: now,
                    answered: false,
                    indirect: false,
                    nacks_owed: 0,
                });
            }
            Message::PingReq { .. } => {
                if let Some(probe) = &mut self.probe {
                    probe.nacks_owed += 1;
                }
            }
            Message::ForwardedAck { probe_number, .. } => self.notes.push_back(Note::Answered {
                by: header.dst.id,
                probe: probe_number,
            }),
            _ => {}
        }
    }

    pub(super) fn received(&mut self, now: Time, header: &Header<Identity>) {
        let source = header.src.id;
        self.notes.push_back(Note::Heard(source));
        self.notes.push_back(Note::Claimed(Seen {
            identity: header.src,
            incarnation: header.src_incarnation,
            state: State::Alive,
        }));
        match header.message {
            Message::Ack(number) => {
                if let Some(probe) = &mut self.probe
                    && probe.target.id == source
                    && probe.number == number
                {
                    let rtt = now.saturating_since(probe.sent);
                    // An answer after the indirect stage came late: that is loss, or a slow
                    // member, and both shall lengthen windows.
                    let late = probe.indirect;
                    if !std::mem::replace(&mut probe.answered, true) {
                        self.measured(source, rtt);
                        self.loss.sample(late);
                        self.notes.push_back(Note::Reached(source));
                    }
                }
            }
            Message::ForwardedAck {
                origin,
                probe_number,
            } => {
                if let Some(probe) = &mut self.probe
                    && probe.target == origin
                    && probe.number == probe_number
                {
                    probe.nacks_owed = probe.nacks_owed.saturating_sub(1);
                    if !probe.answered {
                        probe.answered = true;
                        self.loss.sample(true);
                    }
                }
            }
            Message::PingReq {
                target,
                probe_number,
            } => self.notes.push_back(Note::AskedToProbe {
                by: source,
                target: target.id,
                probe: probe_number,
            }),
            _ => {}
        }
    }

    // Lifeguard's accounting of a probe that is over.
    pub(super) fn close_probe(&mut self) {
        let Some(probe) = self.probe.take() else {
            return;
        };
        self.probes.1 += 1;
        if probe.answered {
            self.health.improve();
            return;
        }
        self.probes.0 += 1;
        if self.detection.lifeguard {
            // Silent helpers speak against us; if all of them answered, against the target.
            self.health.worsen(probe.nacks_owed.min(health::WORST));
        }
        self.notes
            .push_back(Note::ProbeFailed(probe.target, probe.sent));
    }

    // As if the target's answer had come: foca has no other way to void a probe.
    pub(super) fn acknowledge_probe(&mut self, now: Time) {
        let Some(probe) = &mut self.probe else { return };
        probe.answered = true;
        let (target, number) = (probe.target, probe.number);
        let ids = std::iter::once(target.id).collect();
        let Some(seen) = self.look_up(&ids).pop() else {
            return;
        };
        let header = Header {
            src: target,
            src_incarnation: seen.incarnation,
            dst: self.identity(),
            message: Message::Ack(number),
        };
        let mut packet = Vec::with_capacity(64);
        let mut codec = FocaCodec {
            desk: self.desk.clone(),
        };
        if foca::Codec::encode_header(&mut codec, &header, &mut packet).is_err() {
            self.count("encode");
            return;
        }
        self.handle_packet(now, &packet);
    }
}
