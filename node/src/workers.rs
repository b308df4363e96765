//! Threads for data: each runs a shard, some clients' connections, and some peer streams.
//!
//! What belongs to one request meets on one thread as often as can be: a thread that wakes finds
//! all that has arrived, handles it, and writes all that comes of it, before it rests. With a
//! thread for each of the three, every request woke a thread for every step. Membership has
//! its own thread, which data never makes late.

use std::{convert::Infallible, future::Future, io, thread};

use tokio::{
    runtime::{self, Handle},
    sync::mpsc,
    task::JoinHandle,
};

/// A thread that runs tasks for as long as anybody holds one of these.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    runtime: Handle,
    keep: mpsc::Sender<Infallible>,
}

/// The same without keeping it.
#[derive(Clone, Debug)]
pub(crate) struct WeakWorker {
    runtime: Handle,
    keep: mpsc::WeakSender<Infallible>,
}

/// Starts so many.
///
/// # Errors
/// The system gives no threads, or nothing to wait with.
pub(crate) fn start(name: &str, count: u16) -> io::Result<Vec<Worker>> {
    (0..count)
        .map(|number| start_one(format!("kith-{name}-{number}")))
        .collect()
}

fn start_one(name: String) -> io::Result<Worker> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let handle = runtime.handle().clone();
    let (keep, mut kept) = mpsc::channel::<Infallible>(1);
    // Nobody waits for it: what runs on it does not outlive the last who holds it.
    thread::Builder::new().name(name).spawn(move || {
        runtime.block_on(async {
            // Nothing can be sent: it ends when the last who could is gone.
            let _none: Option<Infallible> = kept.recv().await;
        });
    })?;
    Ok(Worker {
        runtime: handle,
        keep,
    })
}

impl Worker {
    /// Runs a task on that thread.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.runtime.spawn(task)
    }

    /// Where tasks run.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(crate) fn downgrade(&self) -> WeakWorker {
        WeakWorker {
            runtime: self.runtime.clone(),
            keep: self.keep.downgrade(),
        }
    }
}

impl WeakWorker {
    /// `None` if nobody has kept it.
    pub(crate) fn upgrade(&self) -> Option<Worker> {
        Some(Worker {
            keep: self.keep.upgrade()?,
            runtime: self.runtime.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tasks_run_on_their_thread_until_nobody_holds_it() {
        let workers = start("test", 2).unwrap();
        let name = || thread::current().name().map(str::to_owned);
        for (number, worker) in workers.iter().enumerate() {
            let ran = worker.spawn(async move { name() }).await.unwrap();
            assert_eq!(ran, Some(format!("kith-test-{number}")));
        }
        let weak: Vec<_> = workers.iter().map(Worker::downgrade).collect();
        let endless = workers[0].spawn(std::future::pending::<()>());
        let held = weak[0].upgrade().unwrap();
        drop(workers);
        held.spawn(async {}).await.unwrap();
        drop(held);
        assert!(endless.await.unwrap_err().is_cancelled());
        assert!(weak.iter().all(|weak| weak.upgrade().is_none()));
    }
}
