//! Greetings: pings that measure the way to a member sooner than probes do.
//!
//! ```text
//!   a stream opens -> greeting -> answered, and fast: that is all
//!        -> not answered, or slow -> another one, after pauses that grow, until it is fast
//!   a probe is answered so late that timeouts grow -> the same
//! ```
//!
//! What is measured when a stream opens is often not the way: one of the two has just started and
//! catches up. Its timeouts decide how soon a failure is found, and probes, each of which is about
//! another member, would take a minute to correct them.

use std::time::Duration;

use super::{Core, timers::TimerKind};
use crate::{
    id::NodeId,
    members::table::{Greeting, Status},
    time::Time,
    wire::message::DirectBody,
};

/// A greeting is given so long before another one takes its place: only the last can be answered.
const ANSWER_TIME: Duration = Duration::from_secs(1);
/// The pause before the second greeting. The next are twice as long each,
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// but never longer than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// So many more may follow the first: the way may just be long.
const MORE: u8 = 10;

impl Core {
    /// Measures the way to a member whose stream has just opened: whoever fails before its
    /// first probe shall not be given the longest of all timeouts.
    pub(super) fn measure_way(&mut self, now: Time, id: NodeId) {
        self.greet(now, id, false);
        self.measure_again(now, id);
    }

    /// What was measured of the way to a member may be wrong.
    pub(super) fn measure_again(&mut self, now: Time, id: NodeId) {
        if !self.detector.is_slow(id) || self.timers.is_set(TimerKind::Greeting(id)) {
            return;
        }
        if let Some(entry) = self.table.get_mut(id) {
            entry.greetings_left = MORE;
            self.timers.set(TimerKind::Greeting(id), now + FIRST_PAUSE);
        }
    }

    /// Another greeting is due, if it is still needed.
    pub(super) fn greet_again(&mut self, now: Time, id: NodeId) {
        let slow = self.detector.is_slow(id);
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        let gone = matches!(
            entry.status(),
            Status::Failed | Status::Left | Status::Evicted
        );
        if !slow || gone || entry.greetings_left == 0 {
            return;
        }
        entry.greetings_left -= 1;
        let doublings = u32::from(MORE - entry.greetings_left);
        let pause = FIRST_PAUSE * 2_u32.pow(doublings);
        let waits = |greeting: &Greeting| now < greeting.sent + ANSWER_TIME;
        if !entry.greeting.as_ref().is_some_and(waits) {
            self.send_greeting(now, id, false);
        }
        self.timers
            .set(TimerKind::Greeting(id), now + pause.min(LONGEST_PAUSE));
    }

    /// Greets a member to which the way was never measured.
    ///
    /// One that is sent in answer to a ping is given its time: two members that greeted each
    /// other at every ping would, over a way that is long enough, never end to do so, since only
    /// the last greeting can be answered.
    pub(super) fn greet(&mut self, now: Time, id: NodeId, in_answer: bool) {
        if self.detector.rtt(id).is_some() {
            return;
        }
        let Some(entry) = self.table.get(id) else {
            return;
        };
        let waits = |greeting: &Greeting| greeting.in_answer && now < greeting.sent + ANSWER_TIME;
        if in_answer && entry.greeting.as_ref().is_some_and(waits) {
            return;
        }
        self.send_greeting(now, id, in_answer);
    }

    fn send_greeting(&mut self, now: Time, id: NodeId, in_answer: bool) {
        let nonce = self.nonce();
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        entry.greeting = Some(Greeting {
            nonce,
            sent: now,
            in_answer,
        });
        let (to, address) = (entry.life(), entry.identity.addr);
        let body = DirectBody::Ping {
            to,
            nonce,
            suspected: None,
        };
        self.count("greetings");
        self.send_direct(address, body);
    }

    /// Whether it was a greeting that was answered. If this node itself was asleep meanwhile, the
    /// time that it took says nothing.
    pub(super) fn greeting_answered(&mut self, now: Time, id: NodeId, nonce: u32) -> bool {
        let Some(entry) = self.table.get_mut(id) else {
            return false;
        };
        let answered = entry.greeting.take_if(|greeting| greeting.nonce == nonce);
        let Some(greeting) = answered else {
            return false;
        };
        if greeting.sent >= self.excused {
            let after = now.saturating_since(greeting.sent);
            self.detector.measured(id, after);
        }
        true
    }
}
