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
//! Over a stream each question is asked once: TCP repeats it, and a hundred members that do so
//! as well would bury a process that is short of CPU.
//!
//! One that answers only over its stream lives; that its UDP is blocked is reported.

use std::time::Duration;

use crate::{
    event::Reason,
    input::{Knock, StreamId, Token},
    time::Time,
};

/// A kernel that accepts is asked once more, so much later; if a stream to the process broke again and again,
/// each time after twice the pause.
const SECOND_KNOCK: Duration = Duration::from_millis(15);
/// A process that answers over its stream has so long to answer over UDP too, and gets a ping
/// after each of these pauses: so many that plain loss is not taken for a firewall (with 30 %
/// lost each way, all of them are with a probability of 10⁻⁷).
const ONLY_STREAM: Duration = Duration::from_secs(5);
const ONLY_STREAM_PAUSE: Duration = Duration::from_millis(200);
/// Pauses between pings never exceed this,
const PING_PAUSE_MAX: Duration = Duration::from_millis(800);
/// but if the process holds its sockets without reading them, and the question waits in a stream, or
/// it keeps doing so: it will answer when it goes on, and until then pings only fill its buffer.
const WAITING_PAUSE: Duration = Duration::from_secs(3);

/// What an inquiry found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conclusion {
    /// The process does not answer, and this is what the host says.
    Silent(Reason),
    /// It answers over its stream, and not over UDP.
    OnlyStream,
    /// Neither way was answered, which was not the question (see [`Inquiry::about_udp`]).
    Nothing,
}

/// The renewal and the incarnation in which somebody is suspected, if it is.
pub type Suspected = Option<(u32, u16)>;

/// One inquiry about one life.
#[derive(Clone, Debug)]
pub struct Inquiry {
    /// What its pings carry.
    pub nonce: u32,
    /// The knock that has not been answered yet.
    pub knocking: Option<Token>,
    started: Time,
    timeout: Duration,
    silent_at: Time,
    next_ping: Time,
    pause: Duration,
    kernel: Option<Knock>,
    accepted_before: bool,
    knock_at: Option<Time>,
    knock_pause: Duration,
    broke: bool,
    over_stream: bool,
    asked_over: Option<(StreamId, Suspected)>,
    about_udp: bool,
    unsteady: bool,
    concluded: Option<Conclusion>,
}

impl Inquiry {
    /// Begins; the process counts as silent if it has said nothing for `timeout`.
    pub fn new(now: Time, nonce: u32, timeout: Duration) -> Self {
        Self {
            nonce,
            knocking: None,
            started: now,
            timeout,
            silent_at: now + timeout,
            next_ping: now,
            // Two pings fit into the timeout, so that one may be lost.
            pause: timeout / 2,
            kernel: None,
            accepted_before: false,
            knock_at: Some(now),
            knock_pause: SECOND_KNOCK,
            broke: false,
            over_stream: false,
            asked_over: None,
            about_udp: false,
            unsteady: false,
            concluded: None,
        }
    }

    /// The same about a process that keeps falling silent and coming back.
    pub fn about_unsteady(self) -> Self {
        Self {
            unsteady: true,
            ..self
        }
    }

    /// Begins for a process that is known to live, because it answers over its stream: only
    /// whether UDP reaches it is asked, and nobody is accused.
    pub fn about_udp(now: Time, nonce: u32, timeout: Duration) -> Self {
        Self {
            knock_at: None,
            about_udp: true,
            pause: ONLY_STREAM_PAUSE,
            ..Self::new(now, nonce, timeout)
        }
    }

    /// Whether nothing but UDP is in question.
    pub fn is_about_udp(&self) -> bool {
        self.about_udp
    }

    /// The process answered over its stream.
    pub fn answered_over_stream(&mut self) {
        self.over_stream = true;
    }

    /// A stream to the process broke: either it is over, though its kernel may accept for a moment yet, or the
    /// network is bad. Its host is asked until it refuses, also if it was asked before: what is killed on a busy
    /// machine is silent for a while before it loses anything.
    pub fn stream_broke(&mut self, now: Time) {
        self.broke = true;
        if self.kernel == Some(Knock::Accepted) {
            self.knock_at = Some(now);
            self.knock_pause = SECOND_KNOCK;
        }
    }

    /// The stream over which it answered is gone: what it said there may be its last word, so
    /// everybody is asked anew.
    pub fn stream_lost(&mut self, now: Time) {
        if std::mem::take(&mut self.over_stream) || self.about_udp {
            self.about_udp = false;
            self.kernel = None;
            self.accepted_before = false;
            self.knock_at = Some(now);
            self.knock_pause = SECOND_KNOCK;
            self.next_ping = now;
            self.silent_at = self.silent_at.max(now + self.timeout);
            self.pause = self.timeout / 2;
        }
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
        self.next_ping = now
            + if self.waits() {
                WAITING_PAUSE
            } else {
                self.pause
            };
        if !self.about_udp {
            self.pause = (self.pause * 2).min(PING_PAUSE_MAX);
        }
        true
    }

    /// Whether a ping that is due is to be sent over this stream too: if it says something that
    /// was not said there yet.
    pub fn take_stream_ping(&mut self, stream: StreamId, suspected: Suspected) -> bool {
        self.asked_over.replace((stream, suspected)) != Some((stream, suspected))
    }

    // See `WAITING_PAUSE`. Over the stream it was told too that it is suspected.
    fn waits(&self) -> bool {
        let told = matches!(self.asked_over, Some((_, Some(_))));
        (told || self.unsteady) && self.concluded == Some(Conclusion::Silent(Reason::Unresponsive))
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
            // that the first answer may come from one that is gone a moment later; on a machine
            // that is busy many of them.
            Knock::Accepted => {
                let again = std::mem::replace(&mut self.accepted_before, true);
                if again {
                    self.kernel = Some(answer);
                }
                if !again || self.broke {
                    self.knock_at = Some(now + self.knock_pause);
                    self.knock_pause *= 2;
                }
            }
            // Silence may have been a lost packet, and an answer is worth more than it: the host is
            // asked again for as long as the inquiry goes on.
            Knock::Silent => {
                self.kernel = self.kernel.or(Some(answer));
                self.knock_at = Some(now);
            }
        }
    }

    /// Whether the process has been given its time to answer, and has not.
    pub fn is_silent(&self, now: Time) -> bool {
        now >= self.silent_at && !self.over_stream
    }

    /// What is to be said now, if it is something that was not said before.
    pub fn conclude(&mut self, now: Time) -> Option<Conclusion> {
        if now < self.silent_at {
            return None;
        }
        if self.over_stream && !self.about_udp {
            // It lives. What remains is whether UDP reaches it.
            *self = Self {
                over_stream: true,
                asked_over: self.asked_over,
                ..Self::about_udp(now, self.nonce, self.timeout)
            };
        }
        let conclusion = if self.about_udp {
            if now < self.started + ONLY_STREAM {
                return None;
            }
            if self.over_stream {
                Conclusion::OnlyStream
            } else {
                Conclusion::Nothing
            }
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
        if self.about_udp {
            next = next.min(self.started + ONLY_STREAM);
        } else if self.concluded.is_none() && (self.kernel.is_some() || self.over_stream) {
            next = next.min(self.silent_at);
        }
        self.knock_at.map_or(next, |at| next.min(at))
    }

    /// This node itself was asleep for `late`: nothing that was due meanwhile says anything
    /// about others. Waiting begins anew.
    pub fn excuse(&mut self, now: Time) {
        if self.concluded.is_none() {
            self.started = now;
            self.silent_at = now + self.timeout;
            self.next_ping = now;
            self.pause = if self.about_udp {
                ONLY_STREAM_PAUSE
            } else {
                self.timeout / 2
            };
            self.over_stream = false;
            self.asked_over = None;
            self.kernel = None;
            self.accepted_before = false;
            self.knock_at = (!self.about_udp).then_some(now);
            self.knock_pause = SECOND_KNOCK;
        }
    }
}

#[cfg(test)]
mod tests;
