//! Peer streams: dialled, opened, closed; which of two stays; what comes over them.
//!
//! Which streams are held is decided in `mesh`. They are silent while there is nothing to say.

use std::{net::SocketAddr, time::Duration};

use super::{
    Core, Phase,
    mesh::{MESH_PATIENCE, MESH_PAUSE},
    timers::TimerKind,
};
use crate::{
    config::{PROTOCOL, PROTOCOL_NEXT},
    event::Transport,
    id::{Life, NodeId},
    input::{DialError, StreamId, Token},
    members::table::Entry,
    output::{Output, Refusal, Stop},
    time::Time,
    wire::{
        codec::{self, DecodeError},
        message::{Frame, Hello, Intent},
    },
};

/// An open stream over which the handshake is not done by then is given up: the other host may
/// have been cut off in the middle of it, and its answer, if it ever comes, is a matter of minutes.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Why a dial was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To become a member.
    Join,
    /// The mesh wants a stream to this member.
    Mesh(NodeId),
    /// A change of keys has to reach this member.
    Keys(NodeId),
    /// Somebody who was lost may be there again.
    Lost,
}

/// A dial under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dial {
    pub(super) address: SocketAddr,
    pub(super) purpose: Purpose,
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
    /// When it was opened.
    pub(super) opened: Time,
    /// The version of the protocol that both ends speak: the oldest there is until the
    /// handshake is done.
    pub(super) version: u16,
    /// Frames sent and received since then.
    pub(super) frames: (u32, u32),
}

impl Stream {
    /// Gives a frame what the version asks for that both ends agreed upon.
    pub(super) fn complete(&mut self, frame: &mut Vec<u8>) {
        if self.version >= PROTOCOL_NEXT {
            frame.extend_from_slice(&self.frames.0.to_be_bytes());
            self.frames.0 = self.frames.0.wrapping_add(1);
        }
    }

    fn read(&mut self, bytes: &[u8]) -> Result<Frame, DecodeError> {
        if self.version < PROTOCOL_NEXT {
            return codec::decode(bytes);
        }
        match bytes.split_last_chunk() {
            Some((frame, number)) if *number == self.frames.1.to_be_bytes() => {
                self.frames.1 = self.frames.1.wrapping_add(1);
                codec::decode(frame)
            }
            _ => Err(DecodeError::Malformed),
        }
    }
}

impl Core {
    /// From now on frames are in the newest form that both ends know.
    pub(super) fn agree_on_version(&mut self, stream: StreamId, theirs: (u16, u16)) {
        if let Some(known) = self.streams.get_mut(&stream) {
            known.version = self.config.protocol.1.min(theirs.1);
        }
    }

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
                opened: now,
                version: PROTOCOL.0,
                frames: (0, 0),
            },
        );
        self.timers.set_by(TimerKind::Handshake, now + HANDSHAKE);
        if let Some(dial) = dial {
            let hello = self.hello(dial.purpose);
            self.send_frame(stream, &Frame::Hello(Box::new(hello)));
            if dial.purpose == Purpose::Join && self.is_member() {
                // Another candidate was faster; this one is a peer like any other.
                self.timers.set_by(TimerKind::Mesh, now + MESH_PAUSE);
            }
        }
    }

    /// Gives up streams over which nobody said who is there.
    pub(super) fn end_handshakes(&mut self, now: Time) {
        let waiting = self
            .streams
            .iter()
            .filter(|(_, known)| known.peer.is_none());
        let (late, in_time): (Vec<_>, Vec<_>) = waiting
            .map(|(stream, known)| (known.opened + HANDSHAKE, *stream))
            .partition(|(until, _)| *until <= now);
        if let Some((next, _)) = in_time.iter().min() {
            self.timers.set(TimerKind::Handshake, *next);
        }
        for (_, stream) in late {
            self.count("handshakes_given_up");
            self.outputs.push_back(Output::Close { stream });
            self.stream_closed(now, stream);
        }
    }

    fn hello(&self, purpose: Purpose) -> Hello {
        let intent = match (purpose, self.is_member(), self.config.expect) {
            (_, true, _) => Intent::Peer,
            (Purpose::Join, false, Some(_)) => Intent::Expect(self.expecting()),
            _ => Intent::Join,
        };
        Hello {
            protocol: self.config.protocol,
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
            // A change of keys may have waited for a stream of the mesh, too.
            Purpose::Mesh(id) | Purpose::Keys(id) => {
                self.no_stream_to(now, id, &error);
                self.timers.set_by(TimerKind::Mesh, now + MESH_PATIENCE);
                if error == DialError::Refused {
                    self.start_inquiry(now, id);
                }
                let reason = format!("no stream to it could be opened: {text}");
                self.no_stream_for_keys(now, id, &reason);
            }
            Purpose::Lost => {
                if error == DialError::Untrusted {
                    self.count("lost_untrusted");
                }
                let lost = self
                    .table
                    .others()
                    .find(|entry| entry.identity.addr == dial.address)
                    .map(|entry| entry.identity.id);
                if let Some(id) = lost {
                    self.no_stream_to(now, id, &error);
                }
            }
        }
    }

    pub(super) fn stream_frame(&mut self, now: Time, stream: StreamId, bytes: &[u8]) {
        self.count("frames_received");
        let Some(known) = self.streams.get_mut(&stream) else {
            return;
        };
        let (remote, peer, purpose) = (known.remote, known.peer, known.purpose);
        let frame: Frame = match known.read(bytes) {
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
            (Frame::NotReady(expecting), None) if purpose.is_some() => {
                self.hear_not_ready(now, stream, remote, &expecting);
            }
            (Frame::Taken(record), None) if purpose.is_some() => {
                self.hear_taken(now, stream, &record);
            }
            (Frame::Refused(text), None) if purpose.is_some() => {
                self.hear_refused(now, stream, remote, text);
            }
            (frame, Some(peer)) => self.peer_frame(now, stream, peer, frame),
            _ => {
                self.count("rejected_frame");
                self.close(stream);
            }
        }
    }

    fn peer_frame(&mut self, now: Time, stream: StreamId, peer: Life, frame: Frame) {
        if self.table.get(peer.id).map(Entry::life) == Some(peer) {
            self.table.heard(peer.id, now);
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
            Frame::Hello(_)
            | Frame::Welcome(_)
            | Frame::NotReady(_)
            | Frame::Refused(_)
            | Frame::Taken(_) => {
                self.count("rejected_frame");
                self.close(stream);
            }
        }
    }

    /// The handshake is done: that life is at the other end.
    pub(super) fn register(&mut self, now: Time, stream: StreamId, life: Life) {
        let Some(known) = self.streams.get_mut(&stream) else {
            return;
        };
        known.peer = Some(life);
        let dialled_by_us = known.purpose.is_some();
        self.dial_failures.remove(&life.id);
        self.unblocked(now, life.id, Transport::Tcp);
        let Some(entry) = self.table.get_mut(life.id) else {
            return;
        };
        entry.last_contact = Some(now);
        let present = entry.stream.filter(|id| *id != stream);
        entry.stream = Some(stream);
        self.measure_way(now, life.id);
        if let Some(present) = present {
            self.one_of_two_stays(now, stream, present, life, dialled_by_us);
        }
        self.key_stream_opened(now, stream, life.id);
    }

    fn one_of_two_stays(
        &mut self,
        now: Time,
        stream: StreamId,
        present: StreamId,
        life: Life,
        dialled_by_us: bool,
    ) {
        let Some(other) = self.streams.get(&present) else {
            return;
        };
        // Both dialled at the same time: the one that the lower id dialled, which both sides know.
        // But nobody dials who has a stream already: one that has been there for a while is
        // open at this end only, and the news of its end may come after minutes, or never.
        let at_once = now < other.opened + MESH_PATIENCE;
        let other_by_us = other.purpose.is_some();
        let lower_is_us = self.table.own_id() < life.id;
        let keep_present = at_once
            && other.peer == Some(life)
            && other_by_us != dialled_by_us
            && other_by_us == lower_is_us;
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
        self.stream_has_ended(now, stream);
        self.key_stream_closed(now, stream);
    }

    fn stream_has_ended(&mut self, now: Time, stream: StreamId) {
        let Some(closed) = self.streams.remove(&stream) else {
            return;
        };
        let Some(life) = closed.peer else {
            if let Some(Purpose::Mesh(id) | Purpose::Keys(id)) = closed.purpose {
                self.no_stream_for_keys(now, id, "the stream to it ended before it answered");
            }
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
        if let Some(inquiry) = &mut entry.inquiry {
            inquiry.stream_lost(now);
            self.timers.set(TimerKind::Inquiry(life.id), now);
        }
        let lives = entry.life() == life && entry.is_living();
        self.timers.set_by(TimerKind::Mesh, now + MESH_PAUSE);
        if lives && !closed.expected_to_end && self.is_member() {
            self.count("streams_broken");
            self.start_inquiry(now, life.id);
            let entry = self.table.get_mut(life.id);
            if let Some(inquiry) = entry.and_then(|entry| entry.inquiry.as_mut()) {
                inquiry.stream_broke(now);
            }
        }
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
        let purpose = self.streams.get(&stream).and_then(|known| known.purpose);
        if let Some(Purpose::Mesh(id) | Purpose::Keys(id)) = purpose {
            self.no_stream_for_keys(now, id, &format!("it refused this node: {text}"));
        }
        self.reject(
            now,
            "refused_by_peer",
            &format!("{remote} refused this node: {text}"),
        );
    }
}
