//! What a cluster holds, and where: how much has to move when its members change.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use kith_tests::{
    agent::Agent,
    cluster::Cluster,
    resp::{Reply, Resp},
};

use crate::lab::PATIENCE;

/// Commands sent before their answers are read.
const PIPELINE: usize = 64;
/// Bytes sent before answers are read, about.
const PIPELINE_BYTES: usize = 256 << 10;
/// Connections to each node that fill it.
const CONNECTIONS: usize = 2;
/// How often a write that was not acknowledged is tried again.
const TRIES: usize = 20;
/// Whatever does not settle within this never will.
const SETTLING: Duration = Duration::from_secs(90);
/// Between two looks: asking is work for the nodes too.
const PAUSE: Duration = Duration::from_millis(200);

/// Who keeps which partition, and how much that is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holdings {
    /// Of each partition: epoch, branch and members, the owner first.
    configurations: Vec<(u64, String, Vec<String>)>,
    /// Of each partition: bytes that its owner keeps.
    bytes: Vec<u64>,
    /// Copies being made or compared.
    transfers: usize,
}

/// Copies that are where there was none before.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Movement {
    /// How many.
    pub(crate) copies: usize,
    /// What they take.
    pub(crate) bytes: u64,
}

impl Holdings {
    /// As these nodes tell it, who must agree.
    pub(crate) fn of(cluster: &Cluster, indices: &[usize]) -> Result<Self> {
        let mut holdings = Self::default();
        for &index in indices {
            let agent = cluster.node(index);
            let views = agent.partitions()?;
            ensure!(!views.is_empty(), "{} has no partitions", agent.name());
            holdings.transfers += views.iter().map(|view| view.transfers).sum::<usize>();
            holdings.bytes.resize(views.len(), 0);
            let states: Vec<String> = views
                .iter()
                .map(|view| format!("{} {}", view.state, view.reason))
                .collect();
            let mut told = Vec::new();
            for (number, view) in views.into_iter().enumerate() {
                if view.owner.as_deref() == Some(agent.name()) {
                    holdings.bytes[number] = view.bytes;
                }
                let members = view.owner.into_iter().chain(view.backups).collect();
                told.push((view.epoch, view.branch, members));
            }
            if holdings.configurations.is_empty() {
                holdings.configurations = told;
            } else if let Some(number) = differs(&holdings.configurations, &told) {
                bail!(
                    "{} tells of partition {number}: {:?} ({}), and {}: {:?}",
                    agent.name(),
                    told.get(number),
                    states.get(number).map_or("", |state| state.trim()),
                    cluster.node(indices[0]).name(),
                    holdings.configurations.get(number)
                );
            }
        }
        Ok(holdings)
    }

    /// Copies that a node keeps.
    pub(crate) fn copies_at(&self, name: &str) -> usize {
        let all = self.members();
        all.filter(|members| members.iter().any(|m| m == name))
            .count()
    }

    /// Partitions that a node owns.
    pub(crate) fn owned_by(&self, name: &str) -> usize {
        let all = self.members();
        all.filter(|members| members.first().is_some_and(|m| m == name))
            .count()
    }

    /// What all copies take that a node keeps (bytes).
    pub(crate) fn bytes_at(&self, name: &str) -> u64 {
        let all = self.members().zip(&self.bytes);
        all.filter(|(members, _)| members.iter().any(|m| m == name))
            .map(|(_, bytes)| bytes)
            .sum()
    }

    /// All copies there are.
    pub(crate) fn copies(&self) -> usize {
        self.members().map(Vec::len).sum()
    }

    /// How many partitions.
    pub(crate) fn len(&self) -> usize {
        self.configurations.len()
    }

    /// What had to be made anew to come from `before` to here.
    pub(crate) fn since(&self, before: &Self) -> Movement {
        let mut movement = Movement::default();
        let bytes = self.bytes.iter().zip(&before.bytes);
        for ((now, then), (bytes, bytes_then)) in self.members().zip(before.members()).zip(bytes) {
            let new = now.iter().filter(|member| !then.contains(member)).count();
            movement.copies += new;
            movement.bytes += new as u64 * (*bytes).max(*bytes_then);
        }
        movement
    }

    fn members(&self) -> impl Iterator<Item = &Vec<String>> {
        self.configurations.iter().map(|(_, _, members)| members)
    }
}

fn differs<T: PartialEq>(one: &[T], other: &[T]) -> Option<usize> {
    let longer = one.len().max(other.len());
    (0..longer).find(|&number| one.get(number) != other.get(number))
}

/// Waits until these nodes agree, have all copies among them, and nothing moves for `still`; and
/// the state is one that is `wanted`. Gives it with the moment at which it was first seen.
pub(crate) fn settled(
    cluster: &Cluster,
    indices: &[usize],
    still: Duration,
    wanted: impl Fn(&Holdings) -> bool,
) -> Result<(Holdings, Instant)> {
    let names: BTreeSet<&str> = indices.iter().map(|&i| cluster.node(i).name()).collect();
    let copies = cluster.node(indices[0]).status()?.copies;
    let complete = |holdings: &Holdings| {
        let mut all = holdings.members();
        all.all(|m| m.len() == copies && m.iter().all(|m| names.contains(m.as_str())))
    };
    let begun = Instant::now();
    let mut last: Option<(Holdings, Instant)> = None;
    loop {
        let seen = Holdings::of(cluster, indices);
        let now = Instant::now();
        let trouble = match seen {
            Err(error) => format!("{error:#}"),
            Ok(holdings) if holdings.transfers > 0 => format!("{} transfers", holdings.transfers),
            Ok(holdings) if !complete(&holdings) => "copies are missing".to_owned(),
            Ok(holdings) if !wanted(&holdings) => "shares are not as wanted".to_owned(),
            Ok(holdings) => {
                match &last {
                    Some((before, since)) if before.configurations == holdings.configurations => {
                        if now - *since >= still {
                            return Ok((holdings, *since));
                        }
                    }
                    _ => last = Some((holdings, now)),
                }
                "it has only just become still".to_owned()
            }
        };
        if trouble != "it has only just become still" {
            last = None;
        }
        if begun.elapsed() > SETTLING {
            bail!("not settled on {names:?}: {trouble}");
        }
        thread::sleep(PAUSE);
    }
}

/// Stores so many values of a size under `held-0`, `held-1`, …, through all of these nodes.
pub(crate) fn fill<'a>(
    nodes: impl IntoIterator<Item = &'a Agent>,
    count: usize,
    size: usize,
) -> Result<()> {
    let nodes: Vec<&Agent> = nodes.into_iter().collect();
    let lanes = nodes.len() * CONNECTIONS;
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..lanes)
            .map(|lane| {
                let agent = nodes[lane % nodes.len()];
                let numbers = (lane..count).step_by(lanes);
                scope.spawn(move || fill_through(agent, numbers, size))
            })
            .collect();
        for lane in lanes {
            match lane.join() {
                Ok(outcome) => outcome?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(())
    })
}

fn fill_through(agent: &Agent, numbers: impl Iterator<Item = usize>, size: usize) -> Result<()> {
    let mut connection = Resp::connect(agent.wait_ready(PATIENCE)?.resp)?;
    let numbers: Vec<usize> = numbers.collect();
    for batch in numbers.chunks((PIPELINE_BYTES / size.max(1)).clamp(1, PIPELINE)) {
        let mut left = batch.to_vec();
        let mut complaint = String::new();
        for _ in 0..TRIES {
            for &number in &left {
                let (key, value) = (format!("held-{number}"), value(number, size));
                connection.put(&[b"SET", key.as_bytes(), &value]);
            }
            connection.flush()?;
            let mut again = Vec::new();
            for number in left {
                match connection.read()? {
                    reply if reply.is_ok() => {}
                    Reply::Error(text) => {
                        complaint = text;
                        again.push(number);
                    }
                    other => bail!("SET was answered with {other:?}"),
                }
            }
            left = again;
            if left.is_empty() {
                break;
            }
            thread::sleep(Duration::from_millis(100));
        }
        ensure!(
            left.is_empty(),
            "not stored at {}: {complaint}",
            agent.name()
        );
    }
    Ok(())
}

/// Bytes that no compression makes shorter.
fn value(number: usize, size: usize) -> Vec<u8> {
    let mut state = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// How many of the values of [`fill`] are not there, or are others, asked at one node.
pub(crate) fn not_held(agent: &Agent, count: usize, size: usize) -> Result<usize> {
    let mut connection = Resp::connect(agent.wait_ready(PATIENCE)?.resp)?;
    let numbers: Vec<usize> = (0..count).collect();
    let mut missing = 0;
    for batch in numbers.chunks((PIPELINE_BYTES / size.max(1)).clamp(1, PIPELINE)) {
        for number in batch {
            connection.put(&[b"GET", format!("held-{number}").as_bytes()]);
        }
        connection.flush()?;
        for &number in batch {
            match connection.read().context("reading what was filled in")? {
                Reply::Value(found) => {
                    missing += usize::from(found.as_deref() != Some(&*value(number, size)));
                }
                other => bail!("GET was answered with {other:?}"),
            }
        }
    }
    Ok(missing)
}
