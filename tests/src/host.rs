//! Loopback addresses that stand for machines.
//!
//! On Linux all of 127.0.0.0/8 is this machine, so every node of a test can have an address of
//! its own. An address is claimed by listening on one fixed port of it for as long as it is
//! used: two tests, or two test processes, never share one, so ports on it cannot collide.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Result, bail};

/// Who listens here owns the address. Outside the range of ports that systems hand out.
const CLAIM_PORT: u16 = 64_999;

/// Where ports are tried out.
const TRIAL: Ipv4Addr = Ipv4Addr::new(127, 19, 0, 1);

/// Ports that are given: below those that systems hand out.
const FIRST_PORT: u16 = 12_000;
const PORTS: u16 = 18_000;

/// A loopback address that nobody else uses while this value lives.
#[derive(Debug)]
pub struct Host {
    ip: Ipv4Addr,
    _claim: TcpListener,
}

impl Host {
    /// Claims an address.
    ///
    /// # Errors
    /// If none is free, or this system has only one loopback address.
    pub fn claim() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Processes begin at different places, so that claims rarely meet.
        let begin = std::process::id().wrapping_mul(2039);
        for _ in 0..10_000 {
            let n = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % (200 * 250 * 250);
            let [a, b, c] = [n / (250 * 250), n / 250 % 250, n % 250].map(|x| x as u8);
            // 127.0.0.x stays free for people.
            let ip = Ipv4Addr::new(127, a + 20, b + 1, c + 1);
            if let Ok(claim) = TcpListener::bind((ip, CLAIM_PORT)) {
                return Ok(Self { ip, _claim: claim });
            }
        }
        bail!("no free address in 127.0.0.0/8; on systems other than Linux there is only one")
    }

    /// The address.
    pub fn ip(&self) -> IpAddr {
        IpAddr::V4(self.ip)
    }

    /// An address with a port that is free for UDP and TCP, and was not given before.
    ///
    /// It is tried out at an address that nobody uses, so that only those who listen on all
    /// addresses are in the way. Had it been bound here, the copy of that socket in a process
    /// that is just being forked could keep the port taken for another moment.
    ///
    /// # Errors
    /// If there is none.
    pub fn free(&self) -> Result<SocketAddr> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let begin = std::process::id().wrapping_mul(31);
        for _ in 0..100 {
            let n = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
            let port = FIRST_PORT + (n % u32::from(PORTS)) as u16;
            let tried = (TRIAL, port);
            if UdpSocket::bind(tried).is_ok() && TcpListener::bind(tried).is_ok() {
                return Ok(SocketAddr::new(self.ip(), port));
            }
        }
        bail!("no port from {FIRST_PORT} on is free for both UDP and TCP")
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_is_given_twice() {
        let one = Host::claim().unwrap();
        let two = Host::claim().unwrap();
        assert_ne!(one.ip(), two.ip());
        let address = one.free().unwrap();
        assert!(TcpListener::bind(address).is_ok(), "{address} is not free");
    }
}
