//! `kith agent`: a node in the foreground.
//!
//! ```text
//!   settings ─► log ─► client sockets ─► node ─► their threads ─► signals ... ─► stopped ─► exit code
//! ```
//!
//! SIGTERM and SIGINT: the node stops, but will be back. A second one ends the process at
//! once. SIGHUP reads the settings again: see [`reload`].

mod notify;
mod reload;

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use clap::Args;
use kith_proto::output::{Answer, Stop};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
    time::Instant,
};

use super::{Exit, Failure, Outcome, out, out::Out};
use crate::{
    api::{
        self, ApiOptions, Operations,
        resp::{self, RespOptions},
        token::CurrentToken,
    },
    config_file::{
        Founding, Settings, SettingsError, Sources,
        effective::{to_json, to_toml},
        layer::Layer,
    },
    handle::Handle,
    logging::Logging,
    node::{Node, NodeOptions},
};

/// How much longer than `--leave-timeout` the node may take to stop.
const GRACE: Duration = Duration::from_secs(2);
/// Signals so close together are one wish: `timeout` sends its signal to the process and to
/// its group.
const ONE_WISH: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
#[command(
    after_help = "Every setting can also be given in the environment (--data-dir as KITH_DATA_DIR) \
                  or in the file of --config (data-dir = \"...\"); flags win over the environment, \
                  which wins over the file. [timing] and [detection] are in the file only. SIGHUP \
                  reads them all again and puts log, tags, weight, token, key and certificates in \
                  force; the log names what takes a restart.\n\n\
                  Example: kith agent --name n1 --listen 10.0.0.1:7400 --key-file kith.key \\\n\
                  \x20                   --seed 10.0.0.2:7400 --seed 10.0.0.3:7400"
)]
pub(super) struct AgentArgs {
    /// File with settings (TOML)
    #[arg(long, value_name = "FILE", env = "KITH_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: Layer,
    /// Print the settings in force as a file, without secrets, and exit
    #[arg(long)]
    print_config: bool,
    /// Stop as with SIGTERM when standard input ends: for whoever started this process and
    /// wants it to end with them
    #[arg(long, hide = true)]
    exit_on_stdin_eof: bool,
}

pub(super) fn run(args: AgentArgs) -> Outcome {
    let sources = Sources::of_process(args.config, args.flags);
    let settings = sources.load()?;
    if args.print_config {
        let text = to_toml(&settings.effective).map_err(|e| Failure::failed(e.to_string()))?;
        Out::stdout().line(text.trim_end())?;
        return Ok(Exit::Done);
    }
    let log = Logging::start(
        &settings.core.name,
        settings.log_format,
        &settings.log,
        out::wants_colour(),
    )
    .map_err(|e| Failure::usage(e.to_string()))?;
    let bind =
        |flag, address| TcpListener::bind(address).map_err(|e| cannot_listen(flag, address, &e));
    let sockets = Sockets {
        http: bind("--http", settings.http)?,
        // What a node without partitions cannot answer is not listened for.
        resp: match Node::HAS_KEYS {
            true => Some(bind("--resp", settings.resp)?),
            false => None,
        },
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("cannot start: {e}")))?;
    let agent = Agent {
        token: CurrentToken::new(settings.token.clone()),
        sources,
        settings,
        log: &log,
        stdin_matters: args.exit_on_stdin_eof,
    };
    let outcome = runtime.block_on(agent.run(sockets));
    // A look-up of names that hangs must not keep the process.
    runtime.shutdown_background();
    outcome
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Self {
        match error {
            // What was asked is right, and what is in the files is not.
            SettingsError::Certificates(_) => Self::failed(error.to_string()),
            SettingsError::Unreadable { .. }
            | SettingsError::File { .. }
            | SettingsError::Environment { .. }
            | SettingsError::Value { .. }
            | SettingsError::Unfit(_) => Self::usage(error.to_string()),
        }
    }
}

fn cannot_listen(flag: &str, address: SocketAddr, error: &std::io::Error) -> Failure {
    let help = match error.kind() {
        std::io::ErrorKind::AddrInUse => format!(
            "; another process has it. {flag} {}:0 takes any free port",
            address.ip()
        ),
        std::io::ErrorKind::PermissionDenied if address.port() < 1024 => {
            "; ports below 1024 need privileges".to_owned()
        }
        std::io::ErrorKind::AddrNotAvailable => "; that is no address of this machine".to_owned(),
        _ => String::new(),
    };
    Failure::failed(format!(
        "cannot listen on {address} ({flag}): {error}{help}"
    ))
}

struct Agent<'a> {
    sources: Sources,
    /// Those in force.
    settings: Settings,
    token: CurrentToken,
    log: &'a Logging,
    stdin_matters: bool,
}

/// Where clients are listened for.
struct Sockets {
    http: TcpListener,
    resp: Option<TcpListener>,
}

impl Sockets {
    fn bound(listener: &TcpListener) -> Result<SocketAddr, Failure> {
        listener
            .local_addr()
            .map_err(|e| Failure::failed(e.to_string()))
    }
}

/// What makes an agent do something.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    stdin_ended: oneshot::Receiver<()>,
}

enum Woken {
    Stopped(Stop),
    AskedToStop(&'static str),
    AskedToReload,
    Overdue,
}

impl Agent<'_> {
    async fn run(mut self, sockets: Sockets) -> Outcome {
        // Before the node starts: from then on a signal must not end the process halfway.
        let mut signals = Signals::watch(self.stdin_matters)?;
        let handle = self.start(&sockets).await?;
        for warning in &self.settings.warnings {
            tracing::warn!(target: "kith::settings", "{warning}");
        }
        notify::when_ready(&handle);
        warn_of_what_has_no_effect(&handle, &self.settings.founding);
        let seeds = &self.settings.core.seeds;
        if !seeds.is_empty() {
            // What comes of it is an event, and may take a while.
            let seeds = seeds.join(", ");
            tracing::info!(target: "kith", "joining through {seeds}");
        }
        let operations = Arc::new(Operations::default());
        let options = ApiOptions {
            token: self.token.clone(),
            operations: Arc::clone(&operations),
        };
        let http = api::spawn(sockets.http, handle.clone(), options)
            .map_err(|e| Failure::failed(format!("cannot serve HTTP: {e}")))?;
        let mut resp = None;
        if let (Some(listener), Some(kv)) = (sockets.resp, handle.kv()) {
            let options = RespOptions {
                token: self.token.clone(),
                moved: self.settings.resp_moved,
                ack: self.settings.resp_ack,
                operations,
            };
            let serving = resp::spawn(listener, handle.clone(), kv.clone(), options);
            resp = Some(serving.map_err(|e| Failure::failed(format!("cannot serve RESP: {e}")))?);
        }
        let outcome = self.watch_over(&handle, &mut signals).await;
        finish_http(http, &outcome);
        if let Some(resp) = resp {
            finish_resp(resp, &outcome);
        }
        outcome
    }

    async fn start(&self, sockets: &Sockets) -> Result<Handle, Failure> {
        let mut config = self.settings.core.clone();
        let told = |listener| Sockets::bound(listener).map(|bound| self.settings.told(bound));
        config.http = Some(told(&sockets.http)?);
        config.resp = sockets.resp.as_ref().map(told).transpose()?;
        let options = NodeOptions {
            config,
            listen: self.settings.listen,
            data_dir: self.settings.data_dir.clone(),
            key: self.settings.key.clone(),
            certificates: self.settings.certificates.clone(),
            insecure: self.settings.insecure,
            settings: to_json(&self.settings.effective),
            partitions: self.settings.partitions(),
        };
        Node::start(options).await.map_err(|e| match e.exit_code() {
            2 => Failure::usage(e.to_string()),
            _ => Failure::failed(e.to_string()),
        })
    }

    /// Until the node has stopped, for whatever reason.
    async fn watch_over(&mut self, handle: &Handle, signals: &mut Signals) -> Outcome {
        let limit = self.settings.core.timing.leave + GRACE;
        let mut asked: Option<Instant> = None;
        loop {
            let deadline = asked.map(|at| at + limit);
            let mut woken = signals.next(handle, deadline).await;
            while matches!(woken, Woken::AskedToReload) {
                // A new key is told to every member, and some may be slow to answer: whoever
                // wants something else meanwhile does not wait for them.
                woken = tokio::select! {
                    biased;
                    woken = signals.next(handle, deadline) => woken,
                    () = self.reload(handle) => signals.next(handle, deadline).await,
                };
            }
            match woken {
                Woken::Stopped(stop) => return ended(stop),
                Woken::AskedToReload => {}
                Woken::AskedToStop(_) if asked.is_some_and(|at| at.elapsed() < ONE_WISH) => {}
                Woken::AskedToStop(by) if asked.is_some() => {
                    return Err(Failure::failed(format!(
                        "stopped at once by {by}: others may see a failure"
                    )));
                }
                Woken::AskedToStop(by) => {
                    tracing::info!(target: "kith", by, "stopping; once more stops at once");
                    asked = Some(Instant::now());
                    notify::stopping();
                    // Asked in a task: whoever is impatient can still ask again.
                    let handle = handle.clone();
                    tokio::spawn(async move {
                        // An error is that it has stopped, which is what is waited for.
                        if let Ok(Answer::Refused(why)) = handle.leave(true).await {
                            tracing::warn!(target: "kith", why, "the node does not leave");
                        }
                    });
                }
                Woken::Overdue => {
                    return Err(Failure::failed(
                        "the node did not stop within --leave-timeout: others may see a failure",
                    ));
                }
            }
        }
    }
}

impl Signals {
    fn watch(stdin_matters: bool) -> Result<Self, Failure> {
        let watch = |kind| {
            signal(kind).map_err(|e| Failure::failed(format!("cannot watch for signals: {e}")))
        };
        let (ended, stdin_ended) = oneshot::channel();
        if stdin_matters {
            // A thread, because reading standard input cannot be given up.
            std::thread::spawn(move || {
                // However it ends, it has ended.
                drop(std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
                // Whoever waited for it may be gone, and then nobody minds.
                let (Ok(()) | Err(())) = ended.send(());
            });
        }
        Ok(Self {
            terminate: watch(SignalKind::terminate())?,
            interrupt: watch(SignalKind::interrupt())?,
            hangup: watch(SignalKind::hangup())?,
            stdin_ended,
        })
    }

    async fn next(&mut self, handle: &Handle, deadline: Option<Instant>) -> Woken {
        let overdue = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        // The end counts more than a wish for it that came at the same time.
        tokio::select! {
            biased;
            stop = handle.stopped() => Woken::Stopped(stop),
            _ = self.terminate.recv() => Woken::AskedToStop("SIGTERM"),
            _ = self.interrupt.recv() => Woken::AskedToStop("SIGINT"),
            _ = self.hangup.recv() => Woken::AskedToReload,
            Ok(()) = &mut self.stdin_ended, if !self.stdin_ended.is_terminated() => {
                Woken::AskedToStop("the end of standard input")
            }
            () = overdue => Woken::Overdue,
        }
    }
}

/// What only founders decide is known once the node is a member.
fn warn_of_what_has_no_effect(handle: &Handle, given: &Founding) {
    let (handle, given) = (handle.clone(), given.clone());
    let ready = notify::until_ready(&handle);
    tokio::spawn(async move {
        // A node that stops meanwhile has nothing to compare with.
        if ready.await
            && let Ok(agent) = handle.agent().await
        {
            for text in given.without_effect(&agent.cluster, &agent.settings) {
                tracing::warn!(target: "kith::settings", "{text}");
            }
        }
    });
}

fn ended(stop: Stop) -> Outcome {
    match stop {
        Stop::Left { acknowledged } => {
            tracing::info!(target: "kith", acknowledged, "stopped");
            Ok(Exit::Done)
        }
        Stop::LeftUncleanly(what) => Err(Failure::failed(what)),
        Stop::Refused(refusal) => Err(Failure::new(Exit::Refused, refusal.to_string())),
    }
}

/// The server ends by itself once the node has; after an end by force nobody waits for it.
fn finish_http(http: JoinHandle<std::io::Result<()>>, outcome: &Outcome) {
    if outcome.is_err() && !http.is_finished() {
        return;
    }
    match http.join() {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(target: "kith::api", %error, "HTTP ended with an error"),
        Err(_panic) => tracing::error!(target: "kith::api", "HTTP ended with a panic"),
    }
}

/// The same of the one for Redis clients.
fn finish_resp(resp: JoinHandle<()>, outcome: &Outcome) {
    if outcome.is_err() && !resp.is_finished() {
        return;
    }
    if resp.join().is_err() {
        tracing::error!(target: "kith::api", "RESP ended with a panic");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_says_how_to_get_another() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = TcpListener::bind(address).unwrap_err();
        let text = cannot_listen("--http", address, &error).message;
        assert!(text.contains("--http 127.0.0.1:0"), "{text}");
    }

    #[test]
    fn refusals_have_their_own_exit_code() {
        use kith_proto::output::Refusal;
        let refused = Stop::Refused(Refusal::Evicted {
            by: "n2".to_owned(),
        });
        assert_eq!(ended(refused).unwrap_err().exit, Exit::Refused);
        let unclean = ended(Stop::LeftUncleanly("x".to_owned())).unwrap_err();
        assert_eq!(unclean.exit, Exit::Failed);
        assert_eq!(ended(Stop::Left { acknowledged: 2 }).unwrap(), Exit::Done);
    }
}
