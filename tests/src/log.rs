//! What a process has printed so far: lines in order, each with the moment it arrived.
//!
//! A reader thread per stream appends; anybody may wait for a line. A position (see
//! [`Log::mark`]) taken before an action lets a test look only at what came after it.

use std::{
    io::{BufRead, BufReader, Read},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde_json::Value;

use crate::wait::Timeout;

/// Which stream a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// A line that a process has printed.
#[derive(Clone, Debug)]
pub struct Line {
    /// When it was read here.
    pub arrived: Instant,
    /// The same on the wall clock.
    pub arrived_at: SystemTime,
    /// Which stream it came from.
    pub source: Source,
    /// The text, without the line end.
    pub text: String,
    /// The text as JSON, if it is an object.
    pub json: Option<Value>,
}

/// An event of the JSON log: a line whose object has a field `event`.
#[derive(Clone, Debug)]
pub struct Event {
    /// When it was read here.
    pub arrived: Instant,
    /// When the agent says that it happened; when it was read if it does not say.
    pub at: SystemTime,
    /// The whole object.
    pub body: Value,
}

impl Line {
    fn new(source: Source, text: String) -> Self {
        let json = text
            .starts_with('{')
            .then(|| serde_json::from_str::<Value>(&text).ok())
            .flatten()
            .filter(Value::is_object);
        Self {
            arrived: Instant::now(),
            arrived_at: SystemTime::now(),
            source,
            text,
            json,
        }
    }

    /// The line as an event, if it is one.
    pub fn event(&self) -> Option<Event> {
        let body = self.json.as_ref()?;
        body.get("event")?.as_str()?;
        let at = body
            .get("timestamp")
            .and_then(Value::as_str)
            .and_then(|text| humantime::parse_rfc3339(text).ok());
        Some(Event {
            arrived: self.arrived,
            at: at.unwrap_or(self.arrived_at),
            body: body.clone(),
        })
    }
}

impl Event {
    /// The event's name; empty if it has none.
    pub fn name(&self) -> &str {
        self.text("event")
    }

    /// A field that is a text; empty if there is none.
    pub fn text(&self, field: &str) -> &str {
        self.body.get(field).and_then(Value::as_str).unwrap_or("")
    }

    /// A field that is a number.
    pub fn number(&self, field: &str) -> Option<u64> {
        self.body.get(field).and_then(Value::as_u64)
    }

    /// A field that is true or false.
    pub fn flag(&self, field: &str) -> Option<bool> {
        self.body.get(field).and_then(Value::as_bool)
    }

    /// A field that is a list of texts; empty if there is none.
    pub fn list(&self, field: &str) -> Vec<&str> {
        let items = self.body.get(field).and_then(Value::as_array);
        items
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect()
    }

    /// True if it has that name and is about that member.
    pub fn is(&self, name: &str, member: &str) -> bool {
        self.name() == name && self.text("member") == member
    }
}

/// The lines of one process. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Log {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    lines: Mutex<Vec<Line>>,
    grown: Condvar,
}

impl Log {
    /// Reads `stream` to its end in a thread of its own.
    pub fn follow(&self, source: Source, stream: impl Read + Send + 'static) {
        let log = self.clone();
        thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut bytes = Vec::new();
            // Bytes, not text: what a dying process prints need not be UTF-8.
            while let Ok(1..) = reader.read_until(b'\n', &mut bytes) {
                let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
                bytes.clear();
                log.push(Line::new(source, text));
            }
        });
    }

    fn push(&self, line: Line) {
        self.lock().push(line);
        self.shared.grown.notify_all();
    }

    /// The position after everything that has arrived.
    pub fn mark(&self) -> usize {
        self.lock().len()
    }

    /// All lines from a position on.
    pub fn since(&self, mark: usize) -> Vec<Line> {
        self.lock().get(mark..).unwrap_or_default().to_vec()
    }

    /// All events from a position on.
    pub fn events_since(&self, mark: usize) -> Vec<Event> {
        let lines = self.lock();
        let recent = lines.get(mark..).unwrap_or_default();
        recent.iter().filter_map(Line::event).collect()
    }

    /// Everything as one text, both streams in the order in which they were read.
    pub fn text(&self) -> String {
        join(&self.lock())
    }

    /// The last lines as one text.
    pub fn tail(&self, count: usize) -> String {
        let lines = self.lock();
        join(&lines[lines.len().saturating_sub(count)..])
    }

    /// Waits for a line, from a position on, that `pick` wants.
    ///
    /// # Errors
    /// [`Timeout`] with the last lines, if none comes before `patience` is over.
    pub fn wait<T>(
        &self,
        what: &str,
        mark: usize,
        patience: Duration,
        mut pick: impl FnMut(&Line) -> Option<T>,
    ) -> Result<T, Timeout> {
        let begun = Instant::now();
        let mut next = mark;
        let mut lines = self.lock();
        loop {
            while let Some(line) = lines.get(next) {
                if let Some(found) = pick(line) {
                    return Ok(found);
                }
                next += 1;
            }
            let Some(left) = patience.checked_sub(begun.elapsed()) else {
                let from = lines.len().saturating_sub(3);
                return Err(Timeout {
                    what: what.to_owned(),
                    waited: begun.elapsed(),
                    last: format!("{} lines, at last: {}", lines.len(), join(&lines[from..])),
                });
            };
            lines = match self.shared.grown.wait_timeout(lines, left) {
                Ok((lines, _)) => lines,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    // A panic elsewhere while lines were read does not make the lines wrong.
    fn lock(&self) -> MutexGuard<'_, Vec<Line>> {
        self.shared
            .lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn join(lines: &[Line]) -> String {
    let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
    texts.join("\n")
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn log(text: &'static str) -> Log {
        let log = Log::default();
        log.follow(Source::Out, Cursor::new(text));
        log
    }

    #[test]
    fn tells_events_from_other_lines() {
        let log = log(concat!(
            "starting\n{\"message\":\"hello\"}\n",
            "{\"event\":\"member_failed\",\"member\":\"n3\",\"accusers\":[\"n1\",\"n2\"],",
            "\"timestamp\":\"2026-01-02T03:04:05.000006Z\",\"last_contact_ms\":7}\n",
        ));
        let event = log
            .wait("an event", 0, Duration::from_secs(10), Line::event)
            .unwrap();
        assert!(event.is("member_failed", "n3"));
        assert_eq!(event.list("accusers"), ["n1", "n2"]);
        assert_eq!(event.number("last_contact_ms"), Some(7));
        assert_eq!(
            humantime::format_rfc3339_micros(event.at).to_string(),
            "2026-01-02T03:04:05.000006Z"
        );
        assert_eq!(log.mark(), 3);
        assert_eq!(log.events_since(0).len(), 1);
        assert!(log.events_since(3).is_empty());
    }

    #[test]
    fn a_line_that_does_not_come_is_a_timeout_with_the_last_lines() {
        let log = log("one\ntwo");
        let found = log.wait("two", 0, Duration::from_secs(10), |line| {
            (line.text == "two").then_some(())
        });
        found.unwrap();
        let timeout = log
            .wait("three", 0, Duration::ZERO, |line| {
                (line.text == "three").then_some(())
            })
            .unwrap_err();
        assert!(timeout.last.contains("two"), "{timeout}");
    }
}
