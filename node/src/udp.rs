//! The gossip socket, and how it gets the same port number as the peer listener.
//!
//! Sending never waits: a datagram that the kernel cannot take now is dropped and counted,
//! as the network might have dropped it. Receiving drains the socket until it is empty, so
//! that the driver has read all that has arrived before it lets time pass.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};

use crate::{counters::HostCounters, limited::Limited};

/// The longest datagram that any peer may send (bytes): the upper bound of its
/// `max_datagram`.
const MAX_DATAGRAM: usize = 8192;
/// What both socket buffers are asked to hold (bytes): a second of a large cluster's worst
/// burst while the process is not scheduled. The kernel gives what its limits allow.
const SOCKET_BUFFER: usize = 4 << 20;
/// How many port numbers are tried when any free one will do.
const PORT_ATTEMPTS: usize = 64;
/// Connections that the kernel holds for us while we are busy.
const BACKLOG: i32 = 1024;
/// How many useless datagrams and errors one call looks past; the rest is left for later.
const SKIPPED_AT_ONCE: usize = 64;
/// Lines about datagrams that could not be sent or received, at most one per this.
const LOG_PERIOD: Duration = Duration::from_secs(10);

/// The address could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else has it.
    #[error(
        "address {address} is in use by another process ({transport}): stop that process, or choose \
         another address with --listen (port 0 takes any free one)"
    )]
    InUse {
        /// The address wanted.
        address: SocketAddr,
        /// `TCP` or `UDP`.
        transport: &'static str,
    },
    /// It is not this machine's.
    #[error(
        "this machine has no address {}: --listen takes one of its own, or 0.0.0.0 for all of them",
        address.ip()
    )]
    NotOurs {
        /// The address wanted.
        address: SocketAddr,
    },
    /// The system does not allow it.
    #[error(
        "not allowed to listen on {address} ({transport}): ports below 1024 need privileges; choose \
         a higher one with --listen"
    )]
    Denied {
        /// The address wanted.
        address: SocketAddr,
        /// `TCP` or `UDP`.
        transport: &'static str,
    },
    /// No port number was free with both protocols.
    #[error(
        "no port on {} is free with TCP and UDP alike ({PORT_ATTEMPTS} were tried): choose one with --listen",
        address.ip()
    )]
    NoCommonPort {
        /// The address wanted.
        address: SocketAddr,
    },
    /// Something else.
    #[error("cannot listen on {address} ({transport}): {error}")]
    Other {
        /// The address wanted.
        address: SocketAddr,
        /// `TCP` or `UDP`.
        transport: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

/// Binds the gossip socket and the peer listener to the same address and port number; with
/// port 0, to any that is free with both.
///
/// # Errors
/// If the address cannot be had; nothing stays bound then.
pub(crate) fn bind_gossip(listen: SocketAddr) -> Result<(UdpSocket, TcpListener), BindError> {
    let attempts = if listen.port() == 0 { PORT_ATTEMPTS } else { 1 };
    for attempt in 1..=attempts {
        let listener = listen_tcp(listen).map_err(|e| BindError::new(listen, "TCP", e))?;
        let address = listener
            .local_addr()
            .map_err(|e| BindError::new(listen, "TCP", e))?;
        match bind_udp(address) {
            Ok(socket) => return Ok((socket, listener)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempt < attempts => {}
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempts > 1 => break,
            Err(error) => return Err(BindError::new(address, "UDP", error)),
        }
    }
    Err(BindError::NoCommonPort { address: listen })
}

impl BindError {
    fn new(address: SocketAddr, transport: &'static str, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { address, transport },
            io::ErrorKind::AddrNotAvailable => Self::NotOurs { address },
            io::ErrorKind::PermissionDenied => Self::Denied { address, transport },
            _ => Self::Other {
                address,
                transport,
                error,
            },
        }
    }
}

fn listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // Connections of an earlier life that are still being forgotten do not keep a
    // restarted node from its port; a living listener does.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    let options = SockRef::from(&socket);
    for result in [
        options.set_recv_buffer_size(SOCKET_BUFFER),
        options.set_send_buffer_size(SOCKET_BUFFER),
    ] {
        if let Err(error) = result {
            tracing::debug!(target: "kith", %error, "larger socket buffers were not given");
        }
    }
    UdpSocket::from_std(socket)
}

/// The gossip socket.
#[derive(Debug)]
pub(crate) struct GossipSocket {
    socket: UdpSocket,
    is_v6: bool,
    buffer: Box<[u8]>,
    counters: Arc<HostCounters>,
    trouble: Limited,
}

impl GossipSocket {
    /// Takes a bound socket into use.
    ///
    /// # Errors
    /// If the socket is not usable.
    pub(crate) async fn new(socket: UdpSocket, counters: Arc<HostCounters>) -> io::Result<Self> {
        // The runtime does not know yet that the socket can be written to, and would have the
        // first datagrams dropped.
        socket.writable().await?;
        Ok(Self {
            is_v6: socket.local_addr()?.is_ipv6(),
            socket,
            // One byte more tells a datagram that is too long from one that just fits.
            buffer: vec![0; MAX_DATAGRAM + 1].into(),
            counters,
            trouble: Limited::new(LOG_PERIOD),
        })
    }

    /// Sends a datagram now or never.
    pub(crate) fn send(&self, to: SocketAddr, data: &[u8]) {
        let target = match to.ip() {
            // A socket for both families wants addresses of the older one mapped.
            IpAddr::V4(ip) if self.is_v6 => SocketAddr::new(ip.to_ipv6_mapped().into(), to.port()),
            _ => to,
        };
        match self.socket.try_send_to(data, target) {
            Ok(length) => {
                self.counters.udp_sent_datagrams.up();
                self.counters.udp_sent_bytes.add(length);
                tracing::trace!(target: "kith::packet", %to, length, "datagram sent");
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.counters.udp_send_dropped.up();
            }
            Err(error) => {
                self.counters.udp_send_errors.up();
                if let Some(suppressed) = self.trouble.allow(Instant::now()) {
                    tracing::debug!(target: "kith", %to, %error, suppressed, "a datagram could not be sent");
                }
            }
        }
    }

    /// Waits until something may have arrived.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// The next datagram that has arrived; `None` if there is none.
    pub(crate) fn receive(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        for _ in 0..SKIPPED_AT_ONCE {
            match self.socket.try_recv_from(&mut self.buffer) {
                Ok((length, from)) => {
                    self.counters.udp_received_datagrams.up();
                    self.counters.udp_received_bytes.add(length);
                    if length > MAX_DATAGRAM {
                        self.counters.udp_oversized.up();
                        continue;
                    }
                    let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                    tracing::trace!(target: "kith::packet", %from, length, "datagram received");
                    return Some((from, self.buffer[..length].to_vec()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                // What the kernel reports here belongs to something sent earlier, and the
                // next call gets past it.
                Err(error) => {
                    self.counters.udp_receive_errors.up();
                    if let Some(suppressed) = self.trouble.allow(Instant::now()) {
                        tracing::debug!(target: "kith", %error, suppressed, "receiving datagrams failed");
                    }
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: &str = "127.0.0.1:0";

    async fn socket(listen: &str) -> (GossipSocket, SocketAddr, Arc<HostCounters>) {
        let (udp, _tcp) = bind_gossip(listen.parse().unwrap()).unwrap();
        let address = udp.local_addr().unwrap();
        let counters = Arc::new(HostCounters::default());
        let gossip = GossipSocket::new(udp, Arc::clone(&counters)).await.unwrap();
        (gossip, address, counters)
    }

    async fn receive(socket: &mut GossipSocket) -> (SocketAddr, Vec<u8>) {
        loop {
            socket.readable().await.unwrap();
            if let Some(datagram) = socket.receive() {
                return datagram;
            }
        }
    }

    #[tokio::test]
    async fn both_sockets_get_the_same_port() {
        let (udp, tcp) = bind_gossip(ANY.parse().unwrap()).unwrap();
        assert_eq!(udp.local_addr().unwrap(), tcp.local_addr().unwrap());
        assert_ne!(udp.local_addr().unwrap().port(), 0);
    }

    #[tokio::test]
    async fn an_address_in_use_is_named_with_the_protocol() {
        let (udp, tcp) = bind_gossip(ANY.parse().unwrap()).unwrap();
        let address = udp.local_addr().unwrap();
        let error = bind_gossip(address).unwrap_err();
        assert!(matches!(error, BindError::InUse { transport: "TCP", address: a } if a == address));
        assert!(
            error
                .to_string()
                .starts_with(&format!("address {address} is in use by another process"))
        );
        let error = BindError::new(address, "UDP", bind_udp(address).unwrap_err());
        assert!(error.to_string().contains("(UDP)"), "{error}");
        drop((udp, tcp));
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_refused_clearly() {
        // TEST-NET-1 (RFC 5737) belongs to nobody.
        let error = bind_gossip("192.0.2.1:0".parse().unwrap()).unwrap_err();
        assert!(matches!(error, BindError::NotOurs { .. }), "{error}");
    }

    #[tokio::test]
    async fn datagrams_arrive_as_they_were_sent_from_the_first_on() {
        let (a, at_a, _) = socket(ANY).await;
        let (mut b, at_b, counters) = socket(ANY).await;
        a.send(at_b, b"one");
        a.send(at_b, &[7; MAX_DATAGRAM]);
        assert_eq!(receive(&mut b).await, (at_a, b"one".to_vec()));
        assert_eq!(receive(&mut b).await, (at_a, vec![7; MAX_DATAGRAM]));
        assert_eq!(b.receive(), None);
        assert_eq!(counters.udp_received_datagrams.get(), 2);
    }

    #[tokio::test]
    async fn datagrams_too_long_for_any_peer_are_dropped_and_counted() {
        let (a, at_a, _) = socket(ANY).await;
        let (mut b, at_b, counters) = socket(ANY).await;
        a.send(at_b, &[7; MAX_DATAGRAM + 1]);
        a.send(at_b, b"after");
        assert_eq!(receive(&mut b).await, (at_a, b"after".to_vec()));
        assert_eq!(counters.udp_oversized.get(), 1);
    }

    #[tokio::test]
    async fn what_cannot_be_sent_is_counted_and_no_more() {
        let (a, _, counters) = socket(ANY).await;
        a.send("127.0.0.1:9".parse().unwrap(), &[0; 70_000]);
        assert_eq!(counters.udp_send_errors.get(), 1);
    }

    #[tokio::test]
    async fn a_socket_for_both_families_speaks_plain_addresses() {
        let Ok((udp, _tcp)) = bind_gossip("[::]:0".parse().unwrap()) else {
            println!("skipped: this machine has no IPv6");
            return;
        };
        let port = udp.local_addr().unwrap().port();
        let counters = Arc::new(HostCounters::default());
        let mut both = GossipSocket::new(udp, counters).await.unwrap();
        let (mut old, at_old, _) = socket(ANY).await;
        both.send(at_old, b"to the old");
        let (from, data) = receive(&mut old).await;
        assert_eq!(
            (from.to_string(), data),
            (format!("127.0.0.1:{port}"), b"to the old".to_vec())
        );
        old.send(from, b"back");
        assert_eq!(receive(&mut both).await, (at_old, b"back".to_vec()));
    }
}
