//! The two clocks of a host: the monotonic one that drives the core, and the wall's.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use kith_proto::time::Time;

/// Turns the machine's monotonic clock into the core's [`Time`], and back into dates.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    wall_origin: SystemTime,
}

impl Clock {
    /// A clock whose origin is now.
    pub fn start() -> Self {
        Self {
            origin: Instant::now(),
            wall_origin: SystemTime::now(),
        }
    }

    /// Now, for the core.
    pub fn now(&self) -> Time {
        Time::from_nanos(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// The monotonic moment of a core time, for timers.
    pub fn instant(&self, time: Time) -> Instant {
        self.origin + time.since_origin()
    }

    /// The date of a core time.
    pub fn date(&self, time: Time) -> SystemTime {
        self.wall_origin + time.since_origin()
    }
}

/// Milliseconds since 1970 by the wall's clock; 0 before.
pub fn unix_millis() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// A date as RFC 3339 with microseconds, in UTC.
pub fn rfc3339(date: SystemTime) -> String {
    humantime::format_rfc3339_micros(date).to_string()
}
