//! Answers, in RESP2 or RESP3.

use bytes::Bytes;

/// Which version of the protocol a connection speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Protocol {
    /// What every client starts with.
    #[default]
    Two,
    /// What `HELLO 3` asks for.
    Three,
}

impl Protocol {
    pub(super) fn number(self) -> i64 {
        match self {
            Self::Two => 2,
            Self::Three => 3,
        }
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// A word.
    Simple(&'static str),
    /// That it was not done; begins with a code.
    Error(String),
    Integer(i64),
    Bulk(Bytes),
    /// Text for people, which RESP3 marks as such.
    Text(String),
    Null,
    Array(Vec<Reply>),
    /// An array in RESP2.
    Set(Vec<Reply>),
    /// An array of keys and values in RESP2.
    Map(Vec<(Reply, Reply)>),
}

/// `+OK`.
pub(super) const OK: Reply = Reply::Simple("OK");

impl Reply {
    pub(super) fn bulk(text: impl Into<Bytes>) -> Self {
        Self::Bulk(text.into())
    }

    pub(super) fn text(text: &str) -> Self {
        Self::Bulk(Bytes::copy_from_slice(text.as_bytes()))
    }

    pub(super) fn count(count: usize) -> Self {
        Self::Integer(i64::try_from(count).unwrap_or(i64::MAX))
    }

    pub(super) fn flag(flag: bool) -> Self {
        Self::Integer(flag.into())
    }

    pub(super) fn value(value: Option<Bytes>) -> Self {
        value.map_or(Self::Null, Self::Bulk)
    }

    /// What it takes, roughly (bytes).
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Bulk(bytes) => bytes.len() + 16,
            Self::Text(text) | Self::Error(text) => text.len() + 16,
            Self::Array(items) | Self::Set(items) => items.iter().map(Self::size).sum(),
            Self::Map(_) | Self::Simple(_) | Self::Integer(_) | Self::Null => 16,
        }
    }

    /// Writes it. The depth is that of what this program builds, never of what a client sends.
    pub(super) fn write(&self, protocol: Protocol, out: &mut Vec<u8>) {
        let three = protocol == Protocol::Three;
        match self {
            Self::Simple(word) => {
                out.push(b'+');
                out.extend_from_slice(word.as_bytes());
                out.extend_from_slice(b"\r\n");
            }
            Self::Error(text) => {
                out.push(b'-');
                // A line feed would end the error, and begin another answer.
                out.extend(text.bytes().map(|b| if b < b' ' { b' ' } else { b }));
                out.extend_from_slice(b"\r\n");
            }
            Self::Integer(number) => {
                out.push(b':');
                if *number < 0 {
                    out.push(b'-');
                }
                digits(number.unsigned_abs(), out);
                out.extend_from_slice(b"\r\n");
            }
            Self::Bulk(bytes) => {
                header(b'$', bytes.len(), out);
                out.extend_from_slice(bytes);
                out.extend_from_slice(b"\r\n");
            }
            Self::Text(text) => {
                let kind: &[u8] = if three { b"txt:" } else { b"" };
                let sign = if three { b'=' } else { b'$' };
                header(sign, kind.len() + text.len(), out);
                out.extend_from_slice(kind);
                out.extend_from_slice(text.as_bytes());
                out.extend_from_slice(b"\r\n");
            }
            Self::Null if three => out.extend_from_slice(b"_\r\n"),
            Self::Null => out.extend_from_slice(b"$-1\r\n"),
            Self::Array(items) | Self::Set(items) => {
                let is_set = three && matches!(self, Self::Set(_));
                header(if is_set { b'~' } else { b'*' }, items.len(), out);
                for item in items {
                    item.write(protocol, out);
                }
            }
            Self::Map(pairs) => {
                if three {
                    header(b'%', pairs.len(), out);
                } else {
                    header(b'*', pairs.len() * 2, out);
                }
                for (key, value) in pairs {
                    key.write(protocol, out);
                    value.write(protocol, out);
                }
            }
        }
    }
}

fn header(sign: u8, length: usize, out: &mut Vec<u8>) {
    out.push(sign);
    digits(length as u64, out);
    out.extend_from_slice(b"\r\n");
}

fn digits(mut number: u64, out: &mut Vec<u8>) {
    let mut text = [0; 20];
    let mut at = text.len();
    loop {
        at -= 1;
        text[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&text[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(reply: &Reply, protocol: Protocol) -> String {
        let mut out = Vec::new();
        reply.write(protocol, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn both_versions_of_the_protocol_are_written() {
        let map = Reply::Map(vec![(Reply::text("a"), Reply::Null)]);
        for (reply, two, three) in [
            (OK, "+OK\r\n", "+OK\r\n"),
            (Reply::Integer(i64::MIN), ":-9223372036854775808\r\n", ""),
            (Reply::Integer(0), ":0\r\n", ""),
            (Reply::text("a\r\nb"), "$4\r\na\r\nb\r\n", ""),
            (Reply::Null, "$-1\r\n", "_\r\n"),
            (map, "*2\r\n$1\r\na\r\n$-1\r\n", "%1\r\n$1\r\na\r\n_\r\n"),
            (
                Reply::Text("hi".to_owned()),
                "$2\r\nhi\r\n",
                "=6\r\ntxt:hi\r\n",
            ),
            (Reply::Set(vec![OK]), "*1\r\n+OK\r\n", "~1\r\n+OK\r\n"),
            (Reply::Array(Vec::new()), "*0\r\n", "*0\r\n"),
        ] {
            assert_eq!(written(&reply, Protocol::Two), two);
            let three = if three.is_empty() { two } else { three };
            assert_eq!(written(&reply, Protocol::Three), three);
        }
    }

    #[test]
    fn an_error_stays_on_its_line() {
        let error = Reply::Error("ERR a\r\n+OK\r\nb".to_owned());
        assert_eq!(written(&error, Protocol::Two), "-ERR a  +OK  b\r\n");
    }
}
