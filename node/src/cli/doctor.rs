//! `kith doctor`: can a node run here, and if not, what is to be mended?

mod machine;
mod network;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use clap::Args;

use super::{
    Exit, Outcome,
    out::{Colour, Out},
};
use crate::config_file::{Settings, Sources, layer::Layer, others_can_read, values::parse_seed};

#[derive(Debug, Args)]
#[command(after_help = "Example: kith doctor --listen 10.0.0.1:7400 --seed 10.0.0.2:7400")]
pub(super) struct DoctorArgs {
    /// File with the agent's settings
    #[arg(long, value_name = "FILE", env = "KITH_CONFIG")]
    config: Option<PathBuf>,
    /// Where the agent will listen
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<std::net::SocketAddr>,
    /// A member that must be reachable; repeatable
    #[arg(long = "seed", value_name = "HOST:PORT", value_parser = parse_seed)]
    seeds: Option<Vec<String>>,
    /// The agent's data directory
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// File with the cluster key
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// Could not be looked at, or need not.
    Skip,
    Warn,
    Fail,
}

/// One line of the answer.
#[derive(Clone, Debug, serde::Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    /// What was found, and what mends it.
    text: String,
}

impl Finding {
    fn new(check: &'static str, verdict: Verdict, text: impl Into<String>) -> Self {
        Self {
            check,
            verdict,
            text: text.into(),
        }
    }
}

pub(super) fn run(args: &DoctorArgs, out: &mut Out) -> Outcome {
    let flags = Layer {
        listen: args.listen,
        seeds: args.seeds.clone(),
        data_dir: args.data_dir.clone(),
        key_file: args.key_file.clone(),
        ..Layer::default()
    };
    let findings = match Sources::of_process(args.config.clone(), flags).load() {
        Ok(settings) => examine(&settings),
        Err(error) => {
            let text = format!("{error} (nothing else was looked at)");
            vec![Finding::new("settings", Verdict::Fail, text)]
        }
    };
    if args.json {
        out.json(&findings)?;
    } else {
        show(out, &findings)?;
    }
    let failed = findings.iter().any(|f| f.verdict == Verdict::Fail);
    Ok(if failed { Exit::Failed } else { Exit::Done })
}

fn examine(settings: &Settings) -> Vec<Finding> {
    let mut findings = vec![Finding::new("settings", Verdict::Ok, "they fit together")];
    findings.extend(key(settings));
    findings.extend(certificates(settings));
    findings.push(data_dir(settings.data_dir.as_deref()));
    findings.extend(network::examine(settings));
    findings.extend(machine::examine());
    findings
}

fn show(out: &mut Out, findings: &[Finding]) -> std::io::Result<()> {
    for finding in findings {
        let (word, colour) = match finding.verdict {
            Verdict::Ok => ("ok  ", Colour::Good),
            Verdict::Skip => ("skip", Colour::Faint),
            Verdict::Warn => ("warn", Colour::Odd),
            Verdict::Fail => ("FAIL", Colour::Bad),
        };
        let word = out.paint(colour, word);
        out.line(format!("{word}  {:<15} {}", finding.check, finding.text))?;
    }
    Ok(())
}

fn key(settings: &Settings) -> Vec<Finding> {
    let Some(key) = &settings.key else {
        let text = "none: fine for trying on loopback; `kith keygen --out kith.key` makes one";
        return vec![Finding::new("key", Verdict::Warn, text)];
    };
    let mut findings = vec![Finding::new("key", Verdict::Ok, format!("id {}", key.id()))];
    if let Some(path) = &settings.effective.key_file {
        let shown = path.display();
        findings.push(if others_can_read(path) {
            let text = format!("others can read {shown}: chmod 600 {shown}");
            Finding::new("key file", Verdict::Warn, text)
        } else {
            Finding::new(
                "key file",
                Verdict::Ok,
                format!("only its owner reads {shown}"),
            )
        });
    }
    findings
}

/// They were looked at when the settings were read: with what is wrong there are none.
fn certificates(settings: &Settings) -> Option<Finding> {
    let own = settings.certificates.as_ref()?;
    Some(match own.expires_soon() {
        Some(when) => {
            let text = format!("this node's own expires on {when}: peers refuse it from then on");
            Finding::new("certificates", Verdict::Warn, text)
        }
        None => {
            let text = "this node's own is valid, and of the authorities given";
            Finding::new("certificates", Verdict::Ok, text)
        }
    })
}

/// Whether it can be written, and no other process has it. What did not exist before does
/// not exist afterwards.
fn data_dir(dir: Option<&Path>) -> Finding {
    let finding = |verdict, text: String| Finding::new("data directory", verdict, text);
    let Some(dir) = dir else {
        return finding(Verdict::Skip, "none: nothing is kept".to_owned());
    };
    let shown = dir.display();
    // The nearest part of the path that exists tells whether the rest can be made.
    let Some(existing) = dir.ancestors().find(|part| part.is_dir()) else {
        return finding(
            Verdict::Fail,
            format!("{shown}: no part of the path exists"),
        );
    };
    let probe = existing.join(format!(".kith-doctor-{}", std::process::id()));
    if let Err(error) = File::create_new(&probe).and_then(|_| fs::remove_file(&probe)) {
        let text = format!("cannot write to {}: {error}", existing.display());
        return finding(Verdict::Fail, text);
    }
    match File::open(dir.join("lock")).map(|lock| lock.try_lock()) {
        Ok(Err(fs::TryLockError::WouldBlock)) => {
            let text = format!("{shown} is used by a running agent; each needs its own");
            finding(Verdict::Fail, text)
        }
        _ => finding(Verdict::Ok, format!("{shown} can be written")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_in_use_is_found() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(data_dir(Some(dir.path())).verdict, Verdict::Ok);
        let lock = File::create(dir.path().join("lock")).unwrap();
        lock.lock().unwrap();
        assert_eq!(data_dir(Some(dir.path())).verdict, Verdict::Fail);
        drop(lock);
        assert_eq!(data_dir(Some(dir.path())).verdict, Verdict::Ok);
        let deep = dir.path().join("a/b");
        assert_eq!(data_dir(Some(&deep)).verdict, Verdict::Ok);
        assert!(!deep.exists(), "the doctor made a directory");
    }

    #[test]
    fn a_machine_like_this_is_examined_without_harm() {
        let flags = Layer {
            listen: Some("127.0.0.1:0".parse().unwrap()),
            ephemeral: Some(true),
            ..Layer::default()
        };
        let sources = Sources {
            flags,
            ..Sources::default()
        };
        let findings = examine(&sources.load().unwrap());
        for name in ["udp", "tcp", "datagrams", "open files", "clock"] {
            let finding = findings.iter().find(|f| f.check == name).unwrap();
            assert_ne!(finding.verdict, Verdict::Fail, "{finding:?}");
        }
    }
}
