//! How many members have what was written: for clients that want to know it, or to wait for more
//! than their writes were acknowledged with.
//!
//! ```text
//!   request -> what the owner has now -> [Write: check] every member -> enough confirm it, or time
//!                                                                        is over -> how many
//! ```
//!
//! Asked about is what the owner has at that time, not what a client once wrote: it is that, or
//! something newer. A member that lacks it gets it. Nothing is promised about later.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;

use super::{
    ask::Origin,
    message::Content,
    shard::{Shard, Timer},
    write::{Present, UnderWay, broken},
};
use crate::{
    id::PartitionId,
    kv::{
        request::{MAX_PATIENCE, Response},
        version::Version,
    },
};

impl UnderWay {
    /// What its client is told once enough have it, or its time is over.
    pub(super) fn answer(self) -> Response {
        match self.response {
            Response::Copies(_) => {
                Response::Copies(u8::try_from(self.have.len()).unwrap_or(u8::MAX))
            }
            response => response,
        }
    }
}

impl Shard {
    /// Asks all members whether they have what this owner has.
    pub(super) fn count_copies(
        &mut self,
        p: PartitionId,
        origin: Origin,
        key: Bytes,
        at_least: Option<Version>,
        wanted: u8,
        patience: u32,
    ) {
        let Some(config) = self.chain(p).map(|chain| Present::of(&chain.config)) else {
            return;
        };
        let place = self.place(p, &key);
        let version = self.read(&place).map(|entry| entry.version);
        if self.is_broken() {
            return self.reply(origin, Err(broken()), None);
        }
        if version < at_least {
            return self.reply(origin, Ok(Response::Copies(0)), None);
        }
        let patience = Duration::from_millis(u64::from(patience.min(MAX_PATIENCE)));
        let deadline = self.now.time + patience;
        let number = self.number();
        self.writes.counts.insert((deadline, number));
        self.timers.set_by(Timer::Requests, deadline);
        let count = UnderWay {
            partition: p,
            id: config.id,
            origin,
            key,
            version,
            is_read: true,
            need: usize::from(wanted).clamp(1, config.members.len()),
            have: BTreeSet::new(),
            response: Response::Copies(0),
            deadline,
        };
        self.begin(number, &config, count, Content::Check(version));
    }

    /// Those that have waited long enough are told how many it is.
    pub(super) fn counts_over(&mut self) {
        let now = self.now.time;
        while let Some((deadline, number)) = self.writes.counts.first().copied()
            && deadline <= now
        {
            self.writes.counts.pop_first();
            // Most have had their answer.
            if let Some(count) = self.writes.under_way.remove(&number) {
                let origin = count.origin;
                let response = count.answer();
                self.reply(origin, Ok(response), None);
            }
        }
    }
}
