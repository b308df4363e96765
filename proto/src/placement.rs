//! Whose is what: partitions to nodes, a pure function of who is there.
