//! One `kith agent`: how it is started, what it has said, what can be asked of it.

mod spec;

use std::{net::SocketAddr, process::Command, time::Duration};

use anyhow::{Context, Result};
use kith::client::Client;
use kith::view::{AgentView, KeyView, MemberView, PartitionView, Status, StatusView};
use serde_json::Value;

use crate::{
    binary, http,
    log::Event,
    process::{Exit, Process, Signal},
    wait::{self, PATIENCE, Timeout},
};
pub use spec::Spec;

/// What an agent says when it is a member.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Its id, 16 hexadecimal digits.
    pub id: String,
    /// Which of its lives.
    pub generation: u64,
    /// Gossip and peer address told to others.
    pub gossip: SocketAddr,
    /// HTTP address.
    pub http: SocketAddr,
    /// RESP address.
    pub resp: SocketAddr,
    /// How many members it knows, itself included.
    pub members: u64,
    /// The event itself.
    pub event: Event,
}

/// A running (or ended) agent.
#[derive(Debug)]
pub struct Agent {
    spec: Spec,
    process: Process,
}

impl Agent {
    /// How it was started.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The process: its log, its signals, its end.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Kills it as a crash would, and waits until the process is gone.
    ///
    /// # Panics
    /// If it survives that.
    #[track_caller]
    pub fn kill(&self) {
        self.signal(Signal::KILL);
        assert_eq!(self.wait_end(), Exit::Killed);
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If the system refuses.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        if let Err(error) = self.process.signal(signal) {
            panic!("{error:#}");
        }
    }

    #[track_caller]
    fn wait_end(&self) -> Exit {
        match self.process.wait_end(PATIENCE) {
            Ok(exit) => exit,
            Err(timeout) => panic!("{timeout}"),
        }
    }

    /// The position in its log after all that has arrived.
    pub fn mark(&self) -> usize {
        self.process.log().mark()
    }

    /// All events after a position.
    pub fn events_since(&self, mark: usize) -> Vec<Event> {
        self.process.log().events_since(mark)
    }

    /// Waits for an event after a position.
    ///
    /// # Errors
    /// [`Timeout`].
    pub fn wait_event(
        &self,
        what: &str,
        mark: usize,
        patience: Duration,
        mut wanted: impl FnMut(&Event) -> bool,
    ) -> Result<Event, Timeout> {
        let what = format!("{what} in the log of {}", self.name());
        self.process.log().wait(&what, mark, patience, |line| {
            line.event().filter(|event| wanted(event))
        })
    }

    /// Waits with [`PATIENCE`] for an event about a member, after a position.
    ///
    /// # Panics
    /// If it does not come.
    #[track_caller]
    pub fn expect_event(&self, mark: usize, event: &str, member: &str) -> Event {
        let what = format!("{event} about {member}");
        match self.wait_event(&what, mark, PATIENCE, |e| e.is(event, member)) {
            Ok(event) => event,
            Err(timeout) => panic!("{timeout}"),
        }
    }

    /// Waits with [`PATIENCE`] for an event of that name, after a position.
    ///
    /// # Panics
    /// If it does not come.
    #[track_caller]
    pub fn expect_named(&self, mark: usize, event: &str) -> Event {
        match self.wait_event(event, mark, PATIENCE, |e| e.name() == event) {
            Ok(event) => event,
            Err(timeout) => panic!("{timeout}"),
        }
    }

    /// Waits with [`PATIENCE`] for a line that is no event and contains that text, after a
    /// position.
    ///
    /// # Panics
    /// If it does not come.
    #[track_caller]
    pub fn expect_line(&self, mark: usize, part: &str) -> Value {
        let what = format!("{part:?} in the log of {}", self.name());
        let line = self.process.log().wait(&what, mark, PATIENCE, |line| {
            let body = line.json.as_ref()?;
            let text = body.get("message")?.as_str()?;
            text.contains(part).then(|| body.clone())
        });
        match line {
            Ok(line) => line,
            Err(timeout) => panic!("{timeout}"),
        }
    }

    /// Checks that no event after a position is such a one.
    ///
    /// # Panics
    /// If one is.
    #[track_caller]
    pub fn forbid(&self, mark: usize, what: &str, forbidden: impl Fn(&Event) -> bool) {
        let found = self.events_since(mark).into_iter().find(|e| forbidden(e));
        if let Some(event) = found {
            panic!("{} logged {what}: {}", self.name(), event.body);
        }
    }

    /// Waits until it is a member.
    ///
    /// # Errors
    /// [`Timeout`].
    pub fn wait_ready(&self, patience: Duration) -> Result<Ready> {
        let event = self.wait_event("agent_ready", 0, patience, |e| e.name() == "agent_ready")?;
        let address = |field: &str| -> Result<SocketAddr> {
            let text = event.text(field);
            text.parse()
                .with_context(|| format!("agent_ready: {field} is {text:?}"))
        };
        Ok(Ready {
            id: event.text("id").to_owned(),
            generation: event
                .number("generation")
                .context("agent_ready: generation")?,
            gossip: address("gossip")?,
            http: address("http")?,
            resp: address("resp")?,
            members: event.number("members").context("agent_ready: members")?,
            event,
        })
    }

    /// Waits with [`PATIENCE`] until it is a member.
    ///
    /// # Panics
    /// If it does not become one.
    #[track_caller]
    pub fn expect_ready(&self) -> Ready {
        match self.wait_ready(PATIENCE) {
            Ok(ready) => ready,
            Err(error) => panic!("{error:#}"),
        }
    }

    /// Where its HTTP interface listens, once it is a member.
    ///
    /// # Errors
    /// If it does not become one.
    pub fn http(&self) -> Result<SocketAddr> {
        Ok(self.wait_ready(PATIENCE)?.http)
    }

    /// The value of `--agent` (or `KITH_AGENT`) that makes client commands ask this one.
    ///
    /// # Panics
    /// If it does not become a member.
    #[track_caller]
    pub fn url(&self) -> String {
        format!("http://{}", self.expect_ready().http)
    }

    /// A client command that asks this agent.
    ///
    /// # Errors
    /// If there is no binary, or the agent is no member.
    pub fn client(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = binary::command()?;
        command.args(arguments);
        command
            .arg("--agent")
            .arg(format!("http://{}", self.http()?));
        Ok(command)
    }

    /// The client library's way to ask this agent.
    ///
    /// # Panics
    /// If it does not become a member.
    #[track_caller]
    pub fn library(&self) -> Client {
        match Client::new(&self.url(), None) {
            Ok(client) => client,
            Err(error) => panic!("{error}"),
        }
    }

    /// `GET /v1/members`.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn members(&self) -> Result<Vec<MemberView>> {
        http::view(self.http()?, "/v1/members")
    }

    /// `GET /v1/partitions`.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn partitions(&self) -> Result<Vec<PartitionView>> {
        http::view(self.http()?, "/v1/partitions")
    }

    /// `GET /v1/status`.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn status(&self) -> Result<StatusView> {
        http::view(self.http()?, "/v1/status")
    }

    /// `GET /v1/agent`.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn about(&self) -> Result<AgentView> {
        http::view(self.http()?, "/v1/agent")
    }

    /// `GET /v1/keys`.
    ///
    /// # Panics
    /// If it does not answer.
    #[track_caller]
    pub fn expect_keys(&self) -> Vec<KeyView> {
        match self.http().and_then(|http| http::view(http, "/v1/keys")) {
            Ok(keys) => keys,
            Err(error) => panic!("{error:#}"),
        }
    }

    /// Anything else; errors of the server are answers too.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<http::Response> {
        http::request(method, self.http()?, path, body)
    }

    /// The sum of all metrics of which the name contains `part`.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn metric(&self, part: &str) -> Result<f64> {
        Ok(sum_metrics(&self.ask("GET", "/metrics", None)?.body, part))
    }

    /// Waits with [`PATIENCE`] until it sees exactly `names` as members that are alive (others
    /// may be listed with another status).
    ///
    /// # Panics
    /// If that does not happen.
    #[track_caller]
    pub fn expect_alive(&self, names: &[&str]) {
        let mut wanted: Vec<&str> = names.to_vec();
        wanted.sort_unstable();
        let what = format!("{} to see exactly {wanted:?} alive", self.name());
        wait::until(&what, || {
            let members = self.members().map_err(|error| format!("{error:#}"))?;
            let mut alive: Vec<&str> = members
                .iter()
                .filter(|m| m.status == Status::Alive)
                .map(|m| m.name.as_str())
                .collect();
            alive.sort_unstable();
            if alive == wanted {
                Ok(())
            } else {
                Err(describe(&members))
            }
        });
    }

    /// Waits with [`PATIENCE`] until it sees a member with that status.
    ///
    /// # Panics
    /// If that does not happen.
    #[track_caller]
    pub fn expect_status(&self, member: &str, status: Status) -> MemberView {
        let what = format!("{} to see {member} {status:?}", self.name());
        wait::until(&what, || {
            let members = self.members().map_err(|error| format!("{error:#}"))?;
            let found = members
                .iter()
                .find(|m| m.name == member && m.status == status);
            found.cloned().ok_or_else(|| describe(&members))
        })
    }
}

/// `name=status` of each.
fn describe(members: &[MemberView]) -> String {
    let each: Vec<String> = members
        .iter()
        .map(|m| format!("{}={:?}", m.name, m.status))
        .collect();
    format!("{} members: {}", each.len(), each.join(" "))
}

/// The sum over a Prometheus text of all samples of which the name contains `part`.
fn sum_metrics(text: &str, part: &str) -> f64 {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .filter(|(series, _)| {
            let name = series.split('{').next().unwrap_or(series);
            name.contains(part)
        })
        .filter_map(|(_, value)| value.parse::<f64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_by_part_of_their_name() {
        let text = "# TYPE kith_x counter\nkith_rejected_total{why=\"size\"} 3\n\
                    kith_rejected_total{why=\"key\"} 4\nkith_members 9\n";
        assert_eq!(sum_metrics(text, "rejected"), 7.0);
        assert_eq!(sum_metrics(text, "size"), 0.0);
    }
}
