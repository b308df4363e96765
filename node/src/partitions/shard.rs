//! One shard's task: feeds a partition core, and carries out what it wants.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use kith_proto::{
    id::{NodeId, PartitionId},
    input::RequestId,
    kv::{
        request::{RequestError, Response},
        version::Wall,
    },
    replica::{
        chain::ConfigId,
        host::{Input, Now, Output, SyncMode, SyncToken},
        message::{self, Message},
        shard::{Config, Shard, Timing},
    },
    store::partitions::{MemoryStore, Store, StoreError},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::{FromShard, Holds, Showing, ToShard, topology::Known};
use crate::{
    clock::{Clock, unix_millis},
    counters::{About, HostCounters},
    kv::Call,
    peer::Lanes,
    storage::{Engine, Gathering, SyncRequests},
};

/// What is taken in before outputs are carried out.
const BATCH: usize = 512;
/// Several messages are put into one frame up to this (bytes).
const FRAME: usize = 64 << 10;
/// Room in a frame before it grows (bytes): for a few writes of small values.
const FRAME_BEGUN: usize = 1024;
/// How long the timer is set if the core has nothing to wait for.
const NOTHING_DUE: Duration = Duration::from_secs(3600);

/// What a shard is made of.
pub(super) struct Setup {
    pub(super) node: NodeId,
    pub(super) shard: (u16, u16),
    pub(super) partitions: u16,
    pub(super) sync: SyncMode,
    pub(super) forgetful: bool,
    pub(super) seed: [u8; 32],
    pub(super) clock: Clock,
    /// `None`: nothing is kept.
    pub(super) disk: Option<OnDisk>,
}

/// What a shard has of the node's engine, and of what syncs it.
pub(super) struct OnDisk {
    pub(super) opening: Arc<Opening>,
    /// Memory for what is read and written again (bytes).
    pub(super) recent: usize,
    /// Memory for which keys there are (bytes).
    pub(super) places: usize,
    pub(super) requests: SyncRequests,
}

/// The engine, while shards read what is in it.
pub(super) struct Opening {
    engine: Arc<Engine>,
    left: AtomicUsize,
}

impl Opening {
    /// For so many shards.
    pub(super) fn new(engine: Arc<Engine>, shards: u16) -> Arc<Self> {
        let left = AtomicUsize::new(usize::from(shards));
        Arc::new(Self { engine, left })
    }

    /// A shard has written its marks. Rule 8: once all have, this boot may be called the one
    /// that wrote last.
    fn done(&self) -> Result<(), StoreError> {
        match self.left.fetch_sub(1, Ordering::AcqRel) {
            1 => self.engine.trust_this_boot(),
            _ => Ok(()),
        }
    }
}

/// Replies that wait, by request.
type Replies = BTreeMap<RequestId, oneshot::Sender<Result<Response, RequestError>>>;

struct Running {
    shard: Shard,
    clock: Clock,
    syncs: Option<SyncRequests>,
    synced: SyncToken,
    /// What waits for the disk, in order.
    held: VecDeque<(SyncToken, Output)>,
    replies: Replies,
    last_request: u64,
    way: Way,
    number: u16,
    /// What is to be sent once all that is to be done is.
    frames: BTreeMap<NodeId, Vec<u8>>,
    shown: BTreeMap<PartitionId, ConfigId>,
    holds: Holds,
    needs: BTreeSet<NodeId>,
}

/// Where what a shard has to say goes.
pub(super) struct Way {
    pub(super) outgoing: mpsc::UnboundedSender<FromShard>,
    pub(super) lanes: Arc<Lanes>,
    pub(super) counters: Arc<HostCounters>,
    pub(super) known: Arc<Known>,
}

/// Runs until the driver drops its end.
pub(super) async fn run(
    setup: Setup,
    inbox: mpsc::UnboundedReceiver<ToShard>,
    calls: mpsc::Receiver<Call>,
    way: Way,
) {
    let outgoing = way.outgoing.clone();
    if let Err(text) = drive(setup, inbox, calls, way).await {
        // The driver may have ended for a reason of its own.
        drop(outgoing.send(FromShard::Broken(text)));
    }
}

async fn drive(
    setup: Setup,
    mut inbox: mpsc::UnboundedReceiver<ToShard>,
    mut calls: mpsc::Receiver<Call>,
    way: Way,
) -> Result<(), String> {
    let clock = setup.clock;
    let store: Box<dyn Store + Send> = match &setup.disk {
        Some(disk) => {
            let engine = disk.opening.engine.store();
            Box::new(Gathering::new(engine, disk.recent, disk.places))
        }
        None => Box::<MemoryStore>::default(),
    };
    let config = Config {
        node: setup.node,
        shard: setup.shard,
        sync: setup.sync,
        timing: Timing::default(),
        forgetful: setup.forgetful,
        omit: None,
    };
    let shard = Shard::open(config, store, setup.partitions, setup.seed, now(clock))
        .map_err(|error| error.0)?;
    let syncs = match setup.disk {
        Some(disk) => {
            disk.opening.done().map_err(|error| error.0)?;
            Some(disk.requests)
        }
        None => None,
    };
    let mut running = Running {
        shard,
        clock,
        syncs,
        synced: SyncToken(0),
        held: VecDeque::new(),
        replies: Replies::new(),
        last_request: 0,
        way,
        number: setup.shard.0,
        frames: BTreeMap::new(),
        shown: BTreeMap::new(),
        holds: Holds::default(),
        needs: BTreeSet::new(),
    };
    running.exchange(&mut inbox, &mut calls).await
}

fn now(clock: Clock) -> Now {
    Now {
        time: clock.now(),
        wall: Wall(unix_millis()),
    }
}

impl Running {
    async fn exchange(
        &mut self,
        inbox: &mut mpsc::UnboundedReceiver<ToShard>,
        calls: &mut mpsc::Receiver<Call>,
    ) -> Result<(), String> {
        let timer = sleep_until(Instant::now());
        tokio::pin!(timer);
        loop {
            self.shard.flush(now(self.clock));
            self.carry_out()?;
            let wake = match self.shard.poll_timeout() {
                Some(due) => self.clock.instant(due).into(),
                None => Instant::now() + NOTHING_DUE,
            };
            if timer.deadline() != wake {
                timer.as_mut().reset(wake);
            }
            let mut message = None;
            let mut call = None;
            tokio::select! {
                biased;
                first = inbox.recv() => match first {
                    Some(first) => message = Some(first),
                    None => return Ok(()),
                },
                Some(first) = calls.recv() => call = Some(first),
                () = timer.as_mut() => {}
            }
            // All that has arrived by now, and at one time: for the core it never runs backwards.
            let now = now(self.clock);
            for _ in 0..=BATCH {
                let Some(next) = message.take().or_else(|| inbox.try_recv().ok()) else {
                    break;
                };
                self.take(now, next)?;
            }
            for _ in 0..=BATCH {
                let Some(next) = call.take().or_else(|| calls.try_recv().ok()) else {
                    break;
                };
                self.call(now, next);
            }
            if self.shard.poll_timeout().is_some_and(|due| due <= now.time) {
                self.shard.handle(now, Input::Tick);
            }
        }
    }

    fn take(&mut self, now: Now, message: ToShard) -> Result<(), String> {
        match message {
            ToShard::View(view) => self.shard.handle(now, Input::View(view)),
            ToShard::Peer(from, messages, room) => {
                for message in messages {
                    self.shard.handle(now, Input::Message { from, message });
                }
                drop(room);
            }
            ToShard::Synced(token, Ok(())) => self.synced(now, SyncToken(token)),
            ToShard::Synced(_, Err(text)) => return Err(text),
            ToShard::Show(reply) => {
                let showing = Showing {
                    partitions: self.shard.show(),
                    counters: self.shard.counters().clone(),
                };
                // Whoever asked may have gone.
                drop(reply.send(showing));
            }
            ToShard::Recover(only, reply) => {
                // Whoever asked may have gone.
                drop(reply.send(self.shard.recover(now, only)));
            }
        }
        Ok(())
    }

    fn synced(&mut self, now: Now, token: SyncToken) {
        self.synced = self.synced.max(token);
        self.shard.handle(now, Input::Synced(self.synced));
        while let Some((after, _)) = self.held.front()
            && *after <= self.synced
        {
            if let Some((_, output)) = self.held.pop_front() {
                self.release(output);
            }
        }
    }

    fn call(&mut self, now: Now, call: Call) {
        self.last_request += 1;
        let request = RequestId(self.last_request);
        self.replies.insert(request, call.reply);
        let input = Input::Request {
            request,
            partition: call.partition,
            body: call.request,
        };
        self.shard.handle(now, input);
    }

    fn carry_out(&mut self) -> Result<(), String> {
        while let Some(output) = self.shard.poll_output() {
            let after = match &output {
                Output::Send { after, .. } | Output::Reply { after, .. } => *after,
                _ => None,
            };
            match (after, &self.syncs) {
                (Some(after), Some(_)) if after > self.synced => {
                    self.held.push_back((after, output));
                }
                _ => {
                    if let Output::Broken(text) = output {
                        return Err(text);
                    }
                    self.release(output);
                }
            }
        }
        for (to, frame) in std::mem::take(&mut self.frames) {
            self.put(to, frame);
        }
        self.show();
        Ok(())
    }

    // What goes to one peer at the same time goes in one frame, unless it is long.
    fn send(&mut self, to: NodeId, message: &Message) {
        let begun = || Vec::with_capacity(FRAME_BEGUN);
        let frame = self.frames.entry(to).or_insert_with(begun);
        let before = frame.len();
        message::append(message, frame);
        let about = About::Partitions(message.kind());
        // The mark at a frame's beginning is of no message.
        let size = frame.len() - before.max(1);
        self.way.counters.traffic.sent(about, size);
        if frame.len() > FRAME && before > 0 {
            let mut last = vec![message::FRAME_MARK];
            last.extend_from_slice(&frame[before..]);
            frame.truncate(before);
            let full = std::mem::replace(frame, last);
            self.put(to, full);
        }
    }

    fn put(&self, to: NodeId, frame: Vec<u8>) {
        if let Err((frame, detour)) = self.way.lanes.send(to, frame) {
            self.tell(FromShard::Frame(to, frame, detour));
        }
    }

    fn release(&mut self, output: Output) {
        match output {
            Output::Send { to, message, .. } => self.send(to, &message),
            Output::Reply {
                request, result, ..
            } => {
                if let Some(reply) = self.replies.remove(&request) {
                    // Whoever asked may have gone.
                    drop(reply.send(result));
                }
            }
            Output::Sync(token) => match &self.syncs {
                Some(syncs) => syncs.request(token.0),
                // Nothing is kept, so that nothing is waited for.
                None => self.synced(now(self.clock), token),
            },
            Output::Event(event) => self.tell(FromShard::Event(event)),
            Output::Broken(_) => {}
        }
    }

    // Clients are told of configurations that changed.
    fn show(&mut self) {
        let routes = self.shard.take_changed_routes();
        if routes.is_some() || self.shard.awaits_stream() {
            let needs = self.shard.peers_needed();
            if needs != self.needs {
                self.needs.clone_from(&needs);
                self.tell(FromShard::Needs(self.number, needs));
            }
        }
        let Some(routes) = routes else {
            return;
        };
        let mut changed = Vec::new();
        for route in routes {
            if self.shown.insert(route.partition, route.id) != Some(route.id) {
                changed.push((route.partition, route.members));
            }
        }
        self.way.known.partitions(changed);
        let (owned, member) = self.shard.holds();
        let holds = Holds {
            owned,
            member,
            bytes: self.shard.held_bytes(),
        };
        if holds != self.holds {
            self.holds = holds;
            self.tell(FromShard::Holds(self.number, holds));
        }
    }

    fn tell(&self, what: FromShard) {
        // Fails only while the node stops.
        drop(self.way.outgoing.send(what));
    }
}
