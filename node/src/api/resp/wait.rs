//! `WAIT`: how many backups have what a connection has written.
//!
//! A write is acknowledged when as many members have it as the setting says (a majority by
//! default), which often answers `WAIT` without asking anybody. Beyond that, the owners of what
//! was written are asked, which ask the members in turn: the answer counts those that have
//! confirmed it, and is never more than there are.
//!
//! ```text
//!   SET a, SET b, WAIT 2 100 ─► both acknowledged ─► [Copies a], [Copies b] ─► the smaller count
//! ```
//!
//! A connection remembers a bounded number of writes. Of those it has forgotten only the
//! acknowledgement speaks.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;
use kith_proto::{
    id::PartitionId,
    kv::{
        request::{Ack, MAX_PATIENCE},
        version::Version,
    },
    placement::partition_of,
};

use tokio::time::{sleep_until, timeout_at};

use super::strings::{Refused, number};
use crate::kv::{Begun, Kv, Topology};

/// Writes remembered by a connection that has never sent `WAIT`, and what their keys take (bytes).
const FEW: (usize, usize) = (64, 16 << 10);
/// The same once it has.
const MANY: (usize, usize) = (1024, 256 << 10);
/// What keeps a key of up to this is used again for another (bytes).
const KEPT_KEY: usize = 256;
/// Before an owner that could not answer is asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// What a connection has written, in order.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// The number of the oldest one that is remembered; they are counted from 1.
    first: u64,
    writes: VecDeque<Wrote>,
    /// What their keys take (bytes).
    size: usize,
    /// Backups that are known to have everything that was forgotten.
    forgotten: Option<usize>,
    /// `WAIT` was sent.
    waits: bool,
}

#[derive(Debug)]
struct Wrote {
    key: Vec<u8>,
    /// Its version, where that was told.
    version: Option<Version>,
    /// Backups that are known to have it.
    known: usize,
}

impl Written {
    /// The number of the next one.
    pub(super) fn next(&self) -> u64 {
        self.first + self.writes.len() as u64
    }

    /// The number of the last one.
    pub(super) fn last(&self) -> Option<u64> {
        self.next().checked_sub(1)
    }

    pub(super) fn add(&mut self, key: &Bytes) {
        let (most, bytes) = if self.waits { MANY } else { FEW };
        // What keeps the key of one that is forgotten keeps the new one.
        let mut kept = Vec::new();
        while self.writes.len() >= most || self.size + key.len() > bytes {
            let Some(oldest) = self.writes.pop_front() else {
                break;
            };
            self.size -= oldest.key.len();
            self.first += 1;
            let least = self.forgotten.unwrap_or(usize::MAX);
            self.forgotten = Some(least.min(oldest.known));
            kept = oldest.key;
        }
        // A copy: a part of what was received would keep all of it.
        if kept.capacity() <= KEPT_KEY {
            kept.clear();
            kept.extend_from_slice(key);
        } else {
            kept = key.to_vec();
        }
        self.size += key.len();
        self.writes.push_back(Wrote {
            key: kept,
            version: None,
            known: 0,
        });
    }

    /// The version of a write, now that it is acknowledged.
    pub(super) fn learn(&mut self, number: u64, version: Version) {
        if let Some(wrote) = self.get(number) {
            wrote.version = Some(version);
        }
    }

    fn get(&mut self, number: u64) -> Option<&mut Wrote> {
        let at = number.checked_sub(self.first)?;
        self.writes.get_mut(usize::try_from(at).ok()?)
    }

    /// Those before that number, with theirs.
    fn before(&self, end: u64) -> impl Iterator<Item = (u64, &Wrote)> {
        let numbered = (self.first..).zip(&self.writes);
        numbered.take_while(move |(number, _)| *number < end)
    }
}

/// How many backups have what is acknowledged in a partition.
fn sure(topology: &Topology, partition: PartitionId, ack: Ack) -> usize {
    let members = topology.partitions.get(usize::from(partition));
    let members = members.map_or(0, Vec::len);
    match ack {
        Ack::One => 0,
        // Whatever came after: the next configuration has it at a majority, too.
        Ack::Quorum | Ack::All => members / 2,
    }
}

/// A `WAIT` under way.
#[derive(Debug)]
pub(super) struct Wait {
    wanted: usize,
    /// What was written before this number is meant.
    end: u64,
    timeout: Option<Duration>,
    /// Once everything before it is acknowledged.
    begun: Option<Instant>,
    asked: VecDeque<(u64, Begun)>,
    /// What was answered: members that have it, the owner included.
    found: Vec<(u64, usize)>,
    pause_until: Option<Instant>,
}

/// What is to be done next about a `WAIT`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is answered with that.
    Answer(usize),
    /// Owners are to be asked.
    Ask,
    /// Owners have been asked.
    Rest,
}

impl Wait {
    /// `WAIT numreplicas timeout`, about what was written before that number.
    pub(super) fn new(args: &[Bytes], end: u64) -> Result<Self, Refused> {
        let wanted = number(&args[1])?;
        let timeout = number(&args[2])?;
        let timeout = u64::try_from(timeout)
            .map_err(|_negative| Refused::Other("ERR timeout is negative".to_owned()))?;
        Ok(Self {
            wanted: usize::try_from(wanted).unwrap_or(0),
            end,
            timeout: (timeout > 0).then(|| Duration::from_millis(timeout)),
            begun: None,
            asked: VecDeque::new(),
            found: Vec::new(),
            pause_until: None,
        })
    }

    /// How it goes on; everything before it is acknowledged.
    pub(super) fn step(&mut self, written: &mut Written, kv: &Kv, ack: Ack, hurry: bool) -> Step {
        if !self.asked.is_empty() || self.pause_until.is_some() {
            return if hurry {
                Step::Answer(self.count(written, &kv.topology(), ack))
            } else {
                Step::Rest
            };
        }
        written.waits = true;
        for (number, members) in self.found.drain(..) {
            if let Some(wrote) = written.get(number) {
                wrote.known = wrote.known.max(members.saturating_sub(1));
            }
        }
        let begun = *self.begun.get_or_insert_with(Instant::now);
        let over = self
            .timeout
            .is_some_and(|timeout| begun.elapsed() >= timeout);
        let topology = kv.topology();
        let count = self.count(written, &topology, ack);
        if count >= self.wanted || over || hurry {
            return Step::Answer(count);
        }
        // Nobody can be asked about what was forgotten.
        match self.lacking(written, &topology, ack).next() {
            Some(_) => Step::Ask,
            None => Step::Answer(count),
        }
    }

    fn count(&self, written: &Written, topology: &Topology, ack: Ack) -> usize {
        let all = 0..topology.len();
        let everywhere = || all.clone().map(|p| sure(topology, p, ack)).min();
        let forgotten = written
            .forgotten
            .map(|known| known.max(everywhere().unwrap_or(0)));
        let remembered = written.before(self.end).map(|(_, wrote)| {
            wrote.known.max(sure(
                topology,
                partition_of(&wrote.key, topology.len()),
                ack,
            ))
        });
        let least = remembered.chain(forgotten).min();
        least.unwrap_or_else(|| {
            // Nothing was written: every backup has that.
            let backups = topology
                .partitions
                .iter()
                .map(|m| m.len().saturating_sub(1));
            backups.min().unwrap_or(0)
        })
    }

    fn lacking(
        &self,
        written: &Written,
        topology: &Topology,
        ack: Ack,
    ) -> impl Iterator<Item = (u64, Bytes, Option<Version>)> {
        written.before(self.end).filter_map(move |(number, wrote)| {
            let partition = partition_of(&wrote.key, topology.len());
            let known = wrote.known.max(sure(topology, partition, ack));
            (known < self.wanted)
                .then(|| (number, Bytes::copy_from_slice(&wrote.key), wrote.version))
        })
    }
}

impl Wait {
    /// When it is answered with what is known by then.
    fn deadline(&self) -> Option<Instant> {
        Some(self.begun? + self.timeout?)
    }

    /// Asks the owners of what too few are known to have.
    pub(super) async fn ask(&mut self, written: &Written, kv: &Kv, ack: Ack) {
        let most = Duration::from_millis(u64::from(MAX_PATIENCE));
        let left = self
            .deadline()
            .map(|at| at.saturating_duration_since(Instant::now()));
        let patience = left.unwrap_or(most).min(most);
        let members = u8::try_from(self.wanted.saturating_add(1)).unwrap_or(u8::MAX);
        let topology = kv.topology();
        let lacking: Vec<_> = self.lacking(written, &topology, ack).collect();
        for (number, key, version) in lacking {
            match kv.begin_copies(key, version, members, patience).await {
                Ok(begun) => self.asked.push_back((number, begun)),
                Err(_not_now) => self.pause_until = Some(Instant::now() + PAUSE),
            }
        }
    }

    /// Waits for what was asked. May be given up, and begun again.
    pub(super) async fn wait(&mut self) {
        let deadline = self.deadline().map(Into::into);
        while let Some((number, begun)) = self.asked.front_mut() {
            let answer = match deadline {
                None => begun.copies().await,
                Some(deadline) => match timeout_at(deadline, begun.copies()).await {
                    Ok(answer) => answer,
                    Err(_elapsed) => return self.asked.clear(),
                },
            };
            match answer {
                Ok(members) => self.found.push((*number, usize::from(members))),
                Err(_not_now) => self.pause_until = Some(Instant::now() + PAUSE),
            }
            self.asked.pop_front();
        }
        if let Some(until) = self.pause_until {
            sleep_until(until.into()).await;
            self.pause_until = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::fake;

    fn wait(wanted: &str, end: u64) -> Wait {
        let words = ["WAIT", wanted, "100"].map(|word| Bytes::copy_from_slice(word.as_bytes()));
        Wait::new(&words, end).unwrap()
    }

    fn of_three() -> Kv {
        let mut topology = fake::alone(None);
        let own = topology.own.unwrap();
        topology.partitions.fill(vec![own; 3]);
        fake::with_topology(topology)
    }

    #[tokio::test]
    async fn what_a_majority_has_is_known_without_asking() {
        let (kv, mut written) = (of_three(), Written::default());
        let nothing = wait("3", written.next()).step(&mut written, &kv, Ack::Quorum, false);
        assert_eq!(nothing, Step::Answer(2), "every backup has nothing");
        written.add(&Bytes::from("a"));
        let mut one = wait("1", written.next());
        assert_eq!(
            one.step(&mut written, &kv, Ack::Quorum, false),
            Step::Answer(1)
        );
        let mut two = wait("2", written.next());
        assert_eq!(two.step(&mut written, &kv, Ack::Quorum, false), Step::Ask);
        let mut one = wait("1", written.next());
        assert_eq!(one.step(&mut written, &kv, Ack::One, false), Step::Ask);
    }

    #[tokio::test]
    async fn answers_count_for_what_was_asked_and_no_more() {
        let (kv, mut written) = (of_three(), Written::default());
        for key in ["a", "b"] {
            written.add(&Bytes::from(key));
        }
        let mut wait = wait("2", written.next());
        // What comes later is no part of it.
        written.add(&Bytes::from("c"));
        assert_eq!(wait.step(&mut written, &kv, Ack::Quorum, false), Step::Ask);
        wait.ask(&written, &kv, Ack::Quorum).await;
        assert_eq!(wait.asked.len(), 2);
        assert_eq!(wait.step(&mut written, &kv, Ack::Quorum, false), Step::Rest);
        wait.wait().await;
        // The stand-in says that only the owner has them.
        assert_eq!(wait.found, [(0, 1), (1, 1)]);
        wait.found = vec![(0, 3), (1, 3)];
        assert_eq!(
            wait.step(&mut written, &kv, Ack::Quorum, false),
            Step::Answer(2)
        );
    }

    #[tokio::test]
    async fn of_what_was_forgotten_only_the_acknowledgement_speaks() {
        let (kv, mut written) = (of_three(), Written::default());
        for number in 0..=FEW.0 {
            written.add(&Bytes::from(number.to_string()));
        }
        assert_eq!((written.writes.len(), written.first), (FEW.0, 1));
        for wrote in &mut written.writes {
            wrote.known = 2;
        }
        let mut two = wait("2", written.next());
        assert_eq!(
            two.step(&mut written, &kv, Ack::Quorum, false),
            Step::Answer(1)
        );
    }
}
