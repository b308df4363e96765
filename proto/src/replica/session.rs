//! One way to make copies equal: digests first, then only what differs, both ways.
//!
//! ```text
//!   initiator                                   other
//!   Compare{root, of groups} ─────────────────>         the same? Equal, done
//!             <─────── Differ{groups that differ}
//!   List{buckets that differ} ────────────────>
//!             <────────────────── Listed{keys, versions}
//!   Fetch{newer there} ───────────────────────>
//!             <────────────────────────── Entries
//!   Entries{newer here} ──────────────────────>
//!             <─────────────────────────── Stored
//!   ... the next buckets; in the end Compare again
//! ```
//!
//! It serves take-over (between fenced members), filling newcomers, repair, and joining
//! branches. The other side keeps no state: it checks each message by itself (rule 4).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::{
    chain::ConfigId,
    compared::{BUCKETS_AT_ONCE, KEYS_AT_ONCE},
    digest::Group,
    message::{Attempt, Body, Carried},
    shard::{Shard, Timer},
};
use crate::{
    id::{NodeId, PartitionId},
    kv::version::Version,
    time::Time,
};

/// Entries sent in one message (bytes), about; one may be longer.
pub(super) const BYTES_AT_ONCE: usize = 256 << 10;
/// The same while clients wait for whoever sends or stores them.
const FEW_BYTES_AT_ONCE: usize = 16 << 10;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaiting {
    Comparison,
    Listing,
    Entries,
    Stored,
    /// Nothing: it goes on when there is room.
    Room,
}

/// A comparison with one other replica, led by this one.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) attempt: Attempt,
    pub(super) id: ConfigId,
    pub(super) awaiting: Awaiting,
    sent: Time,
    /// When entries were sent last.
    piece: Time,
    /// The root that the last `Compare` carried, and when that was sent.
    root: u64,
    compared: Time,
    buckets: VecDeque<u16>,
    pull: VecDeque<Bytes>,
    push: VecDeque<Bytes>,
    drop: Vec<(Bytes, Version)>,
    pub(super) moved: u64,
}

impl Shard {
    /// Begins to compare with a replica, unless that is under way with the same attempt.
    pub(super) fn compare_with(
        &mut self,
        p: PartitionId,
        peer: NodeId,
        id: ConfigId,
        attempt: Attempt,
    ) {
        let now = self.now.time;
        let retry = self.config.timing.retry;
        if let Some(session) = self.replica(p).sessions.get(&peer)
            && session.attempt == attempt
            && session.id == id
            && now < session.sent + retry
        {
            let at = session.sent + retry;
            return self.timers.set_by(Timer::Partition(p), at);
        }
        self.compare_now(p, peer, id, attempt, 0);
    }

    fn compare_now(
        &mut self,
        p: PartitionId,
        peer: NodeId,
        id: ConfigId,
        attempt: Attempt,
        moved: u64,
    ) {
        // What the root counts in has to arrive before it.
        self.send_writes();
        let root = self.root(p);
        let groups = self.replica(p).digests.groups();
        let session = Session {
            attempt,
            id,
            awaiting: Awaiting::Comparison,
            sent: self.now.time,
            piece: self.now.time,
            root,
            compared: self.now.time,
            buckets: VecDeque::new(),
            pull: VecDeque::new(),
            push: VecDeque::new(),
            drop: Vec::new(),
            moved,
        };
        self.replica(p).sessions.insert(peer, session);
        let body = Body::Compare {
            attempt,
            root,
            groups,
        };
        self.tell(peer, p, id, body, None);
        let at = self.now.time + self.config.timing.retry;
        self.timers.set_by(Timer::Partition(p), at);
    }

    fn session(&mut self, p: PartitionId, peer: NodeId, attempt: Attempt) -> Option<&mut Session> {
        let now = self.now.time;
        let session = self.replica(p).sessions.get_mut(&peer)?;
        if session.attempt != attempt {
            return None;
        }
        session.sent = now;
        self.proposal_moves(p);
        self.replica(p).sessions.get_mut(&peer)
    }

    pub(super) fn session_equal(
        &mut self,
        peer: NodeId,
        p: PartitionId,
        attempt: Attempt,
        root: u64,
    ) {
        let Some(session) = self.session(p, peer, attempt) else {
            return;
        };
        if session.awaiting != Awaiting::Comparison || session.root != root {
            return;
        }
        let (id, moved, compared) = (session.id, session.moved, session.compared);
        self.replica(p).sessions.remove(&peer);
        if let Attempt::Join(_) = attempt {
            return self.join_is_over(p);
        }
        self.found_equal(p, peer, id, attempt, root, moved);
        if let Attempt::Repair(_) = attempt {
            self.confirmed_equal(p, peer, compared);
        }
    }

    pub(super) fn session_differs(
        &mut self,
        peer: NodeId,
        p: PartitionId,
        attempt: Attempt,
        groups: &[Group],
    ) {
        let differing = self.replica(p).digests.differing(groups);
        let Some(session) = self.session(p, peer, attempt) else {
            return;
        };
        if session.awaiting != Awaiting::Comparison {
            return;
        }
        session.buckets = differing.clone().into();
        if let Attempt::Repair(_) = attempt {
            self.purge_again(p, peer, &differing);
        }
        self.session_goes_on(p, peer);
    }

    pub(super) fn session_listed(
        &mut self,
        peer: NodeId,
        p: PartitionId,
        attempt: Attempt,
        buckets: &[u16],
        keys: Vec<(Bytes, Version)>,
    ) {
        match self.session(p, peer, attempt) {
            Some(session) if session.awaiting == Awaiting::Listing => {
                session.buckets.retain(|bucket| !buckets.contains(bucket));
            }
            _ => return,
        }
        if let Attempt::Join(_) = attempt {
            return self.join_listed(p, peer, attempt, buckets, keys);
        }
        let theirs: BTreeMap<Bytes, Version> = keys.into_iter().collect();
        let Some(ours) = self.versions(p, buckets) else {
            return;
        };
        let exchange = self.exchange(p, peer, attempt, &ours, &theirs);
        for (key, own, other, keep) in exchange.conflicts {
            self.conflict(p, &key, own, other, keep);
        }
        if let Some(session) = self.session(p, peer, attempt) {
            session.pull = exchange.pull;
            session.push = exchange.push;
            session.drop = exchange.drop;
        }
        self.session_goes_on(p, peer);
    }

    pub(super) fn versions(
        &mut self,
        p: PartitionId,
        buckets: &[u16],
    ) -> Option<BTreeMap<Bytes, Version>> {
        let mut versions = BTreeMap::new();
        for bucket in buckets {
            match self.store.bucket(p, *bucket) {
                Ok(page) => {
                    versions.extend(page.into_iter().map(|(place, e)| (place.key, e.version)));
                }
                Err(error) => {
                    self.broke(&error);
                    return None;
                }
            }
        }
        Some(versions)
    }

    /// Entries of a partition, in the order asked for, until they are `enough` (bytes) for one message.
    pub(super) fn carried(
        &mut self,
        p: PartitionId,
        keys: &mut VecDeque<Bytes>,
        enough: usize,
    ) -> Vec<Carried> {
        let mut entries = Vec::new();
        let mut size = 0;
        while size < enough
            && let Some(key) = keys.pop_front()
        {
            let place = self.place(p, &key);
            if let Some(entry) = self.read(&place) {
                size += entry.size(&key);
                entries.push(Carried { key, entry });
            }
        }
        entries
    }

    /// A session that waited for room.
    pub(super) fn session_resumes(&mut self, p: PartitionId, peer: NodeId) {
        // It may have ended meanwhile, and another one begun.
        let waits = self
            .replicas
            .get(&p)
            .and_then(|replica| replica.sessions.get(&peer))
            .is_some_and(|session| session.awaiting == Awaiting::Room);
        if waits {
            self.session_goes_on(p, peer);
        }
    }

    /// The next message of a session.
    fn session_goes_on(&mut self, p: PartitionId, peer: NodeId) {
        let Some(mut session) = self.replica(p).sessions.remove(&peer) else {
            return;
        };
        let attempt = session.attempt;
        let carries = !session.pull.is_empty() || !session.push.is_empty();
        if carries && let Some(at) = self.wait_for_room(p, peer, attempt) {
            // It is not forgotten meanwhile: see `compare_with`.
            session.awaiting = Awaiting::Room;
            session.sent = at;
            self.replica(p).sessions.insert(peer, session);
            return;
        }
        let body = if !session.pull.is_empty() {
            session.awaiting = Awaiting::Entries;
            let count = session.pull.len().min(KEYS_AT_ONCE);
            let keys = session.pull.iter().take(count).cloned().collect();
            Body::Fetch { attempt, keys }
        } else if !session.push.is_empty() || !session.drop.is_empty() {
            session.awaiting = Awaiting::Stored;
            session.piece = self.now.time;
            let enough = match self.rest_of(p, attempt) {
                Some(_) => FEW_BYTES_AT_ONCE,
                None => BYTES_AT_ONCE,
            };
            let entries = self.carried(p, &mut session.push, enough);
            let later: BTreeSet<&Bytes> = session.push.iter().collect();
            let (drop, rest) = std::mem::take(&mut session.drop)
                .into_iter()
                .partition(|(key, _)| !later.contains(key));
            session.drop = rest;
            let size: usize = entries.iter().map(|c| c.entry.size(&c.key)).sum();
            session.moved += size as u64;
            self.transferred(attempt, size as u64);
            Body::Entries {
                attempt,
                entries,
                drop,
            }
        } else if !session.buckets.is_empty() {
            session.awaiting = Awaiting::Listing;
            let buckets = session.buckets.iter().take(BUCKETS_AT_ONCE).copied();
            Body::List {
                attempt,
                buckets: buckets.collect(),
            }
        } else if let Attempt::Join(_) = attempt {
            // What was written anew differs for ever: once through is all.
            return self.join_is_over(p);
        } else {
            return self.compare_now(p, peer, session.id, attempt, session.moved);
        };
        let id = session.id;
        session.sent = self.now.time;
        self.replica(p).sessions.insert(peer, session);
        self.tell(peer, p, id, body, None);
    }

    pub(super) fn session_stored(&mut self, peer: NodeId, p: PartitionId, attempt: Attempt) {
        match self.session(p, peer, attempt) {
            Some(session) if session.awaiting == Awaiting::Stored => {
                let sent = session.piece;
                self.piece_is_stored(p, attempt, sent);
                self.session_goes_on(p, peer);
            }
            _ => {}
        }
    }

    // Entries that this side has fetched.
    pub(super) fn session_entries(
        &mut self,
        peer: NodeId,
        p: PartitionId,
        attempt: Attempt,
        entries: Vec<Carried>,
    ) {
        match self.session(p, peer, attempt) {
            Some(session) if session.awaiting == Awaiting::Entries => {
                // Those that were asked for and are not there any more are not asked for again.
                match entries.last() {
                    None => session.pull.clear(),
                    Some(last) => {
                        while let Some(key) = session.pull.pop_front() {
                            if key == last.key {
                                break;
                            }
                        }
                    }
                }
            }
            _ => return,
        }
        let size: usize = entries.iter().map(|c| c.entry.size(&c.key)).sum();
        self.transferred(attempt, size as u64);
        if let Attempt::Join(_) = attempt {
            self.join_entries(p, entries);
        } else {
            self.take_in(p, peer, attempt, entries);
        }
        self.session_goes_on(p, peer);
    }

    /// The listing of a join was looked through: these are to be fetched.
    pub(super) fn session_fetches(&mut self, p: PartitionId, peer: NodeId, keys: VecDeque<Bytes>) {
        if let Some(session) = self.replica(p).sessions.get_mut(&peer) {
            session.pull = keys;
        }
        self.session_goes_on(p, peer);
    }
}
