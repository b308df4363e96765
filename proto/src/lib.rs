//! The Kith protocol as pure state machines.
//!
//! No socket, no clock, no randomness of its own, no order that depends on a hash map: time,
//! randomness and bytes come in as arguments, effects leave through one ordered queue. So
//! the daemon (`node`) and the simulator (`sim`) run the very same code.
//!
//! Reading order: [`id`], [`time`], [`config`] → [`input`], [`output`], [`event`], [`store`] →
//! [`wire`] → [`swim`] → [`members`] → [`placement`] → [`core`];
//! [`kv`] → [`replica`].

pub mod config;
pub mod core;
pub mod event;
pub mod id;
pub mod input;
pub mod kv;
pub mod members;
pub mod output;
pub mod placement;
pub mod replica;
pub mod store;
pub mod swim;
pub mod time;
mod timers;
pub mod wire;
