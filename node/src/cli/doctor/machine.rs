//! Limits and clock of the machine.

use std::{
    fs,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{Finding, Verdict};

/// A stream to each of up to 128 peers, clients, files: below this it gets tight.
const FEW_FILES: u64 = 1024;
const TOO_FEW_FILES: u64 = 256;
/// What a node asks for, so that a burst of datagrams is not dropped (bytes).
const RECEIVE_BUFFER: u64 = 4 << 20;
/// No clock that is right shows an earlier date than this program's (2026-01-01).
const OLDEST: Duration = Duration::from_secs(1_767_225_600);
/// Nor one so far ahead: generations are dates, and one from the future stays ahead of those
/// of all later starts.
const NEWEST: Duration = Duration::from_secs(1_767_225_600 + 50 * 365 * 86_400);

pub(super) fn examine() -> Vec<Finding> {
    vec![
        open_files(fs::read_to_string("/proc/self/limits").ok().as_deref()),
        receive_buffer(
            fs::read_to_string("/proc/sys/net/core/rmem_max")
                .ok()
                .as_deref(),
        ),
        clock(SystemTime::now()),
        Finding::new(
            "clock skew",
            Verdict::Skip,
            "cannot be compared from here; run NTP or chrony on every machine",
        ),
    ]
}

fn open_files(limits: Option<&str>) -> Finding {
    let finding = |verdict, text| Finding::new("open files", verdict, text);
    let line = limits.and_then(|text| text.lines().find_map(|l| l.strip_prefix("Max open files")));
    match line.and_then(|line| line.split_whitespace().next()) {
        None => finding(
            Verdict::Skip,
            "this system does not tell the limit".to_owned(),
        ),
        Some(soft) => match soft.parse::<u64>() {
            Ok(limit) if limit < FEW_FILES => {
                let verdict = if limit < TOO_FEW_FILES {
                    Verdict::Fail
                } else {
                    Verdict::Warn
                };
                let help = "raise it with `ulimit -n 4096`, or LimitNOFILE=4096 in the unit";
                finding(verdict, format!("only {limit} allowed: {help}"))
            }
            _ => finding(Verdict::Ok, format!("{soft} allowed")),
        },
    }
}

fn receive_buffer(rmem_max: Option<&str>) -> Finding {
    let finding = |verdict, text| Finding::new("udp buffer", verdict, text);
    match rmem_max.and_then(|text| text.trim().parse::<u64>().ok()) {
        None => finding(
            Verdict::Skip,
            "this system does not tell the limit".to_owned(),
        ),
        Some(limit) if limit < RECEIVE_BUFFER => {
            let text = format!(
                "{} KiB at most: bursts in large clusters may lose datagrams; \
                 sysctl -w net.core.rmem_max={RECEIVE_BUFFER}",
                limit >> 10
            );
            finding(Verdict::Warn, text)
        }
        Some(limit) => finding(Verdict::Ok, format!("{} KiB allowed", limit >> 10)),
    }
}

fn clock(now: SystemTime) -> Finding {
    let date = humantime::format_rfc3339_seconds(now);
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    if (OLDEST..NEWEST).contains(&since) {
        Finding::new("clock", Verdict::Ok, date.to_string())
    } else {
        let text = format!("{date} cannot be right; set it, and keep it right with NTP");
        Finding::new("clock", Verdict::Fail, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_judged() {
        let limits =
            |n: &str| format!("Limit  Soft  Hard  Units\nMax open files   {n}  9999 files\n");
        let verdict = |n: &str| open_files(Some(&limits(n))).verdict;
        assert_eq!(verdict("100"), Verdict::Fail);
        assert_eq!(verdict("512"), Verdict::Warn);
        assert_eq!(verdict("4096"), Verdict::Ok);
        assert_eq!(verdict("unlimited"), Verdict::Ok);
        assert_eq!(open_files(None).verdict, Verdict::Skip);
        assert_eq!(receive_buffer(Some("212992\n")).verdict, Verdict::Warn);
        assert_eq!(receive_buffer(Some("8388608\n")).verdict, Verdict::Ok);
    }

    #[test]
    fn an_unset_clock_is_found() {
        assert_eq!(clock(UNIX_EPOCH).verdict, Verdict::Fail);
        assert_eq!(clock(UNIX_EPOCH + OLDEST).verdict, Verdict::Ok);
        assert_eq!(clock(UNIX_EPOCH + NEWEST * 2).verdict, Verdict::Fail);
    }
}
