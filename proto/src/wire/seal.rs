//! Sealing of datagrams.
