//! Versions, and the clock that stamps them.
//!
//! A version is (epoch, HLC, branch), compared in that order. The epoch comes first because a
//! crashed owner may have left behind writes that nobody acknowledged, stamped by a clock that
//! ran ahead: what a later owner writes must win over them whatever the clocks say. Within one
//! epoch of one branch there is one owner, whose clock orders its writes.
//!
//! Source: Kulkarni et al., "Logical Physical Clocks" (2014).

use std::fmt;

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970, as the host's wall clock shows them.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Wall(pub u64);

/// A hybrid logical clock's reading: 48 bits of wall clock (milliseconds), 16 of counter.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Hlc(pub u64);

impl Hlc {
    const COUNTER_BITS: u32 = 16;

    /// The first reading of a millisecond.
    pub fn at(wall: Wall) -> Self {
        Self(wall.0 << Self::COUNTER_BITS)
    }

    /// Its wall clock part.
    pub fn wall(self) -> Wall {
        Wall(self.0 >> Self::COUNTER_BITS)
    }
}

impl fmt::Debug for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counter = self.0 & ((1 << Self::COUNTER_BITS) - 1);
        write!(f, "{}.{counter}", self.wall().0)
    }
}

/// The clock of a node: each reading is larger than every one that it gave or saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct HlcClock {
    last: Hlc,
}

impl HlcClock {
    /// A new reading.
    pub fn stamp(&mut self, wall: Wall) -> Hlc {
        self.last = Hlc::at(wall).max(Hlc(self.last.0 + 1));
        self.last
    }

    /// Somebody else's reading was seen.
    pub fn saw(&mut self, hlc: Hlc) {
        self.last = self.last.max(hlc);
    }

    /// The largest reading given or seen.
    pub fn last(&self) -> Hlc {
        self.last
    }
}

/// Which write an entry comes from. The larger wins.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Version {
    /// The owner's epoch.
    pub epoch: u64,
    /// The owner's clock.
    pub hlc: Hlc,
    /// The owner's branch.
    pub branch: u64,
}

/// As text, for ETags and tools: `epoch-hlc-branch`, in hexadecimal.
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}-{:x}", self.epoch, self.hlc.0, self.branch)
    }
}

/// Text that is no version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a version (epoch-clock-branch, in hexadecimal)")]
pub struct ParseVersionError(String);

impl std::str::FromStr for Version {
    type Err = ParseVersionError;

    fn from_str(text: &str) -> Result<Self, ParseVersionError> {
        let part = |part: Option<&str>| {
            let digits = part.filter(|p| p.bytes().all(|b| b.is_ascii_hexdigit()));
            digits.and_then(|digits| u64::from_str_radix(digits, 16).ok())
        };
        let mut parts = text.split('-');
        let numbers = (part(parts.next()), part(parts.next()), part(parts.next()));
        match (numbers, parts.next()) {
            ((Some(epoch), Some(hlc), Some(branch)), None) => Ok(Self {
                epoch,
                hlc: Hlc(hlc),
                branch,
            }),
            _ => Err(ParseVersionError(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_never_repeats_nor_goes_back() {
        let mut clock = HlcClock::default();
        let first = clock.stamp(Wall(1000));
        let second = clock.stamp(Wall(1000));
        assert!(second > first && second.wall() == Wall(1000));
        assert!(clock.stamp(Wall(10)) > second, "the wall clock went back");
        clock.saw(Hlc::at(Wall(5000)));
        assert!(clock.stamp(Wall(2000)) > Hlc::at(Wall(5000)));
    }

    #[test]
    fn versions_are_text_both_ways() {
        let version = Version {
            epoch: 3,
            hlc: Hlc(0xabc),
            branch: u64::MAX,
        };
        assert_eq!(version.to_string().parse(), Ok(version));
        for wrong in ["", "1-2", "1-2-3-4", "1-2-x", "+1-2-3", "--"] {
            assert!(wrong.parse::<Version>().is_err(), "{wrong:?} was taken");
        }
    }
}
