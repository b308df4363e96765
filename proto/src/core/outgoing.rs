//! What leaves a core: frames, events, answers, its last word; and the numbers it keeps of them.

use std::time::Duration;

use rand::RngExt;

use super::{Core, Phase};
use crate::{
    event::Event,
    input::{RequestId, StreamId, Token},
    output::{Answer, Output, Stop},
    wire::{codec, message::Frame},
};

impl Core {
    pub(super) fn send_frame(&mut self, stream: StreamId, frame: &Frame) {
        self.send_encoded(stream, codec::encode(frame));
    }

    /// Sends a frame that several streams carry, and that was encoded once for all of them.
    pub(super) fn send_encoded(&mut self, stream: StreamId, mut frame: Vec<u8>) {
        if let Some(known) = self.streams.get_mut(&stream) {
            known.complete(&mut frame);
        }
        self.count("frames_sent");
        self.add("frame_bytes_sent", frame.len());
        self.outputs.push_back(Output::Frame { stream, frame });
    }

    pub(super) fn emit(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    pub(super) fn warn(&mut self, kind: &str, text: String) {
        self.emit(Event::Warning {
            kind: kind.to_owned(),
            text,
        });
    }

    pub(super) fn reply(&mut self, request: RequestId, answer: Answer) {
        self.outputs.push_back(Output::Reply { request, answer });
    }

    pub(super) fn stop(&mut self, stop: Stop) {
        self.phase = Phase::Stopped;
        self.outputs.push_back(Output::Stop(stop));
    }

    pub(super) fn token(&mut self) -> Token {
        self.tokens += 1;
        Token(self.tokens)
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.counters.entry(what).or_default() += 1;
    }

    pub(super) fn add(&mut self, what: &'static str, amount: usize) {
        *self.counters.entry(what).or_default() += amount as u64;
    }

    // A duration stretched by the logarithm of the cluster's size: 1 up to ten members.
    pub(super) fn scaled(&self, base: Duration) -> Duration {
        let members = u32::try_from(self.living()).unwrap_or(u32::MAX).max(1);
        let whole = members.ilog2();
        let fraction = (members - (1 << whole)) * 1000 / (1 << whole);
        // log10 in thousandths, from log2 with a straight line between powers of two.
        let log = (whole * 1000 + fraction) * 301 / 1000;
        base * log.max(1000) / 1000
    }

    pub(super) fn jitter(&mut self, base: Duration) -> Duration {
        base * self.rng.random_range(80..120u32) / 100
    }
}
