//! Peer streams: framed, encrypted connections between nodes over TCP.
//!
//! ```text
//!   dialler                                   accepting side
//!   connect ───────────TCP───────────────────> accept            (at most 256 unfinished)
//!   TLS 1.3, each shows a certificate <──────> of its cluster key, or of an operator
//!           <──────────greeting, 1 byte─────── the dialler's certificate was accepted
//!           <──────────proof, 36 bytes──────── with an operator's certificates only: that
//!   proof ───────────────────────────────────> both hold the cluster's key
//!           <──────────verdict, 1 byte──────── the dialler does
//!   StreamOpened                               StreamOpened
//!           <──────────u32 length + frame────> any number, both ways
//!   close: what is queued, close_notify ─────> end: StreamClosed
//!           <──────────end──────────────────── StreamClosed at both, once
//! ```
//!
//! The greeting is there because a TLS 1.3 client ends its handshake before the server
//! has judged its certificate (see [`crate::tls`]): only after it does the dialler say that
//! the stream is open. The proofs are those of [`crate::tls`].
//!
//! Streams run on the threads of [`crate::workers`], where shards are that most frames are for.
//!
//! A *knock* only asks a host's kernel whether anybody listens: it connects, says nothing and
//! goes. The accepting side takes it for what it is and keeps quiet about it.
//!
//! Everything is bounded: unfinished handshakes ([`MAX_HANDSHAKES`]), frames (`MAX_DATA_FRAME`),
//! what waits to be sent (see `queue`; a peer that reads too slowly is cut off), what has
//! been received and not been handled ([`MAX_RECEIVED`]; a peer that sends too fast waits).

mod accept;
mod dial;
mod lane;
mod queue;
mod resolve;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::join_all;
use kith_proto::{
    id::NodeId,
    input::{DialError, Input, StreamId, Token},
};
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::{JoinHandle, yield_now},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::stream::Outbox;
pub(crate) use self::{
    dial::try_handshake,
    lane::{Detour, Lanes, TakeFrame},
    stream::Introduction,
};
use crate::{
    counters::HostCounters,
    limited::Limited,
    tls::{Mistrust, TlsSetup},
    workers::Worker,
};

/// Connections that may be in their handshake at a time; more wait in the kernel's queue.
pub(crate) const MAX_HANDSHAKES: usize = 256;
/// What all streams together may have received without the core having seen it (bytes).
const MAX_RECEIVED: usize = 64 << 20;
/// Reports that may wait for the driver before streams wait themselves.
pub(crate) const REPORT_QUEUE: usize = 1024;
/// A stream that is being closed has this long to get rid of what is queued.
pub(crate) const CLOSE_DEADLINE: Duration = Duration::from_secs(2);
/// What the accepting side says first. One byte, whose value leaves room for others.
const GREETING: u8 = 1;
/// What it says instead to a dialler who does not prove that it holds the cluster's key.
const WRONG_KEY: u8 = 2;
/// Lines of a kind about strangers at the door, at most one per this.
const LOG_PERIOD: Duration = Duration::from_secs(30);

/// Time limits of the network side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// A dial, and a handshake that others began, take at most this long.
    pub(crate) dial: Duration,
    /// A knock takes at most this long.
    pub(crate) knock: Duration,
}

/// What tasks of the host tell the driver. [`Peers::take`] makes an input of it.
#[derive(Debug)]
pub(crate) enum Report {
    /// A stream is open.
    Opened {
        /// Its number.
        stream: StreamId,
        /// The other end.
        remote: SocketAddr,
        /// The dial that led to it.
        dial: Option<Token>,
        /// Where frames for it go.
        outbox: Outbox,
    },
    /// A frame came in.
    Frame {
        /// Its stream.
        stream: StreamId,
        /// The frame.
        frame: Vec<u8>,
        /// Its share of [`MAX_RECEIVED`], given back when the report is taken.
        room: OwnedSemaphorePermit,
        /// If it is for partitions.
        introduction: Option<Introduction>,
    },
    /// A stream has ended.
    Closed {
        /// Which.
        stream: StreamId,
    },
    /// A dial did not lead to a stream.
    DialFailed {
        /// Which.
        dial: Token,
        /// Where it went.
        to: SocketAddr,
        /// Why.
        error: DialError,
        /// What one side has against the other, if that is the reason.
        mistrust: Option<Mistrust>,
    },
    /// What needs no more than handing on.
    Input(Input),
}

/// What peer streams are made of.
pub(crate) struct Setup {
    /// Where peers knock, bound to `listen`.
    pub(crate) listener: TcpListener,
    /// The address we listen on; 0.0.0.0 or :: for all of this machine.
    pub(crate) listen: IpAddr,
    /// How streams are opened, until it changes.
    pub(crate) tls: TlsSetup,
    /// Where the driver reads what becomes of them.
    pub(crate) reports: mpsc::Sender<Report>,
    /// Where frames about partitions go.
    pub(crate) take_frame: TakeFrame,
    /// Threads for streams; at least one.
    pub(crate) workers: Vec<Worker>,
    /// Time limits.
    pub(crate) limits: Limits,
    /// What is counted.
    pub(crate) counters: Arc<HostCounters>,
}

/// All peer streams of this node, and the listener for new ones.
#[derive(Debug)]
pub(crate) struct Peers {
    shared: Arc<Shared>,
    tls: watch::Sender<TlsSetup>,
    outboxes: BTreeMap<StreamId, Outbox>,
    lanes: Arc<Lanes>,
    /// Why the last dial failed that failed for want of trust, and whither it went.
    mistrust: Option<(SocketAddr, Mistrust)>,
    accepting: JoinHandle<()>,
}

/// What every task of this module needs.
struct Shared {
    tls: watch::Receiver<TlsSetup>,
    reports: mpsc::Sender<Report>,
    take_frame: TakeFrame,
    counters: Arc<HostCounters>,
    limits: Limits,
    /// The address we listen on; 0.0.0.0 or :: for all of this machine.
    listen: IpAddr,
    last_stream: AtomicU64,
    /// Threads for streams, which take turns.
    workers: Vec<Worker>,
    turn: AtomicUsize,
    room: Arc<Semaphore>,
    /// Lines about those who are not trusted, about what is no peer at all, and about sockets
    /// that the system does not give: none keeps the others from being told.
    strangers: Limited,
    noise: Limited,
    exhausted: Limited,
    tasks: TaskTracker,
    stop: CancellationToken,
    streams_closed: CancellationToken,
}

impl Peers {
    /// Starts accepting.
    pub(crate) fn start(setup: Setup) -> Self {
        let Setup {
            listener,
            listen,
            tls,
            reports,
            take_frame,
            workers,
            limits,
            counters,
        } = setup;
        let tls = watch::Sender::new(tls);
        let shared = Arc::new(Shared {
            tls: tls.subscribe(),
            reports,
            take_frame,
            counters,
            limits,
            listen,
            last_stream: AtomicU64::new(0),
            workers,
            turn: AtomicUsize::new(0),
            room: Arc::new(Semaphore::new(MAX_RECEIVED)),
            strangers: Limited::new(LOG_PERIOD),
            noise: Limited::new(LOG_PERIOD),
            exhausted: Limited::new(LOG_PERIOD),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            streams_closed: CancellationToken::new(),
        });
        let accepting = tokio::spawn(accept::run(Arc::clone(&shared), listener));
        Self {
            shared,
            tls,
            outboxes: BTreeMap::new(),
            lanes: Arc::default(),
            mistrust: None,
            accepting,
        }
    }

    /// Streams opened from now on use this; those that are open stay.
    pub(crate) fn set_tls(&self, tls: TlsSetup) {
        self.tls.send_replace(tls);
    }

    /// Opens a stream; reports `StreamOpened` or `DialFailed` within the limit.
    pub(crate) fn dial(&self, dial: Token, to: SocketAddr) {
        let shared = Arc::clone(&self.shared);
        self.shared.spawn_stream(dial::dial(shared, dial, to));
    }

    /// Asks a host's kernel; reports `Knocked` within the limit.
    pub(crate) fn knock(&self, knock: Token, to: SocketAddr) {
        let shared = Arc::clone(&self.shared);
        self.shared.tasks.spawn(dial::knock(shared, knock, to));
    }

    /// Looks up seeds; reports `Resolved`.
    pub(crate) fn resolve(&self, seeds: Vec<String>) {
        let shared = Arc::clone(&self.shared);
        self.shared.tasks.spawn(resolve::resolve(shared, seeds));
    }

    /// Queues a frame. A stream that is gone is passed over in silence: its `StreamClosed`
    /// is on its way. One whose peer does not read is cut.
    pub(crate) fn send(&self, stream: StreamId, frame: Vec<u8>) {
        if let Some(outbox) = self.outboxes.get(&stream) {
            outbox.send(frame);
        }
    }

    /// The same for a frame of a shard to a member, to which that stream leads: the next one finds
    /// the way by itself.
    pub(crate) fn send_first(&self, to: NodeId, stream: StreamId, frame: Vec<u8>, detour: Detour) {
        if let Some(outbox) = self.outboxes.get(&stream) {
            outbox.send(frame);
            self.lanes.open(to, outbox.lane());
        }
        drop(detour);
    }

    /// The ways that shards' frames take.
    pub(crate) fn lanes(&self) -> Arc<Lanes> {
        Arc::clone(&self.lanes)
    }

    /// Closes a stream once all that is queued is sent, or [`CLOSE_DEADLINE`] is over.
    pub(crate) fn close(&mut self, stream: StreamId) {
        drop(self.outboxes.remove(&stream));
    }

    /// Makes an input for the core of what a task reported.
    pub(crate) fn take(&mut self, report: Report) -> Input {
        match report {
            Report::Opened {
                stream,
                remote,
                dial,
                outbox,
            } => {
                self.outboxes.insert(stream, outbox);
                Input::StreamOpened {
                    stream,
                    remote,
                    dial,
                }
            }
            Report::Frame {
                stream,
                frame,
                room,
                introduction,
            } => {
                drop((room, introduction));
                Input::StreamFrame { stream, frame }
            }
            Report::Closed { stream } => {
                self.outboxes.remove(&stream);
                self.lanes.sweep();
                Input::StreamClosed { stream }
            }
            Report::DialFailed {
                dial,
                to,
                error,
                mistrust,
            } => {
                if let Some(mistrust) = mistrust {
                    self.mistrust = Some((to, mistrust));
                }
                Input::DialFailed { dial, error }
            }
            Report::Input(input) => input,
        }
    }

    /// What is wrong with certificates between this node and the one at that address, if the
    /// last dial that failed for want of trust went there.
    pub(crate) fn wrong_certificate(&self, address: SocketAddr) -> Option<&str> {
        match &self.mistrust {
            Some((to, Mistrust::Certificate(why))) if *to == address => Some(why),
            _ => None,
        }
    }

    /// Returns once the threads of streams have read what has arrived; one that is kept from
    /// running longer than `patience` is not waited for.
    pub(crate) async fn let_read(&self, patience: Duration) {
        let rounds = self.shared.workers.iter().map(|worker| {
            worker.spawn(async {
                // A thread looks at its sockets between two turns of a task that yields, and then
                // runs those that read before this one.
                for _ in 0..2 {
                    yield_now().await;
                }
            })
        });
        // Whether they did is not known to matter: who is late asks more than once.
        drop(timeout(patience, join_all(rounds)).await);
    }

    /// Stops accepting and dialling, sends what is queued on every stream and closes it.
    /// Returns when all is done, or [`CLOSE_DEADLINE`] is over. Nobody needs to take
    /// reports any more.
    pub(crate) async fn shutdown(self) {
        self.shared.stop.cancel();
        drop(self.outboxes);
        self.shared.tasks.close();
        if timeout(CLOSE_DEADLINE, self.shared.tasks.wait())
            .await
            .is_err()
        {
            tracing::debug!(target: "kith", "some peers did not take all that was queued for them");
        }
        self.shared.streams_closed.cancel();
        if let Err(error) = self.accepting.await {
            tracing::error!(target: "kith", %error, "accepting peers has ended by a fault of this software");
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    fn tls(&self) -> TlsSetup {
        self.tls.borrow().clone()
    }

    /// Runs what is or becomes a stream, on the thread whose turn it is.
    fn spawn_stream(&self, task: impl Future<Output = ()> + Send + 'static) {
        let turn = self.turn.fetch_add(1, Relaxed);
        let worker = &self.workers[turn % self.workers.len()];
        // Nobody waits for this one: `tasks` knows when all have ended.
        drop(self.tasks.spawn_on(task, worker.runtime()));
    }

    fn next_stream(&self) -> StreamId {
        StreamId(self.last_stream.fetch_add(1, Relaxed) + 1)
    }

    /// Tells the driver. Once that has ended there is nobody to tell, and the task that
    /// reports is about to end as well.
    async fn report(&self, report: Report) -> Result<(), DriverGone> {
        self.reports
            .send(report)
            .await
            .map_err(|_unsent_report| DriverGone)
    }
}

/// The driver takes no more reports.
#[derive(Clone, Copy, Debug)]
struct DriverGone;
