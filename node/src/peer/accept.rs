//! The accepting side: whoever connects is a stranger until the handshake is over.

use std::{io, net::SocketAddr, sync::Arc, time::Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Duration, sleep, timeout},
};
use tokio_rustls::server::TlsStream;

use super::{GREETING, MAX_HANDSHAKES, Shared, WRONG_KEY, stream};
use crate::tls::{Mistrust, PROOF_LEN, Proofs, Side};

/// How long accepting rests when the system gives no more sockets.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(200);

/// What became of a connection.
enum Arrival {
    Peer(Box<TlsStream<TcpStream>>),
    /// It went without a word.
    Knock,
}

/// Accepts until the node stops.
///
/// The port is kept until all streams are closed: while the farewell is under way on them, a host that refuses
/// would look as if this process had ended without a word.
pub(super) async fn run(shared: Arc<Shared>, listener: TcpListener) {
    let stop = shared.stop.clone();
    stop.run_until_cancelled(accept_all(&shared, &listener))
        .await;
    shared.streams_closed.cancelled().await;
}

async fn accept_all(shared: &Arc<Shared>, listener: &TcpListener) {
    let slots = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((tcp, remote)) => {
                let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
                // Fails only if the socket is broken: then the dialler sees that it is closed.
                if let Ok(tcp) = tcp.into_std() {
                    shared.spawn_stream(receive(Arc::clone(shared), tcp, remote, slot));
                }
            }
            // It had gone again before it could be accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            // Out of file descriptors or memory: others close some, and meanwhile trying
            // again at once would only burn CPU.
            Err(error) => {
                if let Some(suppressed) = shared.exhausted.allow(Instant::now()) {
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
    tcp: std::net::TcpStream,
    remote: SocketAddr,
    slot: OwnedSemaphorePermit,
) {
    let handshake = async { handshake(&shared, TcpStream::from_std(tcp)?).await };
    let limited = timeout(shared.limits.dial, handshake);
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
    let setup = shared.tls();
    let mut tls = setup.accept(tcp).await?;
    tls.write_u8(GREETING).await?;
    match setup.proofs() {
        None => tls.flush().await?,
        Some(proofs) => prove(&mut tls, proofs).await?,
    }
    Ok(Arrival::Peer(Box::new(tls)))
}

/// Shows that this node holds the cluster's key, and looks whether the dialler does.
async fn prove(tls: &mut TlsStream<TcpStream>, proofs: &Proofs) -> io::Result<()> {
    let session = tls.get_ref().1;
    let own = proofs
        .make(Side::Acceptor, session)
        .map_err(io::Error::other)?;
    tls.write_all(&own).await?;
    tls.flush().await?;
    let mut theirs = [0; PROOF_LEN];
    tls.read_exact(&mut theirs).await?;
    let session = tls.get_ref().1;
    let checked = proofs
        .check(Side::Dialler, session, &theirs)
        .map_err(io::Error::other)?;
    if let Err(wrong_key) = checked {
        // Whoever is turned away may have found out by itself, and be gone.
        if tls.write_u8(WRONG_KEY).await.is_ok() {
            drop(tls.shutdown().await);
        }
        return Err(io::Error::other(wrong_key));
    }
    tls.write_u8(GREETING).await?;
    tls.flush().await
}

fn turn_away(shared: &Shared, remote: SocketAddr, error: &io::Error) {
    let mistrust = shared.tls().mistrust(error);
    if mistrust.is_some() {
        shared.counters.handshakes_untrusted.up();
    }
    // Last: whoever sees it sees the other one too.
    shared.counters.handshakes_failed.up();
    let lines = match mistrust {
        Some(_) => &shared.strangers,
        None => &shared.noise,
    };
    let Some(suppressed) = lines.allow(Instant::now()) else {
        return;
    };
    match mistrust {
        Some(Mistrust::Key) => tracing::warn!(
            target: "kith", %remote, %error, suppressed,
            "turned away a node that does not hold this cluster's key"
        ),
        Some(Mistrust::Certificate(why)) => tracing::warn!(
            target: "kith", %remote, %error, suppressed,
            "turned away a node because of certificates: {why}"
        ),
        None => tracing::debug!(
            target: "kith", %remote, %error, suppressed,
            "a connection did not become a peer stream"
        ),
    }
}
