//! Waiting: for a condition, with a deadline, and with a message that says what was seen last.
//!
//! Deadlines are generous, because they only decide how long a broken build takes to fail. A
//! test that passes never waits for one.

use std::{
    fmt, thread,
    time::{Duration, Instant},
};

/// How long a test waits before it gives up. Far beyond anything that is expected, so that a
/// busy machine does not fail a test.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long to pause between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(10);

/// What was awaited did not come.
pub struct Timeout {
    /// What was awaited.
    pub what: String,
    /// For how long.
    pub waited: Duration,
    /// What was seen instead, at the last look.
    pub last: String,
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "waited {:.1} s in vain for {}; last seen: {}",
            self.waited.as_secs_f64(),
            self.what,
            self.last
        )
    }
}

// `Result::expect` shows the Debug form, and it should be the one for people.
impl fmt::Debug for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Timeout {}

/// Looks again and again until `look` finds something, or `patience` is over. What `look`
/// returns as an error is the state that it saw instead, for the message.
///
/// # Errors
/// [`Timeout`] with the last state seen.
pub fn poll<T>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> Result<T, Timeout> {
    let begun = Instant::now();
    loop {
        let last = match look() {
            Ok(found) => return Ok(found),
            Err(seen) => seen,
        };
        if begun.elapsed() >= patience {
            return Err(Timeout {
                what: what.to_owned(),
                waited: begun.elapsed(),
                last,
            });
        }
        thread::sleep(PAUSE);
    }
}

/// [`poll`] for tests: with [`PATIENCE`], and a panic where the time is over.
///
/// # Panics
/// If the condition does not come true in time.
#[track_caller]
pub fn until<T>(what: &str, look: impl FnMut() -> Result<T, String>) -> T {
    match poll(what, PATIENCE, look) {
        Ok(found) => found,
        Err(timeout) => panic!("{timeout}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_was_awaited_and_what_was_there_instead() {
        let timeout = poll::<()>("the moon", Duration::ZERO, || Err("clouds".into())).unwrap_err();
        let text = timeout.to_string();
        assert!(
            text.contains("the moon") && text.contains("clouds"),
            "{text}"
        );
    }

    #[test]
    fn looks_until_it_finds() {
        let mut looks = 0;
        let found = until("the third look", || {
            looks += 1;
            if looks == 3 {
                Ok(looks)
            } else {
                Err(format!("look {looks}"))
            }
        });
        assert_eq!(found, 3);
    }
}
