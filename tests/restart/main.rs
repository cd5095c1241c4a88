//! Sockets, connections and registrations over a restart, under a real systemd and behind a dispatcher. Run as root:
//! `cargo test --test restart -- --rig` (support/rig.rs).

#![allow(unreachable_pub, reason = "`pub` here means: for this program")]

#[path = "../support/mod.rs"]
mod support;

mod load;
mod service;
mod socket_units;
mod store;

use std::process::ExitCode;

use support::rig;

fn main() -> ExitCode {
    rig::main(
        || {},
        &[
            ("restarts with the store, under load", store::restarts),
            ("kills with the store, under load", store::kills),
            ("other numbers of workers", store::worker_counts),
            ("the processor's worker, over restarts", store::steered_by_processor),
            ("another user", store::another_user),
            ("an address given up", store::address_given_up),
            ("a store that is too small", store::too_small),
            ("stop and start", store::stop_and_start),
            ("a drain longer than the manager's patience", store::drain_extends_the_stop),
            ("the service of dist/", store::service_of_dist),
            ("sockets of units, one for each worker", socket_units::one_for_each_worker),
            ("sockets of units, fewer than workers", socket_units::fewer_than_workers),
            ("sockets that were passed twice", socket_units::passed_twice),
            ("sockets that nobody can serve", socket_units::refused),
            ("the sockets of dist/", socket_units::of_dist),
        ],
    )
}
