//! What a connection is, and the commands about it: who speaks, which protocol, what the
//! client calls itself.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use bytes::Bytes;

use super::{
    Server,
    frame::integer,
    reply::{OK, Protocol, Reply},
    strings::Refused,
};

/// The longest name of a client (bytes).
const MAX_NAME: usize = 256;

/// What is known of a connection by all: `CLIENT LIST` shows it.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: u64,
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) since: Instant,
    pub(super) told: Mutex<Told>,
}

/// What a client tells of itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    name: String,
    library: String,
    version: String,
    protocol: Protocol,
}

/// What a connection knows of itself.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) protocol: Protocol,
    /// The token was shown.
    pub(super) authenticated: bool,
    /// It asked for the topology, so that it knows what `MOVED` means.
    pub(super) redirects: bool,
    client: Arc<Client>,
}

impl Session {
    pub(super) fn new(client: Arc<Client>) -> Self {
        Self {
            protocol: Protocol::Two,
            authenticated: false,
            redirects: false,
            client,
        }
    }

    /// `AUTH [user] token`.
    pub(super) fn auth(&mut self, server: &Server, args: &[Bytes]) -> Result<Reply, Refused> {
        let (user, shown) = match args {
            [_, shown] => (None, shown),
            [_, user, shown] => (Some(user), shown),
            _ => return Err(Refused::Syntax),
        };
        self.show(server, user.map(AsRef::as_ref), shown)?;
        Ok(OK)
    }

    fn show(&mut self, server: &Server, user: Option<&[u8]>, shown: &[u8]) -> Result<(), Refused> {
        let refused = |text: &str| Err(Refused::Other(text.to_owned()));
        let Some(token) = server.token.get() else {
            return refused(
                "ERR AUTH <password> called without any password configured for the default user. \
                 Are you sure your configuration is correct?",
            );
        };
        let user_is_fine = user.is_none_or(|user| user == b"default");
        let token_is_fine = std::str::from_utf8(shown).is_ok_and(|shown| token.matches(shown));
        if !(user_is_fine && token_is_fine) {
            return refused("WRONGPASS invalid username-password pair or user is disabled.");
        }
        self.authenticated = true;
        Ok(())
    }

    /// `HELLO [2|3 [AUTH user token] [SETNAME name]]`: all of it, or nothing.
    pub(super) fn hello(&mut self, server: &Server, args: &[Bytes]) -> Result<Reply, Refused> {
        let protocol = match args.get(1).map(|version| integer(version)) {
            None => self.protocol,
            Some(Some(2)) => Protocol::Two,
            Some(Some(3)) => Protocol::Three,
            Some(_) => {
                return Err(Refused::Other(
                    "NOPROTO unsupported protocol version".to_owned(),
                ));
            }
        };
        let mut rest = args.get(2..).unwrap_or_default();
        let mut name = None;
        while let [word, behind @ ..] = rest {
            rest = match (word.to_ascii_uppercase().as_slice(), behind) {
                (b"AUTH", [user, shown, behind @ ..]) => {
                    self.show(server, Some(user), shown)?;
                    behind
                }
                (b"SETNAME", [given, behind @ ..]) => {
                    name = Some(word_of_client(given)?);
                    behind
                }
                _ => {
                    let word = String::from_utf8_lossy(word);
                    let text = format!("ERR Syntax error in HELLO option '{word}'");
                    return Err(Refused::Other(text));
                }
            };
        }
        if !self.may_speak(server) {
            return Err(Refused::Other(
                "NOAUTH HELLO must be called with the client already authenticated, otherwise the \
                 HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and \
                 select the RESP protocol version at the same time"
                    .to_owned(),
            ));
        }
        self.protocol = protocol;
        self.tell(|told| {
            told.protocol = protocol;
            if let Some(name) = name {
                told.name = name;
            }
        });
        let pairs = [
            ("server", Reply::text("redis")),
            ("version", Reply::text(super::REDIS_VERSION)),
            ("proto", Reply::Integer(protocol.number())),
            ("id", self.id()),
            ("mode", Reply::text("cluster")),
            ("role", Reply::text("master")),
            ("modules", Reply::Array(Vec::new())),
        ];
        let pairs = pairs.map(|(key, value)| (Reply::text(key), value));
        Ok(Reply::Map(pairs.into()))
    }

    /// Whether commands are taken from it.
    pub(super) fn may_speak(&self, server: &Server) -> bool {
        self.authenticated || server.token.get().is_none()
    }

    /// `RESET`: as if it had just been opened.
    pub(super) fn reset(&mut self) -> Reply {
        *self = Self::new(Arc::clone(&self.client));
        self.tell(|told| *told = Told::default());
        Reply::Simple("RESET")
    }

    /// `CLIENT ...`.
    pub(super) fn client(&self, server: &Server, args: &[Bytes]) -> Result<Reply, Refused> {
        let Some((what, rest)) = args.get(1..).and_then(|args| args.split_first()) else {
            return Err(Refused::Arity("client"));
        };
        match (what.to_ascii_uppercase().as_slice(), rest) {
            (b"SETNAME", [name]) => {
                let name = word_of_client(name)?;
                self.tell(|told| told.name = name);
                Ok(OK)
            }
            (b"GETNAME", []) => {
                let name = self.client.told().name;
                Ok(if name.is_empty() {
                    Reply::Null
                } else {
                    Reply::bulk(name)
                })
            }
            (b"SETINFO", [what, value]) => {
                let value = word_of_client(value)?;
                match what.to_ascii_uppercase().as_slice() {
                    b"LIB-NAME" => self.tell(|told| told.library = value),
                    b"LIB-VER" => self.tell(|told| told.version = value),
                    _ => return Err(Refused::Syntax),
                }
                Ok(OK)
            }
            (b"ID", []) => Ok(self.id()),
            (b"INFO", []) => Ok(Reply::Text(self.client.line())),
            (b"LIST", []) => Ok(Reply::Text(server.clients.list())),
            (b"NO-EVICT" | b"NO-TOUCH", [word]) if is_switch(word) => Ok(OK),
            (b"REPLY", [word]) if word.eq_ignore_ascii_case(b"ON") => Ok(OK),
            (b"GETREDIR", []) => Ok(Reply::Integer(-1)),
            (other, _) => Err(Refused::Other(format!(
                "ERR 'CLIENT {}' is not supported with {} arguments",
                String::from_utf8_lossy(other),
                rest.len()
            ))),
        }
    }

    fn id(&self) -> Reply {
        Reply::Integer(i64::try_from(self.client.id).unwrap_or(i64::MAX))
    }

    fn tell(&self, change: impl FnOnce(&mut Told)) {
        let told = self.client.told.lock();
        change(&mut told.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Client {
    fn told(&self) -> Told {
        let told = self.told.lock();
        told.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A line of `CLIENT LIST`.
    pub(super) fn line(&self) -> String {
        let told = self.told();
        let mut line = String::new();
        // Writing to a String cannot fail.
        writeln!(
            line,
            "id={} addr={} laddr={} fd=-1 name={} age={} idle=0 flags=N db=0 sub=0 psub=0 \
             multi=-1 events=r user=default resp={} lib-name={} lib-ver={}",
            self.id,
            self.from,
            self.to,
            told.name,
            self.since.elapsed().as_secs(),
            told.protocol.number(),
            told.library,
            told.version,
        )
        .unwrap_or_default();
        line
    }
}

/// What a client calls itself: no spaces, so that lists stay lists.
fn word_of_client(word: &[u8]) -> Result<String, Refused> {
    let fine = word.len() <= MAX_NAME && word.iter().all(u8::is_ascii_graphic);
    match std::str::from_utf8(word) {
        Ok(text) if fine => Ok(text.to_owned()),
        _ => Err(Refused::Other(
            "ERR Client names cannot contain spaces, newlines or special characters.".to_owned(),
        )),
    }
}

fn is_switch(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"ON") || word.eq_ignore_ascii_case(b"OFF")
}
