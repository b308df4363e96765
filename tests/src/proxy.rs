//! A network between agents that can be cut, without privileges.
//!
//! Each node listens at one address and advertises another, its *front*, where this proxy
//! listens with UDP and TCP and forwards to the node. Whose packet it is that arrives at a front
//! is told by the source address, since every node has a loopback address of its own; for TCP,
//! where the system may choose another source, by the process that owns the other end.
//!
//! ```text
//!   n1 (127.20.1.1:p) ---> front of n2 (127.20.1.3:q) ---> n2 (127.20.1.2:r)
//! ```
//!
//! What it cannot imitate: to a node behind a cut, a host answers still, because the front's
//! kernel accepts connections; and a dead process does not refuse them. So a node that is cut off
//! looks `unresponsive`, not `unreachable`. [`crate::netns`] is faithful there.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs, io,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::host::Host;

/// How often a thread that has nothing to do looks whether it shall stop.
const NAP: Duration = Duration::from_millis(20);

/// How many of the last datagrams to each node are remembered.
const REMEMBERED: usize = 32;

/// The largest datagram that is forwarded whole.
const DATAGRAM: usize = 65_536;

/// The network. Dropping it stops its threads and closes all connections.
#[derive(Debug)]
pub struct Network {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    hosts: Mutex<Vec<Host>>,
}

#[derive(Debug, Default)]
struct Shared {
    rules: Mutex<Rules>,
    stop: AtomicBool,
}

#[derive(Debug, Default)]
struct Rules {
    nodes: BTreeMap<String, Node>,
    /// Pairs (from, to) between which nothing passes.
    cut: BTreeSet<(String, String)>,
    loss_percent: u32,
    delay: Duration,
    random: u64,
}

#[derive(Debug)]
struct Node {
    listen: SocketAddr,
    process: Option<u32>,
    recent: VecDeque<Vec<u8>>,
}

impl Network {
    /// A network without nodes, that delivers everything at once.
    ///
    /// # Errors
    /// None today; kept for systems where a proxy cannot be.
    pub fn new() -> Result<Self> {
        Ok(Self {
            shared: Arc::default(),
            threads: Mutex::default(),
            hosts: Mutex::default(),
        })
    }

    /// Adds a node that listens at `listen`, and returns the address that it shall advertise.
    ///
    /// # Errors
    /// If no address is to be had.
    pub fn add(&self, name: &str, listen: SocketAddr) -> Result<SocketAddr> {
        let host = Host::claim()?;
        let front = host.free()?;
        let udp = UdpSocket::bind(front)?;
        udp.set_read_timeout(Some(NAP))?;
        let tcp = TcpListener::bind(front)?;
        tcp.set_nonblocking(true)?;
        self.shared.rules().nodes.insert(
            name.to_owned(),
            Node {
                listen,
                process: None,
                recent: VecDeque::new(),
            },
        );
        let (shared, to) = (Arc::clone(&self.shared), name.to_owned());
        let packets = thread::spawn(move || forward_datagrams(&shared, &to, &udp));
        let (shared, to) = (Arc::clone(&self.shared), name.to_owned());
        let streams = thread::spawn(move || accept_streams(&shared, &to, &tcp));
        lock(&self.threads).extend([packets, streams]);
        lock(&self.hosts).push(host);
        Ok(front)
    }

    /// Tells which process a node is, to know it by its connections.
    pub fn process_of(&self, name: &str, pid: u32) {
        if let Some(node) = self.shared.rules().nodes.get_mut(name) {
            node.process = Some(pid);
        }
    }

    /// The last datagrams that were sent to a node, to be played with.
    pub fn recent(&self, to: &str) -> Vec<Vec<u8>> {
        let rules = self.shared.rules();
        let node = rules.nodes.get(to);
        node.map(|n| n.recent.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// Cuts the network in two: nothing passes between a node of `one` and a node of `other`.
    pub fn split(&self, one: &[&str], other: &[&str]) {
        let mut rules = self.shared.rules();
        for a in one {
            for b in other {
                rules.cut.insert(((*a).to_owned(), (*b).to_owned()));
                rules.cut.insert(((*b).to_owned(), (*a).to_owned()));
            }
        }
    }

    /// Nothing passes from `from` to `to`; the other direction is as it was.
    pub fn cut_one_way(&self, from: &str, to: &str) {
        let pair = (from.to_owned(), to.to_owned());
        self.shared.rules().cut.insert(pair);
    }

    /// Undoes all cuts. What waited in streams goes on.
    pub fn heal(&self) {
        self.shared.rules().cut.clear();
    }

    /// Loses so many of 100 datagrams from now on.
    pub fn lose(&self, percent: u32) {
        self.shared.rules().loss_percent = percent;
    }

    /// Delivers everything so much later from now on.
    pub fn delay(&self, delay: Duration) {
        self.shared.rules().delay = delay;
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in lock(&self.threads).drain(..) {
            if thread.join().is_err() {
                eprintln!("a thread of the proxy panicked");
            }
        }
    }
}

impl Shared {
    fn rules(&self) -> MutexGuard<'_, Rules> {
        lock(&self.rules)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn is_cut(&self, from: &str, to: &str) -> bool {
        let rules = self.rules();
        // An unknown sender is nobody's packet: tests that throw garbage are let through.
        rules.cut.contains(&(from.to_owned(), to.to_owned()))
    }
}

impl Rules {
    fn listen(&self, name: &str) -> Option<SocketAddr> {
        self.nodes.get(name).map(|node| node.listen)
    }

    fn by_address(&self, ip: IpAddr) -> Option<&str> {
        let mut nodes = self.nodes.iter();
        let found = nodes.find(|(_, node)| node.listen.ip() == ip);
        found.map(|(name, _)| name.as_str())
    }

    /// Whether to lose this datagram. A small generator of its own: the choice need not be
    /// good, only spread.
    fn unlucky(&mut self) -> bool {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % 100 < u64::from(self.loss_percent)
    }
}

fn forward_datagrams(shared: &Arc<Shared>, to: &str, socket: &UdpSocket) {
    thread::scope(|scope| {
        let (queue, due) = mpsc::channel::<(Instant, Vec<u8>)>();
        // Sends what is due, in order: the delay is the same for all.
        scope.spawn(move || {
            for (when, data) in due {
                thread::sleep(when.saturating_duration_since(Instant::now()));
                let listen = shared.rules().listen(to);
                // A node that is not there gets nothing, as in any network.
                if let Some(listen) = listen
                    && let Err(error) = socket.send_to(&data, listen)
                    && error.kind() != io::ErrorKind::ConnectionRefused
                {
                    eprintln!("proxy: to {to} at {listen}: {error}");
                }
            }
        });
        let mut buffer = vec![0; DATAGRAM];
        while !shared.stopped() {
            // Time is over, or a port unreachable of an earlier send: look again.
            let Ok((length, source)) = socket.recv_from(&mut buffer) else {
                continue;
            };
            let mut rules = shared.rules();
            if let Some(node) = rules.nodes.get_mut(to) {
                node.recent.truncate(REMEMBERED - 1);
                node.recent.push_front(buffer[..length].to_vec());
            }
            let from = rules.by_address(source.ip()).unwrap_or("").to_owned();
            let lost = rules.cut.contains(&(from, to.to_owned())) || rules.unlucky();
            let when = Instant::now() + rules.delay;
            drop(rules);
            if !lost && queue.send((when, buffer[..length].to_vec())).is_err() {
                return;
            }
        }
    });
}

fn accept_streams(shared: &Arc<Shared>, to: &str, listener: &TcpListener) {
    thread::scope(|scope| {
        while !shared.stopped() {
            match listener.accept() {
                Ok((stream, source)) => {
                    scope.spawn(move || {
                        // Ends of connections are events of the tests, not errors of the proxy.
                        carry(shared, to, &stream, source).unwrap_or_default();
                    });
                }
                Err(_) => thread::sleep(NAP / 4),
            }
        }
    });
}

/// Carries a connection both ways until one side ends it.
fn carry(shared: &Shared, to: &str, stream: &TcpStream, source: SocketAddr) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let from = sender(shared, source, stream.local_addr()?);
    hold_while_cut(shared, &from, to);
    let Some(listen) = shared.rules().listen(to) else {
        return Ok(());
    };
    let onward = TcpStream::connect(listen)?;
    for side in [stream, &onward] {
        side.set_nodelay(true)?;
        side.set_read_timeout(Some(NAP))?;
    }
    thread::scope(|scope| {
        scope.spawn(|| pump(shared, stream, &onward, &from, to));
        pump(shared, &onward, stream, to, &from);
    });
    Ok(())
}

/// Copies one direction; ends both when it ends.
fn pump(shared: &Shared, mut source: &TcpStream, mut sink: &TcpStream, from: &str, to: &str) {
    let mut buffer = [0; 16_384];
    while !shared.stopped() {
        let length = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                continue;
            }
            Err(_) => break,
        };
        thread::sleep(shared.rules().delay);
        hold_while_cut(shared, from, to);
        if sink.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    // The end is news too, and does not pass a cut.
    hold_while_cut(shared, from, to);
    for side in [source, sink] {
        // An error means that it is closed already.
        side.shutdown(Shutdown::Both).unwrap_or_default();
    }
}

fn hold_while_cut(shared: &Shared, from: &str, to: &str) {
    while !shared.stopped() && shared.is_cut(from, to) {
        thread::sleep(NAP);
    }
}

/// The name of the node at the other end; empty if it is none.
fn sender(shared: &Shared, source: SocketAddr, front: SocketAddr) -> String {
    let rules = shared.rules();
    if let Some(name) = rules.by_address(source.ip()) {
        return name.to_owned();
    }
    let Some(inode) = socket_inode(source, front) else {
        return String::new();
    };
    let link = format!("socket:[{inode}]");
    let owner = rules.nodes.iter().find(|(_, node)| {
        let Some(pid) = node.process else {
            return false;
        };
        let files = fs::read_dir(format!("/proc/{pid}/fd"));
        let mut files = files.into_iter().flatten().flatten();
        files.any(|f| fs::read_link(f.path()).is_ok_and(|target| target.as_os_str() == &*link))
    });
    owner.map(|(name, _)| name.clone()).unwrap_or_default()
}

/// The inode of the socket at `local` that is connected to `remote`.
fn socket_inode(local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let ends = (
            kernel_address(fields.get(1)?)?,
            kernel_address(fields.get(2)?)?,
        );
        (ends == (local, remote)).then(|| fields.get(9)?.parse().ok())?
    })
}

/// An address as the kernel's table shows it: `0100007F:1F90` is 127.0.0.1:8080.
fn kernel_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let ip = u32::from_str_radix(ip, 16).ok()?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // The address is in network order, read as a number of this machine.
    let ip = Ipv4Addr::from(ip.to_ne_bytes());
    Some(SocketAddr::new(ip.into(), port))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
