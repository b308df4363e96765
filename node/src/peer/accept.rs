//! The accepting side: whoever connects is a stranger until the handshake is over.

use std::{io, net::SocketAddr, sync::Arc, time::Instant};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Duration, sleep, timeout},
};
use tokio_rustls::server::TlsStream;

use super::{GREETING, MAX_HANDSHAKES, Shared, stream};
use crate::tls;

/// How long accepting rests when the system gives no more sockets.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(200);

/// What became of a connection.
enum Arrival {
    Peer(Box<TlsStream<TcpStream>>),
    /// It went without a word.
    Knock,
}

/// Accepts until the node stops.
pub(super) async fn run(shared: Arc<Shared>, listener: TcpListener) {
    let stop = shared.stop.clone();
    stop.run_until_cancelled(accept_all(&shared, listener))
        .await;
}

async fn accept_all(shared: &Arc<Shared>, listener: TcpListener) {
    let slots = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((tcp, remote)) => {
                let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
                shared
                    .tasks
                    .spawn(receive(Arc::clone(shared), tcp, remote, slot));
            }
            // It had gone again before it could be accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            // Out of file descriptors or memory: others close some, and meanwhile trying
            // again at once would only burn CPU.
            Err(error) => {
                if let Some(suppressed) = shared.strangers.allow(Instant::now()) {
                    tracing::warn!(
                        target: "kith", %error, suppressed,
                        "cannot accept connections of peers; raise the limit of open files (ulimit -n)"
                    );
                }
                sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }
}

/// The whole life of an accepted connection.
async fn receive(
    shared: Arc<Shared>,
    tcp: TcpStream,
    remote: SocketAddr,
    slot: OwnedSemaphorePermit,
) {
    let limited = timeout(shared.limits.dial, handshake(&shared, tcp));
    let Some(outcome) = shared.stop.run_until_cancelled(limited).await else {
        return;
    };
    drop(slot);
    match outcome {
        Ok(Ok(Arrival::Peer(tls))) => {
            shared.counters.streams_accepted.up();
            stream::run(shared, (*tls).into(), remote, None).await;
        }
        Ok(Ok(Arrival::Knock)) => tracing::trace!(target: "kith::packet", %remote, "knock"),
        Ok(Err(error)) => turn_away(&shared, remote, &error),
        Err(_elapsed) => turn_away(&shared, remote, &io::ErrorKind::TimedOut.into()),
    }
}

async fn handshake(shared: &Shared, tcp: TcpStream) -> io::Result<Arrival> {
    if tcp.peek(&mut [0]).await? == 0 {
        return Ok(Arrival::Knock);
    }
    tcp.set_nodelay(true)?;
    let mut tls = shared.tls().accept(tcp).await?;
    tls.write_u8(GREETING).await?;
    tls.flush().await?;
    Ok(Arrival::Peer(Box::new(tls)))
}

fn turn_away(shared: &Shared, remote: SocketAddr, error: &io::Error) {
    shared.counters.handshakes_failed.up();
    let untrusted = tls::is_untrusted(error);
    if untrusted {
        shared.counters.handshakes_untrusted.up();
    }
    let Some(suppressed) = shared.strangers.allow(Instant::now()) else {
        return;
    };
    if untrusted {
        tracing::warn!(
            target: "kith", %remote, %error, suppressed,
            "turned away a node that does not hold this cluster's key"
        );
    } else {
        tracing::debug!(target: "kith", %remote, %error, suppressed, "a connection did not become a peer stream");
    }
}
