//! What kills the children if this process dies without having done so.
//!
//! `Drop` does not run when a test process is interrupted or killed. So one small shell reads
//! from a pipe what there is to clean up; when this process ends, however it ends, the pipe closes
//! and the shell removes what is left.

use std::{
    io::Write,
    process::{ChildStdin, Command, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
};

/// Reads `+ITEM` and `-ITEM` lines. Items are `pid:N` and `netns:NAME`.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
items=
while read -r line; do
  item=${line#?}
  case $line in
    +*) items="$items $item" ;;
    -*) kept=
        for i in $items; do [ "$i" = "$item" ] || kept="$kept $i"; done
        items=$kept ;;
  esac
done
for i in $items; do
  case $i in pid:*) kill -KILL "${i#pid:}" ;; esac
done
for i in $items; do
  case $i in netns:*) ip netns del "${i#netns:}" ;; esac
done
"#;

/// A process to kill if this one ends.
pub(crate) fn adopt_process(pid: u32) {
    tell(&format!("+pid:{pid}"));
}

/// A process that has been reaped: its id may be another's from now on.
pub(crate) fn release_process(pid: u32) {
    tell(&format!("-pid:{pid}"));
}

/// A network namespace to delete if this process ends.
pub(crate) fn adopt_namespace(name: &str) {
    tell(&format!("+netns:{name}"));
}

/// A network namespace that has been deleted.
pub(crate) fn release_namespace(name: &str) {
    tell(&format!("-netns:{name}"));
}

fn tell(line: &str) {
    static PIPE: OnceLock<Option<Mutex<ChildStdin>>> = OnceLock::new();
    let Some(pipe) = PIPE.get_or_init(start) else {
        return;
    };
    let mut pipe = pipe.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(error) = writeln!(pipe, "{line}") {
        eprintln!("the reaper does not listen ({error}); children may be left behind");
    }
}

fn start() -> Option<Mutex<ChildStdin>> {
    let started = Command::new("sh")
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    match started {
        // Never reaped on purpose: it outlives this process.
        Ok(mut shell) => shell.stdin.take().map(Mutex::new),
        Err(error) => {
            eprintln!("no reaper ({error}); children may be left behind if this is interrupted");
            None
        }
    }
}
