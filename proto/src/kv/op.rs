//! Operations on one key: pure functions of the entry that is there.
//!
//! The owner alone evaluates them, so that a condition and the change that depends on it are
//! one step. What leaves is the new value, never the operation: backups only ever store.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    MAX_VALUE,
    entry::Entry,
    version::{Version, Wall},
};

/// When a value shall expire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expiry {
    /// Never.
    #[default]
    Never,
    /// As before.
    Keep,
    /// So many milliseconds after the owner does it.
    After(u64),
    /// At that moment of the wall clock.
    At(Wall),
}

/// What must hold for a change to be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// Nothing.
    #[default]
    None,
    /// There is no value.
    Absent,
    /// There is a value.
    Present,
    /// There is a value of exactly that version.
    Version(Version),
}

/// Which present expiry makes a change of it happen. A value that never expires counts as one
/// that expires last of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExpiryCondition {
    /// Any.
    #[default]
    Any,
    /// There is none.
    None,
    /// There is one.
    Some,
    /// It is before the new one.
    Earlier,
    /// It is after the new one.
    Later,
}

/// What is to be done with a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Read it.
    Get,
    /// Read all about it but its value.
    Head,
    /// Store a value.
    Set {
        /// The value.
        value: Bytes,
        /// When it expires.
        expiry: Expiry,
        /// Only if.
        condition: Condition,
        /// Also tell what was there.
        want_old: bool,
    },
    /// Delete it.
    Delete {
        /// Only if.
        condition: Condition,
        /// Also tell what was there.
        want_old: bool,
    },
    /// Change when it expires, if it is there. A moment that has passed deletes it.
    Expire {
        /// When; [`Expiry::Never`] persists it.
        expiry: Expiry,
        /// Only if the present expiry is so.
        only: ExpiryCondition,
        /// Also tell the value.
        want_value: bool,
    },
    /// Add to a decimal integer; a missing one counts as 0.
    Increment {
        /// How much.
        by: i64,
    },
    /// Add to a decimal number, given as text; a missing one counts as 0.
    IncrementFloat {
        /// How much; finite.
        by: Float,
    },
    /// Write bytes behind what is there.
    Append {
        /// Which.
        value: Bytes,
    },
    /// Overwrite from an offset on, zero bytes before it where there is nothing.
    SetRange {
        /// From there (bytes).
        offset: u32,
        /// What.
        value: Bytes,
    },
}

/// A finite number that can be compared and sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Float(u64);

impl Float {
    /// `None` if it is infinite or no number.
    pub fn new(value: f64) -> Option<Self> {
        value.is_finite().then_some(Self(value.to_bits()))
    }

    /// The number.
    pub fn get(self) -> f64 {
        f64::from_bits(self.0)
    }
}

/// A living value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Which write it comes from.
    pub version: Version,
    /// When it expires.
    pub expires: Option<Wall>,
    /// Its length (bytes).
    pub len: u64,
    /// The value, where the operation asked for it.
    pub value: Option<Bytes>,
}

/// What came of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Whether something was changed.
    pub applied: bool,
    /// What was there before. With its value for reads, for `want_old`, and for changes that
    /// were not made because of a condition.
    pub before: Option<Item>,
    /// What is there now. With its value after increments only: an outcome never has two values,
    /// which would be longer than a frame.
    pub after: Option<Item>,
}

/// An operation that cannot be done with what is there; nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum OpError {
    /// The value is no 64-bit decimal integer.
    #[error("value is not an integer or out of range")]
    NotAnInteger,
    /// The sum is no 64-bit integer.
    #[error("increment or decrement would overflow")]
    Overflow,
    /// The value is no decimal number.
    #[error("value is not a valid float")]
    NotAFloat,
    /// The sum is infinite.
    #[error("increment would produce NaN or Infinity")]
    NotFinite,
    /// It would be longer than [`MAX_VALUE`].
    #[error("value exceeds the maximum allowed size")]
    TooLarge,
}

/// What an operation wants of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The new value and its expiry, or a tombstone; `None` if nothing changes.
    pub write: Option<(Option<Bytes>, Option<Wall>)>,
    /// What to tell; of what is written, the version is filled in once it is stamped.
    pub outcome: Outcome,
}

impl Op {
    /// Whether it changes nothing.
    pub fn is_read(&self) -> bool {
        matches!(self, Self::Get | Self::Head)
    }

    /// Decides, from what is there.
    ///
    /// # Errors
    /// If it cannot be done; nothing changes.
    pub fn decide(&self, entry: Option<&Entry>, now: Wall) -> Result<Decision, OpError> {
        let present = entry.and_then(|entry| Some((entry, entry.live(now)?)));
        let item = |with_value: bool| {
            present.map(|(entry, value)| Item {
                version: entry.version,
                expires: entry.expires,
                len: value.len() as u64,
                value: with_value.then(|| value.clone()),
            })
        };
        let old_expiry = present.and_then(|(entry, _)| entry.expires);
        let unchanged = |with_value| {
            Ok(Decision {
                write: None,
                outcome: Outcome {
                    applied: false,
                    before: item(with_value),
                    // The value once: a frame has room for one of the largest, not for two.
                    after: item(false),
                },
            })
        };
        let written = |value: Bytes, expires: Option<Wall>, tell_old: bool, tell_new: bool| {
            if value.len() > MAX_VALUE {
                return Err(OpError::TooLarge);
            }
            let is_over = expires.is_some_and(|at| at <= now);
            let after = (!is_over).then(|| Item {
                version: Version::default(),
                expires,
                len: value.len() as u64,
                value: tell_new.then(|| value.clone()),
            });
            Ok(Decision {
                write: Some(if is_over {
                    (None, None)
                } else {
                    (Some(value), expires)
                }),
                outcome: Outcome {
                    applied: true,
                    before: item(tell_old),
                    after,
                },
            })
        };
        match self {
            Self::Get => unchanged(true),
            Self::Head => unchanged(false),
            Self::Set {
                value,
                expiry,
                condition,
                want_old,
            } => {
                if !condition.holds(item(false).as_ref()) {
                    return unchanged(true);
                }
                written(value.clone(), expiry.at(now, old_expiry), *want_old, false)
            }
            Self::Delete {
                condition,
                want_old,
            } => {
                if present.is_none() || !condition.holds(item(false).as_ref()) {
                    return unchanged(true);
                }
                Ok(Decision {
                    write: Some((None, None)),
                    outcome: Outcome {
                        applied: true,
                        before: item(*want_old),
                        after: None,
                    },
                })
            }
            Self::Expire {
                expiry,
                only,
                want_value,
            } => {
                let Some((_, value)) = present else {
                    return unchanged(false);
                };
                let expires = expiry.at(now, old_expiry);
                if expires == old_expiry || !only.holds(old_expiry, expires) {
                    return unchanged(*want_value);
                }
                written(value.clone(), expires, *want_value, false)
            }
            Self::Increment { by } => {
                let old = match present {
                    Some((_, value)) => parse::<i64>(value).ok_or(OpError::NotAnInteger)?,
                    None => 0,
                };
                let sum = old.checked_add(*by).ok_or(OpError::Overflow)?;
                written(Bytes::from(sum.to_string()), old_expiry, false, true)
            }
            Self::IncrementFloat { by } => {
                let old = match present {
                    Some((_, value)) => parse::<f64>(value)
                        .filter(|old| old.is_finite())
                        .ok_or(OpError::NotAFloat)?,
                    None => 0.0,
                };
                let sum = old + by.get();
                if !sum.is_finite() {
                    return Err(OpError::NotFinite);
                }
                written(Bytes::from(sum.to_string()), old_expiry, false, true)
            }
            Self::Append { value } => {
                let mut whole = present.map_or_else(Vec::new, |(_, old)| old.to_vec());
                if whole.len() + value.len() > MAX_VALUE {
                    return Err(OpError::TooLarge);
                }
                whole.extend_from_slice(value);
                written(Bytes::from(whole), old_expiry, false, false)
            }
            Self::SetRange { offset, value } => {
                let offset = *offset as usize;
                if offset + value.len() > MAX_VALUE {
                    return Err(OpError::TooLarge);
                }
                if value.is_empty() {
                    return unchanged(false);
                }
                let mut whole = present.map_or_else(Vec::new, |(_, old)| old.to_vec());
                let end = offset + value.len();
                whole.resize(whole.len().max(end), 0);
                whole[offset..end].copy_from_slice(value);
                written(Bytes::from(whole), old_expiry, false, false)
            }
        }
    }
}

impl Expiry {
    fn at(self, now: Wall, old: Option<Wall>) -> Option<Wall> {
        match self {
            Self::Never => None,
            Self::Keep => old,
            Self::After(millis) => Some(Wall(now.0.saturating_add(millis))),
            Self::At(at) => Some(at),
        }
    }
}

impl ExpiryCondition {
    fn holds(self, old: Option<Wall>, new: Option<Wall>) -> bool {
        let last = Wall(u64::MAX);
        let (old_at, new_at) = (old.unwrap_or(last), new.unwrap_or(last));
        match self {
            Self::Any => true,
            Self::None => old.is_none(),
            Self::Some => old.is_some(),
            Self::Earlier => old_at < new_at,
            Self::Later => old_at > new_at,
        }
    }
}

impl Condition {
    fn holds(self, present: Option<&Item>) -> bool {
        match self {
            Self::None => true,
            Self::Absent => present.is_none(),
            Self::Present => present.is_some(),
            Self::Version(version) => present.is_some_and(|item| item.version == version),
        }
    }
}

/// A number as Redis takes it: no spaces, no sign but a minus.
fn parse<T: std::str::FromStr>(value: &[u8]) -> Option<T> {
    let text = std::str::from_utf8(value).ok()?;
    let plain = !text.starts_with('+') && !text.contains(char::is_whitespace);
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Wall = Wall(1_000);

    fn entry(value: &'static str, expires: Option<u64>) -> Entry {
        Entry {
            version: Version {
                epoch: 1,
                ..Version::default()
            },
            value: Some(Bytes::from(value)),
            expires: expires.map(Wall),
        }
    }

    #[test]
    fn an_outcome_tells_a_value_once() {
        let old = entry("old", None);
        let expire = Op::Expire {
            expiry: Expiry::After(5),
            only: ExpiryCondition::Any,
            want_value: true,
        };
        for op in [Op::Get, set(Condition::Absent), expire] {
            let outcome = op.decide(Some(&old), NOW).unwrap().outcome;
            let told = |item: Option<Item>| item.and_then(|item| item.value);
            assert_eq!(told(outcome.before), Some(Bytes::from("old")), "{op:?}");
            assert_eq!(told(outcome.after), None, "{op:?}");
        }
    }

    fn value_after(op: &Op, before: Option<&Entry>) -> Option<Bytes> {
        let decision = op.decide(before, NOW).unwrap();
        decision.write.expect("a change").0
    }

    fn set(condition: Condition) -> Op {
        Op::Set {
            value: Bytes::from("new"),
            expiry: Expiry::Keep,
            condition,
            want_old: false,
        }
    }

    #[test]
    fn conditions_decide_and_tell_what_was_there() {
        let there = entry("old", None);
        let present = Some(&there);
        let cases = [
            (Condition::Absent, None, true),
            (Condition::Absent, present, false),
            (Condition::Present, None, false),
            (Condition::Present, present, true),
            (Condition::Version(there.version), present, true),
            (Condition::Version(Version::default()), present, false),
            (Condition::Version(there.version), None, false),
        ];
        for (condition, before, applied) in cases {
            let decision = set(condition).decide(before, NOW).unwrap();
            assert_eq!(decision.outcome.applied, applied, "{condition:?}");
            assert_eq!(decision.write.is_some(), applied);
            if let (false, Some(before)) = (applied, before) {
                let told = decision.outcome.before.expect("what is there");
                assert_eq!(told.value, before.value);
            }
        }
    }

    #[test]
    fn what_has_expired_is_not_there() {
        let over = entry("old", Some(1_000));
        let read = Op::Get.decide(Some(&over), NOW).unwrap();
        assert_eq!(read.outcome.before, None);
        assert!(
            set(Condition::Absent)
                .decide(Some(&over), NOW)
                .unwrap()
                .outcome
                .applied
        );
        let lasting = entry("old", Some(1_001));
        let kept = set(Condition::None).decide(Some(&lasting), NOW).unwrap();
        assert_eq!(kept.write.unwrap().1, Some(Wall(1_001)));
        let past = Op::Expire {
            expiry: Expiry::At(Wall(5)),
            only: ExpiryCondition::Any,
            want_value: false,
        };
        assert_eq!(value_after(&past, Some(&lasting)), None, "deleted at once");
    }

    #[test]
    fn numbers_are_counted_and_nothing_else_is() {
        let by = |by| Op::Increment { by };
        assert_eq!(value_after(&by(5), None), Some(Bytes::from("5")));
        let seven = entry("7", None);
        assert_eq!(value_after(&by(-9), Some(&seven)), Some(Bytes::from("-2")));
        for wrong in ["", "7 ", "+7", "x", "9223372036854775808", "1.0"] {
            let refused = by(1).decide(Some(&entry(wrong, None)), NOW);
            assert_eq!(refused, Err(OpError::NotAnInteger), "{wrong:?}");
        }
        let most = entry("9223372036854775807", None);
        assert_eq!(by(1).decide(Some(&most), NOW), Err(OpError::Overflow));
        let float = |by| Op::IncrementFloat {
            by: Float::new(by).unwrap(),
        };
        assert_eq!(
            value_after(&float(0.5), Some(&seven)),
            Some(Bytes::from("7.5"))
        );
        assert_eq!(
            value_after(&float(3.0), Some(&seven)),
            Some(Bytes::from("10"))
        );
        let infinite = float(f64::MAX).decide(Some(&entry("1.7e308", None)), NOW);
        assert_eq!(infinite, Err(OpError::NotFinite));
    }

    #[test]
    fn bytes_are_appended_and_overwritten() {
        let old = entry("abc", None);
        let append = Op::Append {
            value: Bytes::from("de"),
        };
        assert_eq!(value_after(&append, Some(&old)), Some(Bytes::from("abcde")));
        let range = |offset, value| Op::SetRange {
            offset,
            value: Bytes::from_static(value),
        };
        assert_eq!(
            value_after(&range(1, b"XY12"), Some(&old)),
            Some(Bytes::from("aXY12"))
        );
        assert_eq!(
            value_after(&range(2, b"z"), None),
            Some(Bytes::from("\0\0z"))
        );
        assert_eq!(
            range(u32::MAX, b"z").decide(None, NOW),
            Err(OpError::TooLarge)
        );
    }

    #[test]
    fn deleting_what_is_not_there_writes_nothing() {
        let delete = Op::Delete {
            condition: Condition::None,
            want_old: false,
        };
        assert_eq!(delete.decide(None, NOW).unwrap().write, None);
        assert_eq!(value_after(&delete, Some(&entry("x", None))), None);
    }

    #[test]
    fn an_expiry_changes_only_where_the_present_one_is_as_asked() {
        use ExpiryCondition::{Any, Earlier, Later, None as Without, Some as With};
        for (only, old, new, applied) in [
            (Any, None, 2_000, true),
            (Without, None, 2_000, true),
            (Without, Some(3_000), 2_000, false),
            (With, None, 2_000, false),
            (With, Some(3_000), 2_000, true),
            (Earlier, None, 2_000, false),
            (Earlier, Some(1_500), 2_000, true),
            (Earlier, Some(3_000), 2_000, false),
            (Later, None, 2_000, true),
            (Later, Some(1_500), 2_000, false),
            (Later, Some(3_000), 2_000, true),
        ] {
            let op = Op::Expire {
                expiry: Expiry::At(Wall(new)),
                only,
                want_value: false,
            };
            let decision = op.decide(Some(&entry("x", old)), NOW).unwrap();
            assert_eq!(decision.outcome.applied, applied, "{only:?} {old:?}");
            let expires = decision.outcome.after.unwrap().expires;
            let expected = if applied { Some(new) } else { old };
            assert_eq!(expires, expected.map(Wall), "{only:?} {old:?}");
        }
    }

    #[test]
    fn a_head_tells_all_but_the_value() {
        let there = entry("four", Some(2_000));
        let told = Op::Head.decide(Some(&there), NOW).unwrap();
        let item = told.outcome.before.unwrap();
        assert_eq!(
            (item.len, item.expires, item.value),
            (4, Some(Wall(2_000)), None)
        );
        assert_eq!(told.write, None);
    }
}
