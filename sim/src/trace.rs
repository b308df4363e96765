//! The digest of everything that happened, and, where wanted, all of it in words.
//!
//! The digest takes in each input of each core with its time, and each event that a node told:
//! it is equal for equal seeds, whatever the machine and the build. Words are only made for a
//! window of time, and only if somebody reads them: a failure is run again with them.
//!
//! Datagrams are sealed, but the simulator holds the keys: the trace opens them like a wiretap
//! would, and shows what is in them.

use std::io::{self, Write};

use kith_proto::{
    event::Event,
    input::Input,
    swim,
    time::Time,
    wire::{
        codec,
        keyring::Keyring,
        message::{Direct, Frame, KIND_DIRECT, KIND_SWIM, KIND_SWIM_BUDDY},
        seal::Opener,
    },
};
use xxhash_rust::xxh3::Xxh3;

use crate::host::HostId;

/// One number for everything.
#[derive(Default)]
pub(crate) struct Digest(Xxh3);

impl Digest {
    pub(crate) fn value(&self) -> u64 {
        self.0.digest()
    }

    pub(crate) fn add(&mut self, now: Time, host: HostId, bytes: &[u8]) {
        let mut head = [0; 16];
        head[..8].copy_from_slice(&now.as_nanos().to_be_bytes());
        head[8..].copy_from_slice(&(host as u64).to_be_bytes());
        self.0.update(&head);
        self.0.update(bytes);
    }

    pub(crate) fn input(&mut self, now: Time, host: HostId, input: &Input) {
        match input {
            Input::Tick => self.add(now, host, b"t"),
            Input::Datagram { data, .. } => self.add(now, host, data),
            Input::StreamFrame { stream, frame } => {
                self.add(now, host, &stream.0.to_be_bytes());
                self.0.update(frame);
            }
            Input::StreamOpened { stream, .. } | Input::StreamClosed { stream } => {
                self.add(now, host, &stream.0.to_le_bytes());
            }
            Input::DialFailed { dial, .. } => self.add(now, host, &dial.0.to_be_bytes()),
            Input::Knocked { knock, answer } => {
                self.add(now, host, &knock.0.to_be_bytes());
                self.0.update(&[*answer as u8]);
            }
            Input::Resolved { .. } => self.add(now, host, b"r"),
            Input::Command { request, .. } => self.add(now, host, &request.0.to_be_bytes()),
        }
    }

    pub(crate) fn event(&mut self, now: Time, host: HostId, event: &Event) {
        self.add(now, host, format!("{event:?}").as_bytes());
    }
}

/// Writes down what happens between two moments.
pub struct Trace {
    from: Time,
    to: Time,
    /// Packets too, not only what nodes say and what is done to them.
    packets: bool,
    output: Box<dyn Write>,
    error: Option<io::Error>,
}

impl std::fmt::Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Trace({:?} to {:?})", self.from, self.to)
    }
}

impl Trace {
    /// Writes what happens from one moment to another.
    pub fn new(from: Time, to: Time, output: Box<dyn Write>) -> Self {
        Self {
            from,
            to,
            packets: true,
            output,
            error: None,
        }
    }

    /// The same without packets: what nodes say, and what is done to them.
    pub fn events(from: Time, to: Time, output: Box<dyn Write>) -> Self {
        Self {
            packets: false,
            ..Self::new(from, to, output)
        }
    }

    /// Ends it.
    ///
    /// # Errors
    /// If anything could not be written.
    pub fn finish(mut self) -> io::Result<()> {
        match self.error.take() {
            Some(error) => Err(error),
            None => self.output.flush(),
        }
    }

    pub(crate) fn note(&mut self, now: Time, text: &str) {
        if now < self.from || now > self.to || self.error.is_some() {
            return;
        }
        let seconds = now.since_origin().as_secs_f64();
        if let Err(error) = writeln!(self.output, "{seconds:12.6} {text}") {
            self.error = Some(error);
        }
    }

    pub(crate) fn event(&mut self, now: Time, host: HostId, event: &Event) {
        if self.covers(now) {
            self.note(now, &format!("n{host} says {event:?}"));
        }
    }

    pub(crate) fn datagram(
        &mut self,
        now: Time,
        from: HostId,
        to: HostId,
        data: &[u8],
        keys: &Keyring,
        fate: &str,
    ) {
        if self.packets && self.covers(now) {
            let what = describe(data, keys);
            self.note(now, &format!("n{from} -> n{to}{fate} {what}"));
        }
    }

    pub(crate) fn frame(&mut self, now: Time, from: HostId, to: HostId, frame: &[u8]) {
        if self.packets && self.covers(now) {
            let what = match codec::decode::<Frame>(frame) {
                Ok(frame) => format!("{frame:?}"),
                Err(error) => format!("{} bytes: {error}", frame.len()),
            };
            self.note(now, &format!("n{from} => n{to} {what}"));
        }
    }

    pub(crate) fn input(&mut self, now: Time, host: HostId, input: &Input, keys: &Keyring) {
        if !self.packets || !self.covers(now) {
            return;
        }
        match input {
            // Each of them was shown when it was sent, or is what the core asked for.
            Input::Tick | Input::Resolved { .. } | Input::Command { .. } => {}
            Input::Datagram { data, .. } => {
                let what = describe(data, keys);
                self.note(now, &format!("n{host} reads {what}"));
            }
            Input::StreamFrame { stream, .. } => {
                self.note(
                    now,
                    &format!("n{host} reads a frame of stream {}", stream.0),
                );
            }
            other => self.note(now, &format!("n{host} reads {other:?}")),
        }
    }

    fn covers(&self, now: Time) -> bool {
        now >= self.from && now <= self.to
    }
}

/// What is in a datagram.
fn describe(data: &[u8], keys: &Keyring) -> String {
    let mut opened = data.to_vec();
    let mut opener = Opener::new("kith");
    let Ok(opened) = opener.open(keys, &mut opened) else {
        return format!("{} bytes that do not open", data.len());
    };
    match opened.kind {
        KIND_SWIM => swim::describe(opened.payload),
        KIND_SWIM_BUDDY if opened.payload.len() > 2 => {
            let at = u16::from_be_bytes([opened.payload[0], opened.payload[1]]);
            format!(
                "(you are suspected at {at}) {}",
                swim::describe(&opened.payload[2..])
            )
        }
        KIND_DIRECT => match codec::decode::<Direct>(opened.payload) {
            Ok(direct) => format!("{:?}", direct.body),
            Err(error) => format!("{} bytes: {error}", data.len()),
        },
        kind => format!("kind {kind}, {} bytes", data.len()),
    }
}
