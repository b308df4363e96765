//! Switches for tests that break the protocol on purpose: a checker that has never caught
//! anything proves nothing.
//!
//! Nothing here is a fault that can happen. Hooks change or swallow what goes into cores and what
//! comes out of them, and messages are forged with the cluster's own key.

use std::{net::SocketAddr, time::Duration};

use kith_proto::{
    id::{Life, NodeId},
    input::Input,
    output::Output,
    time::Time,
    wire::{
        codec,
        message::{Direct, DirectBody, KIND_DIRECT},
        seal::Sealer,
    },
};
use rand::RngExt;

use super::{HostId, World};

/// Sees an input before the core does, may change it, and says whether the core gets it.
pub type InputHook = Box<dyn FnMut(Time, HostId, &mut Input) -> bool>;
/// Sees an output before it is carried out, and says what is done instead.
pub type OutputHook = Box<dyn FnMut(Time, HostId, Output) -> Vec<Output>>;

/// After a tick that was swallowed the next one comes so much later.
const SWALLOWED: Duration = Duration::from_millis(10);

#[derive(Default)]
pub(super) struct Tampering {
    inputs: Option<InputHook>,
    outputs: Option<OutputHook>,
    /// A tick was swallowed: the core still wants it, and shall not get the next one at once.
    ticks_late: bool,
}

impl Tampering {
    pub(super) fn admits(&mut self, now: Time, host: HostId, input: &mut Input) -> bool {
        let Some(hook) = &mut self.inputs else {
            return true;
        };
        let admitted = hook(now, host, input);
        self.ticks_late = !admitted && matches!(input, Input::Tick);
        admitted
    }

    /// How long the next tick of the core that was asked for last has to wait.
    pub(super) fn pause(&mut self) -> Duration {
        match std::mem::take(&mut self.ticks_late) {
            true => SWALLOWED,
            false => Duration::ZERO,
        }
    }

    pub(super) fn changes_outputs(&self) -> bool {
        self.outputs.is_some()
    }

    pub(super) fn output(&mut self, now: Time, host: HostId, output: Output) -> Vec<Output> {
        match &mut self.outputs {
            Some(hook) => hook(now, host, output),
            None => vec![output],
        }
    }
}

impl World {
    /// From now on that hook sees every input.
    pub fn tamper_with_inputs(&mut self, hook: InputHook) {
        self.tampering.inputs = Some(hook);
    }

    /// From now on that hook sees every output.
    pub fn tamper_with_outputs(&mut self, hook: OutputHook) {
        self.tampering.outputs = Some(hook);
    }

    /// Hands a host a datagram that nobody sent.
    pub fn inject(&mut self, host: HostId, from: SocketAddr, data: Vec<u8>) {
        self.deliver(host, Input::Datagram { from, data });
    }

    /// Delivers a message to a host's node as if a member had sent it.
    pub fn forge(&mut self, from: HostId, to: HostId, body: DirectBody) {
        let salt = self.rng.random();
        let sender = self.life(from);
        let direct = Direct { from: sender, body };
        let cluster = &self.hosts[to].config.cluster;
        let mut sealer = Sealer::new(cluster, sender.id, salt);
        let keys = &self.hosts[to].keys;
        let data = sealer.seal(keys, KIND_DIRECT, &[&codec::encode(&direct)]);
        let from = self.hosts[from].address;
        self.deliver(to, Input::Datagram { from, data });
    }

    /// The present, or last, life of a host's node.
    pub fn life(&self, host: HostId) -> Life {
        let config = &self.hosts[host].config;
        let id: NodeId = config.node;
        Life {
            id,
            generation: config.generation,
        }
    }
}
