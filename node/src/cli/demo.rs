//! `kith demo`: a local cluster of real processes, to be shot at.
//!
//! ```text
//!   demo ──starts──► agent n1 ─┐ its log (JSON) tells where it listens
//!    │               agent n2 ─┤ --seed n1
//!    │  stdin (held) agent n3 ─┘
//!    └──────────────► ends when the demo does, however that ends: agents stop at its end
//! ```
//!
//! Each agent is in a process group of its own, so that Ctrl-C reaches the demo alone, which
//! then lets them stop in good order.

use std::{
    io,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use clap::Args;
use kith_proto::wire::keyring::Key;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdin, Command},
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

use super::{
    Exit, Failure, Outcome,
    lines::describe,
    out::{Cell, Colour, Out},
};
use crate::log_event::READY_TARGET;

/// The name of the cluster, which its key derives from.
const CLUSTER: &str = "demo";
/// How long all agents may take until they are ready.
const START: Duration = Duration::from_secs(20);
/// How long they may take to leave, by their own setting and by the demo's patience.
const LEAVE: (&str, Duration) = ("5s", Duration::from_secs(8));
/// Lines of agents that may wait to be shown.
const QUEUE: usize = 1024;

#[derive(Debug, Args)]
#[command(after_help = "Example: kith demo --nodes 3, and in another terminal kill -9 one of them")]
pub(super) struct DemoArgs {
    /// How many nodes, 1 to 64
    #[arg(long, value_name = "N", default_value_t = 5,
          value_parser = clap::value_parser!(u16).range(1..=64))]
    nodes: u16,
    /// What their logs tell: error, warn, info, debug or trace
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,
}

pub(super) fn run(args: &DemoArgs) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("cannot start: {e}")))?;
    runtime.block_on(async {
        let mut demo = Demo::new(args);
        let outcome = tokio::select! {
            outcome = demo.show() => outcome,
            asked = asked_to_stop() => asked.map(|()| Exit::Done),
        };
        demo.stop().await;
        outcome
    })
}

async fn asked_to_stop() -> Result<(), Failure> {
    let watch = |kind| signal(kind).map_err(|e| Failure::failed(e.to_string()));
    let mut interrupt = watch(SignalKind::interrupt())?;
    let mut terminate = watch(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// A signal that comes together with the first one is the same wish: `timeout` sends its own
/// to the process and to its group.
async fn asked_again() {
    tokio::time::sleep(Duration::from_millis(100)).await;
    // Without signals nobody can ask again.
    if asked_to_stop().await.is_err() {
        std::future::pending::<()>().await;
    }
}

struct Demo<'a> {
    args: &'a DemoArgs,
    out: Out,
    agents: Vec<Agent>,
    reporter: mpsc::Sender<(usize, News)>,
    reports: mpsc::Receiver<(usize, News)>,
}

struct Agent {
    name: String,
    pid: u32,
    /// Held open as long as it shall run.
    stdin: Option<ChildStdin>,
    /// Sent, or dropped, when it shall be killed.
    kill: Option<oneshot::Sender<()>>,
    gossip: String,
    http: String,
    exited: bool,
}

enum News {
    Line(String),
    Exited(io::Result<ExitStatus>),
}

impl<'a> Demo<'a> {
    fn new(args: &'a DemoArgs) -> Self {
        let (reporter, reports) = mpsc::channel(QUEUE);
        Self {
            args,
            out: Out::stdout(),
            agents: Vec::new(),
            reporter,
            reports,
        }
    }

    /// Starts all and shows what they do, until all have ended.
    async fn show(&mut self) -> Outcome {
        let deadline = Instant::now() + START;
        // The first alone: it bootstraps the cluster that the others join.
        self.start(None)?;
        self.until_ready(deadline).await?;
        let seed = self.agents[0].gossip.clone();
        for _ in 1..self.args.nodes {
            self.start(Some(&seed))?;
        }
        self.until_ready(deadline).await?;
        self.explain()?;
        while self.agents.iter().any(|agent| !agent.exited) {
            self.next().await?;
        }
        self.out.line("all nodes have ended")?;
        Ok(Exit::Done)
    }

    fn start(&mut self, seed: Option<&str>) -> Result<(), Failure> {
        let index = self.agents.len();
        let name = format!("n{}", index + 1);
        let cannot = |e| Failure::failed(format!("cannot start an agent: {e}"));
        let program = std::env::current_exe().map_err(cannot)?;
        let mut command = Command::new(program);
        command
            .args([
                "agent",
                "--name",
                &name,
                "--cluster",
                CLUSTER,
                "--ephemeral",
            ])
            .args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            .args(["--resp", "127.0.0.1:0"])
            .args(["--log-format", "json", "--leave-timeout", LEAVE.0])
            .args(["--log", &format!("{},{READY_TARGET}=info", self.args.log)])
            .arg("--exit-on-stdin-eof");
        if let Some(seed) = seed {
            command.args(["--seed", seed]);
        }
        // Settings meant for an agent of the user's are not meant for these.
        for (variable, _) in std::env::vars_os() {
            let name = variable.to_string_lossy();
            if name.starts_with("KITH_") || name == "RUST_LOG" {
                command.env_remove(&variable);
            }
        }
        // The key that nodes without one would take, but without their warning: a node that
        // somebody starts by hand can join.
        command.env(
            "KITH_KEY",
            Key::derived_from_name(CLUSTER).to_base64().as_str(),
        );
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(cannot)?;
        let (kill, killed) = oneshot::channel();
        self.agents.push(Agent {
            name,
            pid: child.id().unwrap_or(0),
            stdin: child.stdin.take(),
            kill: Some(kill),
            gossip: String::new(),
            http: String::new(),
            exited: false,
        });
        tokio::spawn(tend(child, index, killed, self.reporter.clone()));
        Ok(())
    }

    /// Until all that were started say where they listen.
    async fn until_ready(&mut self, deadline: Instant) -> Result<(), Failure> {
        loop {
            if self.agents.iter().all(|agent| !agent.gossip.is_empty()) {
                return Ok(());
            }
            match timeout_at(deadline, self.next()).await {
                Ok(shown) => shown?,
                Err(_elapsed) => {
                    let limit = START.as_secs();
                    return Err(Failure::failed(format!(
                        "not all nodes were ready within {limit} s"
                    )));
                }
            }
            let gone = |agent: &&Agent| agent.exited && agent.gossip.is_empty();
            if let Some(agent) = self.agents.iter().find(gone) {
                return Err(Failure::failed(format!("{} did not start", agent.name)));
            }
        }
    }

    /// Shows the next thing that an agent does.
    async fn next(&mut self) -> Result<(), Failure> {
        // There is always news to come, or to wait for: a sender is held here.
        let Some((index, news)) = self.reports.recv().await else {
            return Ok(());
        };
        let name = self.name(index);
        let line = match news {
            News::Line(line) => match serde_json::from_str::<Value>(&line) {
                Ok(object) if object.is_object() => {
                    if object["event"] == "agent_ready" {
                        let text = |field: &str| object[field].as_str().unwrap_or("").to_owned();
                        self.agents[index].gossip = text("gossip");
                        self.agents[index].http = format!("http://{}", text("http"));
                    }
                    describe(&self.out, &object, false)
                }
                _ => line,
            },
            News::Exited(status) => {
                self.agents[index].exited = true;
                self.out.paint(Colour::Odd, &self.obituary(index, &status))
            }
        };
        self.out.line(format!("{name} {line}"))?;
        Ok(())
    }

    fn name(&self, index: usize) -> String {
        let width = self.agents.iter().map(|a| a.name.len()).max().unwrap_or(0);
        let name = format!("{:<width$} |", self.agents[index].name);
        self.out.paint(Colour::Name(index), &name)
    }

    fn obituary(&self, index: usize, status: &io::Result<ExitStatus>) -> String {
        use std::os::unix::process::ExitStatusExt as _;
        let pid = self.agents[index].pid;
        let how = match status {
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("ended with exit code {code}"),
                (None, Some(signal)) => format!("was killed by signal {signal}"),
                (None, None) => "ended".to_owned(),
            },
            Err(error) => format!("is lost: {error}"),
        };
        let left = self.agents.iter().filter(|agent| !agent.exited).count();
        format!("process {pid} {how}; {left} left")
    }

    fn explain(&mut self) -> io::Result<()> {
        let rows: Vec<[Cell; 4]> = self
            .agents
            .iter()
            .enumerate()
            .map(|(index, agent)| {
                [
                    Cell::coloured(agent.name.clone(), Colour::Name(index)),
                    agent.pid.to_string().into(),
                    agent.gossip.clone().into(),
                    agent.http.clone().into(),
                ]
            })
            .collect();
        self.out.line("")?;
        self.out.table(["node", "pid", "gossip", "http"], &rows)?;
        let (first, last) = (&self.agents[0], &self.agents[self.agents.len() - 1]);
        let hints = [
            ("kill one:", format!("kill -9 {}", last.pid)),
            (
                "pause one:",
                format!("kill -STOP {0}; sleep 4; kill -CONT {0}", last.pid),
            ),
            (
                "who is there:",
                format!("kith members --watch --agent {}", first.http),
            ),
            (
                "who owns what:",
                format!("kith ring --agent {}", first.http),
            ),
            (
                "join it:",
                format!(
                    "kith agent --name me --cluster {CLUSTER} --ephemeral --listen 127.0.0.1:0 \
                     --http 127.0.0.1:0 --resp 127.0.0.1:0 --seed {}",
                    first.gossip
                ),
            ),
            ("end:", "Ctrl-C".to_owned()),
        ];
        self.out.line("")?;
        for (what, how) in hints {
            self.out.line(format!("{what:<15}{how}"))?;
        }
        self.out.line("")
    }

    /// Lets all leave, and kills those that do not in time, or at once when asked again.
    async fn stop(&mut self) {
        for agent in &mut self.agents {
            agent.stdin = None;
        }
        let deadline = Instant::now() + LEAVE.1;
        let all = async {
            while self.agents.iter().any(|agent| !agent.exited) {
                if self.next().await.is_err() {
                    // Nobody reads any more; they are waited for all the same.
                    self.out = Out::nowhere();
                }
            }
        };
        let in_time = tokio::select! {
            ended = timeout_at(deadline, all) => ended.is_ok(),
            () = asked_again() => false,
        };
        if in_time {
            return;
        }
        for agent in &mut self.agents {
            agent.kill = None;
        }
        while self.agents.iter().any(|agent| !agent.exited) {
            if self.next().await.is_err() {
                self.out = Out::nowhere();
            }
        }
    }
}

/// Passes on what an agent writes, until it has ended.
async fn tend(
    mut child: Child,
    index: usize,
    killed: oneshot::Receiver<()>,
    news: mpsc::Sender<(usize, News)>,
) {
    let lines = |stream: Option<Box<dyn tokio::io::AsyncRead + Send + Unpin>>| {
        let news = news.clone();
        async move {
            let Some(stream) = stream else { return };
            let mut lines = BufReader::new(stream).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                // Nobody listens once the demo has ended.
                if news.send((index, News::Line(line))).await.is_err() {
                    return;
                }
            }
        }
    };
    let out = child.stdout.take().map(|s| Box::new(s) as _);
    let err = child.stderr.take().map(|s| Box::new(s) as _);
    let (out, err) = (tokio::spawn(lines(out)), tokio::spawn(lines(err)));
    let status = tokio::select! {
        status = child.wait() => status,
        // Sent or dropped: both mean it.
        _ = killed => match child.start_kill() {
            Ok(()) => child.wait().await,
            Err(error) => Err(error),
        },
    };
    // What it wrote comes before the news of its end.
    for reader in [out, err] {
        drop(reader.await);
    }
    drop(news.send((index, News::Exited(status))).await);
}
