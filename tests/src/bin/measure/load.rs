//! Clients that write at a fixed rate, whatever the answers take: the time of a write runs from
//! when it was due, so that a pause counts for every write that it holds up.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use kith_tests::{
    agent::Agent,
    resp::{Reply, Resp},
};

use crate::lab::PATIENCE;

/// Before a write is tried again that was not acknowledged.
const PAUSE: Duration = Duration::from_millis(2);
/// What is written beside the number (bytes).
const PADDING: usize = 90;

/// A write.
#[derive(Clone, Copy, Debug)]
struct Write {
    due: Instant,
    acknowledged: Instant,
    refused: u32,
    unknown: u32,
}

/// Writers under way, one a key.
#[derive(Debug)]
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Written>>,
    through: Vec<SocketAddr>,
}

/// What one writer has done.
#[derive(Debug, Default)]
struct Written {
    writes: Vec<Write>,
    /// The last number that was acknowledged.
    last: u64,
    /// Numbers sent.
    sent: u64,
    complaint: String,
}

/// Everything that was written.
#[derive(Debug)]
pub(crate) struct Done {
    keys: Vec<Written>,
    through: Vec<SocketAddr>,
}

/// Writes that were due between two moments.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Window {
    /// How many.
    pub(crate) writes: usize,
    /// From when they were due (milliseconds).
    pub(crate) median: f64,
    /// 99 of 100 took no longer (milliseconds).
    pub(crate) p99: f64,
    /// The longest (milliseconds).
    pub(crate) longest: f64,
    /// Answers that nothing was done.
    pub(crate) refused: u64,
    /// Answers that it is not known, connections that broke among them.
    pub(crate) unknown: u64,
}

impl Load {
    /// Begins to write under so many keys, each so often, through these nodes.
    pub(crate) fn begin<'a>(
        keys: usize,
        each: Duration,
        nodes: impl IntoIterator<Item = &'a Agent>,
    ) -> Result<Self> {
        let ready = nodes.into_iter().map(|node| node.wait_ready(PATIENCE));
        let through: Vec<SocketAddr> = ready.map(|r| Ok(r?.resp)).collect::<Result<_>>()?;
        let stop = Arc::new(AtomicBool::new(false));
        let begun = Instant::now();
        let writers = (0..keys)
            .map(|number| {
                let (stop, through) = (Arc::clone(&stop), through.clone());
                // Not all at once.
                let first = begun + each.mul_f64(number as f64 / keys as f64);
                thread::spawn(move || write(number, first, each, &through, &stop))
            })
            .collect();
        Ok(Self {
            stop,
            writers,
            through,
        })
    }

    /// Ends it.
    pub(crate) fn finish(mut self) -> Result<Done> {
        self.stop.store(true, Ordering::Relaxed);
        let mut keys = Vec::new();
        for writer in self.writers.drain(..) {
            match writer.join() {
                Ok(written) => keys.push(written),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        let silent = keys.iter().find(|key| key.writes.is_empty());
        if let Some(key) = silent {
            bail!("a key was never written: {}", key.complaint);
        }
        Ok(Done {
            keys,
            through: self.through.clone(),
        })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Done {
    /// Those that were due between two moments.
    pub(crate) fn window(&self, from: Instant, to: Instant) -> Window {
        let all = self.keys.iter().flat_map(|key| &key.writes);
        let due: Vec<&Write> = all.filter(|w| w.due >= from && w.due < to).collect();
        let mut took: Vec<f64> = due
            .iter()
            .map(|w| {
                w.acknowledged
                    .saturating_duration_since(w.due)
                    .as_secs_f64()
                    * 1000.0
            })
            .collect();
        took.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = (took.len() as f64 * share) as usize;
            took.get(place.min(took.len().saturating_sub(1)))
                .copied()
                .unwrap_or_default()
        };
        Window {
            writes: due.len(),
            median: at(0.5),
            p99: at(0.99),
            longest: at(1.0),
            refused: due.iter().map(|w| u64::from(w.refused)).sum(),
            unknown: due.iter().map(|w| u64::from(w.unknown)).sum(),
        }
    }

    /// How many keys have less than was acknowledged, or what nobody wrote.
    pub(crate) fn lost(&self) -> Result<usize> {
        let mut lost = 0;
        let mut connection = Resp::connect(self.through[0])?;
        for (number, key) in self.keys.iter().enumerate() {
            let found = match connection.ask(&[b"GET", name(number).as_bytes()])? {
                Reply::Value(found) => found,
                other => bail!("GET was answered with {other:?}"),
            };
            let text = found.and_then(|bytes| String::from_utf8(bytes).ok());
            let counted = text.as_deref().and_then(|t| t.split_whitespace().next());
            let counted: Option<u64> = counted.and_then(|t| t.parse().ok());
            let right = counted.is_some_and(|n| n >= key.last && n <= key.sent);
            if !right {
                eprintln!("  lost: {} is {text:?}, not {}", name(number), key.last);
            }
            lost += usize::from(!right);
        }
        Ok(lost)
    }
}

fn name(number: usize) -> String {
    format!("load-{number}")
}

fn write(
    number: usize,
    first: Instant,
    each: Duration,
    through: &[SocketAddr],
    stop: &AtomicBool,
) -> Written {
    let key = name(number);
    let mut written = Written::default();
    let mut connection: Option<Resp> = None;
    let mut turn = number;
    let mut due = first;
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let (mut refused, mut unknown) = (0, 0);
        let acknowledged = loop {
            written.sent += 1;
            let value = format!("{} {:PADDING$}", written.sent, "");
            match ask(&mut connection, through[turn % through.len()], &key, &value) {
                Ok(reply) if reply.is_ok() => break Some(Instant::now()),
                Ok(Reply::Error(text)) => {
                    match text.starts_with("INDETERMINATE") {
                        true => unknown += 1,
                        false => refused += 1,
                    }
                    written.complaint = text;
                }
                Ok(other) => written.complaint = format!("{other:?}"),
                Err(error) => {
                    unknown += 1;
                    written.complaint = format!("{error:#}");
                    connection = None;
                    turn += 1;
                }
            }
            if stop.load(Ordering::Relaxed) {
                break None;
            }
            thread::sleep(PAUSE);
        };
        let Some(acknowledged) = acknowledged else {
            break;
        };
        written.last = written.sent;
        written.writes.push(Write {
            due,
            acknowledged,
            refused,
            unknown,
        });
        due += each;
    }
    written
}

fn ask(
    connection: &mut Option<Resp>,
    address: SocketAddr,
    key: &str,
    value: &str,
) -> Result<Reply> {
    if connection.is_none() {
        *connection = Some(Resp::connect(address)?);
    }
    let open = connection.as_mut().context("a connection")?;
    open.ask(&[b"SET", key.as_bytes(), value.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_counts_for_every_write_that_it_holds_up() {
        let begun = Instant::now();
        let millis = Duration::from_millis;
        let write = |due: u64, took: u64| Write {
            due: begun + millis(due),
            acknowledged: begun + millis(due + took),
            refused: 1,
            unknown: 0,
        };
        let done = Done {
            keys: vec![Written {
                writes: vec![write(0, 1), write(10, 200), write(20, 190), write(400, 2)],
                ..Written::default()
            }],
            through: Vec::new(),
        };
        let window = done.window(begun, begun + millis(100));
        assert_eq!((window.writes, window.refused), (3, 3));
        assert_eq!((window.median, window.longest), (190.0, 200.0));
    }
}
