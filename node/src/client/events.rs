//! Reading server-sent events (WHATWG HTML, section 9.2), and following them for ever.

use std::{
    io::{self, BufRead, BufReader, Read},
    time::Duration,
};

use serde::Deserialize as _;
use serde_json::Value;

use super::{Client, ClientError};
use crate::view::EventView;

/// The longest line that is read (bytes).
const MAX_LINE: u64 = 1 << 20;
/// Pauses between attempts to find an agent again.
const RETRY: [Duration; 4] = [
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

/// An event as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    /// Its number; `None` for `missed`.
    pub seq: Option<u64>,
    /// Its name.
    pub name: String,
    /// Its object: an [`EventView`], also of a newer version than this program knows.
    pub data: Value,
}

impl Received {
    /// The event as a type.
    ///
    /// # Errors
    /// It is one that this version does not know.
    pub fn view(&self) -> Result<EventView, serde_json::Error> {
        EventView::deserialize(&self.data)
    }
}

/// The events of one connection.
pub struct Events {
    lines: BufReader<Box<dyn Read + Send>>,
    last_id: Option<u64>,
}

impl Events {
    pub(super) fn new(body: impl Read + Send + 'static) -> Self {
        Self {
            lines: BufReader::new(Box::new(body)),
            last_id: None,
        }
    }

    /// The number after which to go on: the agent tells it at the start, and with each event.
    pub fn last_id(&self) -> Option<u64> {
        self.last_id
    }

    /// The next one; `None` when the agent ends the stream.
    ///
    /// # Errors
    /// The connection broke, was silent for too long, or carries something else.
    pub fn receive(&mut self) -> io::Result<Option<Received>> {
        let (mut id, mut name, mut data) = (None, String::new(), String::new());
        loop {
            let mut line = Vec::new();
            let mut bounded = (&mut self.lines).take(MAX_LINE);
            if bounded.read_until(b'\n', &mut line)? == 0 {
                return Ok(None);
            }
            if line.pop() != Some(b'\n') {
                // Cut off, or too long: what was begun is not an event.
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches('\r');
            if line.is_empty() {
                self.last_id = id.or(self.last_id);
                if data.is_empty() {
                    continue;
                }
                return Ok(Some(Received {
                    seq: id,
                    name,
                    data: serde_json::from_str(&data)?,
                }));
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "id" => id = value.parse().ok(),
                "event" => value.clone_into(&mut name),
                "data" => {
                    if !data.is_empty() {
                        data.push('\n');
                    }
                    data.push_str(value);
                }
                // Comments (pings) have an empty name; other fields do not matter here.
                _ => {}
            }
        }
    }
}

/// What a follower is told.
#[derive(Debug)]
pub enum Followed {
    /// The next event.
    Event(Received),
    /// The agent does not keep so many of the events any more.
    Missed(u64),
    /// The agent cannot be reached; it is tried again until it can.
    Lost(ClientError),
    /// It is reached again.
    Back {
        /// It was started anew meanwhile: its events are counted from 1 again.
        restarted: bool,
    },
}

/// Follows events for ever: an iterator that goes on where it stopped when the agent is
/// back, and tells when it was away.
///
/// Ends only with an error that trying again cannot mend, and with one about the first
/// attempt: somebody who starts to follow wants to know that nobody is there.
pub struct Follow {
    client: Client,
    after: Option<u64>,
    generation: Option<u64>,
    events: Option<Events>,
    attempts: usize,
    lost: bool,
    ended: bool,
}

impl Follow {
    pub(super) fn new(client: Client, after: Option<u64>) -> Self {
        Self {
            client,
            after,
            generation: None,
            events: None,
            attempts: 0,
            lost: false,
            ended: false,
        }
    }

    /// Connects; true if the agent is another life of the node than before.
    fn connect(&mut self) -> Result<bool, ClientError> {
        let agent = self.client.agent()?;
        let restarted = self.generation.is_some_and(|g| g != agent.generation);
        if restarted {
            self.after = Some(0);
        }
        self.events = Some(self.client.events(self.after)?);
        self.generation = Some(agent.generation);
        Ok(restarted)
    }

    fn lost(&mut self, error: ClientError) -> Option<Result<Followed, ClientError>> {
        self.events = None;
        let first = !std::mem::replace(&mut self.lost, true);
        first.then_some(Ok(Followed::Lost(error)))
    }
}

impl Iterator for Follow {
    type Item = Result<Followed, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            let Some(events) = &mut self.events else {
                if self.generation.is_some() {
                    std::thread::sleep(RETRY[self.attempts.min(RETRY.len() - 1)]);
                    self.attempts += 1;
                }
                match self.connect() {
                    Ok(restarted) => {
                        self.attempts = 0;
                        if std::mem::take(&mut self.lost) {
                            return Some(Ok(Followed::Back { restarted }));
                        }
                    }
                    Err(error @ ClientError::Unreachable { .. }) if self.generation.is_some() => {
                        if let Some(item) = self.lost(error) {
                            return Some(item);
                        }
                    }
                    // An agent that stops or is full says so, and may be back.
                    Err(ClientError::Problem(problem))
                        if problem.status == 503 && self.generation.is_some() =>
                    {
                        if let Some(item) = self.lost(ClientError::Problem(problem)) {
                            return Some(item);
                        }
                    }
                    Err(error) => {
                        self.ended = true;
                        return Some(Err(error));
                    }
                }
                continue;
            };
            let received = events.receive();
            self.after = events.last_id().or(self.after);
            let reason = match received {
                Ok(Some(event)) if event.name == "missed" => {
                    let missed = event.data["missed"].as_u64().unwrap_or(0);
                    return Some(Ok(Followed::Missed(missed)));
                }
                Ok(Some(event)) => return Some(Ok(Followed::Event(event))),
                Ok(None) => "it has closed the stream".to_owned(),
                Err(error) => error.to_string(),
            };
            let error = self.client.unreachable(&reason);
            if let Some(item) = self.lost(error) {
                return Some(item);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &'static str) -> Vec<io::Result<Received>> {
        let mut events = Events::new(text.as_bytes());
        let mut all = Vec::new();
        while let Some(next) = events.receive().transpose() {
            let end = next.is_err();
            all.push(next);
            if end {
                break;
            }
        }
        all
    }

    #[test]
    fn fields_comments_and_line_ends_are_read() {
        let all = read(
            ": ping\n\nid: 7\nevent: warning\ndata: {\"a\":\ndata: 1}\n\nevent:missed\r\n\
             data:{\"missed\":3}\r\n\r\n",
        );
        let all: Vec<Received> = all.into_iter().map(Result::unwrap).collect();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].seq, all[0].name.as_str()), (Some(7), "warning"));
        assert_eq!(all[0].data["a"], 1);
        assert_eq!((all[1].seq, all[1].name.as_str()), (None, "missed"));
    }

    #[test]
    fn what_is_cut_off_is_no_event() {
        let all = read("id: 7\ndata: {\"a\":1}\n\nid: 8\ndata: {\"a");
        assert!(matches!(&all[..], [Ok(_), Err(_)]), "{all:?}");
    }

    #[test]
    fn a_line_without_end_is_bounded() {
        let mut events = Events::new(io::repeat(b'x'));
        assert!(events.receive().is_err());
    }
}
