//! What is measured: how a node of it is started, and how its log is read.

use std::{fmt, net::SocketAddr, path::Path, process::Command, time::SystemTime};

use anyhow::Result;
use clap::ValueEnum;
use kith_tests::{agent::Spec, log::Line, process::Signal};

/// A kind of software that keeps a membership.
#[derive(Clone, Debug)]
pub(crate) enum Subject {
    /// This one.
    Kith {
        /// Mechanisms that are switched off.
        without: Vec<Mechanism>,
    },
    /// HashiCorp's Serf with its LAN profile, as it is installed.
    Serf,
}

/// A mechanism of Kith's detection that can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mechanism {
    /// What broken streams and refused connections tell.
    Evidence,
    /// Local health, confirmations, the buddy.
    Lifeguard,
    /// News is gossiped when it is learnt.
    Bursts,
}

/// Where a node runs.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Its name.
    pub(crate) name: String,
    /// Its gossip address.
    pub(crate) listen: SocketAddr,
    /// Where its client interface listens.
    pub(crate) client: SocketAddr,
    /// Its namespace, if it has one.
    pub(crate) namespace: Option<String>,
    /// The gossip address of the one seed; none for the seed itself.
    pub(crate) seed: Option<SocketAddr>,
}

/// What a node says about another.
#[derive(Clone, Debug)]
pub(crate) struct News {
    /// When, by the node's own words if it is that exact, else when it was read.
    pub(crate) at: SystemTime,
    /// What.
    pub(crate) kind: Kind,
    /// About whom.
    pub(crate) member: String,
}

/// What can be said about a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It is a member and alive: for the first time, in a new life, or after a false alarm.
    Alive,
    /// It has failed.
    Failed,
    /// It has left.
    Left,
}

impl Subject {
    /// The command that starts a node of it. `folder` is for what the node keeps, of which
    /// only one thing survives a restart: who it is.
    pub(crate) fn command(&self, place: &Place, folder: &Path) -> Result<Command> {
        match self {
            Self::Kith { .. } => {
                let mut spec = Spec::new(&place.name, place.listen);
                spec.http = place.client;
                spec.seeds = place.seed.iter().map(SocketAddr::to_string).collect();
                spec.data = Some(folder.join(&place.name));
                spec.key = Some(folder.join("key"));
                spec.config = Some(folder.join("kith.toml"));
                spec.namespace = place.namespace.clone();
                spec.command()
            }
            Self::Serf => {
                let mut command = match &place.namespace {
                    Some(namespace) => kith_tests::netns::enter(namespace, "serf"),
                    None => Command::new("serf"),
                };
                command.args(["agent", "-profile=lan", "-log-level=info"]);
                command.arg(format!("-node={}", place.name));
                command.arg(format!("-bind={}", place.listen));
                command.arg(format!("-rpc-addr={}", place.client));
                if let Some(seed) = place.seed {
                    // With plain -join a node gives up if the seed is not there yet; and the
                    // default of 30 s between tries would measure nothing but itself.
                    command.arg(format!("-retry-join={seed}"));
                    command.arg("-retry-interval=1s");
                }
                Ok(command)
            }
        }
    }

    /// The configuration file of Kith.
    pub(crate) fn config(&self) -> String {
        let Self::Kith { without } = self else {
            return String::new();
        };
        let mut text = String::from("[detection]\n");
        for mechanism in without {
            text.push_str(&format!("{} = false\n", mechanism.name()));
        }
        text
    }

    /// The signal that makes a node leave gracefully.
    pub(crate) fn leave_signal(&self) -> Signal {
        match self {
            Self::Kith { .. } => Signal::TERM,
            Self::Serf => Signal::INT,
        }
    }

    /// What a line of the log says about a member, if it does.
    pub(crate) fn news(&self, line: &Line) -> Option<News> {
        match self {
            Self::Kith { .. } => kith_news(line),
            Self::Serf => serf_news(line),
        }
    }
}

fn kith_news(line: &Line) -> Option<News> {
    let event = line.event()?;
    let kind = match event.name() {
        "member_joined" | "member_rejoined" => Kind::Alive,
        // From a suspicion it recovers without ever having been gone.
        "member_recovered" if event.number("failed_ms").is_some() => Kind::Alive,
        "member_failed" => Kind::Failed,
        "member_left" | "member_evicted" => Kind::Left,
        _ => return None,
    };
    Some(News {
        at: event.at,
        kind,
        member: event.text("member").to_owned(),
    })
}

/// `2026/01/02 03:04:05 [INFO] serf: EventMemberFailed: n3 10.77.0.3`
fn serf_news(line: &Line) -> Option<News> {
    let (_, event) = line.text.split_once("serf: EventMember")?;
    let (name, rest) = event.split_once(": ")?;
    let kind = match name {
        "Join" => Kind::Alive,
        "Failed" => Kind::Failed,
        "Leave" => Kind::Left,
        _ => return None,
    };
    Some(News {
        at: line.arrived_at,
        kind,
        member: rest.split_whitespace().next()?.to_owned(),
    })
}

impl Mechanism {
    fn name(self) -> &'static str {
        match self {
            Self::Evidence => "evidence",
            Self::Lifeguard => "lifeguard",
            Self::Bursts => "bursts",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serf => f.write_str("Serf"),
            Self::Kith { without } => {
                f.write_str("Kith")?;
                for mechanism in without {
                    write!(f, " −{}", mechanism.name())?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Cursor, time::Duration};

    use kith_tests::log::{Log, Source};

    use super::*;

    fn line(text: &'static str) -> Line {
        let log = Log::default();
        log.follow(Source::Out, Cursor::new(text));
        let patience = Duration::from_secs(10);
        log.wait("the line", 0, patience, |line| Some(line.clone()))
            .unwrap()
    }

    #[test]
    fn reads_serfs_log() {
        let line = line("    2026/01/02 03:04:05 [INFO] serf: EventMemberFailed: n3 10.77.0.3");
        let news = Subject::Serf.news(&line).unwrap();
        assert_eq!((news.kind, news.member.as_str()), (Kind::Failed, "n3"));
    }

    #[test]
    fn reads_kiths_log() {
        let line =
            line(r#"{"event":"member_rejoined","member":"n4","timestamp":"2026-01-02T03:04:05Z"}"#);
        let subject = Subject::Kith { without: vec![] };
        let news = subject.news(&line).unwrap();
        assert_eq!((news.kind, news.member.as_str()), (Kind::Alive, "n4"));
        assert!(news.at < SystemTime::now());
    }

    #[test]
    fn says_what_is_switched_off() {
        let subject = Subject::Kith {
            without: vec![Mechanism::Evidence, Mechanism::Bursts],
        };
        assert_eq!(subject.to_string(), "Kith −evidence −bursts");
        assert_eq!(
            subject.config(),
            "[detection]\nevidence = false\nbursts = false\n"
        );
    }
}
