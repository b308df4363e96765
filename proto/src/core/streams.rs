//! Peer streams: who dials whom, which of two streams stays, and how the lost are found again.
//!
//! Up to [`MESH_LIMIT`] members everybody holds a stream to everybody: the lower id dials, and
//! the other one only if nothing came for a while. In larger clusters each dials a few, chosen
//! by hash. Streams are opened at a bounded rate and are silent while there is nothing to say.

use std::{net::SocketAddr, time::Duration};

use rand::RngExt;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Core, Phase, timers::TimerKind};
use crate::{
    event::Event,
    id::{Life, NodeId},
    input::{DialError, StreamId, Token},
    members::table::Status,
    output::{Output, Refusal, Stop},
    time::Time,
    wire::{
        codec,
        message::{DirectBody, Frame, Hello, Intent},
    },
};

/// Up to so many members everybody holds a stream to everybody.
pub(super) const MESH_LIMIT: usize = 128;
/// Beyond that each member holds streams to so many others, chosen by hash.
const CHOSEN: usize = 8;
/// Streams are opened at most this often.
const MESH_PAUSE: Duration = Duration::from_millis(60);
/// The higher id dials too if the lower one did not for so long; and a dial that failed is
/// tried again after it.
const MESH_PATIENCE: Duration = Duration::from_secs(3);
/// Those who come back within this are reported together.
const HEALING: Duration = Duration::from_millis(1500);
const CHOICE_SEED: u64 = 0x6b69_7468_6d65_7368;

/// Why a dial was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To become a member.
    Join,
    /// The mesh wants a stream to this member.
    Mesh(NodeId),
    /// Somebody who was lost may be there again.
    Lost,
}

/// A dial under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dial {
    address: SocketAddr,
    purpose: Purpose,
}

/// A stream.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    pub(super) remote: SocketAddr,
    /// Why we dialled; `None` if the other side did.
    pub(super) purpose: Option<Purpose>,
    /// Who is there, once the handshake is done.
    pub(super) peer: Option<Life>,
    /// Its end means nothing.
    pub(super) expected_to_end: bool,
}

impl Core {
    pub(super) fn dial(&mut self, address: SocketAddr, purpose: Purpose) {
        let dial = self.token();
        self.count("dials");
        self.dials.insert(dial, Dial { address, purpose });
        self.outputs.push_back(Output::Dial { dial, to: address });
    }

    pub(super) fn stream_opened(
        &mut self,
        now: Time,
        stream: StreamId,
        remote: SocketAddr,
        dial: Option<Token>,
    ) {
        let dial = match dial {
            None => None,
            Some(token) => match self.dials.remove(&token) {
                Some(dial) => Some(dial),
                None => {
                    self.outputs.push_back(Output::Close { stream });
                    return;
                }
            },
        };
        self.streams.insert(
            stream,
            Stream {
                remote: dial.map_or(remote, |dial| dial.address),
                purpose: dial.map(|dial| dial.purpose),
                peer: None,
                expected_to_end: false,
            },
        );
        if let Some(dial) = dial {
            let hello = self.hello(dial.purpose);
            self.send_frame(stream, &Frame::Hello(Box::new(hello)));
            if dial.purpose == Purpose::Join && self.is_member() {
                // Another candidate was faster; this one is a peer like any other.
                self.timers.set_by(TimerKind::Mesh, now + MESH_PAUSE);
            }
        }
    }

    fn hello(&self, purpose: Purpose) -> Hello {
        let intent = match (purpose, self.is_member(), self.config.expect) {
            (_, true, _) => Intent::Peer,
            (Purpose::Join, false, Some(_)) => Intent::Expect(self.expecting()),
            _ => Intent::Join,
        };
        Hello {
            protocol: crate::config::PROTOCOL,
            cluster_name: self.config.cluster.clone(),
            cluster: self.cluster.as_ref().map(|cluster| cluster.id),
            intent,
            identity: self.detector.identity(),
            incarnation: self.detector.incarnation(),
            record: self.own_record(),
        }
    }

    pub(super) fn dial_failed(&mut self, now: Time, dial: Token, error: DialError) {
        let Some(dial) = self.dials.remove(&dial) else {
            return;
        };
        self.count("dials_failed");
        let text = match &error {
            DialError::Refused => "nobody listens there".to_owned(),
            DialError::Silent => "no answer".to_owned(),
            DialError::Untrusted => "does not accept our key, or we not theirs".to_owned(),
            DialError::Broken(text) => format!("broken off: {text}"),
        };
        match dial.purpose {
            Purpose::Join => {
                self.join_attempt_failed(now, dial.address, Some(error), text);
            }
            Purpose::Mesh(id) => {
                self.mesh_failures.insert(id, now);
                self.timers.set_by(TimerKind::Mesh, now + MESH_PATIENCE);
                if error == DialError::Refused {
                    self.start_inquiry(now, id);
                }
            }
            Purpose::Lost => {
                if error == DialError::Untrusted {
                    self.count("lost_untrusted");
                }
            }
        }
    }

    pub(super) fn stream_frame(&mut self, now: Time, stream: StreamId, bytes: &[u8]) {
        self.count("frames_received");
        let Some(known) = self.streams.get(&stream) else {
            return;
        };
        let (remote, peer, purpose) = (known.remote, known.peer, known.purpose);
        let frame: Frame = match codec::decode(bytes) {
            Ok(frame) => frame,
            Err(error) => {
                self.reject(
                    now,
                    "rejected_frame",
                    &format!("a frame from {remote}: {error}"),
                );
                self.close(stream);
                return;
            }
        };
        match (frame, peer) {
            (Frame::Hello(hello), None) if purpose.is_none() => {
                self.hear_hello(now, stream, *hello);
            }
            (Frame::Welcome(welcome), None) if purpose.is_some() => {
                self.hear_welcome(now, stream, *welcome);
            }
            (Frame::NotReady(expecting), None) => {
                self.hear_not_ready(now, stream, remote, &expecting);
            }
            (Frame::Refused(text), None) => self.hear_refused(now, stream, remote, text),
            (frame, Some(peer)) => self.peer_frame(now, stream, peer, frame),
            _ => {
                self.count("rejected_frame");
                self.close(stream);
            }
        }
    }

    fn peer_frame(&mut self, now: Time, stream: StreamId, peer: Life, frame: Frame) {
        if let Some(entry) = self.table.get_mut(peer.id)
            && entry.life() == peer
        {
            entry.last_contact = Some(now);
        }
        match frame {
            Frame::Direct(body) => self.direct_body(now, peer, body, Some(stream)),
            Frame::SyncDigest(digest) => self.hear_digest(stream, digest),
            Frame::SyncSummary(summary) => self.hear_summary(stream, &summary),
            Frame::SyncDelta { entries, want } => self.hear_delta(now, stream, entries, &want),
            Frame::Newcomers(entries) => self.merge(now, entries),
            Frame::Farewell(record) => self.hear_farewell(now, stream, *record),
            Frame::FarewellHeard => self.farewell_heard(now, peer.id),
            Frame::KeyRequest { operation, action } => {
                let outcome = self.change_key(action);
                self.send_frame(stream, &Frame::KeyReply { operation, outcome });
            }
            Frame::KeyReply { operation, outcome } => {
                self.key_replied(now, peer.id, operation, outcome);
            }
            Frame::Superfluous => {
                if let Some(known) = self.streams.get_mut(&stream) {
                    known.expected_to_end = true;
                }
            }
            Frame::Hello(_) | Frame::Welcome(_) | Frame::NotReady(_) | Frame::Refused(_) => {
                self.count("rejected_frame");
                self.close(stream);
            }
        }
    }

    /// The handshake is done: that life is at the other end.
    pub(super) fn register(&mut self, now: Time, stream: StreamId, life: Life) {
        let own = self.table.own_id();
        let Some(known) = self.streams.get_mut(&stream) else {
            return;
        };
        known.peer = Some(life);
        let dialled_by_us = known.purpose.is_some();
        self.mesh_failures.remove(&life.id);
        let Some(entry) = self.table.get_mut(life.id) else {
            return;
        };
        entry.last_contact = Some(now);
        let present = entry.stream.filter(|id| *id != stream);
        entry.stream = Some(stream);
        self.greet(now, life.id);
        let Some(present) = present else { return };
        let Some(other) = self.streams.get(&present) else {
            return;
        };
        // Two streams: the one that the lower id dialled stays, which both sides know.
        let other_by_us = other.purpose.is_some();
        let lower_is_us = own < life.id;
        let keep_present =
            other.peer == Some(life) && other_by_us != dialled_by_us && other_by_us == lower_is_us;
        let superfluous = if keep_present { stream } else { present };
        if let Some(entry) = self.table.get_mut(life.id)
            && keep_present
        {
            entry.stream = Some(present);
        }
        self.send_frame(superfluous, &Frame::Superfluous);
        self.close(superfluous);
    }

    pub(super) fn close(&mut self, stream: StreamId) {
        if let Some(known) = self.streams.get_mut(&stream) {
            known.expected_to_end = true;
            self.outputs.push_back(Output::Close { stream });
        }
    }

    pub(super) fn stream_closed(&mut self, now: Time, stream: StreamId) {
        let Some(closed) = self.streams.remove(&stream) else {
            return;
        };
        let Some(life) = closed.peer else {
            if closed.purpose == Some(Purpose::Join) && !closed.expected_to_end {
                let text = "ended before it answered".to_owned();
                let error = DialError::Broken(text.clone());
                self.join_attempt_failed(now, closed.remote, Some(error), text);
            }
            return;
        };
        self.farewell_heard(now, life.id);
        let Some(entry) = self.table.get_mut(life.id) else {
            return;
        };
        if entry.stream != Some(stream) {
            return;
        }
        entry.stream = None;
        let lives = entry.life() == life && entry.is_living();
        self.timers.set_by(TimerKind::Mesh, now + MESH_PAUSE);
        if lives && !closed.expected_to_end && self.is_member() {
            self.count("streams_broken");
            self.start_inquiry(now, life.id);
        }
    }

    /// Opens one stream that is missing, and comes again while more are.
    pub(super) fn mesh(&mut self, now: Time) {
        if !matches!(self.phase, Phase::Active) {
            return;
        }
        let own = self.table.own_id();
        let mut wanted = Vec::new();
        let mut later = false;
        let everybody = self.living() <= MESH_LIMIT;
        let chosen = if everybody {
            Vec::new()
        } else {
            self.chosen_peers()
        };
        for entry in self.table.living_others() {
            let id = entry.identity.id;
            if entry.stream.is_some() || (!everybody && !chosen.contains(&id)) {
                continue;
            }
            let patient = entry.since + MESH_PATIENCE;
            let failed = self.mesh_failures.get(&id).map(|at| *at + MESH_PATIENCE);
            let turn = own < id || now >= patient;
            let dialling = self
                .dials
                .values()
                .any(|dial| dial.purpose == Purpose::Mesh(id))
                || self.streams.values().any(|stream| {
                    stream.peer.is_none() && stream.purpose == Some(Purpose::Mesh(id))
                });
            if turn && !dialling && failed.is_none_or(|at| now >= at) {
                wanted.push((id, entry.identity.addr));
            } else {
                later = true;
            }
        }
        if !wanted.is_empty() {
            let (id, address) = wanted[self.rng.random_range(0..wanted.len())];
            self.dial(address, Purpose::Mesh(id));
        }
        if wanted.len() > 1 {
            self.timers.set(TimerKind::Mesh, now + MESH_PAUSE);
        } else if later || wanted.len() == 1 {
            self.timers
                .set(TimerKind::Mesh, now + Duration::from_secs(1));
        }
    }

    fn chosen_peers(&self) -> Vec<NodeId> {
        let own = self.table.own_id();
        let mut ranked: Vec<(u64, NodeId)> = self
            .table
            .living_others()
            .map(|entry| {
                let id = entry.identity.id;
                // The same for both ends, so that a pair chooses each other.
                (
                    xxh3_64_with_seed(&(own.0 ^ id.0).to_be_bytes(), CHOICE_SEED),
                    id,
                )
            })
            .collect();
        ranked.sort_unstable();
        ranked.into_iter().take(CHOSEN).map(|(_, id)| id).collect()
    }

    /// Dials one of those who were lost, for ever, at a small rate.
    pub(super) fn redial(&mut self, now: Time) {
        if !matches!(self.phase, Phase::Active) {
            return;
        }
        let timing = &self.config.timing;
        let mut youngest = timing.redial_max * 10;
        let mut lost: Vec<SocketAddr> = Vec::new();
        for entry in self.table.others() {
            if entry.status() == Status::Failed {
                youngest = youngest.min(now.saturating_since(entry.since));
                lost.push(entry.identity.addr);
            }
        }
        let here: Vec<SocketAddr> = self
            .table
            .others()
            .filter(|entry| entry.swim.is_some())
            .map(|entry| entry.identity.addr)
            .collect();
        let alone = self.living() == 1;
        let known = self.restored.peers.iter().filter(|_| alone);
        for address in self.seeds.iter().chain(known) {
            if *address != self.config.advertise
                && !here.contains(address)
                && !lost.contains(address)
            {
                lost.push(*address);
            }
        }
        let pause = (youngest / 10).clamp(timing.redial, timing.redial_max);
        if !lost.is_empty() {
            self.redial_cursor = (self.redial_cursor + 1) % lost.len();
            let address = lost[self.redial_cursor];
            let busy = self.dials.values().any(|dial| dial.address == address);
            if !busy {
                self.dial(address, Purpose::Lost);
            }
        }
        let pause = self.jitter(pause);
        self.timers.set(TimerKind::Redial, now + pause);
    }

    pub(super) fn heal_report(&mut self) {
        self.healing = false;
        let regained = std::mem::take(&mut self.regained);
        if !regained.is_empty() {
            let members = regained.iter().map(|id| self.table.name_of(*id)).collect();
            self.emit(Event::ClusterHealed { members });
        }
    }

    /// Two sides have met: those who come back during the next moments are reported together.
    pub(super) fn healing(&mut self, now: Time) {
        self.healing = true;
        self.timers.set(TimerKind::HealReport, now + HEALING);
    }

    fn hear_not_ready(
        &mut self,
        now: Time,
        stream: StreamId,
        remote: SocketAddr,
        expecting: &crate::wire::message::Expecting,
    ) {
        self.close(stream);
        if let Some((from, _)) = expecting.known.last() {
            let from = *from;
            self.heard_expecting(now, from, expecting);
        }
        self.join_attempt_failed(now, remote, None, "is no member itself yet".to_owned());
    }

    fn hear_refused(&mut self, now: Time, stream: StreamId, remote: SocketAddr, text: String) {
        self.close(stream);
        if matches!(self.phase, Phase::Joining(_)) {
            self.stop(Stop::Refused(Refusal::ByPeer {
                address: remote,
                reason: text,
            }));
            return;
        }
        self.reject(
            now,
            "refused_by_peer",
            &format!("{remote} refused this node: {text}"),
        );
    }

    pub(super) fn probe_is_late(&mut self, target: crate::swim::identity::Identity) {
        if !self.config.detection.evidence {
            return;
        }
        if let Some(stream) = self.table.get(target.id).and_then(|entry| entry.stream) {
            let body = DirectBody::Ping {
                to: target.life(),
                nonce: 0,
                suspected: None,
            };
            self.send_frame(stream, &Frame::Direct(body));
        }
    }
}
