//! Ports, both transports both ways, sizes of packets, seeds.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket},
    time::Duration,
};

use kith_proto::{
    input::DialError,
    wire::keyring::{Key, Keyring},
};

use super::{Finding, Verdict};
use crate::{
    config_file::Settings,
    peer::try_handshake,
    tls::{Mistrust, TlsSetup},
};

/// On one machine an answer takes microseconds.
const LOCAL: Duration = Duration::from_secs(1);
const SEED: Duration = Duration::from_secs(3);
/// What IPv6 and UDP put before the payload (bytes).
const HEADERS: usize = 48;

pub(super) fn examine(settings: &Settings) -> Vec<Finding> {
    let listen = settings.listen;
    let mut findings = vec![
        transport("udp", listen, udp(listen, settings.core.max_datagram)),
        transport("tcp", listen, tcp(listen)),
        port("http", settings.http),
        port("resp", settings.resp),
        datagrams(settings.core.max_datagram, listen),
    ];
    if settings.core.seeds.is_empty() {
        let text = "none given; --seed HOST:PORT looks whether one can be reached";
        findings.push(Finding::new("seed", Verdict::Skip, text));
    }
    let seeds = settings.core.seeds.iter();
    findings.extend(seeds.map(|seed| reach(seed, settings)));
    findings
}

/// Whether the address that clients are served at is free.
fn port(check: &'static str, address: SocketAddr) -> Finding {
    match TcpListener::bind(address) {
        Ok(_) => Finding::new(check, Verdict::Ok, format!("{address} is free")),
        Err(error) => transport(check, address, Err(error)),
    }
}

fn transport(check: &'static str, address: SocketAddr, tried: io::Result<()>) -> Finding {
    match tried {
        Ok(()) => {
            let text = format!("{address} is free, and packets pass both ways");
            Finding::new(check, Verdict::Ok, text)
        }
        Err(error) => {
            let help = match error.kind() {
                io::ErrorKind::AddrInUse => ": another process has it (an agent already?)",
                io::ErrorKind::AddrNotAvailable => ": no address of this machine",
                io::ErrorKind::PermissionDenied => ": ports below 1024 need privileges",
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    ": packets to the own address are dropped; look at the firewall's rules"
                }
                _ => "",
            };
            Finding::new(check, Verdict::Fail, format!("{address}: {error}{help}"))
        }
    }
}

/// The largest datagram to the address and back.
fn udp(listen: SocketAddr, size: usize) -> io::Result<()> {
    let node = UdpSocket::bind(listen)?;
    let to = reachable(node.local_addr()?);
    let peer = UdpSocket::bind(SocketAddr::new(to.ip(), 0))?;
    for socket in [&node, &peer] {
        socket.set_read_timeout(Some(LOCAL))?;
    }
    let sent = vec![7; size];
    let mut received = vec![0; size + 1];
    peer.send_to(&sent, to)?;
    let (length, from) = node.recv_from(&mut received)?;
    node.send_to(&received[..length], from)?;
    let length = peer.recv(&mut received)?;
    if received[..length] != sent {
        return Err(io::Error::other("a datagram came back changed"));
    }
    Ok(())
}

fn tcp(listen: SocketAddr) -> io::Result<()> {
    let node = TcpListener::bind(listen)?;
    let to = reachable(node.local_addr()?);
    let mut peer = TcpStream::connect_timeout(&to, LOCAL)?;
    let (mut accepted, _) = node.accept()?;
    let mut byte = [7];
    for stream in [&peer, &accepted] {
        stream.set_read_timeout(Some(LOCAL))?;
    }
    peer.write_all(&byte)?;
    accepted.read_exact(&mut byte)?;
    accepted.write_all(&byte)?;
    peer.read_exact(&mut byte)
}

/// Of an address that stands for all, the one on loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        let ip = if address.is_ipv4() {
            std::net::Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        };
        address.set_ip(ip);
    }
    address
}

/// Whether datagrams fit the interfaces of this machine. What lies beyond is not seen here.
fn datagrams(size: usize, listen: SocketAddr) -> Finding {
    let finding = |verdict, text| Finding::new("datagrams", verdict, text);
    if listen.ip().is_loopback() {
        return finding(Verdict::Ok, format!("{size} bytes; loopback only"));
    }
    let Ok(interfaces) = fs::read_dir("/sys/class/net") else {
        return finding(
            Verdict::Skip,
            "this system does not tell its MTUs".to_owned(),
        );
    };
    let smallest = interfaces
        .flatten()
        .filter_map(|interface| {
            let read = |file| fs::read_to_string(interface.path().join(file)).ok();
            let up = read("operstate")?.trim() == "up";
            let mtu = read("mtu")?.trim().parse::<usize>().ok()?;
            let name = interface.file_name().to_string_lossy().into_owned();
            up.then_some((mtu, name))
        })
        .min();
    match smallest {
        None => finding(Verdict::Ok, format!("{size} bytes; loopback only")),
        Some((mtu, name)) if mtu < size + HEADERS => {
            let fits = mtu.saturating_sub(HEADERS);
            let text = format!(
                "{size} bytes do not fit the MTU of {name} ({mtu}): fragments get lost more \
                 often; set max-datagram to {fits} or less"
            );
            finding(Verdict::Warn, text)
        }
        Some((mtu, name)) => {
            let text = format!("{size} bytes fit the smallest MTU here ({mtu}, {name})");
            finding(Verdict::Ok, text)
        }
    }
}

/// A stream to a seed, as far as both sides know that they hold the same key. A member answers
/// datagrams of members only, so that UDP is not tried.
fn reach(seed: &str, settings: &Settings) -> Finding {
    let finding = |verdict, text| Finding::new("seed", verdict, text);
    let addresses: Vec<SocketAddr> = match seed.to_socket_addrs() {
        Ok(addresses) => addresses.collect(),
        Err(error) => return finding(Verdict::Fail, format!("{seed} is not found: {error}")),
    };
    let mut failures = Vec::new();
    for address in addresses {
        match TcpStream::connect_timeout(&address, SEED) {
            Ok(tcp) => {
                let (verdict, text) = match introduce(tcp, settings) {
                    Ok(()) => (
                        Verdict::Ok,
                        "takes this node's key and streams (UDP cannot be tried)".to_owned(),
                    ),
                    Err(problem) => (Verdict::Fail, problem),
                };
                return finding(verdict, format!("{seed} ({address}): {text}"));
            }
            Err(error) => failures.push(format!("{address}: {error}")),
        }
    }
    let text = format!(
        "{seed} cannot be reached ({}): does an agent listen there, and does the firewall let \
         TCP and UDP pass?",
        failures.join(", ")
    );
    finding(Verdict::Fail, text)
}

/// Whether whoever accepted that connection takes this node for a peer.
fn introduce(tcp: TcpStream, settings: &Settings) -> Result<(), String> {
    let failed = |error: &dyn std::error::Error| format!("cannot be tried: {error}");
    let keyless = || Key::derived_from_name(&settings.core.cluster);
    let keys = Keyring::new(settings.key.clone().unwrap_or_else(keyless));
    let setup = TlsSetup::new(&keys, settings.certificates.as_ref()).map_err(|e| failed(&e))?;
    tcp.set_nonblocking(true).map_err(|e| failed(&e))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| failed(&e))?;
    let greeted = runtime.block_on(async {
        let tcp = tokio::net::TcpStream::from_std(tcp).map_err(|e| failed(&e))?;
        let tried = tokio::time::timeout(SEED, try_handshake(&setup, tcp)).await;
        tried.map_err(|_elapsed| "connects, and says nothing: is it stopped?".to_owned())
    })?;
    greeted.map_err(|(error, mistrust)| match (error, mistrust) {
        (_, Some(Mistrust::Key)) => {
            "does not hold the same cluster key: give this node the one that the cluster uses now \
             (--key-file or KITH_KEY)"
                .to_owned()
        }
        (_, Some(Mistrust::Certificate(why))) => format!("of certificates: {why}"),
        (DialError::Broken(why), None) => why,
        (error, None) => format!("{error:?}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config_file::{Sources, layer::Layer};

    #[test]
    fn a_taken_port_is_found() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let finding = transport("tcp", address, tcp(address));
        assert_eq!(finding.verdict, Verdict::Fail);
        assert!(finding.text.contains("another process"), "{}", finding.text);
    }

    #[test]
    fn what_is_no_seed_is_told() {
        let flags = Layer {
            ephemeral: Some(true),
            ..Layer::default()
        };
        let sources = Sources {
            flags,
            ..Sources::default()
        };
        let settings = sources.load().unwrap();
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = other.accept().unwrap();
            let mut hello = [0; 64];
            assert!(stream.read(&mut hello).unwrap() > 0);
            stream
                .write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n")
                .unwrap();
        });
        let found = reach(&address, &settings);
        server.join().unwrap();
        assert_eq!(found.verdict, Verdict::Fail);
        assert!(
            found.text.contains("no peer port of Kith"),
            "{}",
            found.text
        );
        let found = reach(&address, &settings);
        assert_eq!(found.verdict, Verdict::Fail);
        assert!(found.text.contains("cannot be reached"), "{}", found.text);
    }
}
