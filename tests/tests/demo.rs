//! `kith demo`: a cluster of real processes that leaves nothing behind.

#![expect(
    clippy::unwrap_used,
    reason = "what a test may do, its helpers may do too"
)]

use std::{collections::BTreeMap, fs};

use kith_tests::{
    binary,
    process::{Process, Signal},
    wait,
};

#[test]
fn a_demo_starts_shows_and_stops_all_its_nodes() {
    let mut command = binary::command().unwrap();
    command.args(["demo", "--nodes", "3"]);
    let demo = Process::start("the demo", &mut command).unwrap();

    let nodes = wait::until("three agents under the demo", || {
        let nodes = descendants(demo.pid());
        if nodes.len() == 3 {
            Ok(nodes)
        } else {
            Err(format!("{nodes:?}"))
        }
    });
    wait::until("the demo to say where they are and how to kill one", || {
        let text = demo.log().text();
        let told = nodes.keys().all(|pid| text.contains(&pid.to_string()));
        if told && text.contains("kill") {
            Ok(())
        } else {
            Err(text)
        }
    });

    // One is killed, as the demo suggests; it is not started again.
    let victim = *nodes.keys().next().unwrap();
    let mark = demo.log().mark();
    let killed = rustix::process::Pid::from_raw(victim as i32).unwrap();
    rustix::process::kill_process(killed, Signal::KILL).unwrap();
    let failed = |line: &kith_tests::log::Line| line.text.contains("failed").then_some(());
    let noticed = demo.log().wait("the failure", mark, wait::PATIENCE, failed);
    noticed.unwrap();

    // Only the demo gets the signal; on a terminal, all would.
    demo.signal(Signal::INT).unwrap();
    assert_eq!(demo.expect_code(), 0);
    for (pid, what) in &nodes {
        let now = command_line(*pid).unwrap_or_default();
        assert_ne!(&now, what, "process {pid} is left");
    }
}

#[test]
fn a_demo_with_quiet_logs_still_says_where_its_nodes_are() {
    let mut command = binary::command().unwrap();
    command.args(["demo", "--nodes", "2", "--log", "error"]);
    let demo = Process::start("the quiet demo", &mut command).unwrap();
    wait::until("the demo to explain itself", || {
        let text = demo.log().text();
        if text.contains("Ctrl-C") {
            Ok(())
        } else {
            Err(text)
        }
    });
    assert!(!demo.log().text().contains("member_joined"));
    demo.signal(Signal::INT).unwrap();
    assert_eq!(demo.expect_code(), 0);
}

/// Processes below `root` that run `kith agent`, with their command lines.
fn descendants(root: u32) -> BTreeMap<u32, String> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name();
        let Ok(pid) = name.to_string_lossy().parse::<u32>() else {
            continue;
        };
        if let Some(parent) = parent(pid) {
            parents.insert(pid, parent);
        }
    }
    let below = |mut pid: u32| {
        while let Some(&parent) = parents.get(&pid) {
            if parent == root {
                return true;
            }
            pid = parent;
        }
        false
    };
    let pids = parents.keys().copied().filter(|&pid| below(pid));
    pids.filter_map(|pid| Some((pid, command_line(pid)?)))
        .filter(|(_, line)| line.contains(" agent "))
        .collect()
}

/// The fourth field of `/proc/PID/stat`, after the name, which may contain anything.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after = stat.rsplit_once(')')?.1;
    after.split_whitespace().nth(1)?.parse().ok()
}

fn command_line(pid: u32) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(String::from_utf8_lossy(&bytes).replace('\0', " "))
}
