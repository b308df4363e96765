//! Requests, as they arrive: incremental, bounded, without recursion.
//!
//! ```text
//!   *2\r\n $3\r\n GET\r\n $1\r\n k\r\n     an array of bulk strings, or
//!   GET k\r\n                              words on a line, for people with a terminal
//! ```
//!
//! What is complete is copied out of the buffer at once: a slice of it, kept in a store, would
//! keep the whole buffer. Nothing that a client merely announces is allocated before it comes.
//!
//! Source: "Redis serialization protocol specification" (redis.io).

use bytes::{Buf as _, Bytes, BytesMut};

/// The longest line of words (bytes).
pub(super) const MAX_INLINE: usize = 64 << 10;
/// The most arguments of one request.
pub(super) const MAX_ARGS: usize = 1 << 20;
/// A length on a line of its own, with what surrounds it (bytes).
const MAX_NUMBER: usize = 32;
/// What an argument costs beside its bytes (bytes).
const ARG_COST: usize = 64;

/// What one request may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// The longest argument (bytes).
    pub(super) bulk: usize,
    /// The most arguments.
    pub(super) args: usize,
    /// All of it together, with 64 bytes for each argument (bytes).
    pub(super) total: usize,
}

impl Limits {
    /// Of somebody who has not shown the token yet.
    pub(super) const STRANGER: Self = Self {
        bulk: 16 << 10,
        args: 16,
        total: 64 << 10,
    };
}

/// Bytes that are no request, or too much of one. The connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProtocolError {
    /// The number of arguments is none, or too large.
    #[error("invalid multibulk length")]
    Count,
    /// Something else than an argument came.
    #[error("expected '$', got '{}'", char::from(*.0).escape_default())]
    NoBulk(u8),
    /// The length of an argument is none.
    #[error("invalid bulk length")]
    Length,
    /// An argument is larger than this node takes: its length, and the limit.
    #[error("invalid bulk length: {0} bytes are more than the {1} allowed")]
    TooLong(usize, usize),
    /// An argument does not end where it said.
    #[error("expected CRLF after an argument")]
    NoEnd,
    /// A line without an end.
    #[error("too big inline request")]
    Line,
    /// Quotes that do not end.
    #[error("unbalanced quotes in request")]
    Quotes,
    /// All arguments together are too large.
    #[error("too big request")]
    Total,
}

/// Takes requests out of a buffer.
#[derive(Debug)]
pub(super) struct Parser {
    limits: Limits,
    /// Arguments of the request under way.
    args: Vec<Bytes>,
    /// Arguments that are still to come; 0 between requests.
    missing: usize,
    /// Length of the argument under way.
    length: Option<usize>,
    /// What `args` cost (bytes).
    cost: usize,
    /// Bytes of an incomplete line that were searched for its end already.
    searched: usize,
}

impl Parser {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            args: Vec::new(),
            missing: 0,
            length: None,
            cost: 0,
            searched: 0,
        }
    }

    /// What the request under way costs so far (bytes).
    pub(super) fn cost(&self) -> usize {
        self.cost
    }

    /// Counts from the next argument on.
    pub(super) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The next request, at least one argument long; `None` until more bytes come.
    pub(super) fn next(
        &mut self,
        buffer: &mut BytesMut,
    ) -> Result<Option<Vec<Bytes>>, ProtocolError> {
        let mut at = 0;
        let request = self.advance(buffer, &mut at);
        buffer.advance(at);
        request
    }

    fn advance(
        &mut self,
        buffer: &[u8],
        at: &mut usize,
    ) -> Result<Option<Vec<Bytes>>, ProtocolError> {
        loop {
            let rest = &buffer[*at..];
            if self.missing > 0 {
                if !self.argument(rest, at)? {
                    return Ok(None);
                }
                if self.missing == 0 {
                    self.cost = 0;
                    return Ok(Some(std::mem::take(&mut self.args)));
                }
                continue;
            }
            match rest.first() {
                None => return Ok(None),
                Some(b'*') => {
                    let Some((number, taken)) = number_line(rest, ProtocolError::Count)? else {
                        return Ok(None);
                    };
                    *at += taken;
                    // An empty request, or none at all, has no answer.
                    if let Ok(count @ 1..) = usize::try_from(number) {
                        if count > self.limits.args {
                            return Err(ProtocolError::Count);
                        }
                        self.missing = count;
                        self.args.reserve(count.min(64));
                    }
                }
                Some(_) => {
                    let Some(line) = self.line(rest)? else {
                        return Ok(None);
                    };
                    *at += line.len() + 1;
                    let words = words(line)?;
                    if !words.is_empty() {
                        return Ok(Some(words));
                    }
                }
            }
        }
    }

    /// Takes one step of an argument; false if more bytes are needed.
    fn argument(&mut self, rest: &[u8], at: &mut usize) -> Result<bool, ProtocolError> {
        let Some(length) = self.length else {
            match rest.first() {
                None => return Ok(false),
                Some(b'$') => {}
                Some(other) => return Err(ProtocolError::NoBulk(*other)),
            }
            let Some((number, taken)) = number_line(rest, ProtocolError::Length)? else {
                return Ok(false);
            };
            let length = usize::try_from(number).map_err(|_negative| ProtocolError::Length)?;
            if length > self.limits.bulk {
                return Err(ProtocolError::TooLong(length, self.limits.bulk));
            }
            self.cost += length + ARG_COST;
            if self.cost > self.limits.total {
                return Err(ProtocolError::Total);
            }
            *at += taken;
            self.length = Some(length);
            return Ok(true);
        };
        let Some(end) = rest.get(length..length + 2) else {
            return Ok(false);
        };
        if end != b"\r\n" {
            return Err(ProtocolError::NoEnd);
        }
        self.args.push(Bytes::copy_from_slice(&rest[..length]));
        self.length = None;
        self.missing -= 1;
        *at += length + 2;
        Ok(true)
    }

    /// A line of words without its line feed.
    fn line<'a>(&mut self, rest: &'a [u8]) -> Result<Option<&'a [u8]>, ProtocolError> {
        let found = rest[self.searched..].iter().position(|b| *b == b'\n');
        let length = found.map_or(rest.len(), |at| self.searched + at);
        if length > MAX_INLINE.min(self.limits.total) {
            return Err(ProtocolError::Line);
        }
        self.searched = if found.is_some() { 0 } else { length };
        Ok(found.map(|_| &rest[..length]))
    }
}

/// The number behind the first byte, and how long the line is; `None` until it is complete.
fn number_line(rest: &[u8], wrong: ProtocolError) -> Result<Option<(i64, usize)>, ProtocolError> {
    let head = &rest[..rest.len().min(MAX_NUMBER)];
    let Some(end) = head.iter().position(|b| *b == b'\r') else {
        return if head.len() == MAX_NUMBER {
            Err(wrong)
        } else {
            Ok(None)
        };
    };
    match rest.get(end + 1) {
        None => return Ok(None),
        Some(b'\n') => {}
        Some(_) => return Err(wrong),
    }
    match integer(&rest[1..end]) {
        Some(number) => Ok(Some((number, end + 2))),
        None => Err(wrong),
    }
}

/// A decimal integer without sign but a minus, without spaces.
pub(super) fn integer(text: &[u8]) -> Option<i64> {
    if text.first() == Some(&b'+') {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The words of a line. Quotes keep spaces; in double ones there are escapes.
fn words(line: &[u8]) -> Result<Vec<Bytes>, ProtocolError> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        if rest.is_empty() {
            return Ok(words);
        }
        let mut word = Vec::new();
        while let Some((&byte, behind)) = rest.split_first() {
            rest = match byte {
                _ if byte.is_ascii_whitespace() => break,
                b'"' | b'\'' => quoted(byte, behind, &mut word)?,
                _ => {
                    word.push(byte);
                    behind
                }
            };
        }
        words.push(Bytes::from(word));
    }
}

/// Reads to the end of the quotes; returns what is behind them, which must be a space or none.
fn quoted<'a>(
    quote: u8,
    mut rest: &'a [u8],
    word: &mut Vec<u8>,
) -> Result<&'a [u8], ProtocolError> {
    loop {
        rest = match (quote, rest) {
            (b'"', [b'\\', b'x', high, low, behind @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                word.push(hex(*high) << 4 | hex(*low));
                behind
            }
            (b'"', [b'\\', escaped, behind @ ..]) => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                behind
            }
            (b'\'', [b'\\', b'\'', behind @ ..]) => {
                word.push(b'\'');
                behind
            }
            (_, [byte, behind @ ..]) if *byte == quote => {
                return match behind.first() {
                    Some(next) if !next.is_ascii_whitespace() => Err(ProtocolError::Quotes),
                    _ => Ok(behind),
                };
            }
            (_, [byte, behind @ ..]) => {
                word.push(*byte);
                behind
            }
            (_, []) => return Err(ProtocolError::Quotes),
        };
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
#[path = "frame/tests.rs"]
mod tests;
