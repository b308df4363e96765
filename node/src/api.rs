//! The HTTP interface: JSON views, commands, metrics and the stream of events.
//!
//! ```text
//!   client ──► guard (who may ask?) ──► http (what is asked?) ──► handle ──► the driver
//!                                       sse, metrics ◄── follow ◄── the log of events
//! ```
//!
//! It sees the [`Handle`] and nothing else of the node, and it runs in a thread of its own,
//! so that a large answer never makes the failure detector late. Paths and shapes are those
//! of the interface description; every error is a [`crate::view::Problem`] (RFC 9457).

mod connections;
mod follow;
mod guard;
mod http;
mod kv;
mod metrics;
mod operations;
mod problem;
pub mod resp;
mod sse;
pub mod token;

use std::{io, net::TcpListener, sync::Arc, thread::JoinHandle, time::Duration};

use tokio::sync::Semaphore;

use crate::handle::Handle;
use connections::Bounded;
use metrics::EventCounts;
pub use operations::Operations;
use token::CurrentToken;

/// The largest body of a request, if it is not a value (bytes).
pub const MAX_BODY: usize = 64 * 1024;
/// How many may follow the events at the same time.
pub const MAX_FOLLOWERS: usize = 64;
/// How many clients may be connected at the same time; more wait.
pub const MAX_CONNECTIONS: usize = 256;
/// How long the node may take for an answer: a change of keys asks every member.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long open requests may go on after the node has stopped.
const LAST_REQUESTS: Duration = Duration::from_secs(1);

/// What the interface needs to know besides the node.
#[derive(Clone, Debug, Default)]
pub struct ApiOptions {
    /// What clients must show, if anything.
    pub token: CurrentToken,
    /// Where work on keys is counted, and shown from.
    pub operations: Arc<Operations>,
}

#[derive(Clone, Debug)]
struct App {
    handle: Handle,
    token: CurrentToken,
    /// The interface can be reached from this machine only.
    local: bool,
    followers: Arc<Semaphore>,
    counts: Arc<EventCounts>,
    operations: Arc<Operations>,
}

/// Serves the interface in a thread of its own until the node has stopped; the thread ends
/// then.
///
/// # Errors
/// The system gives no thread, or cannot watch the socket.
pub fn spawn(
    listener: TcpListener,
    handle: Handle,
    options: ApiOptions,
) -> io::Result<JoinHandle<io::Result<()>>> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("http".to_owned())
        .spawn(move || runtime.block_on(serve(listener, handle, options)))
}

/// Serves the interface in this task until the node has stopped.
///
/// # Errors
/// The socket cannot be used.
pub async fn serve(listener: TcpListener, handle: Handle, options: ApiOptions) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let app = App {
        local: listener.local_addr()?.ip().is_loopback(),
        token: options.token,
        followers: Arc::new(Semaphore::new(MAX_FOLLOWERS)),
        counts: Arc::new(EventCounts::default()),
        operations: options.operations,
        handle: handle.clone(),
    };
    let counting = metrics::count_events(handle.clone(), Arc::clone(&app.counts));
    let stopped = {
        let handle = handle.clone();
        async move { drop(handle.stopped().await) }
    };
    let serving = axum::serve(Bounded::new(listener, MAX_CONNECTIONS), http::router(app))
        .with_graceful_shutdown(stopped)
        .into_future();
    // A client that never reads its answer must not keep the process.
    let overtime = async {
        drop(handle.stopped().await);
        tokio::time::sleep(LAST_REQUESTS).await;
    };
    tokio::select! {
        served = serving => served,
        () = overtime => Ok(()),
        never = counting => match never {},
    }
}

#[cfg(test)]
pub(crate) mod tests;
