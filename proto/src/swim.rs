//! Failure detection: SWIM by foca, and what makes it good around it.
//!
//! ```text
//!             datagrams                     frames, knocks
//!                 |                               |
//!            detector  --- probes fail --->   inquiry: is it really gone, and how?
//!        (owns foca, its                          |
//!         timers, health)                    accusation (own, or from others)
//!                 ^                               |
//!                 |                          suspicion: how long until it is believed
//!                 +------- down ---------------- verdict
//! ```
//!
//! - [`detector`]: foca, the timers it asks for (stretched by local health, shortened by
//!   measured round trips), and what happened in it as notes.
//! - [`health`], [`rtt`]: how far this node trusts itself, and how long it waits.
//! - [`inquiry`]: pings, a knock and the stream together tell *refused* from *unreachable* from
//!   *unresponsive* within a few round trips.
//! - [`suspicion`]: the window in which a suspected member can refute, falling with independent
//!   confirmations.
//! - [`limits`]: no accuser may bury the cluster.
//!
//! Sources: SWIM (Das et al. 2002), Lifeguard (Dadgar et al. 2017, arXiv 1707.00788), Falcon
//! (Leners et al. 2011), RFC 6298.

pub mod detector;
pub(crate) mod foca_codec;
pub mod health;
pub mod identity;
pub mod inquiry;
pub mod limits;
pub mod rtt;
pub mod suspicion;

pub use foca_codec::describe;
