//! Writes and confirmations under way: what members answer, and how each one ends.

use super::{
    chain::{ConfigId, Configuration, Rejection},
    host::SyncToken,
    message::{Body, Content, WriteItem},
    shard::Shard,
};
use crate::{
    id::{NodeId, PartitionId},
    kv::request::RequestError,
};

impl Shard {
    /// A member has it.
    pub(super) fn has(&mut self, number: u64, member: NodeId) {
        let Some(write) = self.writes.under_way.get_mut(&number) else {
            return;
        };
        let counts = self
            .replicas
            .get(&write.partition)
            .and_then(|replica| replica.chain.as_ref())
            .is_some_and(|chain| chain.config.id == write.id && chain.config.has(member));
        if counts {
            write.have.insert(member);
        }
        if write.have.len() >= write.need
            && let Some(write) = self.writes.under_way.remove(&number)
        {
            let origin = write.origin;
            self.reply(origin, Ok(write.answer()), None);
        }
    }

    pub(super) fn hear_written(
        &mut self,
        from: NodeId,
        p: PartitionId,
        id: ConfigId,
        done: &[u64],
        lacking: &[u64],
    ) {
        for number in done {
            self.has(*number, from);
        }
        for number in lacking {
            // A read of what this member lacks repairs it.
            let Some(write) = self.writes.under_way.get(number) else {
                continue;
            };
            let (key, version) = (write.key.clone(), write.version);
            let place = self.place(p, &key);
            let present = self.read(&place);
            match present.filter(|entry| Some(entry.version) >= version) {
                Some(entry) => {
                    let item = WriteItem {
                        number: *number,
                        key,
                        content: Content::Entry(entry),
                    };
                    self.tell(from, p, id, Body::Write(vec![item]), None);
                }
                None => self.is_unequal(p, from),
            }
        }
    }

    pub(super) fn hear_not_written(
        &mut self,
        from: NodeId,
        p: PartitionId,
        id: ConfigId,
        numbers: &[u64],
        why: Rejection,
    ) {
        let current = self.chain(p).is_some_and(|chain| chain.config.id == id);
        if !current {
            return;
        }
        self.is_unequal(p, from);
        match why {
            Rejection::Newer(config)
                if config.is_legal() && self.learn_configuration(p, &config) =>
            {
                self.drive(p);
            }
            Rejection::Forked(config) | Rejection::Diverged(config) if config.is_legal() => {
                self.meet_rival(p, &config);
            }
            Rejection::Older(_) | Rejection::NotMember => {
                if let Some(owner) = &mut self.replica(p).owner {
                    owner.installed.remove(&from);
                }
                // Written again once it has installed the configuration: see `write_again`.
                self.drive(p);
                for number in numbers {
                    self.send_again(*number, from);
                }
            }
            Rejection::Learner => {
                if let Some(owner) = &mut self.replica(p).owner {
                    owner.learners.insert(from);
                }
                self.drive(p);
            }
            _ => {}
        }
    }

    // A write that a member has not taken in.
    pub(super) fn send_again(&mut self, number: u64, to: NodeId) {
        let Some(write) = self.writes.under_way.get(&number) else {
            return;
        };
        let (p, id, key) = (write.partition, write.id, write.key.clone());
        let check = Content::Check(write.version);
        let is_read = write.is_read;
        let place = self.place(p, &key);
        let content = match self.read(&place) {
            Some(entry) if !is_read => Content::Entry(entry),
            _ => check,
        };
        let item = WriteItem {
            number,
            key,
            content,
        };
        let batch = self.writes.batches.entry((to, p));
        batch.or_insert_with(|| (id, Vec::new())).1.push(item);
    }

    /// A stream to a member has opened: it gets what it has not confirmed.
    pub(super) fn write_again(&mut self, peer: NodeId) {
        let missing: Vec<u64> = self
            .writes
            .under_way
            .iter()
            .filter(|(_, write)| !write.have.contains(&peer))
            .filter(|(_, write)| {
                self.chain(write.partition)
                    .is_some_and(|chain| chain.config.id == write.id && chain.config.has(peer))
            })
            .map(|(number, _)| *number)
            .collect();
        for number in missing {
            self.send_again(number, peer);
        }
    }

    /// Everything before that token is on the disk.
    pub(super) fn synced(&mut self, token: SyncToken) {
        while let Some((after, number)) = self.writes.unsynced.front().copied()
            && after <= token
        {
            self.writes.unsynced.pop_front();
            self.has(number, self.own);
        }
    }

    /// The next configuration was chosen by this node: what it had is at a majority of the
    /// next members, so what was under way is done.
    pub(super) fn writes_kept(&mut self, p: PartitionId, next: &Configuration) {
        let done: Vec<u64> = self
            .writes
            .under_way
            .iter()
            .filter(|(_, write)| {
                write.partition == p && !write.is_read && write.need <= next.majority()
            })
            .map(|(number, _)| *number)
            .collect();
        let after = self.durable();
        for number in done {
            if let Some(write) = self.writes.under_way.remove(&number) {
                self.reply(write.origin, Ok(write.response), Some(after));
            }
        }
    }

    /// Another configuration was installed: nobody will confirm what was under way in an earlier one.
    pub(super) fn writes_end(&mut self, p: PartitionId, id: ConfigId) {
        let over: Vec<u64> = self
            .writes
            .under_way
            .iter()
            .filter(|(_, write)| write.partition == p && write.id != id)
            .map(|(number, _)| *number)
            .collect();
        for number in over {
            let Some(write) = self.writes.under_way.remove(&number) else {
                continue;
            };
            let error = if write.is_read {
                RequestError::Unavailable(format!("partition {p} has another owner now"))
            } else {
                RequestError::Indeterminate(format!(
                    "partition {p} got another owner while this was being written: it may have been kept, or not"
                ))
            };
            self.reply(write.origin, Err(error), None);
        }
        self.writes
            .batches
            .retain(|(_, partition), _| *partition != p);
    }

    /// Those whose time is over are told so.
    pub(super) fn writes_over(&mut self) {
        let now = self.now.time;
        self.counts_over();
        while let Some((number, write)) = self.writes.under_way.first_key_value()
            && write.deadline <= now
        {
            let number = *number;
            let Some(write) = self.writes.under_way.remove(&number) else {
                return;
            };
            let (have, need, p) = (write.have.len(), write.need, write.partition);
            let error = if write.is_read {
                RequestError::Unavailable(format!(
                    "{have} of the {need} members needed have confirmed what partition {p} holds"
                ))
            } else {
                RequestError::Indeterminate(format!(
                    "{have} of the {need} members needed have confirmed it in time: it may have been kept, or not"
                ))
            };
            self.counters_up("requests_over");
            self.reply(write.origin, Err(error), None);
        }
    }
}
