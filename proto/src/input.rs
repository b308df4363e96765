//! What a host tells the core. See [`crate::core::Core::handle`].
//!
//! A host feeds **everything that has arrived** before it feeds [`Input::Tick`]: a process
//! that was paused finds the answers it waited for in its sockets, and must not accuse
//! anybody before it has read them.

use std::{collections::BTreeMap, net::SocketAddr};

use crate::wire::keyring::{Key, KeyId};

/// The host's number for a peer stream. Never used twice in one life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// The core's number for something that it asked the host to do and will hear of: a dial, a
/// knock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// The host's number for a command that wants an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Something happened outside.
#[derive(Debug)]
pub enum Input {
    /// Time has passed: do what is due.
    Tick,
    /// A datagram arrived on the gossip socket, still sealed.
    Datagram {
        /// Where it came from.
        from: SocketAddr,
        /// The bytes as they came, at most the datagram limit.
        data: Vec<u8>,
    },
    /// A peer stream is open: TLS is done, frames may flow both ways.
    StreamOpened {
        /// Its number from now on.
        stream: StreamId,
        /// The other end.
        remote: SocketAddr,
        /// The dial that this answers; `None` if the other side dialled.
        dial: Option<Token>,
    },
    /// A whole frame arrived on a peer stream.
    StreamFrame {
        /// Which stream.
        stream: StreamId,
        /// The frame without its length prefix, at most [`crate::wire::MAX_FRAME`] bytes.
        frame: Vec<u8>,
    },
    /// A peer stream has ended, for whatever reason, also after [`crate::output::Output::Close`].
    StreamClosed {
        /// Which stream.
        stream: StreamId,
    },
    /// A dial did not lead to a stream.
    DialFailed {
        /// Which dial.
        dial: Token,
        /// Why.
        error: DialError,
    },
    /// A knock was answered, or was not within the time given.
    Knocked {
        /// Which knock.
        knock: Token,
        /// What the other host's kernel said.
        answer: Knock,
    },
    /// Seeds were looked up.
    Resolved {
        /// Each seed with all its addresses, or with what went wrong.
        seeds: Vec<(String, Result<Vec<SocketAddr>, String>)>,
    },
    /// An operator or the embedding program wants something.
    Command {
        /// Comes back in [`crate::output::Output::Reply`].
        request: RequestId,
        /// What is wanted.
        command: Command,
    },
}

/// Why a dial did not lead to a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialError {
    /// The host answered that nobody listens at that address.
    Refused,
    /// Nothing was heard within the dial timeout, or the network says that it is unreachable.
    Silent,
    /// The other side does not hold our key, or we not theirs: TLS refused a certificate.
    Untrusted,
    /// The connection was accepted but broke, or was not TLS.
    Broken(String),
}

/// What a host's kernel says when a connection to it is tried (nothing is sent over it).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Knock {
    /// Connection refused: the host lives, and nobody listens at that address.
    Refused,
    /// Accepted: the kernel lives, and the process holds its listening socket.
    Accepted,
    /// No answer within the knock timeout.
    Silent,
}

/// What operators and embedding programs can ask for.
#[derive(Clone, Debug)]
pub enum Command {
    /// Hand over what is owned and go for good (`returning: false`), or stop for now.
    Leave {
        /// True if the node will be back (SIGTERM): others wait before they make new copies.
        returning: bool,
    },
    /// Make it known that this node is about to leave: others take its partitions over while it still
    /// serves them. [`Command::Leave`] follows.
    Depart {
        /// As there.
        returning: bool,
    },
    /// Remove a member that will not come back, or a live one that must go.
    Evict {
        /// Its name, or its id as 16 hexadecimal digits.
        member: String,
    },
    /// Change what may change while the node runs.
    Reload {
        /// New tags, if they change.
        tags: Option<BTreeMap<String, String>>,
        /// New weight, if it changes.
        weight: Option<u32>,
    },
    /// Phase one of a key rotation: every living member gets the key, nobody uses it yet.
    KeyAdd {
        /// The new key.
        key: Key,
    },
    /// Phase two: every living member seals with it. Refused unless all of them hold it.
    KeyUse {
        /// A key that was added before.
        key: KeyId,
    },
    /// Every living member forgets a key. Refused while any of them seals with it.
    KeyRemove {
        /// Which.
        key: KeyId,
    },
}
