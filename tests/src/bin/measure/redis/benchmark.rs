//! `redis-benchmark`, as it is installed.

use std::{net::SocketAddr, process::Command};

use anyhow::{Context, Result, ensure};

/// Requests of one run; in pipelines, the second number.
const REQUESTS: [u32; 2] = [40_000, 200_000];

/// Operations a second, with 50 connections, values of 100 bytes, a hundred thousand keys.
pub(super) fn run(address: SocketAddr, test: &str, pipeline: u32, whole: bool) -> Result<f64> {
    let mut command = Command::new("redis-benchmark");
    command.args(["-h", &address.ip().to_string()]);
    command.args(["-p", &address.port().to_string()]);
    command.args(["-t", test, "-P", &pipeline.to_string()]);
    command.args(["-c", "50", "-d", "100", "-r", "100000", "--csv"]);
    let requests = REQUESTS[usize::from(pipeline > 1)];
    command.args(["-n", &requests.to_string()]);
    if whole {
        command.arg("--cluster");
    }
    let output = command.output().context("redis-benchmark")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "redis-benchmark: {text}{errors}");
    operations(&text, test).with_context(|| format!("redis-benchmark says {text}{errors}"))
}

/// `"SET","16443.12",…` under a head.
fn operations(text: &str, test: &str) -> Option<f64> {
    let begin = format!("\"{}\",\"", test.to_uppercase());
    let line = text.lines().find_map(|line| line.strip_prefix(&begin))?;
    line.split('"').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_the_test_is_read() {
        let text = "\"test\",\"rps\",\"avg_latency_ms\"\n\"SET\",\"16443.12\",\"2.9\"\n";
        assert_eq!(operations(text, "set"), Some(16443.12));
        assert_eq!(operations(text, "get"), None);
    }
}
