//! Nodes: a process, a kernel, a disk; what goes into a core, and what comes out of it.

use std::{collections::BTreeMap, time::Duration};

use kith_proto::{
    config::Consistency,
    id::{NodeId, PartitionId},
    input::RequestId,
    kv::{request::Request, version::Wall},
    placement::partition_of,
    replica::{
        host::{Input, Now, Output, SyncMode, SyncToken},
        shard::{Config, Shard, Timing},
    },
    time::Time,
};
use rand::RngExt;

use super::{
    Happening, Lab, NodeIndex, client, departure::Departure, disk::Disk, oracle::Sights, plan,
};

/// A node.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) shard: Option<Box<Shard>>,
    pub(super) disk: Disk,
    /// When its process ended it had marks on its disk that it may have forgotten something.
    pub(super) ended_distrusted: bool,
    /// Which of its lives this is.
    pub(super) life: u32,
    pub(super) founder: bool,
    pub(super) departure: Departure,
    /// It is started again as soon as it has stopped.
    pub(super) restarts: bool,
    /// It left, or its disk was wiped: never again.
    pub(super) gone: bool,
    pub(super) paused: bool,
    waiting: Vec<Input>,
    wake: Option<Time>,
    synced: SyncToken,
    held: Vec<(SyncToken, Output)>,
    wall_error: i64,
    pub(super) sights: Sights,
    /// The system will sync what was written.
    flushes: bool,
    /// How long a sync takes at the most.
    sync_takes: Duration,
}

/// How long a sync takes at the most, on a disk that is well.
const SYNC: Duration = Duration::from_millis(4);

/// How often the host syncs with [`SyncMode::Interval`].
const INTERVAL: Duration = Duration::from_millis(100);

impl Lab {
    /// A new node joins.
    pub fn add(&mut self) -> NodeIndex {
        let index = self.nodes.len();
        let id = NodeId(self.rng.random::<u64>() | 1);
        self.index.insert(id, index);
        self.nodes.push(Node {
            id,
            shard: None,
            disk: Disk::default(),
            ended_distrusted: false,
            life: 0,
            founder: index == 0,
            departure: Departure::Stays,
            restarts: false,
            gone: false,
            paused: false,
            waiting: Vec::new(),
            wake: None,
            synced: SyncToken(0),
            held: Vec::new(),
            wall_error: 0,
            sights: Sights::default(),
            flushes: false,
            sync_takes: SYNC,
        });
        self.start(index);
        index
    }

    /// Starts a node's process, with what its disk holds; one that stops is started when it has.
    pub fn start(&mut self, index: NodeIndex) {
        if self.is_alive(index) || self.nodes[index].gone {
            self.nodes[index].restarts = self.is_stopping(index);
            return;
        }
        let seed = self.rng.random();
        let now = self.clock(index);
        let (sync, omit) = (self.setup.sync, self.setup.omit);
        let mut timing = Timing {
            tombstone_grace: self.setup.tombstone_grace,
            ..Timing::default()
        };
        // Short enough to be seen, and looked for as often.
        timing.sweep = timing.sweep.min(timing.tombstone_grace / 8);
        let partitions = self.setup.settings.partitions;
        let strict = self.setup.settings.consistency == Consistency::Strict;
        let node = &mut self.nodes[index];
        let config = Config {
            node: node.id,
            shard: (0, 1),
            sync,
            timing,
            forgetful: !node.disk.is_trusted() && strict && sync != SyncMode::Always,
            omit,
        };
        node.life += 1;
        node.departure = Departure::Stays;
        node.paused = false;
        node.held.clear();
        node.waiting.clear();
        node.wake = None;
        node.synced = SyncToken(0);
        node.sights.clear();
        match Shard::open(config, Box::new(node.disk.store()), partitions, seed, now) {
            Ok(shard) => {
                // Rule 8: marks are written; only now may this boot be called the one that wrote last.
                node.disk.trust();
                node.shard = Some(Box::new(shard));
            }
            Err(error) => {
                // It says so, and others go on.
                let text = format!("does not start: {error}");
                return self.broke(index, text);
            }
        }
        self.introduce(index);
    }

    /// Ends a node's process. With `power` its machine stops too, and what was not synced may be lost.
    pub fn kill(&mut self, index: NodeIndex, power: bool) {
        if power {
            let keep = self.rng.random();
            self.stop_machine(index, keep);
        } else if self.end(index) {
            self.missed(index);
        }
    }

    /// A machine stops: of what its disk has not synced a beginning remains, as long as `keep` says (0:
    /// nothing).
    pub fn stop_machine(&mut self, index: NodeIndex, keep: u64) {
        if self.end(index) {
            self.nodes[index].disk.power_cut(keep);
            self.missed(index);
        }
    }

    /// A process ends; nobody is told. True if it ran.
    pub(super) fn end(&mut self, index: NodeIndex) -> bool {
        let Some(shard) = self.nodes[index].shard.take() else {
            return false;
        };
        self.nodes[index].ended_distrusted = plan::distrusts_itself(self, &shard);
        self.nodes[index].held.clear();
        self.nodes[index].waiting.clear();
        self.nodes[index].restarts = false;
        for other in 0..self.nodes.len() {
            self.disconnect(index, other);
        }
        client::lost(self, index);
        true
    }

    /// A machine vanishes from the network with its process: nobody is told, and streams stay open
    /// until somebody loses patience, after so long.
    pub fn vanish(&mut self, index: NodeIndex, noticed_after: Duration) {
        self.nodes[index].paused = true;
        self.agenda
            .push(self.now + noticed_after, Happening::Missed(index));
    }

    pub(super) fn is_missed(&mut self, index: NodeIndex) {
        if self.nodes[index].paused && self.end(index) {
            self.missed(index);
        }
    }

    /// A node's directory is wiped, and it comes back as what it then is: a new one.
    pub fn wipe(&mut self, index: NodeIndex) -> NodeIndex {
        if self.end(index) {
            self.missed(index);
        }
        self.nodes[index].gone = true;
        self.add()
    }

    /// Stops a process for a while, as SIGSTOP does.
    pub fn pause(&mut self, index: NodeIndex) {
        self.nodes[index].paused = true;
    }

    /// It goes on.
    pub fn resume(&mut self, index: NodeIndex) {
        if !std::mem::take(&mut self.nodes[index].paused) {
            return;
        }
        let waiting = std::mem::take(&mut self.nodes[index].waiting);
        self.feed_all(index, waiting);
        self.feed(index, Input::Tick);
    }

    /// A node's wall clock is wrong from now on (milliseconds).
    pub fn set_wall_error(&mut self, index: NodeIndex, error: i64) {
        self.nodes[index].wall_error = error;
    }

    /// A node's disk.
    pub fn disk(&self, index: NodeIndex) -> &Disk {
        &self.nodes[index].disk
    }

    /// A node's disk takes so long to sync, at the most; `None`: it is well again.
    pub fn slow_disk(&mut self, index: NodeIndex, takes: Option<Duration>) {
        self.nodes[index].sync_takes = takes.unwrap_or(SYNC);
    }

    /// Asks a node something; the answer comes back under that number.
    pub fn ask(&mut self, index: NodeIndex, body: Request) -> RequestId {
        self.requests += 1;
        let request = RequestId(self.requests);
        let partition = match &body {
            Request::Key { key, .. } | Request::Copies { key, .. } => {
                partition_of(key, self.setup.settings.partitions)
            }
            Request::Scan { partition, .. }
            | Request::Count { partition }
            | Request::Equal { partition } => *partition,
        };
        let input = Input::Request {
            request,
            partition,
            body,
        };
        self.feed(index, input);
        request
    }

    /// An operator says at a node that those who are here shall go on. With which partitions it does.
    pub fn recover(&mut self, index: NodeIndex) -> Vec<PartitionId> {
        let now = self.clock(index);
        let node = &mut self.nodes[index];
        let Some(shard) = node.shard.as_mut().filter(|_| !node.paused) else {
            return Vec::new();
        };
        let recovered = shard.recover(now, None).begun;
        shard.flush(now);
        self.drain(index);
        recovered
    }

    pub(super) fn wake(&mut self, index: NodeIndex) {
        if self.nodes[index].wake == Some(self.now) {
            self.nodes[index].wake = None;
            self.feed(index, Input::Tick);
        }
    }

    pub(super) fn synced(&mut self, index: NodeIndex, life: u32, token: SyncToken) {
        if self.nodes[index].life == life && self.is_alive(index) {
            self.nodes[index].disk.synced(token);
            self.point();
            if self.is_alive(index) {
                let synced = &mut self.nodes[index].synced;
                // One that took longer may be over later.
                *synced = token.max(*synced);
                self.feed(index, Input::Synced(token));
            }
        }
    }

    pub(super) fn feed(&mut self, index: NodeIndex, input: Input) {
        self.feed_all(index, vec![input]);
    }

    fn feed_all(&mut self, index: NodeIndex, inputs: Vec<Input>) {
        let now = self.clock(index);
        let node = &mut self.nodes[index];
        let Some(shard) = &mut node.shard else {
            return;
        };
        if node.paused {
            node.waiting.extend(inputs);
            return;
        }
        for input in inputs {
            if self.verbose {
                println!("{:?} n{index} <- {input:?}", self.now);
            }
            shard.handle(now, input);
        }
        shard.flush(now);
        self.drain(index);
    }

    fn drain(&mut self, index: NodeIndex) {
        while let Some(output) = self.nodes[index]
            .shard
            .as_mut()
            .and_then(|shard| shard.poll_output())
        {
            self.carry_out(index, output);
        }
        let node = &mut self.nodes[index];
        if !node.held.is_empty() {
            let synced = node.synced;
            let (ready, held) = std::mem::take(&mut node.held)
                .into_iter()
                .partition(|(after, _)| *after <= synced);
            node.held = held;
            let ready: Vec<(SyncToken, Output)> = ready;
            for (_, output) in ready {
                self.release(index, output);
            }
        }
        let node = &mut self.nodes[index];
        let next = node.shard.as_ref().and_then(|shard| shard.poll_timeout());
        if let Some(at) = next {
            let at = at.max(self.now);
            if node.wake != Some(at) {
                node.wake = Some(at);
                self.agenda.push(at, Happening::Wake(index));
            }
        }
        self.flush_later(index);
        self.look(index);
    }

    // With `interval` the host syncs what nobody waits for, too.
    fn flush_later(&mut self, index: NodeIndex) {
        let interval = self.setup.sync == SyncMode::Interval;
        let node = &mut self.nodes[index];
        if interval && !node.flushes && node.disk.has_unsynced() {
            node.flushes = true;
            self.agenda
                .push(self.now + INTERVAL, Happening::Flush(index));
        }
    }

    pub(super) fn flush(&mut self, index: NodeIndex) {
        let node = &mut self.nodes[index];
        node.flushes = false;
        if node.shard.is_some() && !node.paused {
            node.disk.flush();
        }
    }

    fn carry_out(&mut self, index: NodeIndex, output: Output) {
        let after = match &output {
            Output::Send { after, .. } | Output::Reply { after, .. } => *after,
            _ => None,
        };
        match after {
            Some(after) if after > self.nodes[index].synced => {
                self.nodes[index].held.push((after, output));
            }
            _ => self.release(index, output),
        }
    }

    fn release(&mut self, index: NodeIndex, output: Output) {
        // It may have been ended between two of its effects.
        if !self.is_alive(index) {
            return;
        }
        match output {
            Output::Send { to, message, .. } => self.send(index, to, message),
            Output::Reply {
                request, result, ..
            } => client::answered(self, index, request, result),
            Output::Sync(token) => {
                self.nodes[index].disk.sync_begins(token);
                let most = self.nodes[index].sync_takes.as_micros();
                let most = u64::try_from(most).unwrap_or(u64::MAX).max(201);
                let pause = Duration::from_micros(self.rng.random_range(200..most));
                let life = self.nodes[index].life;
                let node = index;
                self.agenda
                    .push(self.now + pause, Happening::Synced { node, life, token });
            }
            Output::Event(event) => self.events.push((self.now, index, event)),
            // The process ends before anything else that it wanted to do.
            Output::Broken(text) => return self.broke(index, text),
        }
        self.point();
    }

    // A node that cannot keep what it holds stops; others take over.
    fn broke(&mut self, index: NodeIndex, text: String) {
        if !self.nodes[index].disk.is_faulty() {
            self.object("disk", format!("the store of node {index} broke: {text}"));
        }
        self.broken.push((self.now, index, text));
        if self.end(index) {
            self.missed(index);
        }
    }

    pub(super) fn clock(&self, index: NodeIndex) -> Now {
        let error = self.nodes[index].wall_error;
        Now {
            time: self.now,
            wall: Wall(self.true_wall().0.saturating_add_signed(error)),
        }
    }

    /// What clocks that are right show.
    pub(super) fn true_wall(&self) -> Wall {
        const BEGAN: u64 = 1_700_000_000_000;
        let millis = u64::try_from(self.now.since_origin().as_millis()).unwrap_or(0);
        Wall(BEGAN + millis)
    }

    /// Which node has that id.
    pub fn index_of(&self, id: NodeId) -> Option<NodeIndex> {
        self.index.get(&id).copied()
    }
}

/// Which node an id belongs to.
pub(super) type Index = BTreeMap<NodeId, NodeIndex>;
