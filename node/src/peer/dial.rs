//! The dialling side: opening streams, and knocks.

use std::{io, net::SocketAddr, sync::Arc};

use kith_proto::input::{DialError, Input, Knock, Token};
use tokio::{
    io::AsyncReadExt,
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::client::TlsStream;

use super::{GREETING, Report, Shared, stream};
use crate::tls;

/// Dials, reports what came of it, and is the stream from then on.
pub(super) async fn dial(shared: Arc<Shared>, dial: Token, to: SocketAddr) {
    let limited = timeout(shared.limits.dial, open(&shared, to));
    let Some(outcome) = shared.stop.run_until_cancelled(limited).await else {
        return;
    };
    match outcome.unwrap_or(Err(DialError::Silent)) {
        Ok(tls) => {
            shared.counters.streams_dialled.up();
            stream::run(shared, (*tls).into(), to, Some(dial)).await;
        }
        Err(error) => {
            shared.counters.dials_failed.up();
            tracing::trace!(target: "kith::packet", %to, ?error, "dial failed");
            let report = Report::Input(Input::DialFailed { dial, error });
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

async fn open(shared: &Shared, to: SocketAddr) -> Result<Box<TlsStream<TcpStream>>, DialError> {
    let tcp = connect(shared, to).await.map_err(|e| not_connected(&e))?;
    tcp.set_nodelay(true).map_err(|e| broken(&e))?;
    let mut tls = shared.tls().connect(tcp).await.map_err(|e| broken(&e))?;
    match tls.read_u8().await {
        Ok(GREETING) => Ok(Box::new(tls)),
        Ok(other) => Err(DialError::Broken(format!(
            "it greets with {other} instead of {GREETING}: another version?"
        ))),
        Err(error) => Err(broken(&error)),
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

fn not_connected(error: &io::Error) -> DialError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => DialError::Refused,
        io::ErrorKind::TimedOut
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown
        // What a firewall on this machine answers in place of the network.
        | io::ErrorKind::PermissionDenied => DialError::Silent,
        _ => DialError::Broken(format!("cannot connect: {error}")),
    }
}

fn broken(error: &io::Error) -> DialError {
    if tls::is_untrusted(error) {
        DialError::Untrusted
    } else {
        DialError::Broken(error.to_string())
    }
}
