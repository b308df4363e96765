//! Is it really gone, and how? Asked when a stream breaks, when a probe fails, and when
//! somebody else suspects a member.
//!
//! Everything that could answer is asked at once: the process over UDP (and over its stream,
//! if there is one), the host's kernel by a knock. What comes of it sorts failures, after the
//! idea of Falcon (Leners et al. 2011) that the layer below knows first:
//!
//! | process | kernel | means |
//! |---|---|---|
//! | answers | – | it lives |
//! | silent | refuses | *refused*: that process is over |
//! | silent | accepts | *unresponsive*: stopped, starved, swapping |
//! | silent | silent | *unreachable* |
//!
//! Pings are repeated with growing pauses for as long as the inquiry goes on, so that neither
//! a lost packet nor a short pause decides anything. A member that is suspected learns it
//! from each of them, and answers with a larger incarnation: it refutes within a round trip.

use std::time::Duration;

use crate::{
    event::Reason,
    input::{Knock, Token},
    time::Time,
};

/// A kernel that accepts is asked once more, so much later.
const SECOND_KNOCK: Duration = Duration::from_millis(15);
/// Pauses between pings never exceed this.
const PING_PAUSE_MAX: Duration = Duration::from_millis(800);

/// What an inquiry found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conclusion {
    /// The process does not answer, and this is what the host says.
    Silent(Reason),
    /// It answers over its stream, and not over UDP.
    OnlyStream,
}

/// One inquiry about one life.
#[derive(Clone, Debug)]
pub struct Inquiry {
    /// What its pings carry.
    pub nonce: u32,
    /// The knock that has not been answered yet.
    pub knocking: Option<Token>,
    started: Time,
    silent_at: Time,
    next_ping: Time,
    pause: Duration,
    kernel: Option<Knock>,
    accepted_before: bool,
    knock_at: Option<Time>,
    over_stream: bool,
    concluded: Option<Conclusion>,
}

impl Inquiry {
    /// Begins; the process counts as silent if it has said nothing for `timeout`.
    pub fn new(now: Time, nonce: u32, timeout: Duration) -> Self {
        Self {
            nonce,
            knocking: None,
            started: now,
            silent_at: now + timeout,
            next_ping: now,
            // Two pings fit into the timeout, so that one may be lost.
            pause: timeout / 2,
            kernel: None,
            accepted_before: false,
            knock_at: Some(now),
            over_stream: false,
            concluded: None,
        }
    }

    /// The process answered over its stream.
    pub fn answered_over_stream(&mut self) {
        self.over_stream = true;
    }

    /// When it began.
    pub fn started(&self) -> Time {
        self.started
    }

    /// Whether a ping is due; if so the next one is scheduled.
    pub fn take_ping(&mut self, now: Time) -> bool {
        if now < self.next_ping {
            return false;
        }
        self.next_ping = now + self.pause;
        self.pause = (self.pause * 2).min(PING_PAUSE_MAX);
        true
    }

    /// Whether a knock is due; if so the host is to be asked.
    pub fn take_knock(&mut self, now: Time) -> bool {
        let due = self.knock_at.is_some_and(|at| now >= at);
        if due {
            self.knock_at = None;
        }
        due
    }

    /// The kernel answered, or did not.
    pub fn knocked(&mut self, now: Time, answer: Knock) {
        self.knocking = None;
        match answer {
            Knock::Refused => self.kernel = Some(answer),
            // A process that is being killed loses its streams before its listening socket, so
            // that the first answer may come from one that is gone a moment later.
            Knock::Accepted if !self.accepted_before => {
                self.accepted_before = true;
                self.knock_at = Some(now + SECOND_KNOCK);
            }
            Knock::Accepted => self.kernel = Some(answer),
            // Silence may have been a lost packet, and an answer is worth more than it: the host is
            // asked again for as long as the inquiry goes on.
            Knock::Silent => {
                self.kernel = self.kernel.or(Some(answer));
                self.knock_at = Some(now);
            }
        }
    }

    /// What is to be said now, if it is something that was not said before.
    pub fn conclude(&mut self, now: Time) -> Option<Conclusion> {
        if now < self.silent_at {
            return None;
        }
        let conclusion = if self.over_stream {
            Conclusion::OnlyStream
        } else {
            Conclusion::Silent(match self.kernel? {
                Knock::Refused => Reason::Refused,
                Knock::Accepted => Reason::Unresponsive,
                Knock::Silent => Reason::Unreachable,
            })
        };
        if self.concluded == Some(conclusion) {
            return None;
        }
        self.concluded = Some(conclusion);
        Some(conclusion)
    }

    /// When it wants to be looked at again.
    pub fn next(&self) -> Time {
        let mut next = self.next_ping;
        if self.concluded.is_none() && (self.kernel.is_some() || self.over_stream) {
            next = next.min(self.silent_at);
        }
        self.knock_at.map_or(next, |at| next.min(at))
    }

    /// This node itself was asleep for `late`: nothing that was due meanwhile says anything
    /// about others. Waiting begins anew.
    pub fn excuse(&mut self, now: Time) {
        let timeout = self.silent_at.saturating_since(self.started);
        if self.concluded.is_none() {
            self.started = now;
            self.silent_at = now + timeout;
            self.next_ping = now;
            self.pause = timeout / 2;
            self.kernel = None;
            self.accepted_before = false;
            self.knock_at = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(50);

    fn start() -> (Inquiry, Time) {
        let now = Time::from_millis(1000);
        (Inquiry::new(now, 7, TIMEOUT), now)
    }

    #[test]
    fn nothing_is_concluded_before_both_were_asked() {
        let (mut inquiry, now) = start();
        assert_eq!(
            inquiry.conclude(now + TIMEOUT),
            None,
            "the kernel was not heard"
        );
        inquiry.knocked(now, Knock::Refused);
        assert_eq!(inquiry.conclude(now), None, "the process has time left");
        assert_eq!(
            inquiry.conclude(now + TIMEOUT),
            Some(Conclusion::Silent(Reason::Refused))
        );
        assert_eq!(inquiry.conclude(now + TIMEOUT), None, "said already");
    }

    #[test]
    fn a_kernel_that_answers_late_changes_the_conclusion_once() {
        let (mut inquiry, now) = start();
        assert!(inquiry.take_knock(now));
        inquiry.knocked(now, Knock::Silent);
        assert!(inquiry.take_knock(now), "asked again");
        assert_eq!(
            inquiry.conclude(now + TIMEOUT),
            Some(Conclusion::Silent(Reason::Unreachable))
        );
        inquiry.knocked(now, Knock::Accepted);
        assert!(!inquiry.take_knock(now));
        assert!(inquiry.take_knock(now + SECOND_KNOCK), "and once more");
        inquiry.knocked(now + SECOND_KNOCK, Knock::Accepted);
        assert_eq!(
            inquiry.conclude(now + TIMEOUT),
            Some(Conclusion::Silent(Reason::Unresponsive))
        );
        inquiry.knocked(now, Knock::Silent);
        assert_eq!(inquiry.conclude(now + TIMEOUT), None);
    }

    #[test]
    fn pings_are_repeated_with_growing_pauses() {
        let (mut inquiry, start) = start();
        let mut at = Vec::new();
        for ms in 0..4000 {
            if inquiry.take_ping(start + Duration::from_millis(ms)) {
                at.push(ms);
            }
        }
        assert_eq!(at, [0, 25, 75, 175, 375, 775, 1575, 2375, 3175, 3975]);
    }

    #[test]
    fn a_sleeper_starts_over() {
        let (mut inquiry, now) = start();
        inquiry.knocked(now, Knock::Refused);
        let awake = now + Duration::from_secs(20);
        inquiry.excuse(awake);
        assert_eq!(inquiry.conclude(awake), None);
        assert!(inquiry.take_ping(awake));
    }
}
