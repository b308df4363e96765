use super::*;
use crate::wait;

/// A node of nothing but a socket of each kind.
struct Peer {
    name: &'static str,
    udp: UdpSocket,
    tcp: TcpListener,
    front: SocketAddr,
    _host: Host,
}

fn peer(network: &Network, name: &'static str) -> Peer {
    let host = Host::claim().unwrap();
    let listen = host.free().unwrap();
    let udp = UdpSocket::bind(listen).unwrap();
    udp.set_read_timeout(Some(NAP)).unwrap();
    let tcp = TcpListener::bind(listen).unwrap();
    tcp.set_nonblocking(true).unwrap();
    let front = network.add(name, listen).unwrap();
    network.process_of(name, std::process::id());
    Peer {
        name,
        udp,
        tcp,
        front,
        _host: host,
    }
}

impl Peer {
    fn receive(&self) -> Option<Vec<u8>> {
        let mut buffer = [0; 64];
        let (length, _) = self.udp.recv_from(&mut buffer).ok()?;
        Some(buffer[..length].to_vec())
    }

    /// Sends until the other has it: what is sent at the moment of a change may be lost.
    fn reaches(&self, other: &Peer, text: &str) {
        wait::until(&format!("{text} at {}", other.name), || {
            self.udp.send_to(text.as_bytes(), other.front).unwrap();
            match other.receive() {
                Some(data) if data == text.as_bytes() => Ok(()),
                seen => Err(format!("{seen:?}")),
            }
        });
    }
}

/// Sends a datagram that shall not arrive, and waits until the proxy has decided about it.
fn send_in_vain(network: &Network, from: &Peer, to: &Peer, text: &str) {
    from.udp.send_to(text.as_bytes(), to.front).unwrap();
    wait::until("the proxy to see it", || {
        let recent = network.recent(to.name);
        let seen = recent.iter().any(|data| data == text.as_bytes());
        if seen {
            Ok(())
        } else {
            Err(format!("{} others", recent.len()))
        }
    });
}

/// Waits for a datagram, before which no other than the early ones may come.
fn receive_next(peer: &Peer, wanted: &str, early: &str) {
    wait::until(wanted, || match peer.receive() {
        Some(data) if data == wanted.as_bytes() => Ok(()),
        Some(data) if data == early.as_bytes() => Err("an early one".into()),
        Some(data) => panic!("{data:?} passed"),
        None => Err("nothing".into()),
    });
}

#[test]
fn datagrams_pass_unless_cut() {
    let network = Network::new().unwrap();
    let (a, b) = (peer(&network, "a"), peer(&network, "b"));
    a.reaches(&b, "before");
    network.cut_one_way("a", "b");
    send_in_vain(&network, &a, &b, "cut");
    b.reaches(&a, "the other way");
    network.heal();
    a.udp.send_to(b"after", b.front).unwrap();
    receive_next(&b, "after", "before");
}

#[test]
fn all_datagrams_are_lost_at_a_hundred_percent() {
    let network = Network::new().unwrap();
    let (a, b) = (peer(&network, "a"), peer(&network, "b"));
    network.lose(100);
    send_in_vain(&network, &a, &b, "lost");
    network.lose(0);
    a.udp.send_to(b"next", b.front).unwrap();
    receive_next(&b, "next", "");
}

#[test]
fn streams_wait_behind_a_cut_and_go_on_after_it() {
    let network = Network::new().unwrap();
    let (a, b) = (peer(&network, "a"), peer(&network, "b"));
    // From an address that is not a's: found by the process that owns the socket. Both nodes
    // are this process here, and "a" is the first of them.
    let mut dialled = TcpStream::connect(b.front).unwrap();
    let accepted = wait::until("the connection at b", || {
        b.tcp.accept().map_err(|error| error.to_string())
    });
    let mut accepted = accepted.0;
    accepted.set_read_timeout(Some(NAP)).unwrap();
    let mut buffer = [0; 5];

    network.split(&[a.name], &[b.name]);
    dialled.write_all(b"hello").unwrap();
    // A stream has no loss: what passes the cut would be there within a moment.
    for _ in 0..5 {
        assert!(accepted.read(&mut buffer).is_err(), "it passed the cut");
    }
    network.heal();
    wait::until("what was written during the cut", || {
        accepted
            .read_exact(&mut buffer)
            .map_err(|error| error.to_string())
    });
    assert_eq!(&buffer, b"hello");
}

#[test]
fn the_kernels_table_is_understood() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let there = listener.local_addr().unwrap();
    let stream = TcpStream::connect(there).unwrap();
    let here = stream.local_addr().unwrap();
    assert!(socket_inode(here, there).is_some());
    assert!(socket_inode(here, here).is_none());
}
