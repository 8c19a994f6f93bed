//! The command `strait`.
fn main() {}
