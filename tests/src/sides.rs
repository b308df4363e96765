//! Clients on both sides of a split: under keys that one side alone writes, and under keys that
//! both do, and what must be there when the sides have met again.

use std::{thread, time::Duration};

use kith::client::Client;

use crate::{
    checker::{self, Checker, Counts, Habits},
    wait,
};

/// Keys that each side has to itself, and keys that they have in common. Each has a writer on each
/// side that writes it, so that one that is refused only after a while holds up no other.
pub const KEYS: usize = 48;
const PAUSE: Duration = Duration::from_millis(100);
/// What the values of the two sides begin with.
const MARKS: [&str; 2] = ["few", "many"];

/// Writers under way on both sides.
#[derive(Debug)]
pub struct Sides {
    sides: [Side; 2],
    common: Vec<String>,
}

#[derive(Debug)]
struct Side {
    own: Checker,
    common: Checker,
}

impl Sides {
    /// Begins to write on both sides, through these clients; each round has keys of its own.
    pub fn begin(round: usize, through: [Vec<Client>; 2]) -> Self {
        let common = checker::keys(&format!("common{round}-"), KEYS);
        let mut marks = MARKS.into_iter();
        let sides = through.map(|through| {
            let mark = marks.next().unwrap_or_default();
            let habits = Habits {
                mark,
                pause: PAUSE,
                ..Habits::default()
            };
            let begin = |keys: &[String]| {
                Checker::begin_with(habits.clone(), keys, keys.len(), through.clone())
            };
            Side {
                own: begin(&checker::keys(&format!("{mark}{round}-"), KEYS)),
                common: begin(&common),
            }
        });
        Self { sides, common }
    }

    /// How the writes of a side have ended so far: 0 is the first, 1 the second.
    pub fn counts(&self, side: usize) -> Counts {
        let side = &self.sides[side];
        let (own, common) = (side.own.counts(), side.common.counts());
        Counts {
            acknowledged: own.acknowledged + common.acknowledged,
            indeterminate: own.indeterminate + common.indeterminate,
            refused: own.refused + common.refused,
        }
    }

    /// Common keys of which both sides were acknowledged a write.
    pub fn written_by_both(&self) -> Vec<&str> {
        let both = |key: &&String| {
            let mut sides = self.sides.iter();
            sides.all(|side| side.common.has_acknowledged(key))
        };
        self.common
            .iter()
            .filter(both)
            .map(String::as_str)
            .collect()
    }

    /// No further writes; returns when the last one has its answer.
    pub fn pause(&mut self) {
        thread::scope(|scope| {
            for side in &mut self.sides {
                scope.spawn(|| {
                    side.own.pause();
                    side.common.pause();
                });
            }
        });
    }

    /// What is missing when a node is asked, once the writers have paused and the sides are one
    /// again: of a key that one side writes, the last acknowledged write or a later one; of a common
    /// key, the last of one of the sides that were acknowledged any.
    ///
    /// # Errors
    /// If a key cannot be read at all, or has a value that nobody wrote.
    pub fn lost_at(&self, client: &Client) -> Result<Vec<String>, String> {
        let mut lost = Vec::new();
        for side in &self.sides {
            lost.extend(side.own.lost_at(client)?);
        }
        for key in &self.common {
            let what = format!("{key} to be readable at {}", client.url());
            let found = wait::poll(&what, wait::PATIENCE, || {
                let found = client.read(key.as_bytes());
                found.map_err(|error| error.to_string())
            });
            let found = found.map_err(|timeout| timeout.to_string())?;
            let kept = match &found {
                Some(value) => self.keeps_a_last(key, &value.bytes)?,
                None => self.sides.iter().all(|s| !s.common.has_acknowledged(key)),
            };
            if !kept {
                let text = found.map(|v| String::from_utf8_lossy(&v.bytes).into_owned());
                lost.push(format!("{key} is {text:?}"));
            }
        }
        Ok(lost)
    }

    fn keeps_a_last(&self, key: &str, value: &[u8]) -> Result<bool, String> {
        for (index, side) in self.sides.iter().enumerate() {
            if let Some(is_last) = side.common.is_last(key, value)? {
                // A side that was acknowledged nothing must not win over one that was.
                let other = &self.sides[1 - index].common;
                let may = side.common.has_acknowledged(key) || !other.has_acknowledged(key);
                return Ok(is_last && may);
            }
        }
        Err(format!("{key} is {value:?}, which nobody wrote"))
    }
}
