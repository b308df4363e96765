//! Real clients, where they are installed. Elsewhere these tests say that they are skipped.

use std::process::{Command as Process, Stdio};

use super::*;

/// Runs a program to its end and returns what it wrote; `None` if it is not installed.
fn run(program: &str, args: &[&str]) -> Option<String> {
    let output = Process::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output();
    let output = match output {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            println!("skipped: {program} is not installed");
            return None;
        }
        output => output.unwrap(),
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {args:?}: {text}{errors}"
    );
    Some(text)
}

#[test]
fn redis_cli() {
    let fake = Fake::new();
    let port = fake.address.port().to_string();
    for (args, expected) in [
        (&["set", "k", "v"][..], "OK\n"),
        (&["-c", "get", "k"], "v\n"),
        (&["-3", "get", "k"], "v\n"),
        (&["--scan", "--pattern", "k*"], "k\n"),
        (&["-c", "incr", "n"], "1\n"),
        (&["cluster", "keyslot", "foo"], "12182\n"),
    ] {
        let args = [&["-p", &port][..], args].concat();
        let Some(text) = run("redis-cli", &args) else {
            return;
        };
        assert_eq!(text, expected, "{args:?}");
    }
    let nodes = run("redis-cli", &["-p", &port, "cluster", "nodes"]).unwrap();
    assert!(
        nodes.contains("myself,master") && nodes.contains(" 0-16383"),
        "{nodes}"
    );
    let info = run(
        "redis-cli",
        &["-p", &port, "--cluster", "info", &fake.address.to_string()],
    );
    assert!(info.unwrap().contains("16384 slots"));
}

#[test]
fn redis_benchmark() {
    // It takes no cluster of one.
    let nodes = Fake::pair();
    let port = nodes[0].address.port().to_string();
    let many = std::env::var("KITH_BENCHMARK_REQUESTS");
    let many = many.as_deref().unwrap_or("2000");
    for more in [
        &["-P", "1"][..],
        &["-P", "16"],
        &["-P", "16", "--cluster"],
        &["-3"],
    ] {
        let args = [
            &[
                "-p",
                &port,
                "-q",
                "-n",
                many,
                "-c",
                "50",
                "-r",
                "10000",
                "-t",
                "set,get,incr,mset",
            ],
            more,
        ]
        .concat();
        let Some(text) = run("redis-benchmark", &args) else {
            return;
        };
        for test in ["SET: ", "GET: ", "INCR: ", "MSET"] {
            assert!(text.contains(test), "{args:?}: {text}");
        }
        assert!(!text.contains("rror"), "{args:?}: {text}");
        println!("{more:?}: {text}");
    }
}

/// Plain and cluster mode, both versions of the protocol.
#[test]
fn redis_py() {
    const SCRIPT: &str = r#"
import sys, redis
from redis.cluster import RedisCluster
port = int(sys.argv[1])
for protocol in (2, 3):
    for make in (redis.Redis, RedisCluster):
        r = make(host="127.0.0.1", port=port, protocol=protocol)
        assert r.ping()
        assert r.set("k", b"\x00\xff", ex=100)
        assert r.get("k") == b"\x00\xff" and 90 < r.ttl("k") <= 100
        assert r.set("k", "x", nx=True) is None
        r.delete("n")
        assert r.incr("n", 5) == 5 and r.incrbyfloat("n", 0.5) == 5.5
        pipe = r.pipeline(transaction=False) if make is redis.Redis else r.pipeline()
        for n in range(100):
            pipe.set(f"p{n}", n)
            pipe.get(f"p{n}")
        assert pipe.execute() == [x for n in range(100) for x in (True, str(n).encode())]
        mget = r.mget if make is redis.Redis else r.mget_nonatomic
        assert mget(["p1", "none", "p2"]) == [b"1", None, b"2"]
        assert r.delete("p0", "p1") == 2
        if make is RedisCluster:
            assert len(set(r.scan_iter(match="p*", count=7))) == 98
            assert r.dbsize(target_nodes=RedisCluster.PRIMARIES) >= 100
        assert r.exists("k") == 1 and r.type("k") == b"string"
        assert r.getex("k", px=5000) and 0 < r.pttl("k") <= 5000
        assert r.expire("k", 50, nx=True) in (0, False)
        try:
            r.lpush("l", 1)
            raise SystemExit("a list was taken")
        except redis.RedisError as e:
            assert "lpush" in str(e).lower(), e
        r.close()
print("done")
"#;
    let installed = Process::new("python3")
        .args(["-c", "import redis.cluster"])
        .stderr(Stdio::null())
        .status();
    if !installed.is_ok_and(|status| status.success()) {
        println!("skipped: the Python client redis is not installed");
        return;
    }
    let nodes = Fake::pair();
    let port = nodes[0].address.port().to_string();
    // Each protocol speaks to both nodes in cluster mode, and through one in plain mode.
    assert_eq!(run("python3", &["-c", SCRIPT, &port]).unwrap(), "done\n");
}
