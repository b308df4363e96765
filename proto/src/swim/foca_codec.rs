//! foca's packets as bytes, and what the codec sees on the way.
//!
//! The codec sees every header and every member that comes in. It notes the members, so that
//! the detector knows about whom there may be news without scanning foca's list after each
//! packet.
//!
//! A header names its receiver only to make sure that the right life is meant: the id and a
//! 32-bit check of the rest say that in 12 bytes instead of 26.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, BufMut};
use foca::{BroadcastHandler, Codec, Header, Invalidates, Member, Message, State};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{
    id::NodeId,
    swim::identity::Identity,
    wire::{
        codec::{self, DecodeError},
        message::News,
    },
};

const CHECK_SEED: u64 = 0x6b69_7468_6473_7431;

/// What codec and broadcast handler hand over to the detector. foca owns both and gives no
/// access to them, so they share this; it is never contended.
#[derive(Debug)]
pub(crate) struct Desk {
    /// This node's identity now; needed to recognise ourselves as a receiver.
    pub(crate) own: Identity,
    /// Members seen in the packet that is being handled.
    pub(crate) seen: Vec<Member<Identity>>,
    /// News seen in it, in order.
    pub(crate) news: Vec<News>,
    /// Custom broadcasts that were no news of ours at all.
    pub(crate) malformed: u64,
    /// The next own record takes the place of all accusations and verdicts that wait.
    pub(crate) retract: bool,
}

/// Shared access to the desk.
#[derive(Clone, Debug)]
pub(crate) struct SharedDesk(Arc<Mutex<Desk>>);

impl SharedDesk {
    pub(crate) fn new(own: Identity) -> Self {
        Self(Arc::new(Mutex::new(Desk {
            own,
            seen: Vec::new(),
            news: Vec::new(),
            malformed: 0,
            retract: false,
        })))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Desk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Serialize, Deserialize)]
struct WireHeader {
    src: Identity,
    src_incarnation: u16,
    dst: NodeId,
    dst_check: [u8; 4],
    message: WireMessage,
}

#[derive(Debug, Serialize, Deserialize)]
enum WireMessage {
    Ping(u8),
    Ack(u8),
    PingReq(Identity, u8),
    IndirectPing(Identity, u8),
    IndirectAck(Identity, u8),
    ForwardedAck(Identity, u8),
    Announce,
    Feed,
    Gossip,
    Broadcast,
    TurnUndead,
}

#[derive(Serialize, Deserialize)]
struct WireMember {
    id: Identity,
    incarnation: u16,
    state: u8,
}

/// foca's codec.
pub(crate) struct FocaCodec {
    pub(crate) desk: SharedDesk,
}

fn check(identity: &Identity) -> [u8; 4] {
    let bytes = codec::encode(identity);
    let hash = xxh3_64_with_seed(&bytes, CHECK_SEED).to_be_bytes();
    [hash[0], hash[1], hash[2], hash[3]]
}

/// Room was missing in the packet; foca leaves the rest for the next one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FocaCodecError {
    #[error("no room left in the packet")]
    NoRoom,
    #[error("{0}")]
    Decode(#[from] DecodeError),
    #[error("there is no member state {0}")]
    State(u8),
}

fn put(value: &impl Serialize, mut buf: impl BufMut) -> Result<(), FocaCodecError> {
    // All or nothing: foca forbids a half-written item.
    let bytes = codec::encode(value);
    if buf.remaining_mut() < bytes.len() {
        return Err(FocaCodecError::NoRoom);
    }
    buf.put_slice(&bytes);
    Ok(())
}

fn take<T: serde::de::DeserializeOwned>(mut buf: impl Buf) -> Result<T, FocaCodecError> {
    let (value, used) = codec::decode_prefix(buf.chunk())?;
    buf.advance(used);
    Ok(value)
}

/// The header of a packet, without changing anything: who claims to send it.
pub(crate) fn peek_source(packet: &[u8]) -> Result<Identity, DecodeError> {
    codec::decode_prefix::<Identity>(packet).map(|(identity, _)| identity)
}

/// A packet's header and size in words, for whoever reads traces.
pub fn describe(packet: &[u8]) -> String {
    match codec::decode_prefix::<WireHeader>(packet) {
        Ok((header, used)) => {
            let rest = packet.len() - used;
            let incarnation = header.src_incarnation;
            format!(
                "{:?} at {incarnation}, {rest} bytes of news",
                header.message
            )
        }
        Err(error) => format!("{} bytes: {error}", packet.len()),
    }
}

impl Codec<Identity> for FocaCodec {
    type Error = FocaCodecError;

    fn encode_header(
        &mut self,
        header: &Header<Identity>,
        buf: impl BufMut,
    ) -> Result<(), FocaCodecError> {
        let message = match header.message {
            Message::Ping(n) => WireMessage::Ping(n),
            Message::Ack(n) => WireMessage::Ack(n),
            Message::PingReq {
                target,
                probe_number,
            } => WireMessage::PingReq(target, probe_number),
            Message::IndirectPing {
                origin,
                probe_number,
            } => WireMessage::IndirectPing(origin, probe_number),
            Message::IndirectAck {
                target,
                probe_number,
            } => WireMessage::IndirectAck(target, probe_number),
            Message::ForwardedAck {
                origin,
                probe_number,
            } => WireMessage::ForwardedAck(origin, probe_number),
            Message::Announce => WireMessage::Announce,
            Message::Feed => WireMessage::Feed,
            Message::Gossip => WireMessage::Gossip,
            Message::Broadcast => WireMessage::Broadcast,
            Message::TurnUndead => WireMessage::TurnUndead,
        };
        let header = WireHeader {
            src: header.src,
            src_incarnation: header.src_incarnation,
            dst: header.dst.id,
            dst_check: check(&header.dst),
            message,
        };
        put(&header, buf)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<Identity>, FocaCodecError> {
        let header: WireHeader = take(buf)?;
        let own = self.desk.lock().own;
        let dst = if header.dst == own.id && header.dst_check == check(&own) {
            own
        } else {
            // Somebody else, or another life of ours: never equal to our identity, because a
            // generation is never 0. foca drops it.
            Identity {
                id: header.dst,
                generation: 0,
                renewal: 0,
                addr: own.addr,
            }
        };
        let message = match header.message {
            WireMessage::Ping(n) => Message::Ping(n),
            WireMessage::Ack(n) => Message::Ack(n),
            WireMessage::PingReq(target, probe_number) => Message::PingReq {
                target,
                probe_number,
            },
            WireMessage::IndirectPing(origin, probe_number) => Message::IndirectPing {
                origin,
                probe_number,
            },
            WireMessage::IndirectAck(target, probe_number) => Message::IndirectAck {
                target,
                probe_number,
            },
            WireMessage::ForwardedAck(origin, probe_number) => Message::ForwardedAck {
                origin,
                probe_number,
            },
            WireMessage::Announce => Message::Announce,
            WireMessage::Feed => Message::Feed,
            WireMessage::Gossip => Message::Gossip,
            WireMessage::Broadcast => Message::Broadcast,
            WireMessage::TurnUndead => Message::TurnUndead,
        };
        Ok(Header {
            src: header.src,
            src_incarnation: header.src_incarnation,
            dst,
            message,
        })
    }

    fn encode_member(
        &mut self,
        member: &Member<Identity>,
        buf: impl BufMut,
    ) -> Result<(), FocaCodecError> {
        let state = match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        };
        let member = WireMember {
            id: *member.id(),
            incarnation: member.incarnation(),
            state,
        };
        put(&member, buf)
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<Member<Identity>, FocaCodecError> {
        let member: WireMember = take(buf)?;
        let state = match member.state {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Down,
            other => return Err(FocaCodecError::State(other)),
        };
        let own = self.desk.lock().own;
        let nothing_new = Ok(Member::new(own, 0, State::Alive));
        let member = if member.id.id == own.id {
            if (member.id.generation, member.id.addr) != (own.generation, own.addr) {
                // foca would declare it down, and be declared down by it, for ever. Who keeps the id
                // is decided by records (see `core::duplicates`).
                return nothing_new;
            }
            let state = match state {
                // Whoever really has us down says so itself (`TurnUndead`, `Disowned`).
                State::Down => State::Suspect,
                other => other,
            };
            Member::new(member.id, member.incarnation, state)
        } else {
            if state != State::Alive {
                // Suspicions and verdicts travel as news, with who says so and why; a word without an
                // author would be believed, and passed on, whoever began it.
                return nothing_new;
            }
            Member::new(member.id, member.incarnation, state)
        };
        self.desk.lock().seen.push(member.clone());
        Ok(member)
    }
}

/// Which news takes the place of which other, while it waits to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NewsKey {
    Record(NodeId),
    /// The record of one who was away: what it was about to say of others is out of date.
    RecordOfReturned(NodeId),
    Accusation {
        target: NodeId,
        accuser: NodeId,
    },
    Verdict(NodeId),
}

impl NewsKey {
    fn of(news: &News) -> Self {
        match news {
            News::Record(record) => Self::Record(record.id()),
            News::Accusation(accusation) => Self::Accusation {
                target: accusation.target.id,
                accuser: accusation.accuser,
            },
            News::Verdict(verdict) => Self::Verdict(verdict.target.id),
        }
    }
}

impl Invalidates for NewsKey {
    fn invalidates(&self, other: &Self) -> bool {
        // A verdict makes the accusations that led to it superfluous.
        match (self, other) {
            (Self::Verdict(id), Self::Accusation { target, .. }) => id == target,
            (Self::RecordOfReturned(_), Self::Accusation { .. } | Self::Verdict(_)) => true,
            (
                Self::Record(id) | Self::RecordOfReturned(id),
                Self::Record(other) | Self::RecordOfReturned(other),
            ) => id == other,
            _ => self == other,
        }
    }
}

/// Takes news out of packets. Whether it is new, and shall travel on, is not decided here:
/// the core judges it and hands what is new back to foca, as if it were its own.
pub(crate) struct NewsDesk {
    pub(crate) desk: SharedDesk,
}

impl BroadcastHandler<Identity> for NewsDesk {
    type Key = NewsKey;
    type Error = DecodeError;

    fn receive_item(
        &mut self,
        data: &[u8],
        sender: Option<&Identity>,
    ) -> Result<Option<NewsKey>, DecodeError> {
        let news: News = match codec::decode(data) {
            Ok(news) => news,
            Err(error) => {
                self.desk.lock().malformed += 1;
                return Err(error);
            }
        };
        if sender.is_none() {
            let mut desk = self.desk.lock();
            if let News::Record(record) = &news
                && record.id() == desk.own.id
                && std::mem::take(&mut desk.retract)
            {
                return Ok(Some(NewsKey::RecordOfReturned(record.id())));
            }
            return Ok(Some(NewsKey::of(&news)));
        }
        self.desk.lock().news.push(news);
        Ok(None)
    }
}
