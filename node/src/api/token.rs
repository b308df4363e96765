//! The token that clients show.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use ring::hmac;

/// A secret of 16 to 256 visible ASCII characters. Neither it nor its length can be learnt
/// from how long a comparison takes, and `Debug` does not show it.
#[derive(Clone)]
pub struct Token {
    text: String,
    key: hmac::Key,
    tag: hmac::Tag,
}

/// What clients must show at the moment, if anything. Clones share it, so that it can be
/// changed while the interface is served.
#[derive(Clone, Debug, Default)]
pub struct CurrentToken(Arc<RwLock<Option<Arc<Token>>>>);

/// Text that cannot be a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the text is not a token")]
pub struct NotAToken;

impl Token {
    /// What a token may be.
    pub const ALLOWED: &'static str = "16 to 256 visible ASCII characters on one line";

    /// Reads one, with white space around it ignored.
    ///
    /// # Errors
    /// [`NotAToken`]; see [`Self::ALLOWED`].
    pub fn parse(text: &str) -> Result<Self, NotAToken> {
        let text = text.trim();
        let fine = (16..=256).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if !fine {
            return Err(NotAToken);
        }
        // Both sides of a comparison are hashed with a key that nobody outside knows, which
        // makes the time it takes tell nothing. The token is such a key.
        let key = hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes());
        let tag = hmac::sign(&key, text.as_bytes());
        Ok(Self {
            text: text.to_owned(),
            key,
            tag,
        })
    }

    /// Whether a client showed it.
    pub fn matches(&self, shown: &str) -> bool {
        hmac::verify(&self.key, shown.as_bytes(), self.tag.as_ref()).is_ok()
    }

    /// The token itself, for a request's header.
    pub fn reveal(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.matches(&other.text)
    }
}

impl Eq for Token {}

impl CurrentToken {
    /// Asks for that one, or for none.
    pub fn new(token: Option<Token>) -> Self {
        Self(Arc::new(RwLock::new(token.map(Arc::new))))
    }

    /// What is asked for now.
    pub fn get(&self) -> Option<Arc<Token>> {
        let current = self.0.read().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }

    /// Asks for another one from the next request on. Who follows the events goes on.
    pub fn set(&self, token: Option<Token>) {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *current = token.map(Arc::new);
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_matches() {
        let token = Token::parse(" 0123456789abcdef\n").unwrap();
        assert!(token.matches("0123456789abcdef"));
        for wrong in [
            "",
            "0123456789abcdeg",
            "0123456789abcdef0",
            "0123456789abcde",
        ] {
            assert!(!token.matches(wrong), "{wrong:?} matched");
        }
        assert_eq!(format!("{token:?}"), "Token(..)");
        assert_eq!(token, Token::parse("0123456789abcdef").unwrap());
        assert_ne!(token, Token::parse("0123456789abcdeg").unwrap());
        for wrong in ["", "short", "with space 0123456789", "0123456789abcdef\n1"] {
            assert!(Token::parse(wrong).is_err(), "{wrong:?} was taken");
        }
    }
}
