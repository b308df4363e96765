//! The RESP interface: what Redis clients speak.
//!
//! ```text
//!   socket ─► accept ─► worker threads ─► connection ─► frame (requests) ─► spec (which command)
//!                                             │
//!                        strings, keyspace ◄──┼──► session, facts, cluster
//!                                             ▼
//!                                   Kv (any node answers for any key) ─► reply ─► socket
//! ```
//!
//! Reading order: `frame`, `reply`, `spec`, `strings`, `connection`.
//!
//! Connections run on the threads of `workers`, each on one of them, so that clients never
//! make the failure detector late.

mod cluster;
mod connection;
mod facts;
mod frame;
mod glob;
mod keyspace;
mod options;
mod pending;
mod reply;
mod session;
mod spec;
mod strings;
mod wait;

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use kith_proto::kv::{MAX_KEY, request::Ack};
use serde::{Deserialize, Serialize};
use socket2::{SockRef, TcpKeepalive};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    LAST_REQUESTS,
    operations::{Open, Operations},
    token::CurrentToken,
};
use crate::{handle::Handle, kv::Kv, workers};
use connection::Connection;
use frame::{Limits, MAX_ARGS};
use session::{Client, Session};

/// The version of Redis whose commands these are, for clients that ask.
const REDIS_VERSION: &str = "7.2.0";
/// How many clients may be connected at the same time; more are told so.
pub const MAX_CONNECTIONS: usize = 10_000;
/// What all arguments of one request may take beside one value (bytes).
const MAX_ARGUMENTS: usize = 64 << 20;
/// What large requests of all connections together may take before they are complete (bytes).
const MAX_HELD: usize = 1 << 30;
/// A connection that is silent for so long is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(300);
/// Connections on their way to a thread.
const HAND_OVER: usize = 64;

/// Which clients are sent to the owner of a key instead of being answered from here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RespMoved {
    /// Those that asked for the topology, or sent `READONLY`.
    #[default]
    Auto,
    /// All.
    Always,
    /// None: every request is passed on.
    Never,
}

/// What the interface needs to know besides the partitions.
#[derive(Clone, Debug, Default)]
pub struct RespOptions {
    /// What clients must show, if anything.
    pub token: CurrentToken,
    /// Who gets `MOVED`.
    pub moved: RespMoved,
    /// When writes are acknowledged.
    pub ack: Ack,
    /// Where its work is counted.
    pub operations: Arc<Operations>,
}

/// What all connections share.
#[derive(Debug)]
struct Server {
    kv: Kv,
    token: CurrentToken,
    moved: RespMoved,
    ack: Ack,
    operations: Arc<Operations>,
    clients: Clients,
    address: SocketAddr,
    max_connections: usize,
    started: Instant,
    held: AtomicUsize,
    stop: CancellationToken,
}

impl Server {
    fn limits(&self, session: &Session) -> Limits {
        if !session.may_speak(self) {
            return Limits::STRANGER;
        }
        let bulk = self.kv.max_value().max(MAX_KEY);
        Limits {
            bulk,
            args: MAX_ARGS,
            total: bulk + MAX_ARGUMENTS,
        }
    }

    /// A connection that held so many bytes holds others now; false if that is too much.
    fn hold(&self, before: usize, now: usize) -> bool {
        self.held.fetch_sub(before, Ordering::Relaxed);
        self.held.fetch_add(now, Ordering::Relaxed) + now <= MAX_HELD
    }
}

/// Who is connected.
#[derive(Debug, Default)]
struct Clients {
    next: AtomicU64,
    /// How many there are; asked for with each answer.
    count: AtomicUsize,
    all: Mutex<BTreeMap<u64, Arc<Client>>>,
}

impl Clients {
    fn add(&self, from: SocketAddr, to: SocketAddr) -> Arc<Client> {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let client = Arc::new(Client {
            id,
            from,
            to,
            since: Instant::now(),
            told: Mutex::default(),
        });
        self.lock().insert(id, Arc::clone(&client));
        self.count.fetch_add(1, Ordering::Relaxed);
        client
    }

    fn remove(&self, id: u64) {
        if self.lock().remove(&id).is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    fn list(&self) -> String {
        let all: Vec<Arc<Client>> = self.lock().values().cloned().collect();
        all.iter().map(|client| client.line()).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Arc<Client>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves the interface, on the threads of the shards and one of its own, until the node has
/// stopped; the latter ends then.
///
/// # Errors
/// The system gives no thread, or cannot watch the socket.
pub fn spawn(
    listener: TcpListener,
    handle: Handle,
    kv: Kv,
    options: RespOptions,
) -> io::Result<JoinHandle<()>> {
    let stop = CancellationToken::new();
    let server = Arc::new(Server {
        kv,
        token: options.token,
        moved: options.moved,
        ack: options.ack,
        operations: options.operations,
        clients: Clients::default(),
        address: listener.local_addr()?,
        max_connections: max_connections(),
        started: Instant::now(),
        held: AtomicUsize::new(0),
        stop: stop.clone(),
    });
    listener.set_nonblocking(true)?;
    let mut threads = server.kv.workers();
    if threads.is_empty() {
        threads = workers::start("resp", 1)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let accept = async move {
        let mut queues = Vec::new();
        let mut working = JoinSet::new();
        for thread in &threads {
            let (give, take) = mpsc::channel(HAND_OVER);
            queues.push(give);
            working.spawn_on(work(Arc::clone(&server), take), thread.runtime());
        }
        tokio::select! {
            () = accept(listener, &server, &queues) => {}
            _ = handle.stopped() => {}
        }
        stop.cancel();
        // With `threads` held until all have ended.
        while let Some(ended) = working.join_next().await {
            if ended.is_err() {
                tracing::error!(target: "kith::api", "RESP ended with a panic");
            }
        }
        drop(threads);
    };
    std::thread::Builder::new()
        .name("kith-resp".to_owned())
        .spawn(move || runtime.block_on(accept))
}

/// Half of the files that the process may open: the rest is for peers and for the disk.
fn max_connections() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    soft.map_or(MAX_CONNECTIONS, |soft| (soft / 2).min(MAX_CONNECTIONS))
}

/// Takes connections, and gives them to the workers in turn.
async fn accept(listener: TcpListener, server: &Server, workers: &[mpsc::Sender<Taken>]) {
    const PAUSE: Duration = Duration::from_millis(100);
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(target: "kith::api", %error, "RESP cannot be served");
            return;
        }
    };
    for worker in workers.iter().cycle() {
        let taken = loop {
            match listener.accept().await {
                Ok((stream, from)) => match taken(server, stream, from) {
                    Ok(Some(taken)) => break taken,
                    Ok(None) => {}
                    Err(error) => {
                        tracing::debug!(target: "kith::api", %from, %error, "RESP client not taken");
                    }
                },
                Err(error) => {
                    // Mostly that no more files can be opened, which passes.
                    tracing::warn!(target: "kith::api", %error, "cannot take RESP connections");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        };
        if worker.send(taken).await.is_err() {
            tracing::error!(target: "kith::api", "a thread of RESP has ended");
            return;
        }
    }
}

/// A connection on its way to a worker.
struct Taken {
    stream: TcpStream,
    client: Arc<Client>,
    open: Open,
}

/// `None` if there are too many.
fn taken(
    server: &Server,
    stream: tokio::net::TcpStream,
    from: SocketAddr,
) -> io::Result<Option<Taken>> {
    if server.clients.len() >= server.max_connections {
        server.operations.refused_connection();
        // Whether it arrives is the client's luck: nobody waits for it here.
        let text = b"-ERR max number of clients reached\r\n";
        return stream.try_write(text).map(|_sent| None);
    }
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    let to = stream.local_addr()?;
    Ok(Some(Taken {
        stream: stream.into_std()?,
        client: server.clients.add(from, to),
        open: server.operations.opened(),
    }))
}

/// Serves connections until the node stops; those that are open then have a moment to end.
async fn work(server: Arc<Server>, mut connections: mpsc::Receiver<Taken>) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            () = server.stop.cancelled() => break,
            Some(_ended) = open.join_next() => {}
            taken = connections.recv() => match taken {
                Some(taken) => drop(open.spawn(serve(Arc::clone(&server), taken))),
                None => break,
            },
        }
    }
    let all = async { while open.join_next().await.is_some() {} };
    // Those that are not over by then are dropped with the set.
    drop(tokio::time::timeout(LAST_REQUESTS, all).await);
}

async fn serve(server: Arc<Server>, taken: Taken) {
    let Taken {
        stream,
        client,
        open,
    } = taken;
    let id = client.id;
    let served = match tokio::net::TcpStream::from_std(stream) {
        Ok(stream) => {
            Connection::new(Arc::clone(&server), stream, client)
                .serve()
                .await
        }
        Err(error) => Err(error),
    };
    if let Err(error) = served {
        tracing::debug!(target: "kith::api", id, %error, "RESP connection ended");
    }
    server.clients.remove(id);
    drop(open);
}

#[cfg(test)]
mod tests;
