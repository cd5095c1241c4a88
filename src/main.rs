//! The echo server's binary.
fn main() {}
