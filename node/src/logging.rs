//! The log: what goes to standard output, and how it looks.
//!
//! ```text
//!   tracing ──filter──► one line, as text or as JSON ──► queue ──► a thread ──► stdout
//! ```
//!
//! The thread is there because whoever reads standard output may stop reading (a paused
//! terminal, a full pipe), and a failure detector must not stop with it. The queue is
//! bounded; lines that find it full are dropped, counted, and the count is logged.
//!
//! What the lines look like is said in [`crate::log_event`].

use std::{
    fmt,
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use tracing_subscriber::{
    EnvFilter, Layer as _, Registry,
    fmt::{MakeWriter, format::Writer, time::FormatTime},
    layer::SubscriberExt as _,
    reload,
    util::SubscriberInitExt as _,
};

use crate::{clock::rfc3339, config_file::layer::LogFormat, log_event};

/// How many lines may wait for a slow reader of standard output.
const QUEUE: usize = 8192;
/// How long the end of the process waits for a reader to take the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The log could not be set up, or its filter not changed; the log is as before.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not one.
    #[error(
        "log filter {filter:?}: {source}; allowed: error, warn, info, debug, trace, off, or \
         such as kith::api=debug,info"
    )]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The process has a log already.
    #[error("cannot set up the log: {0}")]
    Twice(String),
}

/// The log of this process. Dropping it writes what is still queued.
#[derive(Debug)]
pub struct Logging {
    filter: reload::Handle<EnvFilter, Registry>,
    writer: Option<(SyncSender<Vec<u8>>, JoinHandle<()>)>,
    finished: Receiver<()>,
}

impl Logging {
    /// Sets the log of the process up, for the node with that name. `colour` is for text only.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn start(
        node: &str,
        format: LogFormat,
        filter: &str,
        colour: bool,
    ) -> Result<Self, LogError> {
        let (filter, handle) = reload::Layer::new(parse(filter)?);
        let (lines, queue) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let queued = Queued {
            lines: lines.clone(),
            dropped: Arc::clone(&dropped),
        };
        let (done, finished) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || {
                write_lines(&queue, &dropped, format);
                drop(done);
            })
            .map_err(|e| LogError::Twice(e.to_string()))?;
        let layer = tracing_subscriber::fmt::layer().with_writer(queued);
        let layer = match format {
            LogFormat::Json => layer
                .with_ansi(false)
                .event_format(log_event::JsonLines::new(node))
                .boxed(),
            LogFormat::Text => layer
                .with_ansi(colour)
                .fmt_fields(log_event::text_fields())
                .with_timer(Utc)
                .boxed(),
        };
        tracing_subscriber::registry()
            .with(filter)
            .with(layer)
            .try_init()
            .map_err(|e| LogError::Twice(e.to_string()))?;
        Ok(Self {
            filter: handle,
            writer: Some((lines, thread)),
            finished,
        })
    }

    /// Whether [`Self::set_filter`] would take it.
    ///
    /// # Errors
    /// [`LogError::Filter`].
    pub fn check_filter(filter: &str) -> Result<(), LogError> {
        parse(filter).map(drop)
    }

    /// Changes what is logged.
    ///
    /// # Errors
    /// [`LogError::Filter`].
    pub fn set_filter(&self, filter: &str) -> Result<(), LogError> {
        let new = parse(filter)?;
        self.filter
            .reload(new)
            .map_err(|e| LogError::Twice(e.to_string()))
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        let Some((lines, thread)) = self.writer.take() else {
            return;
        };
        // The subscriber lives as long as the process and holds the queue open, so that the
        // end is a line of its own: an empty one.
        if lines.try_send(Vec::new()).is_ok() {
            let wait = self.finished.recv_timeout(LAST_LINES);
            if matches!(wait, Err(RecvTimeoutError::Disconnected)) && thread.join().is_err() {
                eprintln!("error: the log's thread panicked");
            }
        }
    }
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::try_new(filter).map_err(|source| LogError::Filter {
        filter: filter.to_owned(),
        source,
    })
}

/// Writes until the empty line. A standard output that is closed ends nothing: whoever
/// started the agent wanted it to run.
fn write_lines(queue: &Receiver<Vec<u8>>, dropped: &AtomicU64, format: LogFormat) {
    let mut out = io::stdout().lock();
    let mut broken = false;
    while let Ok(line) = queue.recv() {
        let end = line.is_empty();
        let lost = dropped.swap(0, Ordering::Relaxed);
        if !broken && !end {
            broken = out.write_all(&line).and_then(|()| out.flush()).is_err();
        }
        if !broken && lost > 0 {
            broken = out.write_all(lost_line(lost, format).as_bytes()).is_err();
        }
        if end {
            break;
        }
    }
}

fn lost_line(lost: u64, format: LogFormat) -> String {
    let timestamp = rfc3339(SystemTime::now());
    let message = "standard output is read too slowly: lines were dropped";
    match format {
        LogFormat::Text => format!("{timestamp}  WARN kith::logging: {message} lost={lost}\n"),
        LogFormat::Json => {
            let line = serde_json::json!({"timestamp": timestamp, "level": "WARN",
                "message": message, "target": "kith::logging", "lost": lost});
            format!("{line}\n")
        }
    }
}

/// Hands lines to the thread that writes them.
#[derive(Clone, Debug)]
struct Queued {
    lines: SyncSender<Vec<u8>>,
    dropped: Arc<AtomicU64>,
}

impl Write for Queued {
    /// Called once a line by the formatting layer, which collects it first.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Err(TrySendError::Full(_)) = self.lines.try_send(line.to_vec()) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queued {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Times as everywhere else: RFC 3339, UTC, microseconds.
struct Utc;

impl FormatTime for Utc {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        w.write_str(&rfc3339(SystemTime::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_drops_lines_and_counts_them() {
        let (lines, queue) = sync_channel(1);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut queued = Queued {
            lines,
            dropped: Arc::clone(&dropped),
        };
        for _ in 0..3 {
            queued.write_all(b"line\n").unwrap();
        }
        assert_eq!(dropped.load(Ordering::Relaxed), 2);
        assert_eq!(queue.try_iter().count(), 1);
        assert!(lost_line(2, LogFormat::Json).contains("\"lost\":2"));
    }

    #[test]
    fn a_wrong_filter_says_what_is_allowed() {
        let text = parse("kith=loud").unwrap_err().to_string();
        assert!(
            text.contains("kith=loud") && text.contains("debug"),
            "{text}"
        );
    }
}
