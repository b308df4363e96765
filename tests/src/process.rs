//! One child process: its log, its signals, its end.
//!
//! A child that is dropped is killed and reaped, stopped ones included, and if that happens
//! because a test is failing, the end of its log is printed.

use std::{
    fmt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

use crate::{
    log::{Log, Source},
    reaper,
    wait::{self, Timeout},
};

/// How many lines of a child's log a failing test prints.
const TAIL: usize = 40;

/// A running (or ended) child process.
pub struct Process {
    name: String,
    pid: u32,
    child: Mutex<Child>,
    log: Log,
    explained: bool,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By a signal.
    Killed,
}

impl Process {
    /// Starts a command, with its output going to a [`Log`].
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(name: &str, command: &mut Command) -> Result<Self> {
        let mut child = spawn(command)?;
        let log = Log::default();
        if let Some(stdout) = child.stdout.take() {
            log.follow(Source::Out, stdout);
        }
        if let Some(stderr) = child.stderr.take() {
            log.follow(Source::Err, stderr);
        }
        Ok(Self {
            name: name.to_owned(),
            pid: child.id(),
            child: Mutex::new(child),
            log,
            explained: true,
        })
    }

    /// For the many small processes of which a failing test need not print the log.
    #[must_use]
    pub fn unexplained(mut self) -> Self {
        self.explained = false;
        self
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it has printed.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Sends a signal. One that has ended gets none, and that is not an error.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        // Not reaped under this lock, so the process id cannot be another process's by now.
        let mut child = self.lock();
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        let pid = Pid::from_child(&child);
        kill_process(pid, signal)
            .with_context(|| format!("sending {signal:?} to {} ({pid:?})", self.name))
    }

    /// Kills it as a crash would (SIGKILL). Does not wait for the end.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn ended(&self) -> Result<Option<Exit>> {
        let status = self.lock().try_wait()?;
        if status.is_some() {
            reaper::release_process(self.pid);
        }
        Ok(status.map(Exit::from))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// [`Timeout`] if it still runs after `patience`.
    pub fn wait_end(&self, patience: Duration) -> Result<Exit, Timeout> {
        wait::poll(
            &format!("the end of {}", self.name),
            patience,
            || match self.ended() {
                Ok(Some(exit)) => Ok(exit),
                Ok(None) => Err(format!("it runs; its log ends with: {}", self.log.tail(3))),
                Err(error) => Err(error.to_string()),
            },
        )
    }

    /// Waits for its end with [`wait::PATIENCE`], and for its code.
    ///
    /// # Panics
    /// If it does not end, or ends by a signal.
    #[track_caller]
    pub fn expect_code(&self) -> i32 {
        match self.wait_end(wait::PATIENCE) {
            Ok(Exit::Code(code)) => code,
            Ok(Exit::Killed) => panic!("{} was ended by a signal", self.name),
            Err(timeout) => panic!("{timeout}"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let pid = self.pid;
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        // SIGKILL ends stopped processes too. Failing means that it has ended.
        if child.kill().is_ok() && child.wait().is_ok() {
            reaper::release_process(pid);
        }
        if self.explained && thread::panicking() {
            eprintln!(
                "---- the last lines of {} (process {pid}):\n{}",
                self.name,
                self.log.tail(TAIL)
            );
        }
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.pid)
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        status.code().map_or(Self::Killed, Self::Code)
    }
}

/// Runs a command to its end and gives back its code with what it printed on both streams.
///
/// # Errors
/// If it cannot be started, does not end within [`wait::PATIENCE`], or is ended by a signal.
pub fn run(command: &mut Command) -> Result<(i32, String)> {
    let (code, out, err) = run_apart(command)?;
    Ok((code, format!("{out}{err}")))
}

/// [`run`] with standard output and standard error apart.
///
/// # Errors
/// As [`run`].
pub fn run_apart(command: &mut Command) -> Result<(i32, String, String)> {
    let mut child = spawn(command)?;
    let pid = child.id();
    // Read while it runs, or it could block on a full pipe.
    let out = child.stdout.take().map(read_all);
    let err = child.stderr.take().map(read_all);
    let ended = wait::poll(
        &format!("the end of {command:?}"),
        wait::PATIENCE,
        || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it runs".to_owned()),
            Err(error) => Err(error.to_string()),
        },
    );
    if ended.is_err() {
        child.kill().context("killing a command that hangs")?;
        child.wait()?;
    }
    reaper::release_process(pid);
    let text = |reader: Option<thread::JoinHandle<String>>| {
        reader.and_then(|r| r.join().ok()).unwrap_or_default()
    };
    let (out, err) = (text(out), text(err));
    let status = ended.with_context(|| format!("it printed {out}{err}"))?;
    let code = status
        .code()
        .with_context(|| format!("{command:?} was ended by a signal"))?;
    Ok((code, out, err))
}

/// A child without input whose output can be read, and which does not outlive this process.
fn spawn(command: &mut Command) -> Result<Child> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {command:?}"))?;
    reaper::adopt_process(child.id());
    Ok(child)
}

fn read_all(mut stream: impl std::io::Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        match stream.read_to_end(&mut bytes) {
            Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => format!("(not readable: {error})"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn both_streams_and_the_code_arrive() {
        let process =
            Process::start("a shell", &mut shell("echo out; echo err >&2; exit 3")).unwrap();
        assert_eq!(process.expect_code(), 3);
        wait::until("both lines", || {
            let text = process.log().text();
            let both = text.contains("out") && text.contains("err");
            if both { Ok(()) } else { Err(text) }
        });
        assert!(process.signal(Signal::TERM).is_ok(), "an ended process");
    }

    #[test]
    fn a_stopped_process_is_killed_and_reaped_when_dropped() {
        let process = Process::start("a sleeper", &mut shell("exec sleep 1000")).unwrap();
        let pid = process.pid();
        process.signal(Signal::STOP).unwrap();
        drop(process);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn run_gives_code_and_streams_apart() {
        let (code, out, err) = run_apart(&mut shell("echo a; echo b >&2; exit 7")).unwrap();
        assert_eq!((code, out.as_str(), err.as_str()), (7, "a\n", "b\n"));
    }
}
