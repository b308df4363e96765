//! SIGHUP: the settings are read again, and what can change without a restart changes.
//!
//! ```text
//!   sources ──load──► whole and sound? ──no──► ERROR, and nothing has changed
//!                          │ yes
//!                          ├─ log, tags, weight, the token ──► in force at once
//!                          ├─ certificates ──► shown and asked for on streams opened from now on
//!                          ├─ a new cluster key ──► added to every member's ring, does not seal yet
//!                          └─ anything else that differs ──► one WARN with old and new value
//! ```
//!
//! A key that is replaced in the key file is the first phase of a rotation and no more: it
//! is what `kith keys add` does. Were it to seal at once, the first machine that is told
//! would be cut off from those that are not yet. `kith keys use` is the second phase, when
//! every member holds it. A key that the operator had given before and that is in the ring no
//! more was removed on purpose, and is not added again.

use kith_proto::{
    output::Answer,
    wire::keyring::{Key, KeyId},
};
use serde_json::Value;

use super::Agent;
use crate::{
    config_file::{
        Settings,
        effective::{Flat, flat, to_json},
    },
    handle::{Handle, Stopped},
    logging::Logging,
};

/// Settings that change without a restart; all others are only compared.
const RELOADABLE: [&str; 8] = [
    "log",
    "tags",
    "weight",
    "key-file",
    "tls-cert",
    "tls-key",
    "tls-ca",
    "token-file",
];

impl Agent<'_> {
    /// Reads the settings again and puts them in force. May be dropped halfway: what was
    /// done is noted by then, and the rest is done by the next one.
    pub(super) async fn reload(&mut self, handle: &Handle) {
        let new = match self.read_again() {
            Ok(new) => new,
            Err(problem) => {
                let problem = one_line(&problem);
                tracing::error!(
                    target: "kith::settings",
                    "settings not reloaded, nothing has changed: {problem}"
                );
                return;
            }
        };
        for warning in &new.warnings {
            if !self.settings.warnings.contains(warning) {
                tracing::warn!(target: "kith::settings", "{warning}");
            }
        }
        let (before, after) = (flat(&self.settings.effective), flat(&new.effective));
        let fixed = differences(&before, &after, |name| !RELOADABLE.contains(&name));
        if !fixed.is_empty() {
            let fixed = fixed.join(", ");
            tracing::warn!(
                target: "kith::settings",
                "not changed, because it takes a restart: {fixed}"
            );
        }
        match self.put_in_force(handle, &new).await {
            Ok(Some(changed)) if changed.is_empty() => {
                tracing::info!(target: "kith::settings", "settings reloaded: nothing to change");
            }
            Ok(Some(changed)) => {
                let changed = changed.join(", ");
                tracing::info!(target: "kith::settings", "settings reloaded: {changed}");
            }
            Ok(None) => {}
            // Which is told elsewhere.
            Err(Stopped) => {}
        }
        self.settings.warnings = new.warnings;
    }

    /// All that could be wrong with the new settings is found here, before any is in force.
    fn read_again(&self) -> Result<Settings, String> {
        let new = self.sources.load().map_err(|e| e.to_string())?;
        Logging::check_filter(&new.log).map_err(|e| e.to_string())?;
        Ok(new)
    }

    /// Returns what has changed, in words; `None` if nothing was, which has been told.
    async fn put_in_force(
        &mut self,
        handle: &Handle,
        new: &Settings,
    ) -> Result<Option<Vec<String>>, Stopped> {
        let before = flat(&self.settings.effective);
        // First, because only the core may refuse.
        if !self.reload_core(handle, new).await? {
            return Ok(None);
        }
        self.reload_log(new);
        let certificates = self.reload_certificates(handle, new).await?;
        let token = self.reload_token(new);
        let settings = &mut self.settings;
        settings
            .effective
            .key_file
            .clone_from(&new.effective.key_file);
        let mut changed = differences(&before, &flat(&settings.effective), |_| true);
        changed.extend(certificates);
        changed.extend(token);
        handle.show_settings(to_json(&settings.effective)).await?;
        changed.extend(self.reload_key(handle, new.key.as_ref()).await?);
        Ok(Some(changed))
    }

    /// False if that was refused.
    async fn reload_core(&mut self, handle: &Handle, new: &Settings) -> Result<bool, Stopped> {
        let core = &mut self.settings.core;
        let tags = (core.tags != new.core.tags).then(|| new.core.tags.clone());
        let weight = (core.weight != new.core.weight).then_some(new.core.weight);
        if tags.is_none() && weight.is_none() {
            return Ok(true);
        }
        if let Answer::Refused(why) = handle.reload(tags, weight).await? {
            tracing::error!(
                target: "kith::settings",
                "settings not reloaded, nothing has changed: {why}"
            );
            return Ok(false);
        }
        core.tags.clone_from(&new.core.tags);
        core.weight = new.core.weight;
        let shown = &mut self.settings.effective;
        shown.tags.clone_from(&new.effective.tags);
        shown.weight = new.effective.weight;
        Ok(true)
    }

    fn reload_log(&mut self, new: &Settings) {
        match self.log.set_filter(&new.log) {
            Ok(()) => {
                self.settings.log.clone_from(&new.log);
                self.settings.effective.log.clone_from(&new.effective.log);
            }
            Err(error) => {
                tracing::error!(target: "kith::settings", "the log's filter is as before: {error}");
            }
        }
    }

    async fn reload_certificates(
        &mut self,
        handle: &Handle,
        new: &Settings,
    ) -> Result<Option<String>, Stopped> {
        let settings = &mut self.settings;
        let differ = settings.certificates != new.certificates;
        if differ && let Err(error) = handle.use_certificates(new.certificates.clone()).await? {
            tracing::error!(target: "kith::settings", "the certificates are as before: {error}");
            return Ok(None);
        }
        settings.certificates.clone_from(&new.certificates);
        settings
            .effective
            .tls_cert
            .clone_from(&new.effective.tls_cert);
        settings
            .effective
            .tls_key
            .clone_from(&new.effective.tls_key);
        settings.effective.tls_ca.clone_from(&new.effective.tls_ca);
        Ok(differ.then(|| "the certificates, for streams opened from now on".to_owned()))
    }

    fn reload_token(&mut self, new: &Settings) -> Option<String> {
        let settings = &mut self.settings;
        let (shown, given) = (&mut settings.effective, &new.effective);
        shown.token_file.clone_from(&given.token_file);
        if settings.token == new.token {
            return None;
        }
        settings.token.clone_from(&new.token);
        self.token.set(new.token.clone());
        Some("the token".to_owned())
    }

    /// Returns what has changed, in words.
    async fn reload_key(
        &mut self,
        handle: &Handle,
        given: Option<&Key>,
    ) -> Result<Option<String>, Stopped> {
        let before = self.settings.key.as_ref().map(Key::id);
        let Some(given) = given else {
            if let Some(before) = before {
                tracing::warn!(
                    target: "kith::settings",
                    "no cluster key is given any more (it was {before}): this node goes on with the \
                     keys that it holds"
                );
            }
            return Ok(None);
        };
        let id = given.id();
        let keys = handle.keys().await?;
        let held = keys.iter().find(|key| key.id == id.to_string());
        let is_held = held.is_some();
        let is_other = before != Some(id);
        if !is_other {
            if !is_held {
                tracing::warn!(
                    target: "kith::settings",
                    "the key given ({id}) is none of this node's keys: it was removed from the cluster \
                     (`kith keys list` shows those in use), or never added. Update the key file, or \
                     add it with `kith keys add`"
                );
            }
            return Ok(None);
        }
        match held {
            None if !add_key(handle, given).await? => return Ok(None),
            Some(held) if !held.primary => tracing::info!(
                target: "kith::settings",
                "the key given ({id}) was added before, and does not seal yet. {}", hint(id)
            ),
            _ => {}
        }
        if let Err(error) = handle.key_given(id).await? {
            tracing::warn!(
                target: "kith::settings",
                "it could not be written down which key is given now: {error}"
            );
        }
        self.settings.key = Some(given.clone());
        let before = before.map_or("none".to_owned(), |id| id.to_string());
        Ok(Some(format!("the key given {before} -> {id}")))
    }
}

/// The first phase of a rotation; false if it was refused.
async fn add_key(handle: &Handle, key: &Key) -> Result<bool, Stopped> {
    let id = key.id();
    let (confirmed, missing) = match handle.key_add(key.clone()).await? {
        Answer::Refused(why) => {
            tracing::error!(
                target: "kith::settings",
                "the key given ({id}) was not added: {why}. Send SIGHUP again then"
            );
            return Ok(false);
        }
        Answer::Done => (Vec::new(), Vec::new()),
        Answer::Keys {
            confirmed, missing, ..
        } => (confirmed, missing),
    };
    tell_of_added(id, &confirmed, &missing);
    Ok(true)
}

fn tell_of_added(id: KeyId, confirmed: &[String], missing: &[(String, String)]) {
    let count = confirmed.len();
    tracing::info!(
        target: "kith::settings",
        "the key given ({id}) was added, as with `kith keys add` (confirmed by {count}): it is accepted, \
         and does not seal yet. {}", hint(id)
    );
    if !missing.is_empty() {
        let each: Vec<String> = missing
            .iter()
            .map(|(member, why)| format!("{member} ({why})"))
            .collect();
        let each = each.join(", ");
        tracing::warn!(
            target: "kith::settings",
            "the key given ({id}) was not added by {each}: run `kith keys add` before it is used"
        );
    }
}

fn hint(id: KeyId) -> String {
    format!("`kith keys use {id}` switches to it once every member holds it")
}

/// `name old -> new` for each setting that differs and is asked for.
fn differences(before: &Flat, after: &Flat, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let shown = |value: Option<&Value>| value.map_or("unset".to_owned(), Value::to_string);
    names
        .into_iter()
        .filter(|name| before.get(*name) != after.get(*name))
        .filter(|name| wanted(name))
        .map(|name| {
            let (old, new) = (shown(before.get(name)), shown(after.get(name)));
            format!("{name} {old} -> {new}")
        })
        .collect()
}

/// An error with an excerpt of a file, for a log of one line each.
fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim);
    // Those that only draw: the margin of the excerpt, and the mark below it.
    let lines = lines.filter(|line| !line.trim_matches(['|', '^', ' ']).is_empty());
    lines.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config_file::{Sources, layer::Layer};

    fn settings(change: impl FnOnce(&mut Layer)) -> Flat {
        let mut flags = Layer {
            name: Some("n1".to_owned()),
            ephemeral: Some(true),
            ..Layer::default()
        };
        change(&mut flags);
        let sources = Sources {
            flags,
            ..Sources::default()
        };
        flat(&sources.load().unwrap().effective)
    }

    #[test]
    fn differences_tell_the_old_and_the_new_value() {
        let old = settings(|flags| flags.zone = Some("a".to_owned()));
        let new = settings(|flags| {
            flags.weight = Some(200);
            flags.expect = Some(3);
            let timing = flags.timing.get_or_insert_default();
            timing.probe_period = Some("2s".parse().unwrap());
        });
        let all = differences(&old, &new, |_| true);
        assert_eq!(
            all,
            [
                "expect unset -> 3",
                "timing.probe-period \"1s\" -> \"2s\"",
                "weight 100 -> 200",
                "zone \"a\" -> unset"
            ]
        );
        let fixed = differences(&old, &new, |name| !RELOADABLE.contains(&name));
        assert_eq!(fixed.len(), 3, "{fixed:?}");
        assert!(differences(&new, &new, |_| true).is_empty());
    }

    #[test]
    fn an_excerpt_becomes_one_line() {
        let text = "k.toml: error at line 2\n  |\n2 | wieght = 3\n  | ^^^^^^\nunknown field\n";
        assert_eq!(
            one_line(text),
            "k.toml: error at line 2; 2 | wieght = 3; unknown field"
        );
    }
}
