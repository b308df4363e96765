//! What the core asks of its host, in the order in which it is to be done.
//!
//! The order is part of the promise: what follows an [`Output::Persist`] may only be
//! carried out once that has reached the disk.

use std::net::SocketAddr;

use crate::{
    event::Event,
    input::{RequestId, StreamId, Token},
    store::Durable,
    wire::keyring::{KeyId, Keyring},
};

/// Something that the host shall do.
#[derive(Debug)]
pub enum Output {
    /// Send a sealed datagram. It may be lost; nobody needs to be told.
    Datagram {
        /// To whom.
        to: SocketAddr,
        /// The bytes to send, as they are.
        data: Vec<u8>,
    },
    /// Open a peer stream; answered by `StreamOpened` or `DialFailed` within
    /// [`crate::config::Timing::dial_timeout`].
    Dial {
        /// Comes back with the answer.
        dial: Token,
        /// To whom.
        to: SocketAddr,
    },
    /// Ask a host's kernel whether anybody listens; answered by `Knocked` within
    /// [`crate::config::Timing::knock_timeout`]. The connection is dropped at once.
    Knock {
        /// Comes back with the answer.
        knock: Token,
        /// Whom to ask.
        to: SocketAddr,
    },
    /// Send a frame over a stream, in order. A stream that is gone by now is not an error:
    /// `StreamClosed` is on its way.
    Frame {
        /// Which stream.
        stream: StreamId,
        /// The frame without its length prefix.
        frame: Vec<u8>,
    },
    /// Close a stream once everything queued on it is sent; answered by `StreamClosed`.
    Close {
        /// Which stream.
        stream: StreamId,
    },
    /// Look up seeds; answered by `Resolved`.
    Resolve {
        /// Each `host:port`.
        seeds: Vec<String>,
    },
    /// Make this durable before anything that follows is carried out.
    Persist(Box<Durable>),
    /// The key ring has changed: streams opened from now on use this one.
    Keys(Box<Keyring>),
    /// Something that people want to know.
    Event(Event),
    /// The answer to a command.
    Reply {
        /// Which command.
        request: RequestId,
        /// What came of it.
        answer: Answer,
    },
    /// The node's work is over: the process ends, after everything before this was done.
    Stop(Stop),
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Done,
    /// Done by all living members, or not by those named.
    Keys {
        /// The key that it was about.
        key: KeyId,
        /// Names of members that did it.
        confirmed: Vec<String>,
        /// Names of members that did not, each with the reason.
        missing: Vec<(String, String)>,
    },
    /// Not done, nothing has changed; the text says why and what would help.
    Refused(String),
}

/// Why a node stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It left, or stopped, and enough others have heard of it.
    Left {
        /// How many members confirmed that they know.
        acknowledged: usize,
    },
    /// It left, but not everything could be done in time; the text says what.
    LeftUncleanly(String),
    /// It may not be a member: exit code 4.
    Refused(Refusal),
}

/// Why a node may not be a member.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No seed accepted our certificate, or we not theirs.
    #[error(
        "wrong key: {address} and this node do not hold the same cluster key. Start it with the key that the \
         cluster uses now (--key-file or KITH_KEY); if the key was changed while this node was away, \
         that is the new one"
    )]
    WrongKey {
        /// Who did not accept it.
        address: SocketAddr,
    },
    /// The same where streams use certificates that do not come from the key: the core does not
    /// know of these, and a host that uses them says this in place of [`Self::WrongKey`].
    #[error(
        "wrong certificate: {address} and this node do not trust each other: {why}. All nodes of a \
         cluster use certificates of the same authority (--tls-cert, --tls-key, --tls-ca), or none of \
         them does"
    )]
    WrongCertificate {
        /// Who did not accept it, or was not accepted.
        address: SocketAddr,
        /// What is wrong; in this text "it" is the node at that address.
        why: String,
    },
    /// A member refused the handshake and said why.
    #[error("{address} refused this node: {reason}")]
    ByPeer {
        /// Who refused.
        address: SocketAddr,
        /// Its words.
        reason: String,
    },
    /// Another living member has the same name, and started earlier.
    #[error(
        "the name {name:?} is taken by {holder} ({holder_id}); this node is at {own}. Give it another --name"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        holder: SocketAddr,
        /// That node's id.
        holder_id: crate::id::NodeId,
        /// Where this node is.
        own: SocketAddr,
    },
    /// Another process runs with the same node id: a copied data directory.
    #[error(
        "another process at {other} runs with this node's id {id}; this one is at {own}. \
         A data directory was copied: give this node its own"
    )]
    IdTaken {
        /// The id.
        id: crate::id::NodeId,
        /// Where the other process is.
        other: SocketAddr,
        /// Where this node is.
        own: SocketAddr,
    },
    /// This node was evicted.
    #[error("this node was evicted from the cluster by {by}")]
    Evicted {
        /// The name of the member that did it.
        by: String,
    },
}
