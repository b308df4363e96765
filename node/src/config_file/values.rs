//! Values as people write them: `200ms`, `64KiB`, `rack=7`, and a secret that is never shown.

use std::{fmt, net::SocketAddr, str::FromStr, time::Duration};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor},
};

/// A length of time, written as `200ms`, `1m 30s`, `72h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text)
            .map(Self)
            .map_err(|e| format!("{text:?} is not a length of time such as 200ms, 5s or 1h ({e})"))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// A number of bytes, written as `1400`, `1400B`, `2KiB`, `64MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub usize);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a size such as 1400, 2KiB or 64MiB");
        let text = text.trim();
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let unit: usize = match unit.trim() {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(wrong()),
        };
        let number = number.parse::<usize>().map_err(|_e| wrong())?;
        number.checked_mul(unit).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, name) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
            if self.0 >= unit && self.0.is_multiple_of(unit) {
                return write!(f, "{}{name}", self.0 / unit);
            }
        }
        write!(f, "{}B", self.0)
    }
}

macro_rules! written_as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

written_as_text!(Span);
written_as_text!(Size);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Span;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a length of time such as \"200ms\", \"5s\" or \"1h\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "expected a number of bytes, or a text such as \"2KiB\""
        )]
        enum Written {
            Bytes(usize),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Bytes(bytes) => Ok(Self(bytes)),
            Written::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

/// A label of a node, written as `KEY=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Its key.
    pub key: String,
    /// Its value; may be empty.
    pub value: String,
}

impl FromStr for Tag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self {
                key: key.to_owned(),
                value: value.to_owned(),
            }),
            _ => Err(format!("{text:?} is not KEY=VALUE")),
        }
    }
}

/// An address of this machine, written as `IP:PORT`.
pub(crate) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_says_nothing_more| {
        format!(
            "{text:?} is not IP:PORT, such as 127.0.0.1:7400, 0.0.0.0:7400 or [::]:7400 (a number, \
             not a name)"
        )
    })
}

/// [`parse_address`] for a file's setting.
pub(crate) fn address_in_file<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_address(&text).map(Some).map_err(de::Error::custom)
}

/// A switch in the environment, or given as `--flag=BOOL`.
pub(crate) fn parse_switch(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

/// A whole number; whether it is possible is judged with all other settings.
pub(crate) fn parse_whole(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_says_less| {
        format!("{text:?} is not a whole number as `kith agent --help` allows")
    })
}

/// A seed, written as `HOST:PORT`; the host may be a name, `192.0.2.7` or `[2001:db8::7]`.
pub(crate) fn parse_seed(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let bare_ipv6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    if host.is_empty() || bare_ipv6 || !port.parse::<u16>().is_ok_and(|p| p > 0) {
        return Err(format!(
            "{text:?} is not HOST:PORT, such as 192.0.2.7:7400, [2001:db8::7]:7400 or \
             seeds.example:7400"
        ));
    }
    Ok(text.to_owned())
}

/// Text that must not be seen: in no log, no `Debug`, no printed settings.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes) in [
            ("1400", 1400),
            ("2KiB", 2048),
            ("64MiB", 64 << 20),
            ("7 B", 7),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)));
        }
        for wrong in ["", "KiB", "2KB", "-1", "99999999999999999999GiB"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong:?} was taken");
        }
        assert_eq!(Size(64 << 20).to_string(), "64MiB");
        assert_eq!(Size(1400).to_string(), "1400B");
    }

    #[test]
    fn spans_survive_being_written() {
        for text in ["200ms", "5s", "72h", "1m 30s"] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.to_string().parse(), Ok(span));
        }
        assert!("5".parse::<Span>().is_err(), "no unit");
    }

    #[test]
    fn addresses_are_numbers() {
        assert!(parse_address("[::]:7400").is_ok());
        for wrong in ["localhost:7400", "7400", "127.0.0.1"] {
            let text = parse_address(wrong).unwrap_err();
            assert!(
                text.contains(wrong) && text.contains("0.0.0.0:7400"),
                "{text}"
            );
        }
    }

    #[test]
    fn seeds_name_a_host_and_a_port() {
        for fine in ["10.0.0.1:7400", "[::1]:7400", "seeds.example:1"] {
            assert!(parse_seed(fine).is_ok(), "{fine}");
        }
        for wrong in [
            "",
            "host",
            "host:",
            ":7400",
            "host:0",
            "host:99999",
            "::1:7400",
        ] {
            assert!(parse_seed(wrong).is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", Secret("hush".to_owned())), "Secret(..)");
    }
}
