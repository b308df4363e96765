//! `kith keygen`.

use std::{
    fs::OpenOptions,
    io::Write as _,
    path::{Path, PathBuf},
};

use clap::Args;
use kith_proto::wire::keyring::Key;
use ring::rand::{SecureRandom as _, SystemRandom};

use super::{Exit, Failure, Outcome, out::Out};

#[derive(Debug, Args)]
#[command(after_help = "Example: kith keygen --out kith.key, then kith agent --key-file kith.key")]
pub(super) struct KeygenArgs {
    /// Write it to a new file that only its owner can read, instead of standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: &KeygenArgs, out: &mut Out) -> Outcome {
    let mut bytes = [0; 32];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_unspecified| Failure::failed("the system gives no randomness"))?;
    let key = Key::from_bytes(bytes);
    match &args.out {
        None => out.line(key.to_base64().as_str())?,
        Some(path) => {
            write_secret(path, key.to_base64().as_str()).map_err(|e| not_written(path, &e))?;
            out.line(format!("{}: a new key, {}", path.display(), key.id()))?;
        }
    }
    Ok(Exit::Done)
}

/// Never over an existing file: that may hold the key of a running cluster.
fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    writeln!(file, "{text}")?;
    file.sync_all()
}

fn not_written(path: &Path, error: &std::io::Error) -> Failure {
    let path = path.display();
    Failure::failed(match error.kind() {
        std::io::ErrorKind::AlreadyExists => format!(
            "{path} exists, and may hold the key of a running cluster: it is not overwritten. Give \
             --out another name"
        ),
        _ => format!("cannot write {path}: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::{super::out::tests::Written, *};

    #[test]
    fn keys_are_readable_by_their_owner_only_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kith.key");
        let args = KeygenArgs {
            out: Some(path.clone()),
        };
        let written = Written::default();
        run(&args, &mut Out::to(written.clone())).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let key = Key::parse(&text).unwrap();
        assert!(written.text().contains(&key.id().to_string()));
        assert!(!crate::config_file::others_can_read(&path));
        let again = run(&args, &mut Out::to(Written::default())).unwrap_err();
        assert_eq!(again.exit, Exit::Failed);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn every_key_is_another() {
        let made = || {
            let written = Written::default();
            run(&KeygenArgs { out: None }, &mut Out::to(written.clone())).unwrap();
            Key::parse(&written.text()).unwrap().id()
        };
        assert_ne!(made(), made());
    }
}
