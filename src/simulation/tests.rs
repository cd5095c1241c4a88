//! Runs worlds, and says how to run one again.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rand::random;

use super::chance::Faults;
use super::here::{WORLD, ask};
use super::kernel::{Kernel, Order};
use super::peer::Peer;
use super::scene::{CLIENT_LIKE_PORT, Endpoint, Scene};
use super::world::World;
use crate::echo::tcp::{BufferCounts, TcpLimits};
use crate::echo::udp::{self, reply_sockets::ReplySocketLimits};
use crate::echo::worker::{Shared, Worker, WorkerConfig};
use crate::kernel::ring::{Errno, FileTable, Ring, RingConfig, Token, WholeBuffers, try_order};
use crate::kernel::sys::Protocol;
use crate::policy::counters::Counters;
use crate::policy::pairs::Pairs;
use crate::policy::refuse::Rules;
use crate::sockets::listening::{AtExit, Listening};

/// Completions and turns that a run is made of.
const STEPS: u64 = 1_000_000;
/// So few receive buffers for streams that they run out.
const BUFFERS: BufferCounts = BufferCounts { incremental: 2, whole: 8 };
/// So few bytes at the end of the server that peers get there.
const FINAL_READ_BYTES: u32 = 320 << 10;
/// Fewer splices than that show nothing.
const SPLICES_MIN: u64 = 50;
/// Worlds that run at a time.
const THREADS: usize = 2;

/// What a world has come to.
struct Outcome {
    steps: u64,
    /// Splices that have brought anything.
    splices: u64,
}

/// Runs the world of a seed to its end.
fn run(seed: u64) -> Outcome {
    run_on(seed, |_| ())
}

/// The same on a kernel of this make.
fn run_on(seed: u64, make: impl FnOnce(&mut Kernel)) -> Outcome {
    run_in(seed, make, |_| ())
}

/// The same where something has happened before the worker comes.
fn run_in(seed: u64, make: impl FnOnce(&mut Kernel), before: impl FnOnce(&mut World)) -> Outcome {
    let counters = Arc::new(Counters::default());
    let mut world = World::new(seed, Arc::clone(&counters));
    make(&mut world.kernel);
    WORLD.set(Some(world));
    let (sockets, wake) = ask(furnish).expect("there is a world");
    ask(before).expect("there is a world");
    let scene = ask(|world| world.scene().clone()).expect("there is a world");
    let config = config(&scene, &sockets);
    let shared = Shared::new(1, scene.per_prefix);
    let worker = Worker::arm(sockets, Arc::new(wake), counters, shared, config).expect("the worker starts");
    worker.run().expect("the worker ends in good order");
    ask(World::check_end);
    let world = WORLD.take().expect("there is a world");
    Outcome { steps: world.kernel.steps, splices: world.pipe.splices() }
}

/// What the worker starts with.
fn furnish(world: &mut World) -> (Vec<Listening>, OwnedFd) {
    let (tcp, udp, flows) =
        (world.scene().tcp.clone(), world.scene().udp.clone(), world.scene().flows.clone());
    let mut listening = Vec::new();
    for Endpoint { addr, at_exit } in tcp {
        let object = world.tcp.listen(addr);
        listening.push(Listening::pretended(Protocol::Tcp, addr, at_exit, world.descriptor(object)));
        if at_exit == AtExit::Retire {
            let number = world.tcp.listeners.len() - 1;
            world.connect(number, 4);
            let listener = &mut world.tcp.listeners[number];
            (listener.filtered, listener.served) = (true, false);
        }
    }
    for Endpoint { addr, at_exit } in udp {
        let object = world.udp.listen(addr);
        listening.push(Listening::pretended(Protocol::Udp, addr, at_exit, world.descriptor(object)));
    }
    for flow in flows {
        world.udp.add_flow(flow);
    }
    for (number, Endpoint { at_exit, .. }) in world.scene().udp.clone().into_iter().enumerate() {
        if at_exit == AtExit::Retire {
            (0..10).for_each(|_| world.datagram_for(number));
            (world.udp.sockets[number].filtered, world.udp.sockets[number].served) = (true, false);
        }
    }
    // what was dropped before the worker came is not its business
    world.udp.books.dropped = 0;
    let wake = world.descriptor(super::kernel::Object::Wake);
    (listening, wake)
}

/// What the worker is told.
fn config(scene: &Scene, listening: &[Listening]) -> WorkerConfig {
    let addresses: Vec<SocketAddr> = listening.iter().map(|socket| socket.addr).collect();
    let pairs = Arc::new(Pairs::new(addresses.len() + scene.reply_sockets));
    WorkerConfig {
        file_table: FileTable::Registered,
        rules: Rules::new(&addresses, CLIENT_LIKE_PORT..=CLIENT_LIKE_PORT, pairs),
        reply_sockets: ReplySocketLimits {
            count: scene.reply_sockets,
            per_second: scene.reply_sockets_per_second,
            idle_timeout: Duration::from_secs(1),
        },
        reply_ports_except: Arc::new("5001".parse().expect("a port")),
        rates: scene.rates,
        // so little that both run out
        udp_sizes: udp::Sizes { split_slots: 64, idle_seconds: 1 },
        tcp: TcpLimits {
            connections: scene.connections_limit,
            workers: scene.workers,
            idle_timeout: scene.idle_timeout,
            single_accept: scene.per_prefix.is_some(),
            buffers: BUFFERS,
            final_read_bytes: FINAL_READ_BYTES,
            first_descriptor: Some(0),
        },
        busy_poll: scene.busy_poll,
        drain_timeout: scene.drain_timeout,
        turn_timeout: None,
    }
}

/// The seed of the only world, if it is given.
fn only_seed() -> Option<u64> {
    seed_of("SIMULATION_SEED")
}

/// The seed of the first world; the others follow it. A random one, unless it is given, as it is where a change is judged.
fn first_seed() -> u64 {
    only_seed().or_else(|| seed_of("SIMULATION_FIRST_SEED")).unwrap_or_else(random)
}

fn seed_of(variable: &str) -> Option<u64> {
    let seed = std::env::var(variable).ok()?;
    Some(seed.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

#[test]
fn whatever_the_kernel_does_nothing_is_lost_uncounted() {
    if let Some(seed) = only_seed() {
        let Outcome { steps, splices } = run(seed);
        println!("{steps} steps, {splices} splices");
        return;
    }
    let first = first_seed();
    let (steps, splices, worlds) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while steps.load(Ordering::Relaxed) < STEPS {
                    let seed = first.wrapping_add(worlds.fetch_add(1, Ordering::Relaxed));
                    match panic::catch_unwind(AssertUnwindSafe(|| run(seed))) {
                        Ok(outcome) => {
                            steps.fetch_add(outcome.steps, Ordering::Relaxed);
                            splices.fetch_add(outcome.splices, Ordering::Relaxed);
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
    println!("{steps:?} steps in {worlds:?} worlds, {splices:?} splices");
    assert!(splices.load(Ordering::Relaxed) > SPLICES_MIN, "{splices:?} splices");
}

/// The signal may come before the worker has shown that its sockets work.
#[test]
fn a_worker_that_is_told_to_end_before_it_is_armed_ends() {
    for seed in 0..200 {
        println!("SIMULATION_SEED={seed}");
        run_in(
            seed,
            |_| (),
            |world| {
                for listener in 0..world.tcp.listeners.len() {
                    let peer = Peer::draw(&mut world.kernel.chance, false);
                    world.tcp.connect(listener, peer, &mut world.kernel);
                }
                world.drain();
            },
        );
    }
}

/// What the trial makes of a kernel of this make.
fn trial(seed: u64, make: impl FnOnce(&mut Kernel)) -> Result<(), WholeBuffers> {
    let mut world = World::new(seed, Arc::default());
    make(&mut world.kernel);
    WORLD.set(Some(world));
    let mut ring = Ring::new(RingConfig {
        submission_entries: 256,
        completion_entries: 4096,
        files: 8,
        file_table: FileTable::Registered,
        busy_poll: Duration::ZERO,
    })
    .expect("a ring");
    let outcome = try_order(&mut ring, Token::new(1, 0, 0));
    assert!(!ask(|world| world.kernel.has_work()).expect("there is a world"), "something is left behind");
    WORLD.take();
    outcome
}

#[test]
fn the_trial_trusts_no_kernel_that_is_out_of_order_whatever_else_it_does() {
    const WORLDS: u64 = 300;
    let first = first_seed();
    let mut trusted = 0;
    for seed in (0..WORLDS).map(|number| first.wrapping_add(number)) {
        println!("SIMULATION_SEED={seed}");
        let of = |order, incremental| {
            move |kernel: &mut Kernel| (kernel.order, kernel.incremental) = (order, incremental)
        };
        let out_of_order = trial(seed, of(Order::Late, true));
        let untried = WholeBuffers::Untried(Errno(libc::EAGAIN));
        assert!([Err(WholeBuffers::OutOfOrder), Err(untried)].contains(&out_of_order), "{out_of_order:?}");
        assert_eq!(trial(seed, of(Order::Kept, false)), Err(WholeBuffers::NotIncremental));
        let kept = trial(seed, of(Order::Kept, true));
        assert!([Ok(()), Err(untried)].contains(&kept), "{kept:?}");
        trusted += u64::from(kept.is_ok());

        let faultless = |order| {
            move |kernel: &mut Kernel| {
                (kernel.order, kernel.incremental) = (order, true);
                (kernel.faults, kernel.queue_room) = (Faults::default(), 16);
            }
        };
        let full = trial(seed, faultless(Order::Kept));
        assert!([Ok(()), Err(untried)].contains(&full), "{full:?}");
        for order in [Order::Late, Order::LastFirst, Order::WokenLastFirst] {
            assert_eq!(trial(seed, faultless(order)), Err(WholeBuffers::OutOfOrder), "{order:?}");
        }
        assert_eq!(trial(seed, faultless(Order::LateUnseen)), full, "it sees nothing");
    }
    println!("{trusted} of {WORLDS} were trusted");
    assert!(trusted > WORLDS / 4, "{trusted} of {WORLDS}");
}

/// What a panic says.
fn said(cause: &(dyn std::any::Any + Send)) -> &str {
    let literal = cause.downcast_ref::<&str>().copied();
    literal.or(cause.downcast_ref::<String>().map(String::as_str)).expect("a panic says something")
}

/// A kernel that completes behind a multishot what was received before it mixes up the parts of incremental buffers.
/// Where the trial sees that, nothing is lost; where it is kept from seeing, in the same world, bytes are sent to the
/// wrong peer, or the process ends before they are.
#[test]
fn completions_out_of_order_are_found_by_the_trial_and_fatal_without_it() {
    const WORLDS_MAX: u64 = 2000;
    let first = first_seed();
    let late = |order| {
        move |kernel: &mut Kernel| {
            kernel.order = order;
            kernel.incremental = true;
        }
    };
    let (mut wrong_bytes, mut ended) = (0, 0);
    for number in 0..WORLDS_MAX {
        let seed = first.wrapping_add(number);
        let unseen = panic::catch_unwind(AssertUnwindSafe(|| run_on(seed, late(Order::LateUnseen))));
        let Err(cause) = unseen else { continue };
        match said(&*cause) {
            text if text.contains("other bytes than were received") => wrong_bytes += 1,
            text if text.contains("the kernel contradicts itself") => ended += 1,
            _ => {
                println!("SIMULATION_SEED={seed} is the world that fails otherwise");
                panic::resume_unwind(cause);
            }
        }
        println!("SIMULATION_SEED={seed} has just failed, and must not with the trial");
        run_on(seed, late(Order::Late));
        if wrong_bytes > 0 && ended > 0 && wrong_bytes + ended >= 4 {
            println!("{wrong_bytes} times wrong bytes, {ended} times an end, in {} worlds", number + 1);
            return;
        }
    }
    panic!("{wrong_bytes} times wrong bytes, {ended} times an end, in {WORLDS_MAX} worlds");
}
