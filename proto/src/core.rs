//! Stand-in with the signatures of the core, for building its host.

use std::collections::VecDeque;

use crate::{
    config::Config,
    input::{Command, Input},
    output::{Answer, Output, Stop},
    store::Restored,
    time::Time,
    wire::keyring::Keyring,
};

/// Stand-in: answers commands, stops when told to leave.
#[derive(Debug)]
pub struct Core {
    config: Config,
    outputs: VecDeque<Output>,
}

impl Core {
    /// A core.
    pub fn new(
        config: Config,
        _keys: Keyring,
        _seed: [u8; 32],
        _restored: Restored,
        _now: Time,
    ) -> Self {
        Self {
            config,
            outputs: VecDeque::new(),
        }
    }

    /// Takes an input.
    pub fn handle(&mut self, _now: Time, input: Input) {
        if let Input::Command { request, command } = input {
            let leaves = matches!(command, Command::Leave { .. });
            self.outputs.push_back(Output::Reply {
                request,
                answer: Answer::Done,
            });
            if leaves {
                self.outputs
                    .push_back(Output::Stop(Stop::Left { acknowledged: 0 }));
            }
        }
    }

    /// Gives an output.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to tick.
    pub fn poll_timeout(&self) -> Option<Time> {
        None
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }
}
