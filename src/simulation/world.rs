//! A world of one worker: the kernel under it, the network around it, and what happens there.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use io_uring::opcode;

use super::abi::Sqe;
use super::buffers::Group;
use super::chance::{Chance, Faults};
use super::kernel::{Cqe, InFlight, Kernel, Object, Operation};
use super::peer::Peer;
use super::pipes::Pipe;
use super::scene::{Endpoint, Scene};
use super::streams::Streams;
use super::tcp::Tcp;
use super::udp::{Flaw, Udp};
use crate::kernel::ring::Wait;
use crate::kernel::sys;
use crate::policy::counters::{Counters, Snapshot};
use crate::sockets::listening::AtExit;

/// The longest that the worker waits for what fails again and again.
const PAUSE_MAX: Duration = Duration::from_millis(100);

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

/// How long time goes on when all is quiet: longer than a clock fails and anything is kept that nothing happens to.
const LINGER: Duration = Duration::from_secs(8);

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

    // System calls beside the ring.

    /// Time goes on a little whenever somebody looks.
    pub(crate) fn now(&mut self) -> Instant {
        static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);
        self.kernel.now += Duration::from_nanos(100);
        *BEGINNING + self.kernel.now
    }

    /// The process sleeps.
    pub(crate) fn sleep(&mut self, time: Duration) {
        let end = self.kernel.now + time;
        self.kernel.progress();
        while self.kernel.now < end {
            self.kernel.sleep(end);
        }
    }

    /// What a hash is keyed with.
    pub(crate) fn secret(&mut self) -> u64 {
        self.kernel.chance.word()
    }

    pub(crate) fn drop_incoming(&mut self, socket: BorrowedFd<'_>) {
        match self.kernel.object(socket.as_raw_fd()) {
            Object::Udp(socket) => {
                // what was on its way already
                if self.kernel.chance.one_in(4) {
                    // if it is dropped it is too late to be counted
                    let dropped = self.udp.books.dropped;
                    self.datagram_for(socket);
                    self.udp.books.dropped = dropped;
                }
                self.udp.sockets[socket].filtered = true;
            }
            Object::Listener(listener) => {
                self.tcp.listeners[listener].filtered = true;
                self.tcp.begin_emptying();
                if self.kernel.chance.one_in(4) {
                    self.late.push(listener);
                }
            }
            other => panic!("a filter on {other:?}"),
        }
    }

    pub(crate) fn socket_drops(&self, socket: BorrowedFd<'_>) -> u32 {
        match self.kernel.object(socket.as_raw_fd()) {
            Object::Udp(socket) => self.udp.sockets[socket].drops,
            other => panic!("no datagrams are dropped at {other:?}"),
        }
    }

    pub(crate) fn receive_queue_bytes(&self, socket: BorrowedFd<'_>) -> u32 {
        match self.kernel.object(socket.as_raw_fd()) {
            Object::Udp(socket) => u32::from(!self.udp.is_queue_empty(socket)) * 1000,
            other => panic!("no queue of datagrams: {other:?}"),
        }
    }

    pub(crate) fn accept_queue_len(&self, listener: BorrowedFd<'_>) -> u32 {
        match self.kernel.object(listener.as_raw_fd()) {
            Object::Listener(listener) => self.tcp.listeners[listener].queue.len() as u32,
            other => panic!("no queue of connections: {other:?}"),
        }
    }

    /// A socket bound to a pair of address and port, to send from.
    pub(crate) fn bind(&mut self, pair: SocketAddr) -> io::Result<OwnedFd> {
        let error = if pair.port() < 1024 {
            Some(libc::EACCES)
        } else {
            let fails = self.kernel.chance.happens(self.kernel.faults.bind);
            let errors = [
                libc::EADDRINUSE,
                libc::EADDRNOTAVAIL,
                libc::EMFILE,
                libc::ENFILE,
                libc::EPERM,
                libc::EACCES,
                libc::ENOBUFS,
                libc::ENOMEM,
                libc::ENODEV,
            ];
            fails.then(|| self.kernel.chance.pick(&errors))
        };
        assert_ne!(pair.port(), 5001, "a port that was excepted is bound");
        if let Some(error) = error {
            self.kernel.ledger.count_unbound(error, pair.port());
            return Err(io::Error::from_raw_os_error(error));
        }
        let object = self.udp.bind(pair);
        Ok(self.descriptor(object))
    }

    pub(crate) fn stream_pair(&mut self) -> (OwnedFd, OwnedFd) {
        let (ours, theirs) = self.streams.open();
        (self.descriptor(ours), self.descriptor(theirs))
    }

    pub(crate) fn send_now(&mut self, end: BorrowedFd<'_>, bytes: &[u8]) {
        match self.kernel.object(end.as_raw_fd()) {
            Object::StreamEnd(stream) => self.streams.write(stream, bytes),
            other => panic!("no stream is written to: {other:?}"),
        }
    }

    pub(crate) fn end_stream(&mut self, end: BorrowedFd<'_>) {
        match self.kernel.object(end.as_raw_fd()) {
            Object::StreamEnd(stream) => self.streams.end(stream),
            other => panic!("no stream ends: {other:?}"),
        }
    }

    /// The two ends of a pipe, if there is one to be had.
    pub(crate) fn pipe(&mut self) -> io::Result<(OwnedFd, OwnedFd)> {
        if self.kernel.chance.one_in(8) {
            let errno = self.kernel.chance.pick(&[libc::EMFILE, libc::ENFILE, libc::EPERM, libc::ENOSYS]);
            return Err(io::Error::from_raw_os_error(errno));
        }
        Ok((self.descriptor(Object::PipeOut), self.descriptor(Object::PipeIn)))
    }

    pub(crate) fn splice(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        bytes_max: u32,
    ) -> io::Result<u32> {
        let ends = (self.kernel.object(from.as_raw_fd()), self.kernel.object(to.as_raw_fd()));
        self.pipe.splice(ends, bytes_max, &mut self.tcp, &mut self.kernel)
    }

    pub(crate) fn read(&mut self, file: BorrowedFd<'_>, room: &mut [u8]) -> io::Result<usize> {
        assert_eq!(self.kernel.object(file.as_raw_fd()), Object::PipeOut);
        self.pipe.read(room, &mut self.kernel)
    }

    /// The same file under another number.
    pub(crate) fn renumber(&mut self, fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        let object = self.kernel.object(fd.as_raw_fd());
        if self.kernel.chance.happens(self.kernel.faults.bind) {
            self.kernel.ledger.count("tcp_no_descriptors", 1);
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        Ok(self.descriptor(object))
    }

    /// The file of a connection waits, or not.
    pub(crate) fn set_nonblocking(&mut self, file: BorrowedFd<'_>, nonblocking: bool) {
        match self.kernel.object(file.as_raw_fd()) {
            Object::Connection(connection) => self.tcp.connections[connection].nonblocking = nonblocking,
            other => panic!("nobody waits for {other:?}"),
        }
    }

    /// What the peer of a connection has not read.
    pub(crate) fn send_queue_bytes(&self, socket: BorrowedFd<'_>) -> u32 {
        match self.kernel.object(socket.as_raw_fd()) {
            Object::Connection(connection) => self.tcp.connections[connection].unread() as u32,
            other => panic!("no send queue of a stream: {other:?}"),
        }
    }

    /// A descriptor that stands for an object.
    pub(super) fn descriptor(&mut self, object: Object) -> OwnedFd {
        let fd = sys::eventfd().expect("a descriptor");
        self.kernel.open(fd.as_fd().as_raw_fd(), object);
        fd
    }

    /// The process closes all its files at once.
    pub(crate) fn unregister_files(&mut self) {
        for object in self.kernel.unregister_files() {
            if let Object::Connection(connection) = object {
                self.tcp.close(connection, &mut self.kernel);
            }
        }
    }

    // The queues, and io_uring_enter(2).

    /// False if the submission queue is full.
    pub(crate) fn push(&mut self, sqe: Sqe) -> bool {
        self.kernel.push(sqe, self.counters.turns.get())
    }

    /// The completions, which the worker handles in its next turn.
    pub(crate) fn reap(&mut self) -> VecDeque<Cqe> {
        let turn = self.counters.turns.get();
        let completions = self.kernel.reap();
        for (user_data, ..) in &completions {
            self.udp.seen(*user_data, turn);
        }
        completions
    }

    pub(crate) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let failed = |errno| Err(io::Error::from_raw_os_error(errno));
        self.kernel.started |= self.counters.turns.get() > 0;
        self.kernel.turn();
        self.kernel.sync();
        assert!(self.pipe.is_empty(), "the pipe waits for a peer");
        if self.kernel.chance.happens(self.kernel.faults.enter) {
            self.kernel.flush_overflown();
            return failed(self.kernel.chance.pick(&[libc::EINTR, libc::EAGAIN, libc::EBUSY]));
        }
        if self.kernel.persists(|persistent| persistent.enter) {
            return failed(libc::EAGAIN);
        }
        let queued = self.kernel.queued();
        let partial = queued > 0 && self.kernel.chance.happens(self.kernel.faults.partial);
        let count = if partial { self.kernel.chance.below(queued) } else { queued };
        self.kernel.begin_submission();
        for _ in 0..count {
            let operation = self.kernel.next_queued().expect("so many are queued");
            self.submit(operation);
        }
        self.kernel.end_submission();
        // what happens inside the process waits for nobody
        if !self.kernel.chance.one_in(4) {
            let completed = self.kernel.completed();
            self.streams.advance_all(&mut self.kernel);
            self.kernel.woken_since(completed);
        }
        self.kernel.flush_overflown();
        if partial {
            // the kernel does not wait then
            return if count > 0 { Ok(()) } else { failed(libc::EAGAIN) };
        }
        if wait == Wait::No {
            for _ in 0..self.kernel.chance.below(3) {
                self.happen();
            }
            return Ok(());
        }
        let batch = self.kernel.chance.pick(&[1, 1, 4, 40, 300]);
        while self.kernel.completed() < batch {
            if self.kernel.chance.happens(self.kernel.faults.interrupted) {
                return failed(libc::EINTR);
            }
            if self.happen() {
                continue;
            }
            if self.kernel.completed() > 0 {
                break;
            }
            // whoever looks again so soon waits for something to pass
            let paused = matches!(wait, Wait::Timeout(timeout) if timeout <= PAUSE_MAX);
            assert!(!paused || self.has_cause_to_pause(), "the worker pauses, and nothing has failed");
            let lingers = self.lingers();
            if !paused && !lingers && self.next_phase() {
                continue;
            }
            let end = match wait {
                Wait::Timeout(timeout) => self.kernel.now + timeout,
                _ if self.kernel.has_timers() => Duration::MAX,
                _ if lingers => self.kernel.now + LINGER,
                _ => panic!("the worker sleeps for ever: {:?}", self.phase),
            };
            self.kernel.doze();
            if !self.kernel.sleep(end) {
                return failed(libc::ETIME);
            }
        }
        Ok(())
    }

    /// Something may have failed, or has to be looked at now and then.
    fn has_cause_to_pause(&self) -> bool {
        let faults = &self.kernel.faults;
        let fails = faults.receive > 0 || faults.passing > 0 || faults.persistent.lasts();
        let mut endpoints = self.scene.udp.iter().chain(&self.scene.tcp);
        fails || self.phase == Phase::Draining || endpoints.any(|endpoint| endpoint.at_exit == AtExit::Retire)
    }

    /// An operation begins.
    fn submit(&mut self, operation: Operation) {
        let Self { kernel, udp, tcp, streams, .. } = self;
        match (operation.sqe.opcode(), operation.object) {
            (opcode::RecvMsgMulti::CODE, Some(Object::Udp(socket))) => udp.receive(socket, operation, kernel),
            (opcode::SendMsg::CODE, Some(from @ (Object::Udp(_) | Object::Reply(_)))) => {
                udp.send(from, operation, kernel);
            }
            (opcode::AcceptMulti::CODE, Some(Object::Listener(listener))) => {
                tcp.accept(listener, operation, kernel);
            }
            (opcode::Recv::CODE, Some(Object::Connection(connection))) => {
                tcp.receive(connection, operation, kernel);
            }
            (opcode::FixedFdInstall::CODE, Some(connection @ Object::Connection(_))) => {
                self.install(connection, &operation.sqe);
            }
            (opcode::Recv::CODE, Some(Object::Stream(stream))) => {
                streams.receive(stream, operation, kernel);
            }
            (opcode::Send::CODE, Some(Object::Connection(connection))) => {
                tcp.send(connection, operation, kernel);
            }
            (opcode::PollAdd::CODE, Some(Object::Connection(connection))) => {
                tcp.poll(connection, operation, kernel);
            }
            (opcode::Shutdown::CODE, Some(Object::Connection(connection))) => {
                tcp.shut_down(connection, operation, kernel);
            }
            (opcode::Close::CODE, None) => {
                let file = operation.sqe.file_index as usize - 1;
                match kernel.close_file(file) {
                    Some(Object::Connection(connection)) => {
                        let busy = kernel.is_busy(Object::Connection(connection));
                        assert!(!busy, "connection {connection} is closed under an operation");
                        tcp.close(connection, kernel);
                    }
                    other => panic!("file {file} is closed, but it is {other:?}"),
                }
                kernel.complete(&operation.sqe, 0, 0);
            }
            (opcode::AsyncCancel::CODE, None) => {
                let object = kernel.cancel(operation.sqe.addr());
                if let Some(object) = object {
                    kernel.activate(object);
                }
                match object {
                    Some(Object::Listener(listener)) => tcp.check_leaving(listener),
                    Some(Object::Connection(connection)) => tcp.check_stopped(connection),
                    _ => {}
                }
                let result = if object.is_some() { 0 } else { -libc::ENOENT };
                kernel.complete(&operation.sqe, result, 0);
            }
            (opcode::Timeout::CODE, None) if kernel.persists(|persistent| persistent.timer) => {
                kernel.complete(&operation.sqe, -libc::ENOMEM, 0);
            }
            (opcode::Timeout::CODE, None) => kernel.begin_timer(operation),
            (opcode::PollAdd::CODE, Some(Object::Wake)) if kernel.persists(|persistent| persistent.poll) => {
                kernel.complete(&operation.sqe, -libc::ENOMEM, 0);
            }
            (opcode::PollAdd::CODE, Some(Object::Wake)) => {
                self.wake_poll = Some(kernel.begin(operation));
                if self.woken {
                    kernel.activate(Object::Wake);
                }
            }
            (code, object) => panic!("operation {code} on {object:?} is not simulated"),
        }
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

    /// An ordinary descriptor is made of a connection, if there is one to be had.
    fn install(&mut self, connection: Object, sqe: &Sqe) {
        let result = if self.kernel.chance.happens(self.kernel.faults.bind) {
            self.kernel.ledger.count("tcp_no_descriptors", 1);
            -self.kernel.chance.pick(&[libc::EMFILE, libc::ENFILE, libc::ENOMEM])
        } else {
            self.descriptor(connection).into_raw_fd()
        };
        self.kernel.complete(sqe, result, 0);
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

    // What must hold.

    /// All is quiet, so that nothing is owed to anybody.
    fn check_quiet(&mut self) {
        self.udp.check_armed();
        self.tcp.check_quiet(self.scene.connections_limit);
        self.tcp.check_restraint();
        let full = self.tcp.held() >= self.scene.connections_limit;
        let reached = Snapshot::of([&*self.counters]).tcp_limit_reached > 0;
        // a listener that pauses just then says nothing
        let pauses = self.kernel.faults.receive > 0 || self.kernel.faults.persistent.accept > Duration::ZERO;
        let served = !pauses && self.tcp.listeners.iter().any(|listener| listener.served);
        assert!(!full || reached || !served, "the limit of connections is reached, and nobody says so");
        assert!(!self.kernel.has_queued(), "operations are queued, but not submitted");
        self.check_books();
        let files = self.kernel.files();
        let connections = files.filter(|object| matches!(object, Object::Connection(_))).count();
        assert_eq!(connections as u64, Snapshot::of([&*self.counters]).tcp_open, "connections in the table");
        if self.scene.lingers {
            self.check_what_comes_with_time();
        }
        self.check_buffers();
    }

    /// Nobody keeps a buffer.
    fn check_buffers(&self) {
        // one may wait at a connection that nobody serves
        if self.tcp.listeners.is_empty() || self.tcp.open() < self.scene.connections_limit {
            assert!(self.kernel.groups().all(Group::is_full), "a buffer was lost");
        }
    }

    /// What the kernel has dropped is counted, what nobody uses or wants is closed.
    fn check_what_comes_with_time(&self) {
        let drops = Snapshot::of([&*self.counters]).udp_receive_buffer_drops;
        assert_eq!(drops, self.udp.books.dropped, "datagrams that the kernel dropped, with time");
        let all_served = self.tcp.connections.len() <= self.scene.connections_limit;
        // a turn that fails puts that off
        let Faults { enter, partial, interrupted, overflow, receive, .. } = self.kernel.faults;
        if [enter, partial, interrupted, overflow, receive] == [0; 5] {
            // the streams' buffers come first, and stay; streams that end now and then put it off, too
            let mut of_datagrams = self.kernel.groups().skip(1);
            let is_put_off = !self.tcp.listeners.is_empty();
            let given_back = is_put_off || of_datagrams.all(Group::is_given_back);
            assert!(given_back, "memory of buffers that nobody uses is kept");
            // who waits at the limit comes in late
            let rests = self.tcp.held() > 0 || !all_served || !self.kernel.has_timers();
            assert!(rests, "the worker is woken, and has nothing to look after");
        }
        let closes_idle = !self.scene.idle_timeout.is_zero();
        for object in self.kernel.files() {
            let is_wanted = match object {
                Object::Reply(_)
                | Object::Stream(_)
                | Object::StreamEnd(_)
                | Object::PipeOut
                | Object::PipeIn => false,
                Object::Udp(socket) => self.scene.udp[socket].at_exit != AtExit::Retire,
                // above the limit of connections somebody may wait in its queue
                Object::Listener(listener) => {
                    let waits = !self.tcp.listeners[listener].queue.is_empty();
                    waits || self.scene.tcp[listener].at_exit != AtExit::Retire
                }
                Object::Connection(_) => !closes_idle || !all_served,
                Object::Wake | Object::Peer(_) => true,
            };
            assert!(is_wanted, "{object:?} is still open");
        }
    }

    /// What the worker has counted is what has happened.
    pub(super) fn check_books(&mut self) {
        self.check_datagrams();
        let (now, tcp) = (Snapshot::of([&*self.counters]), self.tcp.books);
        assert_eq!(now.tcp_accepted, tcp.accepted, "connections accepted");
        assert_eq!(now.tcp_open, tcp.accepted - tcp.closed, "connections open");
        assert_eq!(now.tcp_bytes_out, tcp.echoed_bytes, "bytes of streams sent");
        assert!(now.tcp_bytes_in >= tcp.echoed_bytes, "bytes of streams received");
        self.kernel.ledger.check(&now);
        // each time it was reached a connection was accepted since, or it was there from the beginning
        let (limit, listeners) = (self.scene.connections_limit as u64, self.tcp.listeners.len() as u64);
        let reached_max = (tcp.accepted + 1).saturating_sub(limit) * listeners;
        assert!(now.tcp_limit_reached <= reached_max, "the limit is reached too often: {now}");
        let never = |is_on: bool, count: u64| is_on || count == 0;
        assert!(never(self.scene.rates.per_prefix.is_some(), now.udp_refused_prefix_rate), "a rate: {now}");
        assert!(never(self.scene.rates.replies.is_some(), now.udp_refused_reply_rate), "a rate: {now}");
        assert!(never(!self.scene.idle_timeout.is_zero(), now.tcp_closed_idle), "closed: {now}");
        assert!(never(self.scene.per_prefix.is_some(), now.tcp_closed_prefix_limit), "closed: {now}");
        assert!(never(self.phase == Phase::Draining, now.tcp_closed_drained), "closed: {now}");
        // one worker has memory for all that these connections can want
        assert!(never(self.scene.workers > 1, now.tcp_closed_stalled), "closed: {now}");
        // by error: where the kernel can't say when there is room, nobody waits for it
        let given_up =
            now.tcp_closed_stalled + now.tcp_closed_idle + now.tcp_closed_prefix_limit + now.tcp_closed_error;
        // one that is given up may break, or have its last byte sent, meanwhile
        assert!(given_up >= tcp.given_up, "{} connections were not served to their end: {now}", tcp.given_up);
        let causes = now.entries().filter(|(name, _)| name.starts_with("tcp_closed_"));
        assert_eq!(causes.map(|(_, count)| count).sum::<u64>(), tcp.closed, "connections closed: {now}");
    }

    /// The same of datagrams alone.
    fn check_datagrams(&mut self) {
        let (now, books) = (Snapshot::of([&*self.counters]), self.udp.books);
        let (silent, unanswered) = self.udp.settle();
        let rates = now.udp_refused_prefix_rate + now.udp_refused_reply_rate;
        let lost = now.udp_refused_reflector_port
            + now.udp_refused_hop_limit
            + now.udp_refused_system_port
            + now.udp_refused_bad_source
            + now.udp_refused_bad_destination
            + now.udp_refused_own_pair
            + now.udp_refused_own_port
            + rates
            + now.udp_reply_sockets_limited
            + now.udp_reply_port_privileged
            + now.udp_reply_port_taken
            + now.udp_reply_port_excepted
            + now.udp_reply_address_missing
            + now.udp_reply_socket_forbidden
            + now.udp_reply_socket_no_files
            + now.udp_reply_socket_no_memory
            + now.udp_reply_socket_errors
            + now.udp_send_unreachable
            + now.udp_send_forbidden
            + now.udp_send_bad_source
            + now.udp_send_errors;
        let reply_sockets = now.udp_reply_sockets_limited
            + now.udp_reply_port_privileged
            + now.udp_reply_port_taken
            + now.udp_reply_port_excepted
            + now.udp_reply_address_missing
            + now.udp_reply_socket_forbidden
            + now.udp_reply_socket_no_files
            + now.udp_reply_socket_no_memory
            + now.udp_reply_socket_errors;
        assert_eq!(now.udp_datagrams_in, books.delivered, "datagrams received");
        assert_eq!(now.udp_datagrams_out, books.echoed, "datagrams sent");
        assert_eq!(now.udp_bytes_out, books.echoed_bytes, "bytes of datagrams sent");
        assert_eq!(now.udp_truncated + now.udp_unaddressed, books.flawed, "datagrams with a flaw");
        assert_eq!(now.udp_datagrams_in, now.udp_datagrams_out + lost, "every datagram is echoed or counted");
        self.scene.unanswered += unanswered;
        self.scene.silent += silent;
        assert_eq!(self.scene.unanswered, lost, "what was not echoed is counted");
        let excused = rates + reply_sockets + now.udp_refused_hop_limit + now.udp_send_errors;
        assert!(self.scene.silent <= excused, "{} datagrams got no echo for no reason", self.scene.silent);
    }

    /// The worker has ended.
    pub(super) fn check_end(&mut self) {
        assert!(self.phase == Phase::Draining, "the worker ends although nobody asked it to");
        assert_eq!(self.kernel.files().count(), 0, "files are left open");
        let udp = self.udp.sockets.iter().map(|socket| socket.filtered).zip(&self.scene.udp);
        let tcp = self.tcp.listeners.iter().map(|listener| listener.filtered).zip(&self.scene.tcp);
        for (filtered, Endpoint { addr, at_exit }) in udp.chain(tcp) {
            assert_eq!(filtered, *at_exit != AtExit::Keep, "nothing new comes to {addr}, which {at_exit:?}");
        }
        if self.scene.cuts {
            // what waits at the deadline is lost, and counted
            self.check_datagrams();
            return;
        }
        let took = self.kernel.now.saturating_sub(self.told);
        assert!(took < self.scene.drain_timeout, "the worker has ended at its deadline");
        self.check_books();
        let drops = Snapshot::of([&*self.counters]).udp_receive_buffer_drops;
        assert_eq!(drops, self.udp.books.dropped, "datagrams that the kernel dropped");
        for (number, this) in self.tcp.connections.iter().enumerate() {
            assert!(!this.accepted || this.closed, "connection {number} was cut");
        }
        for (listener, Endpoint { addr, at_exit }) in self.tcp.listeners.iter().zip(&self.scene.tcp) {
            let accepted = listener.queue.is_empty() || *at_exit == AtExit::Keep;
            assert!(accepted, "connections to {addr} were left in the queue");
        }
        for (number, socket) in self.udp.sockets.iter().enumerate() {
            let answered = self.udp.is_queue_empty(number) || self.scene.outlives(socket.addr);
            assert!(answered, "datagrams to {} were left", socket.addr);
        }
    }
}
