//! The dialling side: opening streams, and knocks.

use std::{io, net::SocketAddr, sync::Arc};

use kith_proto::input::{DialError, Input, Knock, Token};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::client::TlsStream;

use super::{GREETING, Report, Shared, WRONG_KEY, stream};
use crate::tls::{self, Mistrust, PROOF_LEN, Proofs, Side, TlsSetup};

/// Dials, reports what came of it, and is the stream from then on.
pub(super) async fn dial(shared: Arc<Shared>, dial: Token, to: SocketAddr) {
    let limited = timeout(shared.limits.dial, open(&shared, to));
    let Some(outcome) = shared.stop.run_until_cancelled(limited).await else {
        return;
    };
    match outcome.unwrap_or(Err(Failed::from(DialError::Silent))) {
        Ok(tls) => {
            shared.counters.streams_dialled.up();
            stream::run(shared, (*tls).into(), to, Some(dial)).await;
        }
        Err(Failed { error, mistrust }) => {
            tracing::trace!(target: "kith::packet", %to, ?error, ?mistrust, "dial failed");
            let report = Report::DialFailed {
                dial,
                to,
                error,
                mistrust,
            };
            if shared.report(report).await.is_err() {
                tracing::trace!(target: "kith::packet", %to, "nobody waits for that dial any more");
            }
        }
    }
}

/// Connects, says nothing, and reports what the other host's kernel did.
pub(super) async fn knock(shared: Arc<Shared>, knock: Token, to: SocketAddr) {
    shared.counters.knocks.up();
    let limited = timeout(shared.limits.knock, connect(&shared, to));
    let Some(outcome) = shared.stop.run_until_cancelled(limited).await else {
        return;
    };
    let answer = match outcome {
        Ok(Ok(_dropped_at_once)) => Knock::Accepted,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Knock::Refused,
        Ok(Err(_)) | Err(_) => Knock::Silent,
    };
    tracing::trace!(target: "kith::packet", %to, ?answer, "knocked");
    let report = Report::Input(Input::Knocked { knock, answer });
    if shared.report(report).await.is_err() {
        tracing::trace!(target: "kith::packet", %to, "nobody waits for that knock any more");
    }
}

/// A dial that did not lead to a stream: what the core is told, and what it is spared.
struct Failed {
    error: DialError,
    mistrust: Option<Mistrust>,
}

async fn open(shared: &Shared, to: SocketAddr) -> Result<Box<TlsStream<TcpStream>>, Failed> {
    let setup = shared.tls();
    let tcp = connect(shared, to).await.map_err(|e| not_connected(&e))?;
    greeted(&setup, tcp).await.map_err(|e| judged(&setup, &e))
}

/// In words of people, who may have mistyped a port.
fn plain(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|e| e.downcast_ref());
    match inner {
        Some(rustls::Error::InvalidMessage(_)) => {
            "what listens there does not speak TLS: it is no peer port of Kith".to_owned()
        }
        _ => error.to_string(),
    }
}

/// Whether whoever accepted that connection takes this node for a peer; says no more to it.
///
/// # Errors
/// Why not, as for a dial.
pub(crate) async fn try_handshake(
    setup: &TlsSetup,
    tcp: TcpStream,
) -> Result<(), (DialError, Option<Mistrust>)> {
    let greeted = greeted(setup, tcp).await.map_err(|e| judged(setup, &e));
    let mut tls = greeted.map_err(|Failed { error, mistrust }| (error, mistrust))?;
    // It was taken for a peer, which is all that was asked.
    drop(tls.shutdown().await);
    Ok(())
}

fn judged(setup: &TlsSetup, error: &io::Error) -> Failed {
    let mistrust = setup.mistrust(error);
    Failed {
        error: match mistrust {
            Some(_) => DialError::Untrusted,
            None => DialError::Broken(plain(error)),
        },
        mistrust,
    }
}

/// The handshakes on a new connection, up to where the other side takes it for a stream.
async fn greeted(setup: &TlsSetup, tcp: TcpStream) -> io::Result<Box<TlsStream<TcpStream>>> {
    tcp.set_nodelay(true)?;
    let mut tls = setup.connect(tcp).await?;
    expect_greeting(&mut tls).await?;
    if let Some(proofs) = setup.proofs() {
        prove(&mut tls, proofs).await?;
    }
    Ok(Box::new(tls))
}

/// Shows that this node holds the cluster's key, and looks whether the other side does.
async fn prove(tls: &mut TlsStream<TcpStream>, proofs: &Proofs) -> io::Result<()> {
    let mut theirs = [0; PROOF_LEN];
    tls.read_exact(&mut theirs).await?;
    let session = tls.get_ref().1;
    let checked = proofs.check(Side::Acceptor, session, &theirs);
    let own = proofs.make(Side::Dialler, session);
    // Even if theirs is wrong: they want to know whom they turn away, and why.
    tls.write_all(&own.map_err(io::Error::other)?).await?;
    tls.flush().await?;
    checked
        .map_err(io::Error::other)?
        .map_err(io::Error::other)?;
    expect_greeting(tls).await
}

async fn expect_greeting(tls: &mut TlsStream<TcpStream>) -> io::Result<()> {
    match tls.read_u8().await? {
        GREETING => Ok(()),
        WRONG_KEY => Err(io::Error::other(tls::WrongKey)),
        other => Err(io::Error::other(format!(
            "it greets with {other} instead of {GREETING}: another version?"
        ))),
    }
}

/// Connects from the address that we listen on, if it is a particular one: others then see
/// the address that they know.
async fn connect(shared: &Shared, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if !shared.listen.is_unspecified() && shared.listen.is_ipv4() == to.is_ipv4() {
        socket.bind(SocketAddr::new(shared.listen, 0))?;
    }
    let tcp = socket.connect(to).await?;
    // A connection to a free port of this machine can meet itself, if the kernel happens to
    // choose that very port as its source (simultaneous open, RFC 9293 section 3.5).
    if tcp.local_addr()? == tcp.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(tcp)
}

fn not_connected(error: &io::Error) -> Failed {
    Failed::from(match error.kind() {
        io::ErrorKind::ConnectionRefused => DialError::Refused,
        io::ErrorKind::TimedOut
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown
        // What a firewall on this machine answers in place of the network.
        | io::ErrorKind::PermissionDenied => DialError::Silent,
        _ => DialError::Broken(format!("cannot connect: {error}")),
    })
}

impl From<DialError> for Failed {
    fn from(error: DialError) -> Self {
        Self {
            error,
            mistrust: None,
        }
    }
}
