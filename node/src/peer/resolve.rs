//! Seeds are names as well as addresses; a name stands for all its addresses, and is looked
//! up again at every try, because what it stands for changes.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use kith_proto::input::Input;
use tokio::{net::lookup_host, time::timeout};

use super::{Report, Shared};

/// How long a name server may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Looks all seeds up at once, and reports when the last is found, or given up.
pub(super) async fn resolve(shared: Arc<Shared>, seeds: Vec<String>) {
    let listen = shared.listen;
    let all = join_all(seeds.into_iter().map(async |seed| {
        let found = look_up(&seed, listen).await;
        (seed, found)
    }));
    let Some(seeds) = shared.stop.run_until_cancelled(all).await else {
        return;
    };
    let report = Report::Input(Input::Resolved { seeds });
    if shared.report(report).await.is_err() {
        tracing::trace!(target: "kith", "nobody waits for the seeds any more");
    }
}

async fn look_up(seed: &str, listen: IpAddr) -> Result<Vec<SocketAddr>, String> {
    let found: Vec<_> = match timeout(LOOKUP_TIMEOUT, lookup_host(seed)).await {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_elapsed) => {
            return Err(format!(
                "the name server did not answer within {LOOKUP_TIMEOUT:?}"
            ));
        }
    };
    let mut usable: Vec<_> = found
        .iter()
        .copied()
        .filter(|a| reaches(listen, a))
        .collect();
    usable.sort_unstable();
    usable.dedup();
    match (usable.is_empty(), found.is_empty()) {
        (false, _) => Ok(usable),
        (true, true) => Err("the name has no address".to_owned()),
        (true, false) => Err(format!(
            "it has only addresses of the other kind than {listen}, on which this node listens \
             (IPv4, IPv6)"
        )),
    }
}

/// Whether a socket bound to `listen` can send to an address.
fn reaches(listen: IpAddr, to: &SocketAddr) -> bool {
    match listen {
        IpAddr::V6(ip) if ip.is_unspecified() => true,
        _ => listen.is_ipv4() == to.is_ipv4(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_are_taken_as_they_are_and_nonsense_is_explained() {
        let v4 = "127.0.0.1".parse().unwrap();
        let address = "10.0.0.1:7400";
        assert_eq!(
            look_up(address, v4).await,
            Ok(vec![address.parse().unwrap()])
        );
        for wrong in ["", "10.0.0.1", "10.0.0.1:port", "[::1]:7400"] {
            assert!(look_up(wrong, v4).await.is_err(), "{wrong:?} was taken");
        }
        let both = "::".parse().unwrap();
        assert_eq!(look_up("[::1]:7400", both).await.unwrap().len(), 1);
        assert_eq!(look_up(address, both).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn names_are_looked_up() {
        let found = look_up("localhost:7400", "127.0.0.1".parse().unwrap()).await;
        assert_eq!(found, Ok(vec!["127.0.0.1:7400".parse().unwrap()]));
    }
}
