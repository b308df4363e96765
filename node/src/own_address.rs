//! Which of its addresses a machine would be reached at, as far as it can tell by itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Addresses for documentation (RFC 5737, RFC 3849): routed like any that is far away.
const WORLD_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const WORLD_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
/// Any but 0, which cannot be connected to.
const ANY_PORT: u16 = 9;

/// The address from which this machine would speak to `towards` (or to the world), unless
/// that is itself only; with `ipv6` both kinds will do. Nothing is sent for it: connecting a
/// UDP socket only asks the routing table.
pub(crate) fn own_address(towards: Option<IpAddr>, ipv6: bool) -> Option<IpAddr> {
    let candidates = match towards {
        Some(ip) => vec![ip],
        None if ipv6 => vec![WORLD_V6, WORLD_V4],
        None => vec![WORLD_V4],
    };
    candidates.into_iter().find_map(|ip| {
        let any: SocketAddr = match ip {
            IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect((ip, ANY_PORT)).ok()?;
        let own = socket.local_addr().ok()?.ip();
        (!own.is_loopback() && !own.is_unspecified()).then_some(own)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_only_this_machine_reaches_is_none() {
        assert_eq!(own_address(Some(Ipv4Addr::LOCALHOST.into()), false), None);
        // Whatever this machine has, it is one that others could use.
        for ipv6 in [false, true] {
            if let Some(own) = own_address(None, ipv6) {
                assert!(!own.is_loopback() && !own.is_unspecified(), "{own}");
                assert!(ipv6 || own.is_ipv4(), "{own}");
            }
        }
    }
}
