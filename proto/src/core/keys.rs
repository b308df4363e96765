//! Rotation of the cluster key, in two validated phases.
//!
//! ```text
//!   add:    every living member accepts the new key; nobody seals with it yet
//!   use:    every living member is asked whether it holds it; only if all do, all seal with it
//!   remove: every living member is asked; refused while any still seals with it
//! ```
//!
//! A node that is away meanwhile learns the ring when it is welcomed, as long as a key that it
//! holds is still accepted.

use super::{Core, key_round::Round};
use crate::{
    event::Event,
    input::RequestId,
    output::{Answer, Output},
    time::Time,
    wire::{
        keyring::{Key, KeyId, KeyringError, MAX_KEYS},
        message::{KeyAction, KeyState},
    },
};

/// So many removed keys are remembered, so that nobody brings them back.
const MAX_REMOVED: usize = 32;

/// A change of keys under way.
#[derive(Debug)]
pub(super) struct KeyOperation {
    request: RequestId,
    number: u64,
    key: KeyId,
    action: KeyAction,
    /// Asking first, changing after.
    asking: bool,
    round: Round,
}

impl Core {
    pub(super) fn key_add(&mut self, now: Time, request: RequestId, key: Key) -> Option<Answer> {
        let id = key.id();
        self.key_operation(now, request, id, KeyAction::Add(key), false)
    }

    pub(super) fn key_use(&mut self, now: Time, request: RequestId, key: KeyId) -> Option<Answer> {
        self.key_operation(now, request, key, KeyAction::Use(key), true)
    }

    pub(super) fn key_remove(
        &mut self,
        now: Time,
        request: RequestId,
        key: KeyId,
    ) -> Option<Answer> {
        self.key_operation(now, request, key, KeyAction::Remove(key), true)
    }

    fn key_operation(
        &mut self,
        now: Time,
        request: RequestId,
        key: KeyId,
        action: KeyAction,
        asking: bool,
    ) -> Option<Answer> {
        if self.key_operation.is_some() {
            return Some(Answer::Refused(
                "another change of keys is under way; try again in a moment".to_owned(),
            ));
        }
        let number = u64::from(self.nonce());
        let first = if asking {
            KeyAction::Query(key)
        } else {
            action.clone()
        };
        self.key_operation = Some(KeyOperation {
            request,
            number,
            key,
            action,
            asking,
            round: Round::new(now, number, first),
        });
        self.begin_key_round(now);
        None
    }

    /// The present round, if keys are being changed.
    pub(super) fn key_round(&mut self) -> Option<&mut Round> {
        self.key_operation
            .as_mut()
            .map(|operation| &mut operation.round)
    }

    /// Does what is asked with the own ring.
    pub(super) fn change_key(&mut self, action: KeyAction) -> Result<KeyState, String> {
        let id = match action {
            KeyAction::Add(key) => {
                let id = key.id();
                self.removed_keys.retain(|removed| *removed != id);
                if self
                    .keys
                    .add(key)
                    .map_err(|e: KeyringError| e.to_string())?
                {
                    self.ring_changed("added", id);
                }
                id
            }
            KeyAction::Query(id) => id,
            KeyAction::Use(id) => {
                if self.keys.set_primary(id).map_err(|e| e.to_string())? {
                    self.ring_changed("used", id);
                }
                id
            }
            KeyAction::Remove(id) => {
                if self.keys.get(id).is_some() {
                    self.keys.remove(id).map_err(|e| e.to_string())?;
                    self.opener.forget_removed_keys(&self.keys);
                    self.ring_changed("removed", id);
                }
                self.removed_keys.retain(|removed| *removed != id);
                self.removed_keys.push_back(id);
                if self.removed_keys.len() > MAX_REMOVED {
                    self.removed_keys.pop_front();
                }
                id
            }
        };
        Ok(KeyState {
            held: self.keys.get(id).is_some(),
            primary: self.keys.primary().id() == id,
        })
    }

    /// A member welcomed us with its ring, the key that it seals with first: what we lack is
    /// taken over.
    pub(super) fn learn_keys(&mut self, keys: &[Key], joining: bool) {
        for (place, key) in keys.iter().take(MAX_KEYS).enumerate() {
            let id = key.id();
            if self.removed_keys.contains(&id) {
                // Who welcomes us has not been asked to remove it yet.
                continue;
            }
            let added = match self.keys.add(key.clone()) {
                Ok(added) => added,
                Err(error) => {
                    self.warn("keyring_full", error.to_string());
                    false
                }
            };
            if added {
                self.ring_changed("added", id);
            }
            // Of two members that both hold a key, the one that does not seal with it yet may be
            // the one that is asked to in a moment: it must not talk the other out of it.
            let believed = place == 0 && (joining || added);
            if believed && matches!(self.keys.set_primary(id), Ok(true)) {
                self.ring_changed("used", id);
            }
        }
    }

    fn ring_changed(&mut self, action: &str, id: KeyId) {
        self.outputs
            .push_back(Output::Keys(Box::new(self.keys.clone())));
        self.emit(Event::KeysChanged {
            action: action.to_owned(),
            key: id.to_string(),
        });
    }

    /// Everybody has answered or was given up: on to the second phase, or to the answer.
    pub(super) fn key_round_is_over(&mut self, now: Time) {
        let Some(mut operation) = self.key_operation.take() else {
            return;
        };
        if !operation.asking {
            let mut confirmed: Vec<String> = operation
                .round
                .states
                .keys()
                .map(|id| self.table.name_of(*id))
                .collect();
            confirmed.sort();
            let answer = Answer::Keys {
                key: operation.key,
                confirmed,
                missing: operation.round.missing,
            };
            self.reply(operation.request, answer);
            return;
        }
        if let Some(text) = self.objection_to(&operation) {
            self.reply(operation.request, Answer::Refused(text));
            return;
        }
        operation.asking = false;
        operation.number += 1;
        operation.round = Round::new(now, operation.number, operation.action.clone());
        self.key_operation = Some(operation);
        self.begin_key_round(now);
    }

    // Why the second phase may not begin.
    fn objection_to(&self, operation: &KeyOperation) -> Option<String> {
        if !operation.round.missing.is_empty() {
            let names: Vec<String> = operation
                .round
                .missing
                .iter()
                .map(|(name, reason)| format!("{name} ({reason})"))
                .collect();
            return Some(format!(
                "not every member could be asked: {}",
                names.join(", ")
            ));
        }
        let names_of = |wrong: &dyn Fn(&KeyState) -> bool| {
            let mut names: Vec<String> = operation
                .round
                .states
                .iter()
                .filter(|(_, state)| wrong(state))
                .map(|(id, _)| self.table.name_of(*id))
                .collect();
            names.sort();
            (!names.is_empty()).then(|| names.join(", "))
        };
        match operation.action {
            KeyAction::Use(_) => names_of(&|state| !state.held).map(|names| {
                format!(
                    "key {} is not held by {names}: add it first (`kith keys add`)",
                    operation.key
                )
            }),
            KeyAction::Remove(_) if names_of(&|state| state.held).is_none() => Some(format!(
                "no member holds key {}: there is nothing to remove (`kith keys list`)",
                operation.key
            )),
            KeyAction::Remove(_) => names_of(&|state| state.primary).map(|names| {
                format!(
                    "key {} is the one that {names} seal with: use another first (`kith keys use`)",
                    operation.key
                )
            }),
            KeyAction::Add(_) | KeyAction::Query(_) => None,
        }
    }
}
