//! Where the `kith` binary comes from.
//!
//! Tests of this package must not run a stale binary, and `cargo test -p kith-tests` builds
//! only the library of `kith`. So the binary is built here, once per test process, with the
//! profile that the test itself was built with; Cargo's own lock keeps several test processes
//! from doing it at the same time. `KITH_BIN` names another one.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The `kith` binary.
///
/// # Errors
/// If `KITH_BIN` names no file, or the build fails (with the compiler's words on standard
/// error).
pub fn kith() -> Result<&'static Path> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = BINARY.get_or_init(|| locate().map_err(|error| format!("{error:#}")));
    match found {
        Ok(path) => Ok(path),
        Err(error) => bail!("no kith binary: {error}"),
    }
}

/// A command that runs `kith`, without any `KITH_…` of the environment.
///
/// # Errors
/// As [`kith()`].
pub fn command() -> Result<Command> {
    let mut command = Command::new(kith()?);
    clean_environment(&mut command);
    Ok(command)
}

/// Removes what would configure `kith` behind a test's back.
pub fn clean_environment(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("KITH_") || text == "RUST_LOG" {
            command.env_remove(&name);
        }
    }
    command.env("NO_COLOR", "1");
}

fn locate() -> Result<PathBuf> {
    if let Some(path) = env::var_os("KITH_BIN") {
        let path = PathBuf::from(path);
        if !path.is_file() {
            bail!("KITH_BIN names {}, which is no file", path.display());
        }
        return Ok(path);
    }
    build()
}

fn build() -> Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("this package has no parent folder")?;
    let mut command = Command::new(cargo);
    command
        .current_dir(workspace)
        .args(["build", "--quiet", "--package", "kith", "--bin", "kith"])
        .arg("--message-format=json-render-diagnostics")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    // What Cargo tells this test about its own package would make build scripts that look at
    // it run again, and everything above them be compiled again, each time.
    for (name, _) in env::vars_os() {
        if is_of_this_package(&name.to_string_lossy()) {
            command.env_remove(&name);
        }
    }
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let output = command.output().context("running cargo")?;
    if !output.status.success() {
        bail!("`cargo build -p kith` failed");
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    messages
        .lines()
        .find_map(executable)
        .context("cargo built kith without naming the file")
}

fn is_of_this_package(variable: &str) -> bool {
    let parts = [
        "MANIFEST_",
        "PKG_",
        "BIN_",
        "CRATE_",
        "PRIMARY_PACKAGE",
        "TARGET_TMPDIR",
    ];
    let ours = variable.strip_prefix("CARGO_");
    ours.is_some_and(|rest| parts.iter().any(|part| rest.starts_with(part)))
}

/// The binary's path, if that message of Cargo's tells it.
fn executable(message: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let is_kith = message["reason"] == "compiler-artifact" && message["target"]["name"] == "kith";
    let path = message["executable"].as_str().filter(|_| is_kith)?;
    Some(PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_about_this_package_is_kept_from_the_build() {
        assert!(is_of_this_package("CARGO_MANIFEST_DIR"));
        assert!(is_of_this_package("CARGO_PKG_NAME"));
        assert!(!is_of_this_package("CARGO_TARGET_DIR"));
        assert!(!is_of_this_package("CARGO_HOME"));
    }

    #[test]
    fn reads_cargos_messages() {
        let line =
            r#"{"reason":"compiler-artifact","target":{"name":"kith"},"executable":"/x/kith"}"#;
        assert_eq!(executable(line), Some(PathBuf::from("/x/kith")));
        let library =
            r#"{"reason":"compiler-artifact","target":{"name":"kith"},"executable":null}"#;
        assert_eq!(executable(library), None);
        assert_eq!(executable("warning"), None);
    }
}
