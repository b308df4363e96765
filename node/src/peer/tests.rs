//! Real sockets on this machine: what a stream promises, and what strangers may try.

mod certificates;

use std::{fmt::Debug, time::Instant};

use kith_proto::{
    input::{DialError, Knock},
    wire::{
        MAX_DATA_FRAME, MAX_FRAME,
        keyring::{Key, Keyring},
    },
};
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};
use tokio_rustls::client::TlsStream;

use super::{
    queue::{MAX_QUEUED, MOST_QUEUED},
    *,
};
use crate::{udp::bind_gossip, workers};

/// Longer than anything here takes on a starved machine.
const PATIENCE: Duration = Duration::from_secs(30);
const DIAL: Token = Token(1);

/// A node's network side, driven by the test.
struct Host {
    peers: Peers,
    reports: mpsc::Receiver<Report>,
    address: SocketAddr,
    counters: Arc<HostCounters>,
}

impl Host {
    fn start(key: u8) -> Self {
        Self::start_at("127.0.0.1:0", key, PATIENCE)
    }

    fn start_at(listen: &str, key: u8, limit: Duration) -> Self {
        Self::start_with(listen, tls(&[key]), limit)
    }

    fn start_with(listen: &str, tls: TlsSetup, limit: Duration) -> Self {
        let (_udp, listener) = bind_gossip(listen.parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (reporter, reports) = mpsc::channel(REPORT_QUEUE);
        let counters = Arc::new(HostCounters::default());
        let limits = Limits {
            dial: limit,
            knock: limit,
        };
        let peers = Peers::start(Setup {
            listener,
            listen: address.ip(),
            tls,
            reports: reporter,
            take_frame: Arc::new(|_, _, _| panic!("nobody was introduced")),
            workers: workers::start("test", 2).unwrap(),
            limits,
            counters: Arc::clone(&counters),
        });
        Self {
            peers,
            reports,
            address,
            counters,
        }
    }

    async fn next(&mut self) -> Input {
        let report = timeout(PATIENCE, self.reports.recv()).await;
        self.peers.take(report.unwrap().unwrap())
    }

    async fn opened(&mut self) -> (StreamId, SocketAddr, Option<Token>) {
        match self.next().await {
            Input::StreamOpened {
                stream,
                remote,
                dial,
            } => (stream, remote, dial),
            other => panic!("{other:?}"),
        }
    }

    async fn frame(&mut self, from: StreamId) -> Vec<u8> {
        match self.next().await {
            Input::StreamFrame { stream, frame } if stream == from => frame,
            other => panic!("{other:?}"),
        }
    }

    async fn closed(&mut self, expected: StreamId) {
        match self.next().await {
            Input::StreamClosed { stream } if stream == expected => {}
            other => panic!("{other:?}"),
        }
    }

    async fn dial_fails(&mut self, to: SocketAddr) -> DialError {
        self.peers.dial(DIAL, to);
        match self.next().await {
            Input::DialFailed { dial: DIAL, error } => error,
            other => panic!("{other:?}"),
        }
    }

    async fn knock(&mut self, to: SocketAddr) -> Knock {
        self.peers.knock(DIAL, to);
        match self.next().await {
            Input::Knocked {
                knock: DIAL,
                answer,
            } => answer,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until so many strangers have been turned away: they may be the first to know.
    async fn has_turned_away(&self, count: u64) {
        let counted = async {
            while self.counters.handshakes_failed.get() < count {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, counted).await.unwrap();
    }

    /// Nothing more is reported: what is still on its way shows when all tasks have ended.
    async fn ends_in_silence(mut self) {
        self.peers.shutdown().await;
        if let Ok(report) = self.reports.try_recv() {
            panic!("{report:?}");
        }
    }
}

fn tls(keys: &[u8]) -> TlsSetup {
    let key = |n: &u8| Key::from_bytes([*n; 32]);
    let mut ring = Keyring::new(key(&keys[0]));
    for n in &keys[1..] {
        ring.add(key(n)).unwrap();
    }
    TlsSetup::new(&ring, None).unwrap()
}

/// A dialler that is past the greeting and does as the test says.
async fn raw(key: u8, to: SocketAddr) -> TlsStream<TcpStream> {
    let tcp = TcpStream::connect(to).await.unwrap();
    let mut tls = tls(&[key]).connect(tcp).await.unwrap();
    assert_eq!(tls.read_u8().await.unwrap(), GREETING);
    tls
}

async fn pair(a: &mut Host, b: &mut Host) -> (StreamId, StreamId) {
    a.peers.dial(DIAL, b.address);
    let (at_a, remote, dial) = a.opened().await;
    assert_eq!((remote, dial), (b.address, Some(DIAL)));
    let (at_b, _, dial) = b.opened().await;
    assert_eq!(dial, None);
    (at_a, at_b)
}

/// An address at which nobody listens, and nobody will while the socket is held.
fn nobody() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

fn assert_broken(error: impl Debug) {
    let text = format!("{error:?}");
    assert!(text.starts_with("Broken"), "{text}");
}

#[tokio::test]
async fn frames_go_both_ways_in_order() {
    let (mut a, mut b) = (Host::start(1), Host::start(1));
    let (at_a, at_b) = pair(&mut a, &mut b).await;
    for n in 0..100_u8 {
        a.peers.send(at_a, vec![n; usize::from(n)]);
        b.peers.send(at_b, vec![n]);
    }
    a.peers.send(at_a, vec![7; MAX_FRAME]);
    for n in 0..100_u8 {
        assert_eq!(b.frame(at_b).await, vec![n; usize::from(n)]);
        assert_eq!(a.frame(at_a).await, vec![n]);
    }
    assert_eq!(b.frame(at_b).await, vec![7; MAX_FRAME]);
}

#[tokio::test]
async fn closing_sends_what_is_queued_and_both_hear_of_the_end_once() {
    let (mut a, mut b) = (Host::start(1), Host::start(1));
    let (at_a, at_b) = pair(&mut a, &mut b).await;
    // The other side is in the middle of saying something as well.
    b.peers.send(at_b, vec![1; MAX_FRAME]);
    for n in 0..100_u8 {
        a.peers.send(at_a, vec![n; 50_000]);
    }
    a.peers.close(at_a);
    for n in 0..100_u8 {
        assert_eq!(b.frame(at_b).await, vec![n; 50_000]);
    }
    b.closed(at_b).await;
    // What came before our closing may still be delivered, the end always is.
    loop {
        match a.next().await {
            Input::StreamFrame { stream, .. } => assert_eq!(stream, at_a),
            Input::StreamClosed { stream } => break assert_eq!(stream, at_a),
            other => panic!("{other:?}"),
        }
    }
    a.ends_in_silence().await;
    b.ends_in_silence().await;
}

#[tokio::test]
async fn shutdown_sends_what_is_queued() {
    let (mut a, mut b) = (Host::start(1), Host::start(1));
    let (at_a, at_b) = pair(&mut a, &mut b).await;
    for n in 0..20_u8 {
        a.peers.send(at_a, vec![n; 100_000]);
    }
    let Host { peers, reports, .. } = a;
    drop(reports);
    let reads = async {
        for n in 0..20_u8 {
            assert_eq!(b.frame(at_b).await, vec![n; 100_000]);
        }
        b.closed(at_b).await;
    };
    tokio::join!(peers.shutdown(), reads);
}

#[tokio::test]
async fn a_peer_that_vanishes_ends_the_stream_once() {
    let mut host = Host::start(1);
    let peer = raw(1, host.address).await;
    let (stream, remote, _) = host.opened().await;
    assert_eq!(remote, peer.get_ref().0.local_addr().unwrap());
    drop(peer);
    host.closed(stream).await;
    // What the core asked for before it heard of the end does no harm.
    host.peers.send(stream, vec![1]);
    host.peers.close(stream);
    host.ends_in_silence().await;
}

#[tokio::test]
async fn a_peer_that_reads_gets_all_however_much_comes_at_once() {
    let (mut a, mut b) = (Host::start(1), Host::start(1));
    let (at_a, at_b) = pair(&mut a, &mut b).await;
    let frames = MAX_QUEUED / MAX_FRAME + 16;
    for _ in 0..frames {
        a.peers.send(at_a, vec![7; MAX_FRAME]);
    }
    for n in 0..frames {
        assert_eq!(b.frame(at_b).await.len(), MAX_FRAME, "{n}");
    }
    assert_eq!(a.counters.streams_too_slow.get(), 0);
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_cut_off() {
    let mut host = Host::start(1);
    let _peer = raw(1, host.address).await;
    let (stream, _, _) = host.opened().await;
    // What the kernel takes meanwhile is not queued.
    let queue = MOST_QUEUED / MAX_FRAME;
    let sent = (0..=2 * queue).find(|_| {
        host.peers.send(stream, vec![0; MAX_FRAME]);
        host.counters.streams_too_slow.get() > 0
    });
    // The lengths of the frames take room as well.
    assert!(sent.is_some_and(|sent| sent + 1 >= queue), "{sent:?}");
    host.closed(stream).await;
    assert_eq!(host.counters.streams_too_slow.get(), 1);
}

#[tokio::test]
async fn frames_longer_than_allowed_end_the_stream() {
    let mut host = Host::start(1);
    let mut peer = raw(1, host.address).await;
    let (stream, _, _) = host.opened().await;
    let length = u32::try_from(MAX_DATA_FRAME + 1).unwrap();
    peer.write_u32(length).await.unwrap();
    peer.flush().await.unwrap();
    host.closed(stream).await;
    assert_eq!(host.counters.streams_garbled.get(), 1);
}

#[tokio::test]
async fn a_dial_to_nobody_is_refused() {
    let mut host = Host::start(1);
    let (_held, address) = nobody();
    assert_eq!(host.dial_fails(address).await, DialError::Refused);
}

#[tokio::test]
async fn a_dial_to_a_process_that_says_nothing_is_silent() {
    let mut host = Host::start_at("127.0.0.1:0", 1, Duration::from_millis(50));
    let (_udp, listener) = bind_gossip("127.0.0.1:0".parse().unwrap()).unwrap();
    let stopped = listener.local_addr().unwrap();
    assert_eq!(host.dial_fails(stopped).await, DialError::Silent);
}

#[tokio::test]
async fn a_dial_to_something_else_is_broken() {
    let mut host = Host::start(1);
    let (_udp, listener) = bind_gossip("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let stranger = async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        tcp.write_all(b"220 mail.example.org ESMTP\r\n")
            .await
            .unwrap();
        let (tcp, _) = listener.accept().await.unwrap();
        drop(tcp);
    };
    let dials = async {
        assert_broken(host.dial_fails(address).await);
        assert_broken(host.dial_fails(address).await);
    };
    tokio::join!(stranger, dials);
}

#[tokio::test]
async fn nodes_of_different_keys_do_not_open_streams() {
    let (mut a, b) = (Host::start(1), Host::start(2));
    assert_eq!(a.dial_fails(b.address).await, DialError::Untrusted);
    a.ends_in_silence().await;
    b.ends_in_silence().await;
}

#[tokio::test]
async fn a_dialler_whose_certificate_is_refused_never_opens_the_stream() {
    let (mut a, b) = (Host::start(1), Host::start(1));
    // It accepts the other's certificate, and shows one of a key that is not known there.
    a.peers.set_tls(tls(&[2, 1]));
    assert_eq!(a.dial_fails(b.address).await, DialError::Untrusted);
    b.has_turned_away(1).await;
    assert_eq!(b.counters.handshakes_untrusted.get(), 1);
    b.ends_in_silence().await;
}

#[tokio::test]
async fn new_keys_are_used_from_the_next_stream_on() {
    let (mut a, mut b) = (Host::start(1), Host::start(1));
    let (at_a, at_b) = pair(&mut a, &mut b).await;
    for host in [&a, &b] {
        host.peers.set_tls(tls(&[2]));
    }
    pair(&mut a, &mut b).await;
    a.peers.send(at_a, b"still here".to_vec());
    assert_eq!(b.frame(at_b).await, b"still here");
    let mut old = Host::start(1);
    assert_eq!(old.dial_fails(b.address).await, DialError::Untrusted);
}

#[tokio::test]
async fn knocks_are_answered_by_the_kernel_and_leave_no_trace() {
    let (mut a, mut b) = (Host::start(1), Host::start(1));
    assert_eq!(a.knock(b.address).await, Knock::Accepted);
    let (_held, address) = nobody();
    assert_eq!(a.knock(address).await, Knock::Refused);
    // Somebody who comes after the knock is served, and nothing was said about the knock.
    pair(&mut a, &mut b).await;
    let counters = Arc::clone(&b.counters);
    b.peers.shutdown().await;
    assert_eq!(counters.handshakes_failed.get(), 0);
}

#[tokio::test]
async fn a_knock_at_an_address_that_does_not_answer_is_silent() {
    let limit = Duration::from_millis(50);
    let mut host = Host::start_at("127.0.0.1:0", 1, limit);
    // A kernel whose queue is full lets connections wait, as a vanished one would.
    let (full, address) = nobody();
    full.listen(0).unwrap();
    let mut waiting = Vec::new();
    while let Ok(connected) = timeout(limit, TcpStream::connect(address)).await {
        waiting.push(connected.unwrap());
    }
    assert_eq!(host.knock(address).await, Knock::Silent);
    assert_eq!(host.dial_fails(address).await, DialError::Silent);
}

#[tokio::test]
async fn garbage_is_counted_and_keeps_nobody_out() {
    let (mut a, mut b) = (Host::start(1), Host::start(1));
    for garbage in [
        b"GET / HTTP/1.1\r\n\r\n".as_slice(),
        &[0; 4096],
        &[0x16, 3, 1, 0xff, 0xff],
    ] {
        let mut tcp = TcpStream::connect(b.address).await.unwrap();
        tcp.write_all(garbage).await.unwrap();
        tcp.shutdown().await.unwrap();
        // Ends when the other side has made up its mind, one way or the other.
        let mut answer = Vec::new();
        drop(tcp.read_to_end(&mut answer).await);
    }
    pair(&mut a, &mut b).await;
    b.has_turned_away(3).await;
    let counters = Arc::clone(&b.counters);
    b.peers.shutdown().await;
    assert_eq!(counters.handshakes_failed.get(), 3);
}

#[tokio::test]
async fn strangers_who_hold_every_place_are_shown_out_in_time() {
    let limit = Duration::from_millis(200);
    let mut host = Host::start_at("127.0.0.1:0", 1, limit);
    let mut strangers = Vec::new();
    for _ in 0..MAX_HANDSHAKES {
        let mut tcp = TcpStream::connect(host.address).await.unwrap();
        tcp.write_all(&[0x16]).await.unwrap();
        strangers.push(tcp);
    }
    let before = Instant::now();
    let _peer = raw(1, host.address).await;
    host.opened().await;
    assert!(before.elapsed() < PATIENCE);
    host.has_turned_away(1).await;
}

#[tokio::test]
async fn connections_come_from_the_address_that_others_know() {
    let (mut a, mut b) = (
        Host::start_at("127.0.0.2:0", 1, PATIENCE),
        Host::start_at("127.0.0.3:0", 1, PATIENCE),
    );
    a.peers.dial(DIAL, b.address);
    let (_, remote, _) = b.opened().await;
    assert_eq!(remote.ip(), a.address.ip());
    a.opened().await;
}
