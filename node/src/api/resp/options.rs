//! Words behind the fixed arguments: `EX 10`, `NX`, `KEEPTTL` and their kind.

use bytes::Bytes;
use kith_proto::kv::{
    op::{Condition, Expiry, ExpiryCondition},
    version::Wall,
};

use super::strings::{Refused, number};

/// The latest moment that can be asked for: HLCs count 48 bits of milliseconds.
const LATEST: u64 = 1 << 48;

/// What may follow `SET key value`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SetOptions {
    pub(super) expiry: Expiry,
    pub(super) condition: Condition,
    pub(super) get: bool,
}

impl SetOptions {
    pub(super) fn parse(command: &'static str, words: &[Bytes]) -> Result<Self, Refused> {
        let mut options = Self::default();
        let mut has_expiry = false;
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let condition = match word.to_ascii_uppercase().as_slice() {
                b"NX" => Condition::Absent,
                b"XX" => Condition::Present,
                b"GET" => {
                    options.get = true;
                    continue;
                }
                _ if has_expiry => return Err(Refused::Syntax),
                b"KEEPTTL" => {
                    options.expiry = Expiry::Keep;
                    has_expiry = true;
                    continue;
                }
                unit => {
                    let time = words.next().ok_or(Refused::Syntax)?;
                    options.expiry = timed(command, unit, time)?;
                    has_expiry = true;
                    continue;
                }
            };
            if options.condition != Condition::None {
                return Err(Refused::Syntax);
            }
            options.condition = condition;
        }
        Ok(options)
    }
}

/// What may follow `GETEX key`; `None` leaves the expiry alone.
pub(super) fn expiry_option(
    command: &'static str,
    words: &[Bytes],
) -> Result<Option<Expiry>, Refused> {
    match words {
        [] => Ok(None),
        [word] if word.eq_ignore_ascii_case(b"PERSIST") => Ok(Some(Expiry::Never)),
        [unit, time] => timed(command, &unit.to_ascii_uppercase(), time).map(Some),
        _ => Err(Refused::Syntax),
    }
}

fn timed(command: &'static str, unit: &[u8], time: &[u8]) -> Result<Expiry, Refused> {
    match unit {
        b"EX" => expiry_after(command, number(time)?, 1000),
        b"PX" => expiry_after(command, number(time)?, 1),
        b"EXAT" => expiry_at(command, number(time)?, 1000),
        b"PXAT" => expiry_at(command, number(time)?, 1),
        _ => Err(Refused::Syntax),
    }
}

/// So many units of so many milliseconds from now on.
pub(super) fn expiry_after(command: &'static str, time: i64, unit: u64) -> Result<Expiry, Refused> {
    millis(command, time, unit).map(Expiry::After)
}

/// At that Unix time.
pub(super) fn expiry_at(command: &'static str, time: i64, unit: u64) -> Result<Expiry, Refused> {
    millis(command, time, unit).map(|millis| Expiry::At(Wall(millis)))
}

fn millis(command: &'static str, time: i64, unit: u64) -> Result<u64, Refused> {
    let time = u64::try_from(time).ok().filter(|time| *time > 0);
    time.and_then(|time| time.checked_mul(unit))
        .filter(|millis| *millis < LATEST)
        .ok_or(Refused::Expire(command))
}

/// What may follow `EXPIRE key seconds`.
pub(super) fn expire_condition(words: &[Bytes]) -> Result<ExpiryCondition, Refused> {
    let mut only = ExpiryCondition::Any;
    for word in words {
        let wanted = match word.to_ascii_uppercase().as_slice() {
            b"NX" => ExpiryCondition::None,
            b"XX" => ExpiryCondition::Some,
            b"GT" => ExpiryCondition::Earlier,
            b"LT" => ExpiryCondition::Later,
            _ => {
                let word = String::from_utf8_lossy(word);
                return Err(Refused::Other(format!("ERR Unsupported option {word}")));
            }
        };
        only = match (only, wanted) {
            (ExpiryCondition::Any, wanted) => wanted,
            (only, wanted) if only == wanted => wanted,
            // Without an expiry GT never holds, so that XX adds nothing to it.
            (ExpiryCondition::Some, ExpiryCondition::Earlier)
            | (ExpiryCondition::Earlier, ExpiryCondition::Some) => ExpiryCondition::Earlier,
            _ => {
                return Err(Refused::Other(
                    "ERR NX and XX, GT or LT options at the same time are not compatible"
                        .to_owned(),
                ));
            }
        };
    }
    Ok(only)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<Bytes> {
        text.split_whitespace()
            .map(|word| Bytes::copy_from_slice(word.as_bytes()))
            .collect()
    }

    #[test]
    fn options_of_set_come_in_any_order_once_each() {
        let parse = |text: &str| SetOptions::parse("set", &words(text));
        let all = SetOptions {
            expiry: Expiry::After(10_000),
            condition: Condition::Absent,
            get: true,
        };
        assert_eq!(parse("nx EX 10 get"), Ok(all));
        assert_eq!(parse("GET NX ex 10"), Ok(all));
        assert_eq!(parse("KEEPTTL").unwrap().expiry, Expiry::Keep);
        assert_eq!(parse("PXAT 7").unwrap().expiry, Expiry::At(Wall(7)));
        for (text, error) in [
            ("NX XX", Refused::Syntax),
            ("EX", Refused::Syntax),
            ("EX 1 PX 2", Refused::Syntax),
            ("EX 1 KEEPTTL", Refused::Syntax),
            ("FOO", Refused::Syntax),
            ("FOO 1", Refused::Syntax),
            ("EX x", Refused::NotAnInteger),
            ("EX 0", Refused::Expire("set")),
            ("PX -5", Refused::Expire("set")),
            ("EX 9223372036854775807", Refused::Expire("set")),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn conditions_of_expire_exclude_each_other() {
        let parse = |text: &str| expire_condition(&words(text));
        assert_eq!(parse(""), Ok(ExpiryCondition::Any));
        assert_eq!(parse("gt"), Ok(ExpiryCondition::Earlier));
        assert_eq!(parse("XX GT"), Ok(ExpiryCondition::Earlier));
        assert!(parse("NX GT").is_err() && parse("GT LT").is_err() && parse("x").is_err());
    }
}
