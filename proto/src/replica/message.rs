//! What partition cores say to each other over peer streams.
//!
//! Streams keep order, but may break: every exchange is repeated by whoever waits for its
//! answer, and every message can come twice.
//!
//! ```text
//!   decide    P ->[Prepare] M ->[Promise | Rejected] P
//!             P ->[Accept] M ->[Accepted | Rejected] P
//!             P ->[Install] M ->[Installed] P            also to the new owner, from whoever installs
//!   write     O ->[Write] B ->[Written] O
//!   equalise  I ->[Compare] R ->[Equal | Differ | Rejected] I
//!             I ->[List] R ->[Listed] I
//!             I ->[Fetch] R ->[Entries] I,   I ->[Entries] R ->[Stored] I
//!   fill      O ->[Fill] L ->[Filling | Rejected] O, then equalise; or O ->[Abandon] L
//!   audit     O ->[Roots] M ->[Unequal] O                 all copies of a peer at once; silence if equal
//!   clock     A ->[Clock] *                               when a stream opens, and now and then
//!   purge     O ->[Purge] M                               tombstones that all have had for long
//!   forget    F ->[MayForget] O ->[Forget] F
//!   join      L ->[Closed] K                              a closed branch, to the one that keeps
//!   route     O ->[Routes] *,   A ->[RoutesDigest] B ->[Routes] A
//!   ask       A ->[Ask] O ->[Answer | NotOwner] A
//! ```

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    chain::{Ballot, ConfigId, Configuration, Rejection},
    digest::Group,
};
use crate::{
    id::{NodeId, PartitionId},
    kv::{
        entry::Entry,
        request::{Request, RequestError, Response},
        version::{Hlc, Version, Wall},
    },
};

/// The first byte of a frame that is for a partition core; no other frame begins with it.
pub const FRAME_MARK: u8 = 0xff;

/// Which effort a transfer belongs to (rule 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Attempt {
    /// A proposal that holds this ballot: between fenced members.
    Ballot(Ballot),
    /// The owner makes a member equal.
    Repair(u64),
    /// The owner fills one who is no member yet.
    Fill(u64),
    /// The owner takes over the entries of a closed branch.
    Join(u64),
}

/// One entry on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Its key.
    pub key: Bytes,
    /// What is known of it.
    pub entry: Entry,
}

/// One of the writes that an owner has under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteItem {
    /// The owner's number for it.
    pub number: u64,
    /// The key.
    pub key: Bytes,
    /// What to store.
    pub content: Content,
}

/// What a backup is to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// This.
    Entry(Entry),
    /// An entry of that version, or none: a read asks whether it has it (rule 1).
    Check(Option<Version>),
}

/// Who keeps a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Which partition.
    pub partition: PartitionId,
    /// Its configuration.
    pub id: ConfigId,
    /// The members, the owner first.
    pub members: Vec<NodeId>,
}

impl Route {
    /// What a configuration says of its partition.
    pub fn of(partition: PartitionId, config: &Configuration) -> Self {
        Self {
            partition,
            id: config.id,
            members: config.members.clone(),
        }
    }
}

/// What an owner has of a partition, and a member should have too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Which partition.
    pub partition: PartitionId,
    /// Its configuration.
    pub id: ConfigId,
    /// [`super::digest::Digests::root`] of what the owner has.
    pub root: u64,
}

/// One message. Where there is an `id`, it is about work within that configuration, and needs
/// exact equality (rule 10).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Something about one partition.
    Partition {
        /// Which.
        partition: PartitionId,
        /// Which configuration it is about.
        id: ConfigId,
        /// What.
        body: Body,
    },
    /// Configurations that owners installed.
    Routes(Vec<Route>),
    /// Digests of the routes that the sender knows, by group of partitions (see
    /// [`super::spread`]): whoever knows others sends them.
    RoutesDigest(Vec<(u16, u64)>),
    /// A request for an owner.
    Ask {
        /// Comes back with the answer.
        number: u64,
        /// What is asked.
        request: Request,
        /// The partition that it is about.
        partition: PartitionId,
    },
    /// The answer.
    Answer {
        /// To which.
        number: u64,
        /// What came of it.
        result: Result<Response, RequestError>,
    },
    /// The asker's table is out of date; nothing was done.
    NotOwner {
        /// To which request.
        number: u64,
        /// What is known here of its partition.
        route: Option<Route>,
    },
    /// What the receiver's copies should be equal to.
    Roots(Vec<Root>),
    /// These of them are not, or are in another configuration here.
    Unequal(Vec<(PartitionId, ConfigId)>),
    /// What the sender's wall clock shows (rule 9).
    Clock(Wall),
}

/// What messages are about, for whoever counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Requests of clients that another node answers.
    Requests,
    /// Writes on their way to backups.
    Writes,
    /// Copies that are made and compared.
    Copies,
    /// Who owns what: configurations, routes, clocks.
    Configurations,
}

impl Message {
    /// What it is about.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Ask { .. } | Self::Answer { .. } | Self::NotOwner { .. } => Kind::Requests,
            Self::Roots(_) | Self::Unequal(_) => Kind::Copies,
            Self::Routes(_) | Self::RoutesDigest(_) | Self::Clock(_) => Kind::Configurations,
            Self::Partition { body, .. } => match body {
                Body::Write(_) | Body::Written { .. } | Body::NotWritten { .. } => Kind::Writes,
                Body::Compare { .. }
                | Body::Equal { .. }
                | Body::Differ { .. }
                | Body::List { .. }
                | Body::Listed { .. }
                | Body::Fetch { .. }
                | Body::Entries { .. }
                | Body::Stored { .. }
                | Body::Fill { .. }
                | Body::Filling { .. }
                | Body::Abandon { .. }
                | Body::Purge { .. } => Kind::Copies,
                Body::Prepare { .. }
                | Body::Promise { .. }
                | Body::Accept { .. }
                | Body::Accepted { .. }
                | Body::Rejected { .. }
                | Body::Install(_)
                | Body::Installed
                | Body::Vouch
                | Body::MayForget { .. }
                | Body::Forget
                | Body::Closed(_) => Kind::Configurations,
            },
        }
    }
}

/// What is said about one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// Promise that ballot. Carries the present configuration, for those that have not heard
    /// of it.
    Prepare {
        /// The ballot.
        ballot: Ballot,
        /// The configuration whose successor is to be chosen.
        config: Box<Configuration>,
        /// By an operator's word: also of those that may have forgotten what they acknowledged.
        by_word: bool,
    },
    /// It is promised: no more writes in this configuration, from now on.
    Promise {
        /// The ballot.
        ballot: Ballot,
        /// What was accepted before, if anything.
        accepted: Option<(Ballot, Box<Configuration>)>,
        /// [`super::digest::Digests::root`] of what the member has, fenced.
        root: u64,
        /// The largest clock reading that it has seen.
        hlc: Hlc,
    },
    /// Accept that next configuration.
    Accept {
        /// The ballot.
        ballot: Ballot,
        /// The next configuration.
        next: Box<Configuration>,
    },
    /// It is accepted.
    Accepted {
        /// The ballot.
        ballot: Ballot,
    },
    /// Not promised, accepted, or taken in.
    Rejected {
        /// The attempt that it was about.
        attempt: Attempt,
        /// Why.
        why: Rejection,
    },
    /// That configuration was chosen. `id` is its own.
    Install(Box<Configuration>),
    /// It is installed.
    Installed,
    /// Store these.
    Write(Vec<WriteItem>),
    /// These are stored; of those in `lacking` another version was there than was asked about.
    Written {
        /// Numbers of writes.
        done: Vec<u64>,
        /// Numbers of checks that found something else.
        lacking: Vec<u64>,
    },
    /// These are not stored.
    NotWritten {
        /// Their numbers.
        numbers: Vec<u64>,
        /// Why.
        why: Rejection,
    },
    /// Is that what you have?
    Compare {
        /// The effort.
        attempt: Attempt,
        /// The sender's root.
        root: u64,
        /// [`super::digest::Digests::groups`] of it.
        groups: Vec<u64>,
    },
    /// It is.
    Equal {
        /// The effort.
        attempt: Attempt,
        /// The root.
        root: u64,
    },
    /// It is not; this is.
    Differ {
        /// The effort.
        attempt: Attempt,
        /// The groups of buckets that are not the same.
        groups: Vec<Group>,
    },
    /// What is in these buckets?
    List {
        /// The effort.
        attempt: Attempt,
        /// Which buckets.
        buckets: Vec<u16>,
    },
    /// This is: the first of the buckets asked for, as many as fit.
    Listed {
        /// The effort.
        attempt: Attempt,
        /// Which buckets these are.
        buckets: Vec<u16>,
        /// Their keys and versions.
        keys: Vec<(Bytes, Version)>,
    },
    /// Send me these.
    Fetch {
        /// The effort.
        attempt: Attempt,
        /// Which keys.
        keys: Vec<Bytes>,
    },
    /// Entries, to be merged by version.
    Entries {
        /// The effort.
        attempt: Attempt,
        /// The entries.
        entries: Vec<Carried>,
        /// Strict clusters: versions that the receiver shall drop, because the owner does not
        /// have them.
        drop: Vec<(Bytes, Version)>,
    },
    /// They are merged.
    Stored {
        /// The effort.
        attempt: Attempt,
    },
    /// Become a copy of this partition.
    Fill {
        /// The effort.
        attempt: Attempt,
        /// The configuration that it is made in.
        config: Box<Configuration>,
    },
    /// Go ahead.
    Filling {
        /// The effort.
        attempt: Attempt,
    },
    /// The copy is not wanted any more.
    Abandon {
        /// The effort.
        attempt: Attempt,
    },
    /// You have been found equal, and count again (rule 8).
    Vouch,
    /// What became of this configuration? And may I drop what I have, if I am no member?
    MayForget {
        /// It is a member, and asks what became of its configuration.
        member: bool,
    },
    /// You may: all members of this configuration are complete.
    Forget,
    /// My branch is closed, and to be joined into yours; `id` is its last configuration.
    Closed(Box<Configuration>),
    /// What died before that moment, in these buckets, is known to all members: it goes.
    Purge {
        /// The moment, by versions and expiry.
        before: Wall,
        /// Which buckets.
        buckets: Vec<u16>,
    },
}

impl Body {
    /// Whether it says that a configuration was chosen, so that others act on that.
    pub(super) fn tells_configuration(&self) -> bool {
        match self {
            Self::Install(_) => true,
            Self::Rejected { why, .. } | Self::NotWritten { why, .. } => matches!(
                why,
                Rejection::Newer(_) | Rejection::Forked(_) | Rejection::Diverged(_)
            ),
            _ => false,
        }
    }
}

/// Puts a message into a frame.
pub fn encode(message: &Message) -> Vec<u8> {
    let mut frame = Vec::with_capacity(64);
    frame.push(FRAME_MARK);
    crate::wire::codec::encode_into(message, &mut frame);
    frame
}

/// Puts another message behind what is in a frame, which may be nothing.
pub fn append(message: &Message, frame: &mut Vec<u8>) {
    if frame.is_empty() {
        frame.push(FRAME_MARK);
    }
    crate::wire::codec::encode_into(message, frame);
}

/// Reads a frame with one or more messages, each with its size (bytes).
///
/// # Errors
/// If it is anything else.
pub fn decode_all(frame: &[u8]) -> Result<Vec<(Message, usize)>, crate::wire::codec::DecodeError> {
    use crate::wire::codec::{DecodeError, decode_large_prefix};
    let mut rest = match frame.split_first() {
        Some((&FRAME_MARK, rest)) => rest,
        _ => return Err(DecodeError::Malformed),
    };
    let mut messages = Vec::new();
    loop {
        let (message, used) = decode_large_prefix(rest)?;
        messages.push((message, used));
        rest = &rest[used..];
        if rest.is_empty() {
            return Ok(messages);
        }
    }
}

/// Reads a frame with one message.
///
/// # Errors
/// If it is anything else.
pub fn decode(frame: &[u8]) -> Result<Message, crate::wire::codec::DecodeError> {
    match frame.split_first() {
        Some((&FRAME_MARK, rest)) => crate::wire::codec::decode_large(rest),
        _ => Err(crate::wire::codec::DecodeError::Malformed),
    }
}

/// Whether a frame is for a partition core.
pub fn is_marked(frame: &[u8]) -> bool {
    frame.first() == Some(&FRAME_MARK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_messages_make_up_their_frame() {
        let id = ConfigId {
            epoch: 3,
            branch: 7,
        };
        let about = |body| Message::Partition {
            partition: 9,
            id,
            body,
        };
        let messages = [
            (about(Body::Write(Vec::new())), Kind::Writes),
            (Message::Routes(Vec::new()), Kind::Configurations),
            (about(Body::Installed), Kind::Configurations),
            (Message::Roots(Vec::new()), Kind::Copies),
        ];
        let mut frame = Vec::new();
        for (message, _) in &messages {
            append(message, &mut frame);
        }
        let read = decode_all(&frame).unwrap();
        let sizes = read.iter().map(|(_, size)| size);
        assert_eq!(sizes.sum::<usize>(), frame.len() - 1, "all but the mark");
        let kinds = read.into_iter().map(|(message, _)| {
            let kind = message.kind();
            (message, kind)
        });
        assert_eq!(kinds.collect::<Vec<_>>(), messages);
    }
}
