//! Large TCP messages go back by their pages (splice(2)). All that holds for copied messages holds for them, too: order and
//! exact bytes, how connections end, fairness, bounded memory. And where nothing can be spliced, they are copied.
//!
//! The counter `tcp_bytes_spliced` shows in each test that pages were moved, or that none were.

#![allow(unreachable_pub, reason = "`pub` here means: for this program")]

#[path = "../support/mod.rs"]
mod support;

mod cables;
mod copied;
mod ends;
mod exchange;
mod turns;
