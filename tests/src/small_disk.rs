//! A small file system of a node's own, in a mount namespace that lasts as long as it is wanted,
//! so that a node can be started in it again after it has ended.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{
    process::{self, Process},
    wait,
};

/// The file that takes the room that is left.
const FILLER: &str = "filler";

/// A file system in memory, mounted at a folder for those who are [inside](Self::inside).
#[derive(Debug)]
pub struct SmallDisk {
    folder: PathBuf,
    // Holds the namespaces while nobody else is in them.
    holder: Process,
}

impl SmallDisk {
    /// Mounts one of so many MiB at a folder, which is made.
    ///
    /// # Errors
    /// If this user may not, or there is no `unshare`: a test that needs it is skipped.
    pub fn mount(folder: &Path, mib: u32) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let script = format!(
            "mount -t tmpfs -o size={mib}m,mode=700 tmpfs \"$0\" && echo mounted && exec sleep infinity"
        );
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]);
        command.arg(folder);
        let holder = Process::start("the small disk", &mut command)?.unexplained();
        wait::poll("a small file system", wait::PATIENCE, || {
            let text = holder.log().text();
            let ended = holder.ended().map_err(|error| error.to_string())?;
            if text.contains("mounted") || ended.is_some() {
                Ok(())
            } else {
                Err(text)
            }
        })?;
        let text = holder.log().text();
        ensure!(text.contains("mounted"), "{text}");
        Ok(Self {
            folder: folder.to_owned(),
            holder,
        })
    }

    /// The command that runs what is put after it where this file system is to be seen.
    pub fn inside(&self) -> Vec<String> {
        let holder = self.holder.pid().to_string();
        let enter = ["nsenter", "--target", &holder];
        let all = ["--user", "--preserve-credentials", "--mount", "--"];
        enter.iter().chain(&all).map(ToString::to_string).collect()
    }

    /// Takes all the room that is left, to the last byte.
    ///
    /// # Errors
    /// If it is not full then.
    pub fn fill(&self) -> Result<()> {
        let script = format!(
            "cat /dev/zero > {FILLER} 2>/dev/null; test \"$(stat -f -c %f .)\" = 0 && test -s {FILLER}"
        );
        self.run(&script).context("filling the small disk")
    }

    /// Gives back what [`Self::fill`] took.
    ///
    /// # Errors
    /// If it cannot be.
    pub fn relieve(&self) -> Result<()> {
        self.run(&format!("rm {FILLER}"))
            .context("making room on the small disk")
    }

    fn run(&self, script: &str) -> Result<()> {
        let inside = self.inside();
        let (program, arguments) = inside.split_first().context("no command")?;
        let mut command = Command::new(program);
        command.args(arguments);
        command.args(["sh", "-c", &format!("cd \"$0\" && {{ {script}; }}")]);
        command.arg(&self.folder);
        let (code, text) = process::run(&mut command)?;
        ensure!(code == 0, "code {code}: {text}");
        Ok(())
    }
}
