//! A world of one worker: the kernel under it, the network around it, and what happens there.

mod calls;
mod checks;
mod enter;

use std::sync::Arc;
use std::time::Duration;

use super::chance::Chance;
use super::kernel::{InFlight, Kernel, Object};
use super::peer::Peer;
use super::pipes::Pipe;
use super::scene::Scene;
use super::streams::Streams;
use super::tcp::Tcp;
use super::udp::{Flaw, Udp};
use crate::policy::counters::Counters;

/// How long time goes on when all is quiet: longer than a clock fails and anything is kept that nothing happens to.
const LINGER: Duration = Duration::from_secs(8);

/// How far the world has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Datagrams and connections come in.
    Busy,
    /// No more of them; everybody reads.
    Settling,
    /// The worker was told to end.
    Draining,
}

/// The world.
// many fields: each is a part of it
pub(crate) struct World {
    pub(crate) kernel: Kernel,
    pub(super) udp: Udp,
    pub(super) tcp: Tcp,
    pub(super) pipe: Pipe,
    streams: Streams,
    scene: Scene,
    phase: Phase,
    counters: Arc<Counters>,
    wake_poll: Option<InFlight>,
    woken: bool,
    /// Listeners to which a connection was on its way already when nothing new was let in.
    late: Vec<usize>,
    /// When all was quiet for the first time, and when the worker was told to end.
    settled: Option<Duration>,
    told: Duration,
}

impl World {
    pub(super) fn new(seed: u64, counters: Arc<Counters>) -> Self {
        let mut kernel = Kernel::new(Chance::new(seed));
        let scene = Scene::draw(&mut kernel.chance);
        Self {
            kernel,
            udp: Udp::default(),
            tcp: Tcp {
                may_close_idle: !scene.idle_timeout.is_zero() || scene.per_prefix.is_some(),
                limit: scene.connections_limit,
                ..Tcp::default()
            },
            pipe: Pipe::default(),
            streams: Streams::default(),
            scene,
            phase: Phase::Busy,
            counters,
            wake_poll: None,
            woken: false,
            late: Vec::new(),
            settled: None,
            told: Duration::ZERO,
        }
    }

    pub(super) fn scene(&self) -> &Scene {
        &self.scene
    }

    /// Something happens somewhere. False if there is nothing left to happen.
    fn happen(&mut self) -> bool {
        let news = self.phase == Phase::Busy && self.scene.news_left > 0;
        if news && (!self.kernel.has_active() || self.kernel.chance.one_in(self.scene.calm)) {
            self.scene.news_left -= 1;
            self.kernel.progress();
            self.news();
            return true;
        }
        if let Some(&listener) = self.late.last()
            && self.kernel.chance.one_in(3)
        {
            self.late.pop();
            let mut peer = Peer::draw(&mut self.kernel.chance, true);
            peer.soften();
            self.tcp.connect_late(listener, peer, &mut self.kernel);
            return true;
        }
        let Some(object) = self.kernel.next_active() else { return false };
        let Self { kernel, udp, tcp, .. } = self;
        match object {
            Object::Udp(socket) => udp.advance(socket, kernel),
            Object::Reply(reply) => udp.advance_reply(reply, kernel),
            Object::Listener(listener) => tcp.advance_listener(listener, kernel),
            Object::Connection(connection) => tcp.advance(connection, kernel),
            Object::Peer(connection) => tcp.advance_peer(connection, kernel),
            // see `enter`
            Object::Stream(_) | Object::StreamEnd(_) | Object::PipeOut | Object::PipeIn => {}
            Object::Wake => {
                if let Some(poll) = self.wake_poll.take() {
                    let operation = kernel.end(poll);
                    kernel.complete(&operation.sqe, i32::from(libc::POLLIN), 0);
                }
            }
        }
        true
    }

    /// Something comes in from outside.
    fn news(&mut self) {
        let Self { kernel, tcp, scene, .. } = self;
        if scene.drain_early && scene.news_left == 0 {
            self.drain();
        } else if kernel.chance.happens(scene.pauses) {
            let end = kernel.now + Duration::from_millis(kernel.chance.below(300) as u64);
            kernel.sleep(end);
        } else if !tcp.listeners.is_empty()
            && tcp.open() < scene.connections_max
            && (self.udp.flows.is_empty() || kernel.chance.one_in(8))
        {
            let listener = kernel.chance.below(tcp.listeners.len());
            let count = kernel.chance.pick(&[1, 1, 1, 10, 40]);
            self.connect(listener, count);
        } else if !self.udp.flows.is_empty() {
            let flow = kernel.chance.below(self.udp.flows.len());
            for _ in 0..kernel.chance.pick(&[1, 1, 3, 30]) {
                Self::datagram(&mut self.udp, flow, &mut self.kernel);
            }
        }
    }

    /// So many connect, if so many may.
    pub(super) fn connect(&mut self, listener: usize, count: usize) {
        let Self { kernel, tcp, scene, .. } = self;
        for _ in 0..count.min(scene.connections_max - tcp.open()) {
            let mut peer = Peer::draw(&mut kernel.chance, scene.visits);
            if kernel.chance.happens(scene.silent_peers) {
                peer.left = 0;
            }
            tcp.connect(listener, peer, kernel);
        }
    }

    pub(super) fn datagram_for(&mut self, socket: usize) {
        if let Some(flow) = self.udp.flows.iter().position(|flow| flow.socket == socket) {
            Self::datagram(&mut self.udp, flow, &mut self.kernel);
        }
    }

    fn datagram(udp: &mut Udp, flow: usize, kernel: &mut Kernel) {
        let chance = &mut kernel.chance;
        let bytes = match chance.below(8) {
            0 => 0,
            1 => chance.below(10),
            2 => chance.pick(&[1452, 1453, 1472, 1473]),
            3 => chance.below(65_508),
            _ => chance.pick(&[8, 64, 64, 64, 1200]),
        };
        let most = (65_507 / bytes.max(1)).min(64);
        let (count, last) = if bytes > 0 && most > 1 && chance.one_in(3) {
            (chance.between(2, most), if chance.one_in(2) { bytes } else { chance.between(1, bytes) })
        } else {
            (1, bytes)
        };
        let flaw = chance
            .happens(kernel.faults.flaw)
            .then(|| chance.pick(&[Flaw::PayloadTruncated, Flaw::ControlTruncated, Flaw::NoDestination]));
        udp.arrive(flow, (count, bytes, last), flaw, kernel);
    }

    /// The worker is told to end.
    pub(super) fn drain(&mut self) {
        self.phase = Phase::Draining;
        self.told = self.kernel.now;
        self.woken = true;
        self.kernel.stuck = self.scene.cuts && self.scene.stuck;
        self.kernel.activate(Object::Wake);
        self.tcp.begin_drain();
        for (connection, this) in self.tcp.connections.iter_mut().enumerate() {
            this.peer.soften();
            if !self.scene.cuts {
                this.peer.leave();
            }
            if self.scene.floods {
                this.flood();
            }
            self.kernel.activate(Object::Peer(connection));
        }
    }

    /// Nothing is left to happen, and time goes on all the same.
    fn lingers(&mut self) -> bool {
        if self.phase != Phase::Settling || !self.scene.lingers {
            return false;
        }
        let settled = *self.settled.get_or_insert(self.kernel.now);
        self.kernel.now < settled + LINGER
    }

    /// Nothing is left to happen: what comes next. False at the end.
    fn next_phase(&mut self) -> bool {
        match self.phase {
            Phase::Busy => {
                // of peers that don't read, too
                self.check_buffers();
                self.tcp.check_restraint();
                self.phase = Phase::Settling;
                for (connection, this) in self.tcp.connections.iter_mut().enumerate() {
                    this.peer.soften();
                    self.kernel.activate(Object::Peer(connection));
                }
            }
            Phase::Settling => {
                self.check_quiet();
                self.drain();
            }
            Phase::Draining => return false,
        }
        true
    }
}
