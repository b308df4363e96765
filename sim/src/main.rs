//! The `kith-sim` binary.
fn main() {}
