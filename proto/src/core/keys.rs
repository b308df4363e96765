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

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Core, timers::TimerKind};
use crate::{
    event::Event,
    id::NodeId,
    input::{RequestId, StreamId},
    output::{Answer, Output},
    time::Time,
    wire::{
        keyring::{Key, KeyId, KeyringError},
        message::{Frame, KeyAction, KeyState},
    },
};

/// Members have so long to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A change of keys under way.
#[derive(Debug)]
pub(super) struct KeyOperation {
    request: RequestId,
    number: u64,
    key: KeyId,
    action: KeyAction,
    /// Asking first, changing after.
    asking: bool,
    waiting: BTreeSet<NodeId>,
    states: BTreeMap<NodeId, KeyState>,
    confirmed: Vec<String>,
    missing: Vec<(String, String)>,
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
        self.key_operation = Some(KeyOperation {
            request,
            number,
            key,
            action,
            asking,
            waiting: BTreeSet::new(),
            states: BTreeMap::new(),
            confirmed: Vec::new(),
            missing: Vec::new(),
        });
        self.timers.set(TimerKind::Keys, now + PATIENCE);
        self.ask_all(now);
        None
    }

    // Sends the present step to everybody who lives, this node included.
    fn ask_all(&mut self, now: Time) {
        let Some(operation) = &self.key_operation else {
            return;
        };
        let (number, key) = (operation.number, operation.key);
        let action = if operation.asking {
            KeyAction::Query(key)
        } else {
            operation.action.clone()
        };
        let peers: Vec<(NodeId, Option<StreamId>)> = self
            .table
            .living_others()
            .map(|entry| (entry.identity.id, entry.stream))
            .collect();
        if let Some(operation) = &mut self.key_operation {
            operation.waiting = peers.iter().map(|(id, _)| *id).collect();
            operation.waiting.insert(self.table.own_id());
        }
        for (id, stream) in peers {
            match stream {
                Some(stream) => self.send_frame(
                    stream,
                    &Frame::KeyRequest {
                        operation: number,
                        action: action.clone(),
                    },
                ),
                None => self.key_replied(
                    now,
                    id,
                    number,
                    Err("no stream to it is open; try again in a moment".to_owned()),
                ),
            }
        }
        let outcome = self.change_key(action);
        self.key_replied(now, self.table.own_id(), number, outcome);
    }

    /// Does what is asked with the own ring.
    pub(super) fn change_key(&mut self, action: KeyAction) -> Result<KeyState, String> {
        let id = match action {
            KeyAction::Add(key) => {
                let id = key.id();
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
                id
            }
        };
        Ok(KeyState {
            held: self.keys.get(id).is_some(),
            primary: self.keys.primary().id() == id,
        })
    }

    /// A member welcomed us with its ring: what we lack is taken over.
    pub(super) fn learn_key(&mut self, key: Key, primary: bool) {
        let id = key.id();
        match self.keys.add(key) {
            Ok(true) => self.ring_changed("added", id),
            Ok(false) => {}
            Err(error) => self.warn("keyring_full", error.to_string()),
        }
        if primary && matches!(self.keys.set_primary(id), Ok(true)) {
            self.ring_changed("used", id);
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

    pub(super) fn key_replied(
        &mut self,
        now: Time,
        from: NodeId,
        number: u64,
        outcome: Result<KeyState, String>,
    ) {
        let name = self.table.name_of(from);
        let Some(operation) = &mut self.key_operation else {
            return;
        };
        if operation.number != number || !operation.waiting.remove(&from) {
            return;
        }
        match outcome {
            Ok(state) => {
                operation.states.insert(from, state);
                operation.confirmed.push(name);
            }
            Err(reason) => operation.missing.push((name, reason)),
        }
        if operation.waiting.is_empty() {
            self.key_step_is_over(now);
        }
    }

    pub(super) fn keys_overdue(&mut self, now: Time) {
        let Some(operation) = &mut self.key_operation else {
            return;
        };
        let silent = std::mem::take(&mut operation.waiting);
        for id in silent {
            let name = self.table.name_of(id);
            if let Some(operation) = &mut self.key_operation {
                operation
                    .missing
                    .push((name, "it did not answer in time".to_owned()));
            }
        }
        self.key_step_is_over(now);
    }

    fn key_step_is_over(&mut self, now: Time) {
        let Some(mut operation) = self.key_operation.take() else {
            return;
        };
        self.timers.clear(TimerKind::Keys);
        if !operation.asking {
            operation.confirmed.sort();
            let answer = Answer::Keys {
                key: operation.key,
                confirmed: operation.confirmed,
                missing: operation.missing,
            };
            self.reply(operation.request, answer);
            return;
        }
        if let Some(text) = self.objection_to(&operation) {
            self.reply(operation.request, Answer::Refused(text));
            return;
        }
        operation.asking = false;
        operation.confirmed.clear();
        operation.states.clear();
        operation.number += 1;
        self.key_operation = Some(operation);
        self.timers.set(TimerKind::Keys, now + PATIENCE);
        self.ask_all(now);
    }

    // Why the second phase may not begin.
    fn objection_to(&self, operation: &KeyOperation) -> Option<String> {
        if !operation.missing.is_empty() {
            let names: Vec<String> = operation
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
            let names: Vec<String> = operation
                .states
                .iter()
                .filter(|(_, state)| wrong(state))
                .map(|(id, _)| self.table.name_of(*id))
                .collect();
            (!names.is_empty()).then(|| names.join(", "))
        };
        match operation.action {
            KeyAction::Use(_) => names_of(&|state| !state.held).map(|names| {
                format!(
                    "key {} is not held by {names}: add it first (`kith keys add`)",
                    operation.key
                )
            }),
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
