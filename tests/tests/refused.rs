//! What a user reads, and the exit code, when a node cannot start or may not join.

#![expect(
    clippy::unwrap_used,
    reason = "what a test may do, its helpers may do too"
)]

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::Command,
};

use kith_tests::{
    agent::{Agent, Spec},
    binary,
    cluster::{self, Cluster, test_key},
    host::Host,
    log::Event,
    process,
};

#[test]
fn wrong_key() {
    let mut cluster = cluster::of(1).start();
    let mark = cluster.node(0).mark();
    // Somebody who tries all ports must not keep the line about the key from being told.
    let mut scanner = TcpStream::connect(cluster.spec(0).address()).unwrap();
    scanner.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    match scanner.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(reset) => assert_eq!(reset.kind(), ErrorKind::ConnectionReset),
    }
    let newcomer = start_changed(&mut cluster, |spec| {
        let key = spec.key.as_mut().unwrap();
        key.set_file_name("another key");
        fs::write(key, test_key(2)).unwrap();
    });
    expect_refusal(
        &newcomer,
        4,
        &["key", &cluster.spec(0).address().to_string()],
    );
    let warned = "turned away a node that does not hold this cluster's key";
    cluster.node(0).expect_line(mark, warned);
    cluster.node(0).expect_alive(&["n1"]);
}

#[test]
fn no_key_where_there_is_one() {
    let mut cluster = cluster::of(1).start();
    let newcomer = start_changed(&mut cluster, |spec| spec.key = None);
    expect_refusal(&newcomer, 4, &["key"]);
}

#[test]
fn wrong_cluster() {
    let mut cluster = cluster::of(1).flags(&["--cluster", "blue"]).start();
    let newcomer = start_changed(&mut cluster, |spec| {
        spec.more = vec!["--cluster".into(), "green".into()];
    });
    expect_refusal(&newcomer, 4, &["blue", "green"]);
    cluster.node(0).expect_alive(&["n1"]);
}

#[test]
fn taken_name() {
    let mut cluster = cluster::of(3).start();
    let holder = cluster.spec(2).address().to_string();
    let newcomer = start_changed(&mut cluster, |spec| spec.name = "n3".into());
    let own = newcomer.spec().address().to_string();
    expect_refusal(&newcomer, 4, &["n3", &holder, &own]);
    // The holder has not noticed more than a question.
    cluster.expect_all_alive();
}

#[test]
fn taken_port() {
    let host = Host::claim().unwrap();
    let taken = TcpListener::bind((host.ip(), 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let agent = Spec::new("n1", address).start().unwrap();
    expect_refusal(&agent, 1, &[&address.to_string()]);
}

#[test]
fn taken_http_port() {
    let host = Host::claim().unwrap();
    let taken = TcpListener::bind((host.ip(), 0)).unwrap();
    let mut spec = Spec::new("n1", host.free().unwrap());
    spec.http = taken.local_addr().unwrap();
    expect_refusal(&spec.start().unwrap(), 1, &[&spec.http.to_string()]);
}

#[test]
fn data_directory_in_use() {
    let cluster = cluster::of(1).durable().start();
    let host = Host::claim().unwrap();
    let mut spec = Spec::new("n2", host.free().unwrap());
    spec.data = Some(cluster.folder().join("n1"));
    let agent = spec.start().unwrap();
    expect_refusal(
        &agent,
        1,
        &[&cluster.folder().join("n1").display().to_string()],
    );
    cluster.node(0).expect_alive(&["n1"]);
}

#[test]
fn data_directory_that_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "not a folder").unwrap();
    let host = Host::claim().unwrap();
    let mut spec = Spec::new("n1", host.free().unwrap());
    spec.data = Some(file.clone());
    expect_refusal(&spec.start().unwrap(), 1, &[&file.display().to_string()]);
}

#[test]
fn wrong_usage() {
    for (arguments, told) in [
        (["--no-such-flag", "1"], "--no-such-flag"),
        (["--listen", "nonsense"], "nonsense"),
        (["--partitions", "3"], "partitions"),
        (["--weight", "0"], "weight"),
    ] {
        let mut command = agent_command();
        command.args(arguments);
        let (code, text) = process::run(&mut command).unwrap();
        assert_eq!(code, 2, "{arguments:?}: {text}");
        assert!(text.contains(told), "{arguments:?}: {text}");
    }
}

#[test]
fn a_configuration_file_with_an_unknown_key() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("kith.toml");
    fs::write(&config, "[timing]\nunresponsiv = \"1s\"\n").unwrap();
    let mut command = agent_command();
    command.arg("--config").arg(&config);
    let (code, text) = process::run(&mut command).unwrap();
    assert_eq!(code, 2, "{text}");
    assert!(
        text.contains("unresponsiv") && text.contains("kith.toml"),
        "{text}"
    );
}

#[test]
fn no_key_on_an_open_address() {
    let mut command = agent_command();
    command.args(["--listen", "0.0.0.0:0"]);
    let (code, text) = process::run(&mut command).unwrap();
    assert!(matches!(code, 1 | 2), "code {code}: {text}");
    assert!(
        text.contains("key") && text.contains("--insecure"),
        "{text}"
    );
}

#[test]
fn an_unreachable_seed_is_tried_until_it_is_there() {
    let settings = "[timing]\njoin-report = \"300ms\"\nredial = \"200ms\"\n";
    let mut cluster = cluster::of(2).config(settings).prepare().unwrap();
    // Only the second: its seed, the first, is not there yet.
    let newcomer = cluster.spec(1).start().unwrap();
    let seed = cluster.spec(0).address().to_string();
    let names_the_seed =
        |event: &Event| event.list("seeds").iter().any(|told| told.contains(&seed));
    let mut mark = 0;
    for _ in 0..2 {
        let waiting = newcomer.expect_named(mark, "join_waiting");
        mark = newcomer.mark();
        assert!(names_the_seed(&waiting), "{}", waiting.body);
    }
    newcomer.forbid(0, "that it is a member", |e| e.name() == "agent_ready");

    let first = cluster.spec(0).start().unwrap();
    newcomer.expect_alive(&["n1", "n2"]);
    first.expect_alive(&["n1", "n2"]);
}

/// An agent with one thing other than the cluster's own have.
fn start_changed(cluster: &mut Cluster, change: impl FnOnce(&mut Spec)) -> Agent {
    let index = cluster.add_spec().unwrap();
    let spec = cluster.spec(index);
    change(spec);
    spec.start().unwrap()
}

/// The process ends by itself with that code, and its words contain these.
#[track_caller]
fn expect_refusal(agent: &Agent, code: i32, words: &[&str]) {
    let ended = agent.process().expect_code();
    let text = kith_tests::wait::until("its last words", || {
        let text = agent.process().log().text();
        let all = words.iter().all(|word| text.contains(word));
        if all {
            Ok(text)
        } else {
            Err(format!("without one of {words:?}: {text}"))
        }
    });
    assert_eq!(ended, code, "{text}");
    // People read this: no debug output, no panic.
    for ugly in ["panicked", "Err(", "Os {"] {
        assert!(!text.contains(ugly), "{text}");
    }
}

fn agent_command() -> Command {
    let mut command = binary::command().unwrap();
    command.args([
        "agent",
        "--ephemeral",
        "--http",
        "127.0.0.1:0",
        "--resp",
        "127.0.0.1:0",
    ]);
    command
}
