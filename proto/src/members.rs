//! Who is a member: the table of all that this node knows of others, and of itself.
//!
//! ```text
//!                 record known, foca: up
//!   (unknown) ----------------------------> alive <------------+
//!                                            |  ^              | larger renewal: false alarm
//!                              suspicion     v  | refuted      |
//!                                          suspect ---------> failed ----> (forgotten, 72 h)
//!                                                   verdict
//!   alive, suspect, failed --- its own word ---> leaving, left ----> (forgotten, 24 h)
//!                          --- an operator's --> evicted
//! ```
//!
//! A new life (larger generation) begins at alive from any state. [`record`]: what a node tells
//! about itself. [`table`]: entries, their status, digests for synchronisation. `tally`: what is
//! known of all entries together. [`blocked`]: members that only one of UDP and TCP reaches.
//! [`unsteady`]: members that keep falling silent and coming back.

pub mod blocked;
pub mod record;
pub mod table;
mod tally;
pub mod unsteady;
