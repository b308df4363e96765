//! One thread that flushes to the disk for all shards.
//!
//! ```text
//!   shard 1 ──token 7──┐                              ┌── 7 ──> shard 1
//!   shard 2 ──token 3──┼──> everything that waits ────┼── 3 ──> shard 2
//!   shard 1 ──token 8──┘    is served by one flush    └── 8 ──> shard 1
//! ```
//!
//! While a flush is under way requests gather, and the next one serves them all: the slower
//! the disk, the more share a flush. Shards go on writing meanwhile.

use std::{
    fmt, io,
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use kith_proto::store::partitions::StoreError;

use super::engine::{Engine, Inner};

/// A flush that was asked for is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    /// What the request said.
    pub token: u64,
    /// Whether everything written before the request is on the disk.
    pub result: Result<(), StoreError>,
}

type Answer = Arc<dyn Fn(Synced) + Send + Sync>;

struct Request {
    token: u64,
    answer: Answer,
}

enum Order {
    Flush(Request),
    Stop,
}

/// The thread, and how to reach it. It serves what was requested and ends when this is dropped.
pub struct Syncer {
    orders: Sender<Order>,
    thread: Option<JoinHandle<()>>,
}

/// A shard's way to ask for flushes.
#[derive(Clone)]
pub struct SyncRequests {
    orders: Sender<Order>,
    answer: Answer,
}

impl fmt::Debug for Syncer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Syncer").finish_non_exhaustive()
    }
}

impl fmt::Debug for SyncRequests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncRequests").finish_non_exhaustive()
    }
}

impl Syncer {
    /// Starts the thread. With a period, what was written is flushed that long after at the
    /// latest, requests or not; a failure of that is found at the engine.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(engine: &Engine, period: Option<Duration>) -> io::Result<Self> {
        let (orders, inbox) = mpsc::channel();
        let engine = engine.shared();
        let thread = thread::Builder::new()
            .name("kith-sync".to_owned())
            .spawn(move || run(&engine, &inbox, period))?;
        Ok(Self {
            orders,
            thread: Some(thread),
        })
    }

    /// Connects a shard. `answer` is called by the thread for each request, in their order; it
    /// must not block.
    pub fn connect(&self, answer: impl Fn(Synced) + Send + Sync + 'static) -> SyncRequests {
        SyncRequests {
            orders: self.orders.clone(),
            answer: Arc::new(answer),
        }
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        // It has ended already if nobody takes the order.
        if self.orders.send(Order::Stop).is_ok()
            && let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that flushes to the disk has panicked");
        }
    }
}

impl SyncRequests {
    /// Another way to be answered from now on.
    #[cfg(test)]
    pub(super) fn answer_with(&mut self, answer: impl Fn(Synced) + Send + Sync + 'static) {
        self.answer = Arc::new(answer);
    }

    /// Asks that everything written so far be flushed; the answer carries the token. When the
    /// [`Syncer`] is gone the answer is an error, and is called by this thread; a request
    /// that meets its end may stay without one.
    pub fn request(&self, token: u64) {
        let request = Request {
            token,
            answer: Arc::clone(&self.answer),
        };
        if self.orders.send(Order::Flush(request)).is_err() {
            let error = StoreError("the thread that flushes to the disk has ended".to_owned());
            let result = Err(error);
            (self.answer)(Synced { token, result });
        }
    }
}

fn run(engine: &Inner, inbox: &Receiver<Order>, period: Option<Duration>) {
    let mut due = period.map(|period| Instant::now() + period);
    let mut stopped = false;
    while !stopped {
        let first = match due {
            Some(at) => inbox.recv_timeout(at.saturating_duration_since(Instant::now())),
            None => inbox.recv().map_err(RecvTimeoutError::from),
        };
        let first = match first {
            Ok(order) => Some(order),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let mut waiting = Vec::new();
        for order in first.into_iter().chain(inbox.try_iter()) {
            match order {
                Order::Flush(request) => waiting.push(request),
                Order::Stop => stopped = true,
            }
        }
        let result = engine.sync();
        for Request { token, answer } in waiting {
            let result = result.clone();
            answer(Synced { token, result });
        }
        due = period.map(|period| Instant::now() + period);
    }
}
