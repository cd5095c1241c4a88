//! Runs worlds, and says how to run one again.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rand::random;

use super::scene::Endpoint;
use super::world::World;
use super::{WORLD, ask};
use crate::limits::ConnectionsPerPrefix;
use crate::pairs::Pairs;
use crate::refuse::Rules;
use crate::reply_sockets;
use crate::ring::FileTable;
use crate::sockets::{Fate, Listening};
use crate::stats::Counters;
use crate::sys::Protocol;
use crate::tcp;
use crate::worker::{Worker, WorkerConfig};

/// Completions and turns that a run is made of.
const STEPS: u64 = 1_000_000;
/// Worlds that run at a time.
const THREADS: usize = 2;

/// Runs the world of a seed to its end; how many steps that took.
fn run(seed: u64) -> u64 {
    let counters = Arc::new(Counters::default());
    WORLD.set(Some(World::new(seed, Arc::clone(&counters))));
    let (sockets, wake, config) = ask(furnish).expect("there is a world");
    let worker = Worker::arm(sockets, Arc::new(wake), counters, config).expect("the worker starts");
    worker.run().expect("the worker ends in good order");
    ask(World::check_end);
    WORLD.take().expect("there is a world").kernel.steps
}

/// What the worker starts with.
fn furnish(world: &mut World) -> (Vec<Listening>, OwnedFd, WorkerConfig) {
    let (tcp, udp, flows) =
        (world.scene().tcp.clone(), world.scene().udp.clone(), world.scene().flows.clone());
    let mut listening = Vec::new();
    for Endpoint { addr, fate } in tcp {
        let object = world.tcp.listen(addr);
        listening.push(Listening::pretended(Protocol::Tcp, addr, fate, world.descriptor(object)));
        if fate == Fate::Retires {
            let listener = world.tcp.listeners.last_mut().expect("just made");
            (listener.filtered, listener.served) = (true, false);
        }
    }
    for Endpoint { addr, fate } in udp {
        let object = world.udp.listen(addr);
        listening.push(Listening::pretended(Protocol::Udp, addr, fate, world.descriptor(object)));
    }
    for flow in flows {
        world.udp.add_flow(flow);
    }
    for (number, Endpoint { fate, .. }) in world.scene().udp.clone().into_iter().enumerate() {
        if fate == Fate::Retires {
            (0..10).for_each(|_| world.datagram_for(number));
            (world.udp.sockets[number].filtered, world.udp.sockets[number].served) = (true, false);
        }
    }
    // what was dropped before the worker came is not its business
    world.udp.books.dropped = 0;
    let addresses: Vec<SocketAddr> = listening.iter().map(|socket| socket.addr).collect();
    let scene = world.scene();
    let pairs = Arc::new(Pairs::new(addresses.len() + scene.reply_sockets));
    let config = WorkerConfig {
        file_table: FileTable::Registered,
        rules: Rules::new(&addresses, 60_000..=60_999, pairs),
        reply_sockets: reply_sockets::Limits {
            count: scene.reply_sockets,
            per_second: scene.reply_sockets_per_second,
            idle_timeout: Duration::from_secs(1),
        },
        rates: scene.rates,
        limits: tcp::Limits {
            connections: scene.connections_limit,
            workers: scene.workers,
            idle_timeout: scene.idle_timeout,
            one_by_one: scene.per_prefix.is_some(),
            per_prefix: scene.per_prefix.map(|limit| Arc::new(ConnectionsPerPrefix::new(limit))),
        },
        busy_poll: scene.busy_poll,
        drain_timeout: scene.drain_timeout,
        workers_with_tcp: Arc::new(AtomicUsize::new(1)),
        turn_timeout: None,
    };
    let wake = world.descriptor(super::kernel::Object::Wake);
    (listening, wake, config)
}

#[test]
fn whatever_the_kernel_does_nothing_is_lost_uncounted() {
    if let Ok(seed) = std::env::var("SIMULATION_SEED") {
        let steps = run(seed.parse().expect("SIMULATION_SEED is a number"));
        println!("{steps} steps");
        return;
    }
    let first: u64 = random();
    let (steps, worlds) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while steps.load(Ordering::Relaxed) < STEPS {
                    let seed = first.wrapping_add(worlds.fetch_add(1, Ordering::Relaxed));
                    match panic::catch_unwind(AssertUnwindSafe(|| run(seed))) {
                        Ok(taken) => {
                            steps.fetch_add(taken, Ordering::Relaxed);
                        }
                        Err(cause) => {
                            println!("to see it again: SIMULATION_SEED={seed} cargo test --lib simulation");
                            println!("there were {steps:?} steps in {worlds:?} worlds before");
                            steps.fetch_add(STEPS, Ordering::Relaxed);
                            panic::resume_unwind(cause);
                        }
                    }
                }
            });
        }
    });
    println!("{steps:?} steps in {worlds:?} worlds");
}
