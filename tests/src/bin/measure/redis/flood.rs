//! Writes of a client that knows the owners, as fast as they are answered.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use kith_proto::placement::slot;
use kith_tests::resp::{Reply, Resp};

const CONNECTIONS: usize = 50;
const KEYS: usize = 100_000;
const VALUE: [u8; 100] = [b'x'; 100];
/// How long it lasts.
const LASTS: Duration = Duration::from_secs(2);

/// Keys, by the node that owns them.
#[derive(Debug)]
pub(super) struct Flood {
    owners: Vec<(SocketAddr, Vec<String>)>,
}

impl Flood {
    /// Asks one of these who owns which slots.
    pub(super) fn new(addresses: &[SocketAddr]) -> Result<Self> {
        let mut resp = Resp::connect(addresses[0])?;
        let ranges = ranges(&resp.ask(&[b"CLUSTER", b"SLOTS"])?)?;
        let mut owners: BTreeMap<SocketAddr, Vec<String>> = BTreeMap::new();
        for number in 0..KEYS {
            let key = format!("key:{number:012}");
            let slot = slot(key.as_bytes());
            let owner = ranges
                .iter()
                .find(|(first, last, _)| (*first..=*last).contains(&slot))
                .with_context(|| format!("nobody owns slot {slot}"))?;
            owners.entry(owner.2).or_default().push(key);
        }
        Ok(Self {
            owners: owners.into_iter().collect(),
        })
    }

    /// Operations a second, so many at a time on each connection; with `WAIT 1` behind them if
    /// that is wanted.
    pub(super) fn run(&self, pipeline: usize, wait: bool) -> Result<f64> {
        let begun = Instant::now();
        let until = begun + LASTS;
        let done = thread::scope(|scope| {
            let connections: Vec<_> = (0..CONNECTIONS)
                .map(|number| {
                    let (address, keys) = &self.owners[number % self.owners.len()];
                    scope.spawn(move || write(*address, keys, number * 997, pipeline, wait, until))
                })
                .collect();
            let mut done = 0;
            for connection in connections {
                let outcome = connection.join();
                done += outcome.map_err(|_panic| anyhow::anyhow!("a client has panicked"))??;
            }
            anyhow::Ok(done)
        })?;
        Ok(done as f64 / begun.elapsed().as_secs_f64())
    }
}

/// How many were written; every one of them is answered as it should be.
fn write(
    address: SocketAddr,
    keys: &[String],
    begin: usize,
    pipeline: usize,
    wait: bool,
    until: Instant,
) -> Result<u64> {
    let mut resp = Resp::connect(address)?;
    // Whatever is next is far from it, and all come in turn.
    let mut next = begin;
    let mut done = 0;
    while Instant::now() < until {
        for _ in 0..pipeline {
            next = next.wrapping_add(7919);
            let key = &keys[next % keys.len()];
            resp.put(&[b"SET", key.as_bytes(), &VALUE]);
        }
        if wait {
            resp.put(&[b"WAIT", b"1", b"1000"]);
        }
        resp.flush()?;
        for _ in 0..pipeline {
            let reply = resp.read()?;
            ensure!(reply.is_ok(), "a write was answered with {reply:?}");
            done += 1;
        }
        if wait {
            let reply = resp.read()?;
            let enough = matches!(reply, Reply::Integer(backups) if backups >= 1);
            ensure!(enough, "WAIT 1 was answered with {reply:?}");
        }
    }
    Ok(done)
}

/// First and last slot, and the owner, of what `CLUSTER SLOTS` tells.
fn ranges(reply: &Reply) -> Result<Vec<(u16, u16, SocketAddr)>> {
    let Reply::List(ranges) = reply else {
        anyhow::bail!("CLUSTER SLOTS was answered with {reply:?}");
    };
    let read = |range: &Reply| -> Option<(u16, u16, SocketAddr)> {
        let Reply::List(parts) = range else {
            return None;
        };
        let [
            Reply::Integer(first),
            Reply::Integer(last),
            Reply::List(owner),
            ..,
        ] = parts.as_slice()
        else {
            return None;
        };
        let [Reply::Value(Some(ip)), Reply::Integer(port), ..] = owner.as_slice() else {
            return None;
        };
        let ip = std::str::from_utf8(ip).ok()?.parse().ok()?;
        let address = SocketAddr::new(ip, u16::try_from(*port).ok()?);
        Some((
            u16::try_from(*first).ok()?,
            u16::try_from(*last).ok()?,
            address,
        ))
    };
    let ranges = ranges.iter().map(read).collect::<Option<Vec<_>>>();
    ranges.with_context(|| format!("CLUSTER SLOTS was answered with {reply:?}"))
}
