//! Clients that write all the time, remember every answer, and know what must be there.
//!
//! Each key has one writer, which writes 1, 2, 3, … under it. So whatever is acknowledged is there
//! as long as what is read is that number or a larger one, and not larger than any that was sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use kith::client::kv::Ack;
use kith::client::{Client, ClientError, kv::Precondition};

use crate::{agent::Agent, cluster::Cluster, wait};

/// Between two writes of a writer if nothing else is said: clients, not a flood.
const PAUSE: Duration = Duration::from_millis(2);

/// What came of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// Acknowledged: it must be there from now on.
    Acknowledged,
    /// Not known: it may be there, or may yet be.
    Indeterminate,
    /// Refused: nothing has changed.
    Refused,
}

/// What is known of a key.
#[derive(Clone, Debug, Default)]
struct Known {
    /// The largest number sent.
    sent: u64,
    /// The largest number acknowledged; 0 if none.
    acknowledged: u64,
    /// Numbers that were refused, and so must never be there.
    refused: BTreeSet<u64>,
    /// When the first write was acknowledged that was begun after [`Checker::since`].
    again: Option<Instant>,
}

/// How clients write.
#[derive(Clone, Debug)]
pub struct Habits {
    /// How many copies must have a write before it is acknowledged.
    pub ack: Ack,
    /// Put before each number, to tell writers apart that have keys in common. It has no digits.
    pub mark: &'static str,
    /// Between two writes of a writer.
    pub pause: Duration,
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            ack: Ack::Quorum,
            mark: "",
            pause: PAUSE,
        }
    }
}

/// How many writes came to what end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Acknowledged.
    pub acknowledged: u64,
    /// Indeterminate.
    pub indeterminate: u64,
    /// Refused.
    pub refused: u64,
}

#[derive(Debug, Default)]
struct Memory {
    keys: BTreeMap<String, Known>,
    counts: Counts,
    since: Option<Instant>,
    /// The words of the last write that was not acknowledged.
    complaint: String,
}

#[derive(Debug)]
struct Shared {
    through: RwLock<Vec<Client>>,
    memory: Mutex<Memory>,
    habits: Habits,
    stop: AtomicBool,
}

/// Writers under way. They end when it is dropped.
#[derive(Debug)]
pub struct Checker {
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<()>>,
}

impl Checker {
    /// Begins to write under all these keys with so many writers, through any of these clients.
    pub fn begin(keys: &[String], writers: usize, through: Vec<Client>) -> Self {
        Self::begin_with(Habits::default(), keys, writers, through)
    }

    /// [`Self::begin`] with other habits.
    pub fn begin_with(
        habits: Habits,
        keys: &[String],
        writers: usize,
        through: Vec<Client>,
    ) -> Self {
        let known = keys.iter().map(|key| (key.clone(), Known::default()));
        let shared = Arc::new(Shared {
            through: RwLock::new(through),
            memory: Mutex::new(Memory {
                keys: known.collect(),
                ..Memory::default()
            }),
            habits,
            stop: AtomicBool::new(false),
        });
        let writers = (0..writers)
            .map(|writer| {
                let own = keys.iter().skip(writer).step_by(writers).cloned();
                let (own, shared) = (own.collect::<Vec<_>>(), Arc::clone(&shared));
                thread::spawn(move || shared.write(&own, writer))
            })
            .collect();
        Self { shared, writers }
    }

    /// Everybody is there and writes go on through everybody, all copies are made again, and
    /// nothing is lost.
    ///
    /// # Panics
    /// If that does not come about.
    #[track_caller]
    pub fn expect_health(&self, cluster: &Cluster) {
        cluster.expect_all_alive();
        self.through(cluster.nodes());
        cluster.expect_healthy();
        self.expect_progress();
        self.expect_nothing_lost(cluster.nodes());
    }

    /// From now on writes go through these agents. Those under way may still fail at another.
    pub fn through<'a>(&self, agents: impl IntoIterator<Item = &'a Agent>) {
        let clients = agents.into_iter().map(Agent::library).collect();
        *self
            .shared
            .through
            .write()
            .unwrap_or_else(PoisonError::into_inner) = clients;
    }

    /// How writes have ended so far.
    pub fn counts(&self) -> Counts {
        self.shared.memory().counts
    }

    /// The moment from which [`Self::again`] counts.
    pub fn since(&self, moment: Instant) {
        let mut memory = self.shared.memory();
        memory.since = Some(moment);
        for known in memory.keys.values_mut() {
            known.again = None;
        }
    }

    /// For each key, when the first write was acknowledged that was begun after [`Self::since`].
    ///
    /// # Errors
    /// What is missing: keys that have not been written again.
    pub fn again(&self) -> Result<Vec<Instant>, String> {
        let memory = self.shared.memory();
        let missing = memory
            .keys
            .iter()
            .filter(|(_, known)| known.again.is_none());
        let missing: Vec<&str> = missing.map(|(key, _)| key.as_str()).collect();
        if missing.is_empty() {
            return Ok(memory.keys.values().filter_map(|k| k.again).collect());
        }
        let complaint = &memory.complaint;
        Err(format!(
            "not written again: {missing:?}; the last complaint: {complaint}"
        ))
    }

    /// Waits until every key has been written again from now on.
    ///
    /// # Panics
    /// If one is not.
    #[track_caller]
    pub fn expect_progress(&self) {
        self.since(Instant::now());
        wait::until("every key to be written again", || self.again());
    }

    /// Reads every key through that client: those of which an acknowledged write is not there. It
    /// may go on writing meanwhile.
    ///
    /// # Errors
    /// If a key cannot be read at all, for as long as tests wait, or has a value that nobody wrote.
    pub fn lost_at(&self, client: &Client) -> Result<Vec<String>, String> {
        let must: Vec<(String, u64)> = {
            let memory = self.shared.memory();
            let keys = memory.keys.iter();
            keys.map(|(key, known)| (key.clone(), known.acknowledged))
                .collect()
        };
        let mut lost = Vec::new();
        for (key, must) in must {
            let what = format!("{key} to be readable at {}", client.url());
            let found = wait::poll(&what, wait::PATIENCE, || {
                client
                    .read(key.as_bytes())
                    .map_err(|error| error.to_string())
            });
            let found = found.map_err(|timeout| timeout.to_string())?;
            let value = found.map(|value| value.bytes);
            if let Some(text) = self.judge(&key, must, value.as_deref())? {
                lost.push(text);
            }
        }
        Ok(lost)
    }

    /// What is wrong with that value of a key, if less is there than had been acknowledged.
    ///
    /// # Errors
    /// If these writers never wrote it, or were told that it was refused.
    fn judge(&self, key: &str, must: u64, value: Option<&[u8]>) -> Result<Option<String>, String> {
        let mark = self.shared.habits.mark;
        let number = match value {
            None => 0,
            Some(value) => number_in(mark, value)
                .ok_or_else(|| format!("{key} is {value:?}, which nobody wrote"))?,
        };
        let memory = self.shared.memory();
        let known = &memory.keys[key];
        if number > known.sent {
            let sent = known.sent;
            return Err(format!("{key} is {number}, but only {sent} were written"));
        }
        if known.refused.contains(&number) {
            return Err(format!("{key} is {number}, and that write was refused"));
        }
        let less = number < must;
        Ok(less.then(|| format!("{key} is {number}, but {must} was acknowledged")))
    }

    /// Whether any write of a key was acknowledged.
    pub fn has_acknowledged(&self, key: &str) -> bool {
        let memory = self.shared.memory();
        memory.keys.get(key).is_some_and(|k| k.acknowledged > 0)
    }

    /// Whether that value of a key is as new as the last write that was acknowledged to these
    /// writers; `None` if it is somebody else's.
    ///
    /// # Errors
    /// If it bears their mark, and they never wrote it, or were told that it was refused.
    pub fn is_last(&self, key: &str, value: &[u8]) -> Result<Option<bool>, String> {
        if number_in(self.shared.habits.mark, value).is_none() {
            return Ok(None);
        }
        let must = self.shared.memory().keys[key].acknowledged;
        Ok(Some(self.judge(key, must, Some(value))?.is_none()))
    }

    /// Checks that nothing acknowledged is lost, whichever of these agents is asked.
    ///
    /// # Panics
    /// If something is, or cannot be read.
    #[track_caller]
    pub fn expect_nothing_lost<'a>(&self, agents: impl IntoIterator<Item = &'a Agent>) {
        for agent in agents {
            match self.lost_at(&agent.library()) {
                Ok(lost) if lost.is_empty() => {}
                Ok(lost) => panic!("lost, asked at {}: {lost:#?}", agent.name()),
                Err(error) => panic!("{}: {error}", agent.name()),
            }
        }
    }

    /// No further writes; returns when the last one has its answer.
    pub fn pause(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for writer in self.writers.drain(..) {
            if let Err(panic) = writer.join()
                && !thread::panicking()
            {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.pause();
    }
}

impl Shared {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, keys: &[String], mut turn: usize) {
        for key in keys.iter().cycle() {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            turn += 1;
            let client = {
                let through = self.through.read().unwrap_or_else(PoisonError::into_inner);
                through.get(turn % through.len().max(1)).cloned()
            };
            if let Some(client) = client {
                self.write_one(&client, key);
            }
            thread::sleep(self.habits.pause);
        }
    }

    fn write_one(&self, client: &Client, key: &str) {
        let number = {
            let mut memory = self.memory();
            let known = memory.keys.entry(key.to_owned()).or_default();
            known.sent += 1;
            known.sent
        };
        let begun = Instant::now();
        let Habits { ack, mark, .. } = self.habits;
        let value = format!("{mark}{number}");
        let only = Precondition::None;
        let answer = client.write(key.as_bytes(), value.as_bytes(), None, &only, ack);
        let ended = Instant::now();
        let mut memory = self.memory();
        match answer.as_ref().map_or_else(came, |_| Came::Acknowledged) {
            Came::Acknowledged => {
                memory.counts.acknowledged += 1;
                let counts = memory.since.is_some_and(|since| begun >= since);
                let known = memory.keys.entry(key.to_owned()).or_default();
                known.acknowledged = number;
                if counts {
                    known.again.get_or_insert(ended);
                }
            }
            Came::Indeterminate => memory.counts.indeterminate += 1,
            Came::Refused => {
                memory.counts.refused += 1;
                let known = memory.keys.entry(key.to_owned()).or_default();
                known.refused.insert(number);
            }
        }
        if let Err(error) = answer {
            memory.complaint = format!("{key} through {}: {error}", client.url());
        }
    }
}

/// What an error says of a write.
pub fn came(error: &ClientError) -> Came {
    match error {
        ClientError::Problem(problem) if problem.is_indeterminate() => Came::Indeterminate,
        ClientError::Problem(_) | ClientError::Refused { .. } | ClientError::Address { .. } => {
            Came::Refused
        }
        // A broken connection says nothing of what went over it.
        ClientError::Unreachable { .. } | ClientError::Protocol { .. } => Came::Indeterminate,
    }
}

/// So many keys with a common beginning, all over the partitions.
pub fn keys(beginning: &str, count: usize) -> Vec<String> {
    (0..count).map(|i| format!("{beginning}{i}")).collect()
}

fn number_in(mark: &str, value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value).ok()?.strip_prefix(mark)?;
    digits.parse().ok()
}
