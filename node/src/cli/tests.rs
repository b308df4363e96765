use clap::CommandFactory as _;

use super::*;

fn parse(line: &str) -> Result<Command, clap::Error> {
    Cli::try_parse_from(std::iter::once("kith").chain(line.split_whitespace())).map(|c| c.command)
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn the_first_help_fits_a_screen_and_every_command_has_an_example() {
    let help = Cli::command().render_help().to_string();
    assert!(help.lines().count() <= 24, "{help}");
    for command in Cli::command().get_subcommands_mut() {
        let name = command.get_name().to_owned();
        assert!(help.contains(&name), "{name} is not in: {help}");
        let own = command.render_long_help().to_string();
        assert!(own.contains("Example") && own.contains("kith "), "{own}");
        for inner in command
            .get_subcommands_mut()
            .filter(|c| c.get_name() != "help")
        {
            let own = inner.render_long_help().to_string();
            assert!(own.contains("Example"), "{own}");
        }
    }
}

#[test]
fn documented_flags_are_taken() {
    for line in [
        "agent --name n1 --listen 127.0.0.1:0 --advertise 127.0.0.1:1 --http 127.0.0.1:0 --seed a:1 \
         --seed b:2 --expect 3 --data-dir d --key-file k --zone z --weight 7 --tag a=b --tag c= \
         --cluster c --consistency strict --partitions 64 --copies 2 --token-file t \
         --leave-timeout 5s --insecure --log-format json --log debug --config f --max-datagram 2KiB \
         --resp 127.0.0.1:7401 --resp-moved never --max-value 1MiB --sync always",
        "agent --ephemeral --print-config",
        "demo --nodes 3",
        "members --watch --json --agent http://127.0.0.1:1 --token-file t",
        "watch --since 3 --level debug --json",
        "ring --partition 3",
        "ring --key k --json",
        "status --safe-to-stop n1",
        "get k --json",
        "set k v --ttl 30s --if-absent --ack all --json",
        "set k - --if-version 1-2-3",
        "set k -v",
        "del k --if-version 1-2-3 --ack one",
        "incr k",
        "incr k -5 --json",
        "scan",
        "scan user: --limit 5 --json",
        "leave",
        "evict n1",
        "keygen",
        "keys list",
        "keys add --key-file f",
        "keys use 0123abcd",
        "keys remove 0123abcd",
        "doctor --seed a:1",
        "completions bash",
    ] {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn what_is_not_possible_is_not_taken() {
    for line in [
        "",
        "agent --key abc",
        "agent --seed nowhere",
        "agent --log-format xml",
        "agent --tag novalue",
        "agent --resp nowhere",
        "demo --nodes 0",
        "ring --partition 3 --key k",
        "keys use xyz",
        "keys add abc",
        "get",
        "set k v --if-version x",
        "set k v --if-absent --if-version 1-2-3",
        "set k v --ack some",
        "set k v --ttl soon",
        "incr k x",
    ] {
        match parse(line) {
            Ok(command) => panic!("{line:?} was taken: {command:?}"),
            Err(error) => assert!(line.is_empty() || error.exit_code() == 2, "{line:?}"),
        }
    }
}

#[test]
fn failures_have_the_documented_exit_codes() {
    let problem = crate::view::Problem {
        status: 409,
        detail: "no".to_owned(),
        ..crate::view::Problem::default()
    };
    let agent = || "a".to_owned();
    for (error, exit) in [
        (
            ClientError::Unreachable {
                agent: agent(),
                reason: String::new(),
            },
            3,
        ),
        (
            ClientError::Refused {
                agent: agent(),
                problem: problem.clone(),
            },
            4,
        ),
        (ClientError::Problem(problem), 1),
        (
            ClientError::Address {
                url: agent(),
                problem: "",
            },
            2,
        ),
    ] {
        assert_eq!(Failure::from(error).exit as u8, exit);
    }
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
    assert_eq!((failure.exit, failure.message.as_str()), (Exit::Done, ""));
}

/// Runs a command against an agent of which only the interface is real.
fn against_fake(line: &str) -> (Result<Exit, Exit>, String) {
    against(&crate::api::tests::Fake::plain(), line)
}

fn against(fake: &crate::api::tests::Fake, line: &str) -> (Result<Exit, Exit>, String) {
    let written = out::tests::Written::default();
    let mut out = Out::to(written.clone());
    let url = fake.url();
    let outcome = match parse(&format!("{line} --agent {url}")).unwrap() {
        Command::Members(args) => members::run(&args, &mut out),
        Command::Ring(args) => ring::run(&args, &mut out),
        Command::Status(args) => status::run(&args, &mut out),
        Command::Leave(args) => leave::run(&args, &mut out),
        Command::Evict(args) => evict::run(&args, &mut out),
        Command::Keys(args) => keys::run(&args, &mut out),
        Command::Get(args) => kv::get(&args, &mut out),
        Command::Set(args) => kv::set(&args, &mut out),
        Command::Del(args) => kv::del(&args, &mut out),
        Command::Incr(args) => kv::incr(&args, &mut out),
        Command::Scan(args) => kv::scan(&args, &mut out),
        other => panic!("{other:?}"),
    };
    (outcome.map_err(|failure| failure.exit), written.text())
}

#[test]
fn commands_show_what_the_agent_says() {
    for (line, exit, parts) in [
        (
            "members",
            Ok(Exit::Done),
            &["NAME", "n1*", "alive", "0.25ms"][..],
        ),
        (
            "members --json",
            Ok(Exit::Done),
            &["\"rtt_ms\": 0.25", "\"self\": true"],
        ),
        ("ring --partition 3", Ok(Exit::Done), &["192-255", "backup"]),
        ("ring --partition 4", Err(Exit::Failed), &[]),
        (
            "status",
            Ok(Exit::Failed),
            &["not healthy", "problem: alone"],
        ),
        (
            "status --safe-to-stop n1",
            Ok(Exit::Failed),
            &["not safe to stop: 16 partitions"],
        ),
        ("status --safe-to-stop n9", Err(Exit::Failed), &[]),
        ("leave --no-wait", Ok(Exit::Done), &["n1 is leaving"]),
        ("evict n2", Err(Exit::Failed), &[]),
        ("keys list", Ok(Exit::Done), &["000000ab  in use"]),
        ("keys use 000000ab", Err(Exit::Failed), &[]),
    ] {
        let (outcome, text) = against_fake(line);
        assert_eq!(outcome, exit, "{line}: {text}");
        for part in parts {
            assert!(text.contains(part), "{line}: {part:?} is not in: {text}");
        }
    }
}

#[test]
fn a_key_that_some_members_lack_is_not_added() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    let key = kith_proto::wire::keyring::Key::from_bytes([7; 32]);
    std::fs::write(&path, key.to_base64().as_str()).unwrap();
    let (outcome, text) = against_fake(&format!("keys add --key-file {}", path.display()));
    assert_eq!(outcome, Ok(Exit::Failed));
    assert!(text.contains("not by n2: away"), "{text}");
}

#[test]
fn keys_and_values_go_through_an_agent() {
    let fake = crate::api::tests::Fake::plain();
    let (done, failed) = (Ok(Exit::Done), Err(Exit::Failed));
    for (line, exit, text) in [
        ("get k", failed, ""),
        ("set k v --if-absent", done, "k is stored, version 1-"),
        ("set k w --if-absent", failed, ""),
        ("get k", done, "v"),
        ("set k w --ttl 1h", done, "k is stored"),
        ("get k --json", done, "\"value\": \"w\""),
        ("get k --json", done, "\"expires\": \"20"),
        ("set k x --if-version 1-2-3", failed, ""),
        ("incr k", failed, ""),
        ("incr n 5", done, "5\n"),
        ("incr n -7 --json", done, "\"value\": -2"),
        ("scan n", done, "n\n"),
        ("scan --json", done, "{\"key\":\"n\",\"version\":\"1-"),
        ("scan x", done, ""),
        ("del k --if-version 1-2-3", failed, ""),
        ("del k --ack all", done, "k is deleted\n"),
        ("del k", failed, ""),
        ("del k --json", Ok(Exit::Failed), "\"deleted\": false"),
    ] {
        let (outcome, written) = against(&fake, line);
        assert_eq!(outcome, exit, "{line}: {written}");
        assert!(
            written.contains(text),
            "{line}: {text:?} is not in {written:?}"
        );
    }
    let shown = serde_json::from_str::<serde_json::Value>(&against(&fake, "incr n 0 --json").1);
    let version = shown.unwrap()["version"].as_str().unwrap().to_owned();
    let (outcome, _) = against(&fake, &format!("del n --if-version {version}"));
    assert_eq!(outcome, done);
}
