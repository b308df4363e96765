//! A network of namespaces: each node in one of its own, joined by a router in another.
//!
//! ```text
//!   n1 10.77.0.1 --- veth ---+
//!   n2 10.77.0.2 --- veth ---+--- hub (forwards, and drops what it is told to)
//!   n3 10.77.0.3 --- veth ---+
//! ```
//!
//! Everything lives inside the namespaces: nothing of the machine's own network is touched. A
//! router rather than a bridge, so that a cut is a packet silently dropped in the middle: a
//! sender sees neither an error nor a missing neighbour, as between machines. It needs root, `ip`,
//! `nsenter` and `nft`; see [`available`]. A thread that has something to ask of the nodes
//! goes in among them: see [`Lan::visit`].

mod visit;

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{process, reaper};
pub use visit::Visit;

/// Bytes that Ethernet puts before each IP packet.
const ETHERNET_HEADER: u64 = 14;

/// The most nodes: two bytes of address, with some of them kept free.
const MAX_NODES: usize = 1000;

/// Namespaces with a router between them. Dropping it removes them.
#[derive(Debug)]
pub struct Lan {
    hub: String,
    nodes: Vec<String>,
}

/// What an interface has carried, at the IP level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// IP packets.
    pub packets: u64,
    /// Their bytes, IP headers included.
    pub bytes: u64,
}

/// Which packets a [`Lan`] loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lossy {
    /// Only UDP packets.
    Udp,
    /// All of them.
    Everything,
}

/// What passes between two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// Connections.
    Tcp,
}

/// Whether network namespaces can be had here; why not if not.
///
/// # Errors
/// The reason, for people.
pub fn available() -> Result<(), String> {
    static PROBE: OnceLock<Result<(), String>> = OnceLock::new();
    let probe = || Lan::new(1).map(drop).map_err(|error| format!("{error:#}"));
    PROBE.get_or_init(probe).clone()
}

/// True if a test that needs namespaces can run; otherwise says on standard error that it is
/// skipped, and why.
pub fn or_skip(test: &str) -> bool {
    match available() {
        Ok(()) => true,
        Err(reason) => {
            eprintln!("skipped: {test} needs network namespaces: {reason}");
            false
        }
    }
}

impl Lan {
    /// Makes a network of so many nodes.
    ///
    /// # Errors
    /// If it cannot be: no privileges, no tools, a kernel without.
    pub fn new(nodes: usize) -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        ensure!(nodes <= MAX_NODES, "at most {MAX_NODES} nodes");
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("kith-{}-{number}", std::process::id());
        let lan = Self {
            hub: format!("{prefix}-hub"),
            nodes: (1..=nodes).map(|n| format!("{prefix}-n{n}")).collect(),
        };
        for name in lan.namespaces() {
            reaper::adopt_namespace(name);
        }
        // From here on, dropping `lan` removes whatever was made.
        shell(&lan.script())?;
        lan.filter(RULES)?;
        Ok(lan)
    }

    /// The commands that make the network.
    fn script(&self) -> String {
        let hub = &self.hub;
        let router = "10.77.255.254";
        let mut text = format!(
            "set -e\nip netns add {hub}\nnsenter --net=/run/netns/{hub} sh -ec '\
             echo 1 > /proc/sys/net/ipv4/ip_forward\nip link set lo up'\n"
        );
        for (index, name) in self.nodes.iter().enumerate() {
            let (ip, port) = (self.ip(index), port(index));
            // IPv6 is off, because its discovery packets would be counted as the nodes' own.
            text.push_str(&format!(
                "ip netns add {name}\n\
                 ip link add {port} netns {hub} type veth peer name eth0 netns {name}\n\
                 nsenter --net=/run/netns/{name} sh -ec '\
                 echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6\n\
                 ip link set lo up\n\
                 ip addr add {ip}/32 dev eth0\n\
                 ip link set eth0 up\n\
                 ip route add {router}/32 dev eth0\n\
                 ip route add default via {router}'\n"
            ));
        }
        text.push_str(&format!("nsenter --net=/run/netns/{hub} sh -e <<'HUB'\n"));
        for index in 0..self.nodes.len() {
            let (ip, port) = (self.ip(index), port(index));
            text.push_str(&format!(
                "echo 1 > /proc/sys/net/ipv6/conf/{port}/disable_ipv6\n\
                 ip addr add {router}/32 dev {port}\n\
                 ip link set {port} up\n\
                 ip route add {ip}/32 dev {port}\n"
            ));
        }
        text.push_str("HUB\n");
        text
    }

    /// How many nodes it has.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// True if it has none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The address of a node.
    pub fn ip(&self, index: usize) -> IpAddr {
        let n = index + 1;
        IpAddr::V4(Ipv4Addr::new(10, 77, (n / 250) as u8, (n % 250) as u8))
    }

    /// An address of a node with a port: each is alone on its machine, so any will do.
    pub fn address(&self, index: usize, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(index), port)
    }

    /// The namespace of a node.
    pub fn namespace(&self, index: usize) -> &str {
        &self.nodes[index]
    }

    /// A command that will run in the namespace of a node.
    pub fn enter(&self, index: usize, program: impl AsRef<std::ffi::OsStr>) -> Command {
        enter(&self.nodes[index], program)
    }

    /// Moves this thread, and all that it starts from then on, into the namespace of a node until
    /// what is returned is dropped.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn visit(&self, index: usize) -> Result<Visit> {
        Visit::to(self.namespace(index))
    }

    /// From now on nothing passes from or to that node.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn isolate(&self, index: usize) -> Result<()> {
        self.filter(&format!(
            "add element inet kith gone {{ {} }}",
            self.ip(index)
        ))
    }

    /// From now on nothing passes between a node of `one` and a node of `other`.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn split(&self, one: &[usize], other: &[usize]) -> Result<()> {
        let mut pairs = Vec::new();
        for &a in one {
            for &b in other {
                let (a, b) = (self.ip(a), self.ip(b));
                pairs.extend([format!("{a} . {b}"), format!("{b} . {a}")]);
            }
        }
        self.filter(&format!(
            "add element inet kith cut {{ {} }}",
            pairs.join(", ")
        ))
    }

    /// From now on UDP, or TCP, does not pass between two nodes.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn block(&self, one: usize, other: usize, what: Transport) -> Result<()> {
        let (a, b) = (self.ip(one), self.ip(other));
        let protocol = match what {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
        };
        self.filter(&format!(
            "add element inet kith blocked {{ {a} . {b} . {protocol}, {b} . {a} . {protocol} }}"
        ))
    }

    /// Undoes [`Self::isolate`], [`Self::split`] and [`Self::block`].
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn heal(&self) -> Result<()> {
        self.filter(
            "flush set inet kith gone\nflush set inet kith cut\nflush set inet kith blocked",
        )
    }

    /// Loses so many of 100 packets from now on; 0 for none.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn lose(&self, percent: u32, which: Lossy) -> Result<()> {
        let only = match which {
            Lossy::Udp => "meta l4proto udp ",
            Lossy::Everything => "",
        };
        let mut rules = String::from("flush chain inet kith loss\n");
        let chance = match percent {
            1..=99 => format!("numgen random mod 100 < {percent} "),
            _ => String::new(),
        };
        if percent > 0 {
            writeln!(rules, "add rule inet kith loss {only}{chance}drop")?;
        }
        self.filter(&rules)
    }

    /// What each node has sent since the network was made, lost packets included.
    ///
    /// # Errors
    /// If the counters cannot be read.
    pub fn sent(&self) -> Result<Vec<Traffic>> {
        self.counted("rx")
    }

    /// What has reached each node since the network was made.
    ///
    /// # Errors
    /// If the counters cannot be read.
    pub fn received(&self) -> Result<Vec<Traffic>> {
        self.counted("tx")
    }

    /// The counters of the hub's ends: what it receives a node has sent.
    fn counted(&self, direction: &str) -> Result<Vec<Traffic>> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.hub, "-s", "-j", "link", "show"]);
        let (code, text) = process::run(&mut command)?;
        ensure!(code == 0, "reading counters: {text}");
        let links: Value = serde_json::from_str(&text).context("the counters of `ip -s -j`")?;
        let links = links.as_array().context("a list of interfaces")?;
        let of = |index: usize| {
            let link = links.iter().find(|l| l["ifname"] == port(index).as_str());
            let carried = &link?["stats64"][direction];
            let packets = carried["packets"].as_u64()?;
            let bytes = carried["bytes"].as_u64()?;
            Some(Traffic {
                packets,
                bytes: bytes.saturating_sub(packets * ETHERNET_HEADER),
            })
        };
        (0..self.len())
            .map(|index| of(index).with_context(|| format!("no counters of node {index}")))
            .collect()
    }

    fn filter(&self, rules: &str) -> Result<()> {
        let hub = &self.hub;
        shell(&format!(
            "nsenter --net=/run/netns/{hub} nft -f - <<'RULES'\n{rules}\nRULES\n"
        ))
    }

    fn namespaces(&self) -> impl Iterator<Item = &str> {
        let nodes = self.nodes.iter().map(String::as_str);
        nodes.chain([self.hub.as_str()])
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for name in self.namespaces() {
            let path = format!("/run/netns/{name}");
            if std::path::Path::new(&path).exists()
                && let Err(error) = shell(&format!("ip netns del {name}"))
            {
                eprintln!("{name} is left behind: {error:#}");
                continue;
            }
            reaper::release_namespace(name);
        }
    }
}

/// What the hub drops: all of some nodes, all or one protocol between some pairs, and some by
/// chance.
const RULES: &str = "\
table inet kith {
    set gone { type ipv4_addr; }
    set cut { type ipv4_addr . ipv4_addr; }
    set blocked { type ipv4_addr . ipv4_addr . inet_proto; }
    chain loss { }
    chain forward {
        type filter hook forward priority 0; policy accept;
        ip saddr @gone drop
        ip daddr @gone drop
        ip saddr . ip daddr @cut drop
        ip saddr . ip daddr . meta l4proto @blocked drop
        jump loss
    }
}";

/// A command that will run in a namespace. Lighter than `ip netns exec`; and it replaces `nsenter`, so its process id and its
/// signals are the command's own.
pub fn enter(namespace: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{namespace}"));
    command.arg("--").arg(program);
    command
}

/// The hub's end of a node's cable.
fn port(index: usize) -> String {
    format!("p{}", index + 1)
}

fn shell(script: &str) -> Result<()> {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    let (code, text) = process::run(&mut command)?;
    if code != 0 {
        bail!("{}", text.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ping(lan: &Lan, from: usize, to: usize) -> bool {
        // Bash's pseudo-device would need bash; a UDP echo would need a server. TCP to a
        // closed port is refused by the other's kernel, and that is an answer.
        let mut command = lan.enter(from, std::env::current_exe().unwrap());
        command.args(["--exact", "netns::tests::knock", "--ignored"]);
        command.env("KITH_TEST_KNOCK", lan.address(to, 9).to_string());
        process::run(&mut command).unwrap().0 == 0
    }

    #[test]
    #[ignore = "a part of the next test, run by it in a namespace"]
    fn knock() {
        let address: SocketAddr = std::env::var("KITH_TEST_KNOCK").unwrap().parse().unwrap();
        let patience = std::time::Duration::from_millis(300);
        let error = std::net::TcpStream::connect_timeout(&address, patience).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn nodes_reach_each_other_unless_cut() {
        if !or_skip("the namespaces' own test") {
            return;
        }
        let lan = Lan::new(3).unwrap();
        assert!(ping(&lan, 0, 1));
        lan.isolate(1).unwrap();
        assert!(!ping(&lan, 0, 1));
        assert!(ping(&lan, 0, 2));
        lan.heal().unwrap();
        assert!(ping(&lan, 0, 1));
        lan.split(&[0, 1], &[2]).unwrap();
        assert!(ping(&lan, 0, 1));
        assert!(!ping(&lan, 2, 1));
        lan.heal().unwrap();
        lan.lose(100, Lossy::Udp).unwrap();
        assert!(ping(&lan, 2, 1), "TCP is not lost");
        lan.lose(100, Lossy::Everything).unwrap();
        assert!(!ping(&lan, 2, 1));
        let sent = lan.sent().unwrap();
        assert!(sent[0].packets > 0 && sent[0].bytes >= 40 * sent[0].packets / 2);
    }
}
