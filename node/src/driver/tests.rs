//! A whole node on the test's own thread: while that sleeps, the node stalls.

use std::{
    cell::RefCell,
    fs,
    net::{SocketAddr, UdpSocket},
    path::Path,
    sync::mpsc,
    thread,
    time::Duration,
};

use kith_proto::{
    config::Config,
    event::Event,
    id::NodeId,
    output::{Answer, Stop},
    wire::keyring::{Key, Keyring},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::*;
use crate::{
    handle::Handle,
    node::{Node, NodeOptions},
};

/// Longer than anything here takes on a starved machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Much longer than the node may be late without noticing.
const STALL: Duration = LATE.saturating_mul(6);

fn options() -> NodeOptions {
    let listen = "127.0.0.1:0".parse().unwrap();
    NodeOptions {
        config: Config::new(NodeId(0), "n1", listen),
        listen,
        data_dir: None,
        key: Some(key(1)),
        certificates: None,
        insecure: false,
        settings: BTreeMap::new(),
        partitions: Default::default(),
    }
}

fn key(n: u8) -> Key {
    Key::from_bytes([n; 32])
}

thread_local! {
    /// What the core of the node on this thread was fed, in order.
    static JOURNAL: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
}

/// The driver tells here what it feeds.
pub(super) fn note(input: &Input) {
    let kind = match input {
        Input::Tick => "tick",
        Input::Datagram { .. } => "datagram",
        Input::StreamOpened { .. } => "stream opened",
        Input::StreamFrame { .. } => "frame",
        _ => "something else",
    };
    JOURNAL.with_borrow_mut(|journal| journal.push(kind));
}

fn mark() -> usize {
    JOURNAL.with_borrow(Vec::len)
}

/// Lets the node run until it was fed such a thing; gives back all from the mark up to then.
async fn fed_until(mark: usize, input: &str) -> Vec<&'static str> {
    let since = || JOURNAL.with_borrow(|journal| journal[mark..].to_vec());
    let fed = async {
        loop {
            let fed = since();
            if let Some(at) = fed.iter().position(|fed| *fed == input) {
                return fed[..at].to_vec();
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    match timeout(PATIENCE, fed).await {
        Ok(fed) => fed,
        Err(_elapsed) => panic!("no {input}, but {:?}", since()),
    }
}

/// Opens a stream to a node from a thread of its own; sends a frame and a datagram when it is
/// told to, and says so when they are on their way.
fn stranger(to: SocketAddr) -> (mpsc::Sender<()>, mpsc::Receiver<()>) {
    let (go, told) = mpsc::channel();
    let (done, sent) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let tls = TlsSetup::new(&Keyring::new(key(1)), None).unwrap();
            let tcp = TcpStream::connect(to).await.unwrap();
            let mut stream = tls.connect(tcp).await.unwrap();
            stream.read_u8().await.unwrap();
            told.recv().unwrap();
            stream.write_all(b"\0\0\0\x05frame").await.unwrap();
            stream.flush().await.unwrap();
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.send_to(b"datagram", to).unwrap();
            done.send(()).unwrap();
            // The end of the stream is not what the test is about: it waits for the test's.
            if let Ok(()) = told.recv() {
                unreachable!("it is told once");
            }
        });
    });
    (go, sent)
}

#[tokio::test]
async fn after_a_stall_the_core_sees_all_that_had_arrived_before_time_passes() {
    // It never joins, and says so all the time: there is always something due.
    let unused = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut options = options();
    options.config.seeds = vec![unused.local_addr().unwrap().to_string()];
    options.config.timing.join_report = Duration::from_millis(1);
    let node = Node::start(options).await.unwrap();
    let address = node.agent().await.unwrap().gossip;
    // The stall begins when the driver has just looked at its sockets, or while it waits.
    for pause in [None, Some(Duration::from_micros(500))] {
        let before = mark();
        let (go, sent) = stranger(address);
        fed_until(before, "stream opened").await;
        let late = node.counters().await.unwrap()["late_wakeups"];
        if let Some(pause) = pause {
            sleep(pause).await;
        }

        // From here on the node does not run, and time passes for it all the same.
        let stalled = mark();
        go.send(()).unwrap();
        sent.recv_timeout(PATIENCE).unwrap();
        thread::sleep(STALL);

        let before_time = fed_until(stalled, "tick").await;
        for input in ["datagram", "frame"] {
            assert!(before_time.contains(&input), "{before_time:?}");
        }
        assert!(node.counters().await.unwrap()["late_wakeups"] > late);
    }
}

/// Makes writing that file fail, for root as for anybody else, until it is undone.
fn obstruct(directory: &Path, file: &str) -> impl FnOnce() {
    let beside = directory.join(format!("{file}.tmp"));
    fs::create_dir(&beside).unwrap();
    move || fs::remove_dir(beside).unwrap()
}

async fn kept_in(directory: &Path) -> Handle {
    let options = NodeOptions {
        data_dir: Some(directory.to_owned()),
        ..options()
    };
    Node::start(options).await.unwrap()
}

fn is_ready(node: &Handle) -> bool {
    let (events, _live) = node.events().since(0);
    let mut events = events.iter();
    events.any(|view| matches!(view.event, Event::AgentReady { .. }))
}

#[track_caller]
fn assert_unclean(stop: &Stop, words: &[&str]) {
    match stop {
        Stop::LeftUncleanly(text) => {
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_depends_on_a_write_that_failed_does_not_happen() {
    let directory = tempfile::tempdir().unwrap();
    let node = kept_in(directory.path()).await;
    // Bootstrapping is written down before anybody hears of it; the node has not run yet.
    let mend = obstruct(directory.path(), "node.toml");
    let stop = timeout(PATIENCE, node.stopped()).await.unwrap();
    assert_unclean(&stop, &["state could not be kept", "node.toml.tmp"]);
    assert!(!is_ready(&node), "it said that it is a member");
    assert!(node.agent().await.is_err());

    // What was there before is whole, and not locked any more.
    mend();
    let again = kept_in(directory.path()).await;
    let ready = async {
        while !is_ready(&again) {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, ready).await.unwrap();
}

#[tokio::test]
async fn a_key_that_cannot_be_kept_stops_the_node() {
    let directory = tempfile::tempdir().unwrap();
    let node = kept_in(directory.path()).await;
    let keys = || fs::read_to_string(directory.path().join("keys")).unwrap();
    let before = keys();
    let _mend = obstruct(directory.path(), "keys");
    // Whoever asked is not told that it is done.
    let answer = node.key_add(key(2)).await;
    assert!(
        !matches!(answer, Ok(Answer::Done | Answer::Keys { .. })),
        "{answer:?}"
    );
    let stop = timeout(PATIENCE, node.stopped()).await.unwrap();
    assert_unclean(&stop, &["keys could not be kept", "keys.tmp"]);
    assert_eq!(keys(), before);
}
