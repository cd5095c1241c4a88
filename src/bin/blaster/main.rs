//! The load tester's binary.
fn main() {}
