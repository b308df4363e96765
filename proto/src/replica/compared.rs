//! The other side of a comparison: it keeps no state, and checks each message by itself (rule 4).

use super::{
    chain::{ConfigId, Rejection},
    message::{Attempt, Body},
    omit::Omit,
    session::{Awaiting, BYTES_AT_ONCE},
    shard::Shard,
};
use crate::{
    id::{NodeId, PartitionId},
    kv::version::Version,
    store::partitions::Place,
};

/// Buckets asked for at a time.
pub(super) const BUCKETS_AT_ONCE: usize = 128;
/// Keys listed in one message, about.
pub(super) const KEYS_AT_ONCE: usize = 2048;

impl Shard {
    /// The other side of a session: answers by itself, and keeps no state.
    pub(super) fn asked_to_compare(
        &mut self,
        from: NodeId,
        p: PartitionId,
        id: ConfigId,
        body: Body,
    ) {
        let attempt = match &body {
            Body::Compare { attempt, .. }
            | Body::List { attempt, .. }
            | Body::Fetch { attempt, .. }
            | Body::Entries { attempt, .. } => *attempt,
            _ => return,
        };
        // What was fetched comes as an answer; everything else is a question.
        let fetched = matches!(body, Body::Entries { .. })
            && self
                .replicas
                .get(&p)
                .and_then(|replica| replica.sessions.get(&from))
                .is_some_and(|session| {
                    session.attempt == attempt && session.awaiting == Awaiting::Entries
                });
        if fetched {
            if let Body::Entries { entries, .. } = body {
                self.session_entries(from, p, attempt, entries);
            }
            return;
        }
        if let Err(why) = self.takes_transfer(from, p, id, attempt) {
            return self.reject(from, p, id, attempt, why);
        }
        let now = self.now.time;
        if let Some(by) = &mut self.replica(p).filled_by {
            by.heard = now;
        }
        match body {
            Body::Compare { root, groups, .. } => {
                let mut own = self.root(p);
                if own != root && self.held_differs(p, from, id, attempt) {
                    own = self.root(p);
                }
                let mut held = None;
                if let Some(by) = &mut self.replica(p).filled_by
                    && by.is(from, id, attempt)
                {
                    by.equal = own == root;
                    held = by.equal.then(|| self.hold(p, id)).flatten();
                }
                if own == root && !matches!(attempt, Attempt::Ballot(_)) {
                    self.note_equal(p);
                }
                let answer = if own == root {
                    Body::Equal { attempt, root }
                } else {
                    let groups = self.replica(p).digests.differing_groups(&groups);
                    Body::Differ { attempt, groups }
                };
                // What is found equal counts as had: it must be kept like a write.
                let after = self.data_durable().max(held);
                self.tell(from, p, id, answer, after);
            }
            Body::List { buckets, .. } => self.list(from, p, id, attempt, &buckets),
            Body::Fetch { keys, .. } => {
                let entries = self.carried(p, &mut keys.into(), BYTES_AT_ONCE);
                let body = Body::Entries {
                    attempt,
                    entries,
                    drop: Vec::new(),
                };
                self.tell(from, p, id, body, None);
            }
            Body::Entries { entries, drop, .. } => {
                // Rule 4: never one of the receiver's present epoch.
                let earlier =
                    |version: &Version| version.epoch < id.epoch || version.branch != id.branch;
                let drop: Vec<_> = drop
                    .into_iter()
                    .filter(|(_, version)| earlier(version) || self.omits(Omit::Attempts))
                    .collect();
                let merging = matches!(attempt, Attempt::Ballot(_));
                let drop = if merging { &[][..] } else { &drop[..] };
                self.merge(p, entries.into_iter().map(|c| (c.key, c.entry)), drop);
                let after = self.data_durable();
                self.tell(from, p, id, Body::Stored { attempt }, after);
            }
            _ => {}
        }
    }

    pub(super) fn list(
        &mut self,
        to: NodeId,
        p: PartitionId,
        id: ConfigId,
        attempt: Attempt,
        asked: &[u16],
    ) {
        let mut buckets = Vec::new();
        let mut keys = Vec::new();
        for bucket in asked.iter().take(BUCKETS_AT_ONCE) {
            let page = match self.store.bucket(p, *bucket) {
                Ok(page) => page,
                Err(error) => return self.broke(&error),
            };
            let listed =
                |(place, entry): (Place, crate::kv::entry::Entry)| (place.key, entry.version);
            keys.extend(page.into_iter().map(listed));
            buckets.push(*bucket);
            if keys.len() >= KEYS_AT_ONCE {
                break;
            }
        }
        let body = Body::Listed {
            attempt,
            buckets,
            keys,
        };
        self.tell(to, p, id, body, None);
    }

    // Rule 4: a transfer belongs to an effort, and to the configuration that it is made in.
    pub(super) fn takes_transfer(
        &self,
        from: NodeId,
        p: PartitionId,
        id: ConfigId,
        attempt: Attempt,
    ) -> Result<(), Rejection> {
        if self.is_broken() {
            return Err(Rejection::Broken);
        }
        let Some(replica) = self.replicas.get(&p) else {
            return Err(Rejection::NotMember);
        };
        if self.omits(Omit::Attempts) {
            return Ok(());
        }
        if let Attempt::Fill(_) = attempt {
            let expected = replica.filled_by.is_some_and(|by| by.is(from, id, attempt));
            return if expected {
                Ok(())
            } else {
                Err(Rejection::OtherAttempt)
            };
        }
        let Some(chain) = &replica.chain else {
            return Err(Rejection::NotMember);
        };
        if let Attempt::Join(_) = attempt {
            // What the closed branch has stays as it is until it is settled.
            let unmerged = chain.config.unmerged.as_ref();
            let joined = unmerged.is_some_and(|source| source.id == id);
            let closed = chain.config.id == id && chain.config.closed_into.is_some();
            return if joined || closed {
                Ok(())
            } else if chain.config.ends(id) {
                Err(Rejection::Newer(Box::new(chain.config.clone())))
            } else {
                Err(Rejection::OtherAttempt)
            };
        }
        chain.matches(id)?;
        if !chain.config.has(self.own) {
            return Err(Rejection::NotMember);
        }
        match attempt {
            Attempt::Ballot(ballot) if chain.promised == Some(ballot) => Ok(()),
            Attempt::Ballot(_) if self.omits(Omit::Fencing) => Ok(()),
            Attempt::Ballot(_) => Err(Rejection::OtherAttempt),
            Attempt::Repair(_) => match chain.promised {
                Some(ballot) => Err(Rejection::Promised(ballot)),
                None if chain.config.owner() == from => Ok(()),
                None => Err(Rejection::OtherAttempt),
            },
            Attempt::Fill(_) | Attempt::Join(_) => Err(Rejection::OtherAttempt),
        }
    }
}
