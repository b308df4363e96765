//! Commands about keys: from words to operations, and from what came of them to answers.

use bytes::Bytes;
use kith_proto::kv::{
    MAX_VALUE,
    op::{Condition, Expiry, ExpiryCondition, Float, Item, Op, Outcome},
    request::RequestError,
    version::Wall,
};

use super::{
    frame::integer,
    options::{SetOptions, expire_condition, expiry_after, expiry_at, expiry_option},
    reply::{OK, Reply},
    spec::{Command, Spec},
};
use crate::clock::unix_millis;

/// A command that cannot be done as it was given; nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// Too few arguments, or too many.
    #[error("ERR wrong number of arguments for '{0}' command")]
    Arity(&'static str),
    /// Arguments that are not those of the command.
    #[error("ERR syntax error")]
    Syntax,
    /// An argument is no 64-bit decimal integer.
    #[error("ERR value is not an integer or out of range")]
    NotAnInteger,
    /// An argument is no decimal number.
    #[error("ERR value is not a valid float")]
    NotAFloat,
    /// The number to subtract cannot be negated.
    #[error("ERR decrement would overflow")]
    Overflow,
    /// A time that is over or beyond what can be counted.
    #[error("ERR invalid expire time in '{0}' command")]
    Expire(&'static str),
    /// An offset before the beginning.
    #[error("ERR offset is out of range")]
    Offset,
    /// The value would be larger than any may be.
    #[error("ERR string exceeds maximum allowed size (proto-max-bulk-len)")]
    TooLong,
    /// Something else, with its code.
    #[error("{0}")]
    Other(String),
}

/// What a command asks of the partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Something about one key.
    One { key: Bytes, op: Op, shape: Shape },
    /// The same about several; each is atomic, all together are not.
    Many { calls: Vec<(Bytes, Op)>, join: Join },
}

/// How what came of an operation is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// That it was done, or null if it was not.
    OkOrNull,
    /// The value that was there before.
    Before,
    /// 1 if it was done, else 0.
    Done,
    /// 1 if the expiry is as asked, else 0.
    Expire(ExpiryCondition),
    /// How long the value is now.
    Length,
    /// The number that is there now.
    Number,
    /// The value that is there now.
    After,
    /// A part of the value: first and last byte, negative ones from the end.
    Range(i64, i64),
    /// Milliseconds that one unit of the time to live has.
    Ttl(u64),
    Type,
}

/// How what came of several operations is told as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Join {
    /// All values.
    Values,
    /// How many were changed.
    Changed,
    /// How many exist.
    Present,
    /// That all were done.
    Ok,
}

/// What a command about keys asks for. The number of its arguments has been checked.
pub(super) fn plan(spec: &Spec, args: Vec<Bytes>) -> Result<Plan, Refused> {
    let name = spec.name;
    let mut args = args.into_iter().skip(1);
    let several = |args: std::iter::Skip<_>, op: &Op, join| Plan::Many {
        calls: args.map(|key| (key, op.clone())).collect(),
        join,
    };
    let delete = |want_old| Op::Delete {
        condition: Condition::None,
        want_old,
    };
    match spec.command {
        Command::MGet => return Ok(several(args, &Op::Get, Join::Values)),
        Command::Exists => return Ok(several(args, &Op::Head, Join::Present)),
        Command::Del | Command::Unlink => {
            return Ok(several(args, &delete(false), Join::Changed));
        }
        Command::MSet => {
            let mut calls = Vec::with_capacity(args.len() / 2);
            while let Some(key) = args.next() {
                let value = args.next().ok_or(Refused::Arity(name))?;
                calls.push((key, set(value, Expiry::Never, Condition::None, false)));
            }
            let join = Join::Ok;
            return Ok(Plan::Many { calls, join });
        }
        _ => {}
    }
    let mut next = || args.next().ok_or(Refused::Arity(name));
    let key = next()?;
    let (op, shape) = match spec.command {
        Command::Get => (Op::Get, Shape::Before),
        Command::StrLen => (Op::Head, Shape::Length),
        Command::Type => (Op::Head, Shape::Type),
        Command::Ttl => (Op::Head, Shape::Ttl(1000)),
        Command::PTtl => (Op::Head, Shape::Ttl(1)),
        Command::GetRange => (Op::Get, Shape::Range(number(&next()?)?, number(&next()?)?)),
        Command::GetDel => (delete(true), Shape::Before),
        Command::GetEx => {
            let rest: Vec<Bytes> = args.collect();
            match expiry_option(name, &rest)? {
                None => (Op::Get, Shape::Before),
                Some(expiry) => (
                    Op::Expire {
                        expiry,
                        only: ExpiryCondition::Any,
                        want_value: true,
                    },
                    Shape::Before,
                ),
            }
        }
        Command::Set => {
            let value = next()?;
            let rest: Vec<Bytes> = args.collect();
            let options = SetOptions::parse(name, &rest)?;
            let shape = if options.get {
                Shape::Before
            } else {
                Shape::OkOrNull
            };
            let op = set(value, options.expiry, options.condition, options.get);
            (op, shape)
        }
        Command::SetNx => (
            set(next()?, Expiry::Never, Condition::Absent, false),
            Shape::Done,
        ),
        Command::SetEx | Command::PSetEx => {
            let unit = if spec.command == Command::SetEx {
                1000
            } else {
                1
            };
            let expiry = expiry_after(name, number(&next()?)?, unit)?;
            (
                set(next()?, expiry, Condition::None, false),
                Shape::OkOrNull,
            )
        }
        Command::GetSet => (
            set(next()?, Expiry::Never, Condition::None, true),
            Shape::Before,
        ),
        Command::Append => (Op::Append { value: next()? }, Shape::Length),
        Command::SetRange => {
            let offset = number(&next()?)?;
            let offset = u64::try_from(offset).map_err(|_negative| Refused::Offset)?;
            let value = next()?;
            if !value.is_empty() && offset.saturating_add(value.len() as u64) > MAX_VALUE as u64 {
                return Err(Refused::TooLong);
            }
            // Beyond that nothing is written, whatever the offset.
            let offset = u32::try_from(offset).unwrap_or(u32::MAX);
            (Op::SetRange { offset, value }, Shape::Length)
        }
        Command::Incr => (Op::Increment { by: 1 }, Shape::Number),
        Command::Decr => (Op::Increment { by: -1 }, Shape::Number),
        Command::IncrBy => (
            Op::Increment {
                by: number(&next()?)?,
            },
            Shape::Number,
        ),
        Command::DecrBy => {
            let by = number(&next()?)?.checked_neg().ok_or(Refused::Overflow)?;
            (Op::Increment { by }, Shape::Number)
        }
        Command::IncrByFloat => {
            let text = next()?;
            let number = std::str::from_utf8(&text).ok().and_then(|t| t.parse().ok());
            let by = number.and_then(Float::new).ok_or(Refused::NotAFloat)?;
            (Op::IncrementFloat { by }, Shape::After)
        }
        Command::Persist => {
            let op = Op::Expire {
                expiry: Expiry::Never,
                only: ExpiryCondition::Any,
                want_value: false,
            };
            (op, Shape::Done)
        }
        Command::Expire | Command::PExpire | Command::ExpireAt | Command::PExpireAt => {
            let time = number(&next()?)?;
            let rest: Vec<Bytes> = args.collect();
            let only = expire_condition(&rest)?;
            let expiry = match spec.command {
                Command::Expire => expiry_after(name, time, 1000),
                Command::PExpire => expiry_after(name, time, 1),
                Command::ExpireAt => expiry_at(name, time, 1000),
                _ => expiry_at(name, time, 1),
            };
            // A time that has passed is no mistake here: it deletes.
            let expiry = match expiry {
                Err(_) if time <= 0 => Expiry::At(Wall(0)),
                expiry => expiry?,
            };
            let op = Op::Expire {
                expiry,
                only,
                want_value: false,
            };
            (op, Shape::Expire(only))
        }
        other => {
            return Err(Refused::Other(format!("ERR {other:?} is not about a key")));
        }
    };
    Ok(Plan::One { key, op, shape })
}

fn set(value: Bytes, expiry: Expiry, condition: Condition, want_old: bool) -> Op {
    Op::Set {
        value,
        expiry,
        condition,
        want_old,
    }
}

/// An argument that is a number.
pub(super) fn number(text: &[u8]) -> Result<i64, Refused> {
    integer(text).ok_or(Refused::NotAnInteger)
}

/// Tells what came of an operation.
pub(super) fn told(shape: Shape, outcome: Result<Outcome, RequestError>) -> Reply {
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => return Reply::Error(error_text(&error)),
    };
    let Outcome {
        applied,
        before,
        after,
    } = outcome;
    let value = |item: Option<Item>| item.and_then(|item| item.value);
    match shape {
        Shape::OkOrNull if applied => OK,
        Shape::OkOrNull => Reply::Null,
        Shape::Before => Reply::value(value(before)),
        Shape::After => Reply::value(value(after)),
        Shape::Done => Reply::flag(applied),
        // That it was the same already counts as done.
        Shape::Expire(only) => Reply::flag(match (applied, before, only) {
            (true, _, _) => true,
            (false, Some(_), ExpiryCondition::Any) => true,
            (false, Some(item), ExpiryCondition::Some) => item.expires.is_some(),
            (false, _, _) => false,
        }),
        Shape::Length => {
            let length = after.map_or(0, |item| item.len);
            Reply::Integer(i64::try_from(length).unwrap_or(i64::MAX))
        }
        Shape::Number => match value(after).as_deref().and_then(integer) {
            Some(number) => Reply::Integer(number),
            None => Reply::Error("ERR the sum was not told, though it was stored".to_owned()),
        },
        Shape::Range(first, last) => {
            let value = value(before).unwrap_or_default();
            Reply::Bulk(range(&value, first, last))
        }
        Shape::Ttl(unit) => Reply::Integer(match before {
            None => -2,
            Some(Item { expires: None, .. }) => -1,
            Some(Item {
                expires: Some(at), ..
            }) => {
                let millis = at.0.saturating_sub(unix_millis());
                // Rounded, as Redis does: 10 s that were set just now are 10 s.
                let units = millis.saturating_add(unit / 2) / unit;
                i64::try_from(units).unwrap_or(i64::MAX)
            }
        }),
        Shape::Type if before.is_some() => Reply::Simple("string"),
        Shape::Type => Reply::Simple("none"),
    }
}

/// Tells what came of several operations.
pub(super) fn joined(join: Join, outcomes: Vec<Result<Outcome, RequestError>>) -> Reply {
    if let Some(error) = worst(&outcomes) {
        let done = outcomes.iter().flatten().filter(|o| o.applied).count();
        let mut text = error_text(error);
        if done > 0 {
            text.push_str(&format!("; {done} of {} keys are changed", outcomes.len()));
        }
        return Reply::Error(text);
    }
    let outcomes = outcomes.into_iter().flatten();
    match join {
        Join::Ok => OK,
        Join::Changed => Reply::count(outcomes.filter(|o| o.applied).count()),
        Join::Present => Reply::count(outcomes.filter(|o| o.before.is_some()).count()),
        Join::Values => Reply::Array(
            outcomes
                .map(|o| Reply::value(o.before.and_then(|item| item.value)))
                .collect(),
        ),
    }
}

/// The error that says least of what has changed.
fn worst(outcomes: &[Result<Outcome, RequestError>]) -> Option<&RequestError> {
    let errors = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    errors.max_by_key(|error| match error {
        RequestError::Op(_) | RequestError::Invalid(_) => 0,
        RequestError::Unavailable(_) => 1,
        RequestError::Indeterminate(_) => 2,
    })
}

/// With the code by which clients know what to do.
pub(super) fn error_text(error: &RequestError) -> String {
    match error {
        RequestError::Op(error) => format!("ERR {error}"),
        RequestError::Invalid(text) => format!("ERR {text}"),
        RequestError::Unavailable(text) => format!("CLUSTERDOWN {text}"),
        RequestError::Indeterminate(text) => format!("INDETERMINATE {text}"),
    }
}

fn range(value: &Bytes, first: i64, last: i64) -> Bytes {
    let length = i64::try_from(value.len()).unwrap_or(i64::MAX);
    let from_start = |at: i64| {
        if at < 0 {
            at.saturating_add(length)
        } else {
            at
        }
    };
    if first < 0 && last < 0 && first > last {
        return Bytes::new();
    }
    let first = from_start(first).max(0);
    let last = from_start(last).max(0).min(length - 1);
    match (usize::try_from(first), usize::try_from(last)) {
        (Ok(first), Ok(last)) if first <= last => value.slice(first..=last),
        _ => Bytes::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_redis() {
        let value = Bytes::from("This is a string");
        for (first, last, expected) in [
            (0, 3, "This"),
            (-3, -1, "ing"),
            (0, -1, "This is a string"),
            (10, 100, "string"),
            (5, 4, ""),
            (-1, -3, ""),
            (100, 200, ""),
            (-100, 0, "T"),
            (i64::MIN, i64::MAX, "This is a string"),
        ] {
            assert_eq!(range(&value, first, last), expected, "{first} {last}");
        }
        assert_eq!(range(&Bytes::new(), 0, -1), "");
    }

    #[test]
    fn the_error_of_several_is_the_least_certain_and_says_what_is_done() {
        let done = Outcome {
            applied: true,
            before: None,
            after: None,
        };
        let reply = joined(
            Join::Ok,
            vec![
                Err(RequestError::Unavailable("away".to_owned())),
                Ok(done),
                Err(RequestError::Indeterminate("late".to_owned())),
            ],
        );
        let text = "INDETERMINATE late; 1 of 3 keys are changed";
        assert_eq!(reply, Reply::Error(text.to_owned()));
    }
}
