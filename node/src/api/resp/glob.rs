//! Patterns of keys: `h?llo`, `h*llo`, `h[a-e]llo`, `h[^e]llo`, with `\` before what is meant
//! literally.
//!
//! A star is tried again from where it last matched, and only the last star is: that takes
//! at most (length of the key × length of the pattern) steps, which a budget bounds.

/// The longest pattern (bytes).
pub(super) const MAX_PATTERN: usize = 1024;

/// A pattern, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Glob(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// Any bytes.
    Star,
    /// One of these: a bit for each byte.
    Class([u64; 4]),
    Byte(u8),
}

/// The steps allowed are used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooCostly;

impl Glob {
    /// Takes a pattern apart; `None` if it is too long. Whatever is in it means something.
    pub(super) fn new(pattern: &[u8]) -> Option<Self> {
        if pattern.len() > MAX_PATTERN {
            return None;
        }
        let mut parts = Vec::with_capacity(pattern.len());
        let mut rest = pattern;
        while let Some((&byte, behind)) = rest.split_first() {
            rest = behind;
            match byte {
                b'*' if parts.last() == Some(&Part::Star) => {}
                b'*' => parts.push(Part::Star),
                b'?' => parts.push(Part::Class([u64::MAX; 4])),
                b'[' => parts.push(Part::Class(class(&mut rest))),
                b'\\' if !rest.is_empty() => {
                    parts.push(Part::Byte(rest[0]));
                    rest = &rest[1..];
                }
                other => parts.push(Part::Byte(other)),
            }
        }
        Some(Self(parts))
    }

    /// Whether a key is so. Each step is taken from the budget.
    pub(super) fn matches(&self, key: &[u8], budget: &mut usize) -> Result<bool, TooCostly> {
        let parts = &self.0;
        let (mut at, mut part) = (0, 0);
        // Behind the last star: its part, and where in the key it was tried.
        let mut star: Option<(usize, usize)> = None;
        loop {
            *budget = budget.checked_sub(1).ok_or(TooCostly)?;
            let fits = match parts.get(part) {
                Some(Part::Star) => {
                    part += 1;
                    star = Some((part, at));
                    continue;
                }
                None if at == key.len() => return Ok(true),
                None => false,
                Some(Part::Byte(wanted)) => key.get(at) == Some(wanted),
                Some(Part::Class(bits)) => key.get(at).is_some_and(|byte| has(bits, *byte)),
            };
            if fits {
                at += 1;
                part += 1;
                continue;
            }
            // The last star takes one byte more.
            match star {
                Some((behind, tried)) if tried < key.len() => {
                    star = Some((behind, tried + 1));
                    at = tried + 1;
                    part = behind;
                }
                _ => return Ok(false),
            }
        }
    }
}

/// What is between brackets; without the closing one, all that follows.
fn class(rest: &mut &[u8]) -> [u64; 4] {
    let mut bits = [0; 4];
    let negated = rest.first() == Some(&b'^');
    if negated {
        *rest = &rest[1..];
    }
    loop {
        match **rest {
            [] => break,
            [b']', ref behind @ ..] => {
                *rest = behind;
                break;
            }
            [b'\\', byte, ref behind @ ..] => {
                set(&mut bits, byte);
                *rest = behind;
            }
            [from, b'-', to, ref behind @ ..] => {
                for byte in from.min(to)..=from.max(to) {
                    set(&mut bits, byte);
                }
                *rest = behind;
            }
            [byte, ref behind @ ..] => {
                set(&mut bits, byte);
                *rest = behind;
            }
        }
    }
    if negated { bits.map(|b| !b) } else { bits }
}

fn set(bits: &mut [u64; 4], byte: u8) {
    bits[usize::from(byte >> 6)] |= 1 << (byte & 63);
}

fn has(bits: &[u64; 4], byte: u8) -> bool {
    bits[usize::from(byte >> 6)] >> (byte & 63) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, key: &str) -> bool {
        let mut budget = 10_000;
        Glob::new(pattern.as_bytes())
            .unwrap()
            .matches(key.as_bytes(), &mut budget)
            .unwrap()
    }

    #[test]
    fn patterns_mean_what_redis_means() {
        for (pattern, fine, wrong) in [
            ("h?llo", &["hello", "hxllo"][..], &["hllo", "heello"][..]),
            ("h*llo", &["hllo", "heeeello", "hllollo"], &["hll", "ahllo"]),
            ("h[ae]llo", &["hello", "hallo"], &["hillo", "hllo"]),
            ("h[^e]llo", &["hallo"], &["hello", "hllo"]),
            ("h[b-a]llo", &["hallo", "hbllo"], &["hcllo"]),
            ("*", &["", "x", "xyz"], &[]),
            ("", &[""], &["x"]),
            ("a\\*b", &["a*b"], &["axb"]),
            ("*a*b*", &["ab", "xaxbx", "aab"], &["ba", "a"]),
            ("[\\]]", &["]"], &["\\"]),
            ("[abc", &["a", "c"], &["[abc", "d"]),
            ("a\\", &["a\\"], &["a"]),
            ("user:[0-9]?:*", &["user:12:x", "user:1a:"], &["user:x2:x"]),
        ] {
            for key in fine {
                assert!(matches(pattern, key), "{pattern} {key}");
            }
            for key in wrong {
                assert!(!matches(pattern, key), "{pattern} {key}");
            }
        }
    }

    #[test]
    fn a_costly_pattern_ends_with_the_budget() {
        let glob = Glob::new("*a".repeat(500).as_bytes()).unwrap();
        let key = "a".repeat(10_000);
        let mut budget = usize::MAX;
        assert_eq!(glob.matches(key.as_bytes(), &mut budget), Ok(true));
        let spent = usize::MAX - budget;
        assert!(spent <= 2 * 1000 * 10_000, "{spent} steps");
        let mut small = 1000;
        let refused = glob.matches(key.replace('a', "b").as_bytes(), &mut small);
        assert_eq!(refused, Err(TooCostly));
        assert!(Glob::new(&[b'x'; MAX_PATTERN + 1]).is_none());
    }
}
