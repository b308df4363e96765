//! Records, and how news spreads.

use std::{collections::BTreeMap, time::Duration};

use super::{Core, timers::TimerKind};
use crate::{
    config::{MAX_TAGS, tags_size},
    event::Reason,
    id::NodeId,
    members::{record::Record, table::Status},
    output::Answer,
    time::Time,
    wire::message::News,
};

/// Pause between rounds of gossip when there is no hurry.
const CALM: Duration = Duration::from_millis(200);
/// More news than this does not fit into one packet.
const MUCH: usize = 24;

impl Core {
    /// News travels at once: the next round of gossip is now, or as soon as bursts allow.
    pub(super) fn burst(&mut self, now: Time) {
        if !self.config.detection.bursts {
            return self.tell_with_leisure(now);
        }
        // Enough rounds that everybody has heard it: each round, each one tells three.
        self.burst_rounds = (self.living() as u32 + 1).ilog2() / 2 + 3;
        let at = now.max(self.last_gossip + self.config.timing.burst);
        self.timers.set_by(TimerKind::Gossip, at);
    }

    /// News that is in no hurry: it waits for what else there will be to say.
    pub(super) fn tell_with_leisure(&mut self, now: Time) {
        self.timers.set_by(TimerKind::Gossip, now + CALM);
    }

    /// Whether a member keeps falling silent and coming back.
    pub(super) fn is_unsteady(&self, now: Time, id: NodeId) -> bool {
        let entry = self.table.get(id);
        entry.is_some_and(|entry| entry.returns.is_unsteady(now))
    }

    pub(super) fn gossip(&mut self, now: Time) {
        if self.detector.backlog() == 0 {
            return;
        }
        self.count("gossip_rounds");
        self.detector.gossip(now);
        self.last_gossip = now;
        let pause = if self.burst_rounds > 0 {
            self.count("gossip_bursts");
            self.burst_rounds -= 1;
            self.config.timing.burst
        } else if self.config.detection.bursts && self.detector.backlog() > MUCH {
            // Each piece is sent a dozen times: much news would be told with the leisure of
            // little for seconds.
            self.config.timing.burst
        } else {
            CALM
        };
        self.timers.set(TimerKind::Gossip, now + pause);
    }

    pub(super) fn spread(&mut self, now: Time, news: &News) {
        self.detector.spread(news);
        let silent = match news {
            News::Record(_) => None,
            News::Accusation(said) => Some((said.target.id, said.reason)),
            News::Verdict(said) => Some((said.target.id, said.reason)),
        };
        match silent {
            Some((id, Reason::Unresponsive)) if self.is_unsteady(now, id) => {
                self.tell_with_leisure(now);
            }
            _ => self.burst(now),
        }
    }

    pub(super) fn spread_own_record(&mut self, now: Time) {
        let record = self.own_record();
        self.spread(now, &News::Record(Box::new(record)));
    }

    /// Changes the own record and tells everybody.
    pub(super) fn change_own_record(&mut self, now: Time, change: impl FnOnce(&mut Record)) {
        let own = self.table.own_id();
        if let Some(record) = self.table.get_mut(own).and_then(|own| own.record.as_mut()) {
            change(record);
            record.version += 1;
        }
        self.spread_own_record(now);
        self.timers.set_by(TimerKind::Placement, now);
    }

    pub(super) fn reload(
        &mut self,
        now: Time,
        tags: Option<BTreeMap<String, String>>,
        weight: Option<u32>,
    ) -> Answer {
        if let Some(tags) = &tags
            && tags_size(tags) > MAX_TAGS
        {
            return Answer::Refused(format!("tags take more than {MAX_TAGS} bytes together"));
        }
        if weight.is_some_and(|weight| !(1..=10_000).contains(&weight)) {
            return Answer::Refused("weight: 1 to 10000 are possible".to_owned());
        }
        if let Some(tags) = &tags {
            self.config.tags.clone_from(tags);
        }
        self.config.weight = weight.unwrap_or(self.config.weight);
        self.change_own_record(now, |record| {
            record.tags = tags.unwrap_or_else(|| record.tags.clone());
            record.weight = weight.unwrap_or(record.weight);
        });
        Answer::Done
    }

    pub(super) fn hear_news(&mut self, now: Time, sender: NodeId, news: News) {
        match news {
            News::Record(record) => {
                self.offer_record(now, *record, true);
            }
            News::Accusation(accusation) => self.hear_accusation(now, accusation),
            News::Verdict(verdict) => self.hear_verdict(now, sender, verdict),
        }
    }

    /// A record came from anywhere. True if it is news.
    pub(super) fn offer_record(&mut self, now: Time, record: Record, spread: bool) -> bool {
        if !record.is_bounded() || record.life.generation == 0 {
            self.count("rejected_record");
            return false;
        }
        let id = record.id();
        if id == self.table.own_id() {
            self.own_record_came(now, &record);
            return false;
        }
        let identity = crate::swim::identity::Identity {
            id,
            generation: record.life.generation,
            renewal: 0,
            addr: record.addr,
        };
        let Some(entry) = self.table.entry(identity, now) else {
            self.count("table_full");
            return false;
        };
        let before = entry.status();
        if entry
            .record
            .as_ref()
            .is_some_and(|known| known.rank() >= record.rank())
        {
            return false;
        }
        entry.record = Some(record.clone());
        let ends_this_life = record.is_over() && entry.life() == record.life;
        if ends_this_life && !matches!(before, Status::Left | Status::Evicted) {
            self.life_is_over(now, id, &record);
        }
        if spread {
            self.spread(now, &News::Record(Box::new(record)));
        }
        self.announce(now, id);
        self.place_soon(now);
        true
    }
}
