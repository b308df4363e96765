//! Half-blocked networks: of the two ways to a member, UDP and its stream, only one works.
//!
//! ```text
//!   fine --- one way works, the other does not ---> blocked, told once ---> works again, told once
//! ```
//!
//! A firewall that lets only one of the two through is an operator's business, never evidence
//! of death. One that comes and goes shall not fill the log: what begins again soon after it
//! was told is kept to itself, and so is its end.

use std::time::Duration;

use crate::{event::Transport, time::Time};

/// Of one member and one way it is told at most this often.
const TOLD_AGAIN: Duration = Duration::from_secs(60);

/// How the two ways to a member stand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Blocked {
    udp: Way,
    tcp: Way,
}

#[derive(Clone, Copy, Debug, Default)]
struct Way {
    /// Blocked since then.
    since: Option<Time>,
    /// Users know that it is.
    told: bool,
    last_told: Option<Time>,
}

impl Blocked {
    /// Since when a way has been blocked, if it is.
    pub fn since(&self, transport: Transport) -> Option<Time> {
        self.way(transport).since
    }

    /// A way was found blocked. True if users should be told; then [`Self::was_told`] follows.
    pub fn begin(&mut self, transport: Transport, now: Time) -> bool {
        let way = self.way_mut(transport);
        way.since.get_or_insert(now);
        !way.told && way.last_told.is_none_or(|last| now >= last + TOLD_AGAIN)
    }

    /// Users were told that a way is blocked.
    pub fn was_told(&mut self, transport: Transport, now: Time) {
        let way = self.way_mut(transport);
        way.told = true;
        way.last_told = Some(now);
    }

    /// A way works. If users were told that it did not: since when.
    pub fn end(&mut self, transport: Transport) -> Option<Time> {
        let way = self.way_mut(transport);
        let since = way.since.take();
        if std::mem::take(&mut way.told) {
            since
        } else {
            None
        }
    }

    /// That life is over: nothing is blocked any more, and nobody needs to be told.
    pub fn forget(&mut self) {
        for way in [&mut self.udp, &mut self.tcp] {
            way.since = None;
            way.told = false;
        }
    }

    fn way(&self, transport: Transport) -> &Way {
        match transport {
            Transport::Udp => &self.udp,
            Transport::Tcp => &self.tcp,
        }
    }

    fn way_mut(&mut self, transport: Transport) -> &mut Way {
        match transport {
            Transport::Udp => &mut self.udp,
            Transport::Tcp => &mut self.tcp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn each_way_is_told_once_when_it_begins_and_once_when_it_ends() {
        let mut blocked = Blocked::default();
        let now = Time::from_millis(1000);
        assert!(blocked.begin(Transport::Tcp, now));
        blocked.was_told(Transport::Tcp, now);
        assert!(!blocked.begin(Transport::Tcp, now + SECOND));
        assert_eq!(blocked.since(Transport::Tcp), Some(now));
        assert_eq!(blocked.since(Transport::Udp), None);
        assert_eq!(blocked.end(Transport::Tcp), Some(now));
        assert_eq!(blocked.end(Transport::Tcp), None);
    }

    #[test]
    fn one_that_comes_and_goes_is_told_rarely() {
        let mut blocked = Blocked::default();
        let start = Time::from_millis(1000);
        let mut told = 0;
        for seconds in 0..150 {
            let now = start + SECOND * seconds;
            if blocked.begin(Transport::Udp, now) {
                blocked.was_told(Transport::Udp, now);
                told += 1;
            }
            blocked.end(Transport::Udp);
        }
        assert_eq!(told, 3);
    }

    #[test]
    fn a_life_that_is_over_leaves_no_end_to_be_told() {
        let mut blocked = Blocked::default();
        let now = Time::from_millis(1000);
        blocked.begin(Transport::Udp, now);
        blocked.was_told(Transport::Udp, now);
        blocked.forget();
        assert_eq!(blocked.end(Transport::Udp), None);
        assert!(!blocked.begin(Transport::Udp, now), "told a moment ago");
    }
}
