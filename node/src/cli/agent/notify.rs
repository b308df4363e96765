//! Tells a service manager how the agent is doing: `sd_notify(3)` of systemd, which is one
//! datagram to the socket that `NOTIFY_SOCKET` names. Without that variable nothing is told.

use std::{
    ffi::OsStr,
    io,
    os::unix::{
        ffi::OsStrExt as _,
        net::{SocketAddr, UnixDatagram},
    },
};

use kith_proto::event::Event;
use tokio::sync::broadcast::error::RecvError;

use crate::handle::Handle;

/// Names the service manager's socket: a path, or `@` and an abstract name.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// Tells once that the node is a member, which may be long after its start.
pub(super) fn when_ready(handle: &Handle) {
    if std::env::var_os(VARIABLE).is_none() {
        return;
    }
    let ready = until_ready(handle);
    tokio::spawn(async move {
        if ready.await {
            tell("READY=1");
        }
    });
}

/// Until the node is a member: false if it stops before.
pub(super) fn until_ready(handle: &Handle) -> impl Future<Output = bool> + use<> {
    let (past, mut live) = handle.events().since(0);
    let is_ready = |event: &Event| matches!(event, Event::AgentReady { .. });
    async move {
        let mut ready = past.iter().any(|view| is_ready(&view.event));
        while !ready {
            ready = match live.recv().await {
                Ok(view) => is_ready(&view.event),
                // Among a thousand others; the worst is that it is told a little early.
                Err(RecvError::Lagged(_)) => true,
                Err(RecvError::Closed) => return false,
            };
        }
        true
    }
}

/// Tells that the node is about to stop.
pub(super) fn stopping() {
    tell("STOPPING=1");
}

fn tell(state: &str) {
    let Some(socket) = std::env::var_os(VARIABLE) else {
        return;
    };
    if let Err(error) = send(&socket, state) {
        tracing::warn!(
            target: "kith", %error,
            "the service manager ({VARIABLE}={}) could not be told {state}", socket.display()
        );
    }
}

fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let to = match socket.as_bytes() {
        [b'@', name @ ..] => abstract_address(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &to)?;
    Ok(())
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &[u8]) -> io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt as _;
    SocketAddr::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn abstract_address(_name: &[u8]) -> io::Result<SocketAddr> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_datagram_says_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), "READY=1").unwrap();
        let mut buffer = [0; 64];
        let length = manager.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");
        assert!(send(OsStr::new("/no/such/socket"), "READY=1").is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn abstract_names_begin_with_an_at_sign() {
        let name = format!("kith-test-{}", std::process::id());
        let address = abstract_address(name.as_bytes()).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        send(OsStr::new(&format!("@{name}")), "STOPPING=1").unwrap();
        let mut buffer = [0; 64];
        let length = manager.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"STOPPING=1");
    }
}
