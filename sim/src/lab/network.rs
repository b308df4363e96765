//! Streams between processes: in order, and they may break; who is cut from whom.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kith_proto::{
    id::NodeId,
    input::StreamId,
    replica::{
        host::Input,
        message::{self, Message},
    },
    time::Time,
};
use rand::RngExt;

use super::{Happening, Lab, NodeIndex};

/// More messages within a second are a livelock: a run sends a tenth of that.
const MOST_MESSAGES: u64 = 200_000;

/// The network.
#[derive(Debug, Default)]
pub(super) struct Network {
    /// No streams between these.
    cuts: BTreeSet<(NodeIndex, NodeIndex)>,
    /// Nothing arrives between these, and no stream ends: what is sent waits.
    silent: BTreeSet<(NodeIndex, NodeIndex)>,
    stalled: Vec<Happening>,
    silences: u64,
    /// Numbers of streams: what is under way on an earlier one is lost.
    streams: BTreeMap<(NodeIndex, NodeIndex), u64>,
    last_arrival: BTreeMap<(NodeIndex, NodeIndex), Time>,
    numbers: u64,
    /// Messages sent within a second, and which.
    traffic: (u64, u64),
}

impl Network {
    pub(super) fn reaches(&self, a: NodeIndex, b: NodeIndex) -> bool {
        let pair = (a.min(b), a.max(b));
        !self.cuts.contains(&pair) && !self.silent.contains(&pair)
    }

    /// The stream from one to the other, as a core knows it.
    pub(super) fn stream(&self, from: NodeIndex, to: NodeIndex) -> Option<StreamId> {
        self.streams.get(&(from, to)).copied().map(StreamId)
    }
}

impl Lab {
    /// Cuts two nodes from each other; nobody is declared failed for it.
    pub fn cut(&mut self, a: NodeIndex, b: NodeIndex) {
        self.network.cuts.insert((a.min(b), a.max(b)));
        self.disconnect(a, b);
    }

    /// Cuts one group from all others, and lets each think that the other has failed.
    pub fn split(&mut self, side: &[NodeIndex]) {
        for a in 0..self.len() {
            for b in 0..self.len() {
                if side.contains(&a) && !side.contains(&b) {
                    self.part(a, b);
                }
            }
        }
    }

    /// Nothing arrives any more between one group and all others, and nobody is told: streams end and
    /// sight is lost after so long, unless all is whole before.
    pub fn silence(&mut self, side: &[NodeIndex], noticed_after: Duration) {
        for a in side {
            for b in (0..self.len()).filter(|b| !side.contains(b)) {
                self.stall(*a, b);
            }
        }
        self.network.silences += 1;
        let unheard = Happening::Unheard(self.network.silences, side.to_vec());
        self.agenda.push(self.now + noticed_after, unheard);
    }

    pub(super) fn unheard(&mut self, silence: u64, side: &[NodeIndex]) {
        if self.network.silences == silence && !self.network.silent.is_empty() {
            self.split(side);
        }
    }

    /// What two send each other waits until they are restored; no stream ends, and nobody is told.
    pub fn stall(&mut self, a: NodeIndex, b: NodeIndex) {
        self.network.silent.insert((a.min(b), a.max(b)));
    }

    /// Cuts two from each other, and lets each think that the other has failed.
    pub fn part(&mut self, a: NodeIndex, b: NodeIndex) {
        self.cut(a, b);
        self.lose_sight(a, b);
    }

    /// They reach each other again, and notice it.
    pub fn meet_again(&mut self, a: NodeIndex, b: NodeIndex) {
        self.restore(a, b);
        if self.is_alive(a) && self.is_alive(b) {
            self.see_again(a, b);
            self.see_again(b, a);
        }
    }

    /// The stream between two breaks, with what is under way on it, and another one opens at once.
    pub fn break_stream(&mut self, a: NodeIndex, b: NodeIndex) {
        if self.network.stream(a, b).is_some() && self.network.reaches(a, b) {
            self.disconnect(a, b);
            self.restore(a, b);
        }
    }

    /// Two reach each other again, whatever they think of each other.
    pub fn restore(&mut self, a: NodeIndex, b: NodeIndex) {
        let pair = (a.min(b), a.max(b));
        self.network.cuts.remove(&pair);
        self.network.silent.remove(&pair);
        let (stalled, rest) = std::mem::take(&mut self.network.stalled)
            .into_iter()
            .partition(|happening| happening.is_between(pair));
        self.network.stalled = rest;
        let stalled: Vec<Happening> = stalled;
        for happening in stalled {
            self.agenda.push(self.now, happening);
        }
        if self.is_alive(a) && self.is_alive(b) && self.network.stream(a, b).is_none() {
            self.connect(a, b);
            self.show_view(a);
            self.show_view(b);
        }
    }

    /// Everything is whole again.
    pub fn heal(&mut self) {
        self.network.cuts.clear();
        self.network.silent.clear();
        // Before anything that was sent later.
        for stalled in std::mem::take(&mut self.network.stalled) {
            self.agenda.push(self.now, stalled);
        }
        for a in 0..self.len() {
            for b in 0..self.len() {
                if a != b && self.is_alive(a) && self.is_alive(b) {
                    if self.network.stream(a, b).is_none() {
                        self.connect(a, b);
                    }
                    self.see_again(a, b);
                }
            }
        }
    }

    pub(super) fn connect(&mut self, a: NodeIndex, b: NodeIndex) {
        self.network.numbers += 1;
        let number = self.network.numbers;
        for pair in [(a, b), (b, a)] {
            self.network.streams.insert(pair, number);
        }
    }

    pub(super) fn disconnect(&mut self, a: NodeIndex, b: NodeIndex) {
        let mut cut = false;
        for pair in [(a, b), (b, a)] {
            cut |= self.network.streams.remove(&pair).is_some();
        }
        if cut {
            for node in [a, b] {
                if self.is_alive(node) {
                    self.show_view(node);
                }
            }
        }
    }

    pub(super) fn send(&mut self, from: NodeIndex, to: NodeId, message: Message) {
        let Some(to) = self.index_of(to) else {
            return;
        };
        let Some(StreamId(stream)) = self.network.stream(from, to) else {
            return;
        };
        self.count_message(&message);
        // What arrives is what can be read from bytes.
        let frame = message::encode(&message);
        self.mix(xxhash_rust::xxh3::xxh3_64(&frame));
        let message = match message::decode(&frame) {
            Ok(message) => message,
            Err(error) => {
                return self.object("messages", format!("a message cannot be read: {error}"));
            }
        };
        let delay = Duration::from_micros(self.rng.random_range(50..2000));
        let arrival = self.network.last_arrival.entry((from, to)).or_default();
        let at = (self.now + delay).max(*arrival);
        *arrival = at;
        let message = Box::new(message);
        self.agenda.push(
            at,
            Happening::Deliver {
                from,
                to,
                stream,
                message,
            },
        );
    }

    fn count_message(&mut self, message: &Message) {
        let second = self.now.since_origin().as_secs();
        if self.network.traffic.0 != second {
            self.network.traffic = (second, 0);
        }
        self.network.traffic.1 += 1;
        if self.network.traffic.1 == MOST_MESSAGES {
            let text =
                format!("{MOST_MESSAGES} messages within second {second}, the last a {message:?}");
            self.object("messages", text);
        }
    }

    pub(super) fn deliver(
        &mut self,
        from: NodeIndex,
        to: NodeIndex,
        stream: u64,
        message: Box<Message>,
    ) {
        if self.network.stream(from, to) != Some(StreamId(stream)) {
            return;
        }
        if self.network.silent.contains(&(from.min(to), from.max(to))) {
            return self.network.stalled.push(Happening::Deliver {
                from,
                to,
                stream,
                message,
            });
        }
        let (from, message) = (self.id(from), *message);
        self.feed(to, Input::Message { from, message });
    }
}
