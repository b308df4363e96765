//! Datagrams: opened and routed when they come, sealed when they go.
//!
//! ```text
//!   in:  opened (key, sender's life, replay) -> foca's packet | packet and suspicion | direct
//!   out: foca's packet, with the receiver's suspicion before it if it is suspected (Lifeguard's
//!        "buddy": who is accused learns it from the next packet that it gets)
//! ```

use std::{net::SocketAddr, time::Duration};

use super::Core;
use crate::{
    output::Output,
    swim::identity::Identity,
    time::Time,
    wire::{
        codec,
        message::{KIND_DIRECT, KIND_SWIM, KIND_SWIM_BUDDY},
        seal,
    },
};

/// Bytes that the suspicion of the receiver takes in a datagram.
pub(super) const BUDDY: usize = 2;
/// What is refused is told at most this often.
const REJECTION_PAUSE: Duration = Duration::from_secs(10);

impl Core {
    pub(super) fn datagram(&mut self, now: Time, from: SocketAddr, mut data: Vec<u8>) {
        self.count("datagrams_received");
        self.add("datagram_bytes_received", data.len());
        let (sender, kind, payload) = match self.opener.open(&self.keys, &mut data) {
            Ok(opened) => (opened.sender, opened.kind, opened.payload),
            Err(error) => {
                let kind = match error {
                    seal::OpenError::TooShort { .. } => "rejected_too_short",
                    seal::OpenError::Version { .. } => "rejected_version",
                    seal::OpenError::UnknownKey { .. } => "rejected_unknown_key",
                    seal::OpenError::Forged => "rejected_forged",
                    seal::OpenError::Replayed { .. } => "rejected_replayed",
                };
                self.reject(now, kind, &format!("a datagram from {from}: {error}"));
                return;
            }
        };
        if sender == self.table.own_id() {
            self.own_id_speaks(now, kind, payload);
            return;
        }
        match kind {
            KIND_SWIM => self.swim_packet(now, sender, payload, None),
            KIND_SWIM_BUDDY => match payload.split_first_chunk::<BUDDY>() {
                Some((incarnation, packet)) => {
                    let incarnation = u16::from_be_bytes(*incarnation);
                    self.swim_packet(now, sender, packet, Some(incarnation));
                }
                None => self.count("rejected_malformed"),
            },
            KIND_DIRECT => match codec::decode(payload) {
                Ok(direct) => self.direct(now, sender, direct),
                Err(_) => self.count("rejected_malformed"),
            },
            _ => self.count("rejected_kind"),
        }
    }

    pub(super) fn send_swim(&mut self, to: Identity, packet: &[u8]) {
        let buddy = self
            .table
            .get(to.id)
            .and_then(|entry| entry.suspicion.as_ref())
            .filter(|suspicion| suspicion.renewal == to.renewal && self.config.detection.lifeguard)
            .map(|suspicion| suspicion.incarnation.to_be_bytes());
        let data = match &buddy {
            Some(incarnation) => {
                self.count("suspicions_told");
                self.sealer
                    .seal(&self.keys, KIND_SWIM_BUDDY, &[incarnation, packet])
            }
            None => self.sealer.seal(&self.keys, KIND_SWIM, &[packet]),
        };
        self.send_datagram(to.addr, data);
    }

    pub(super) fn send_datagram(&mut self, to: SocketAddr, data: Vec<u8>) {
        self.count("datagrams_sent");
        self.add("datagram_bytes_sent", data.len());
        self.outputs.push_back(Output::Datagram { to, data });
    }

    // Counted always, told at most once in [`REJECTION_PAUSE`].
    pub(super) fn reject(&mut self, now: Time, kind: &'static str, text: &str) {
        self.count(kind);
        let last = self.ring.last_rejection;
        if last.is_none_or(|last| now >= last + REJECTION_PAUSE) {
            self.ring.last_rejection = Some(now);
            self.warn("packet_rejected", text.to_owned());
        }
    }
}
