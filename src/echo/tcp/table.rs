//! All connections of a worker, by their files, and those that something has happened to in this turn.

use std::ops::{Index, IndexMut};
use std::time::Duration;

use super::connection::Connection;
use crate::echo::files::FileRange;
use crate::echo::idle::IdleClock;
use crate::echo::operation::Operation;
use crate::kernel::addr::Domain;
use crate::kernel::ring::{File, Ring, Token};

/// The connections.
pub(super) struct Table {
    files: FileRange,
    connections: Vec<Connection>,
    /// Connections that something has happened to, each once.
    dirty: Vec<File>,
    clock: IdleClock,
}

impl Index<File> for Table {
    type Output = Connection;

    #[inline]
    fn index(&self, file: File) -> &Connection {
        &self.connections[self.files.index_of(file)]
    }
}

impl IndexMut<File> for Table {
    #[inline]
    fn index_mut(&mut self, file: File) -> &mut Connection {
        &mut self.connections[self.files.index_of(file)]
    }
}

impl Table {
    /// A table with a place for each of these files.
    pub(super) fn new(files: FileRange, idle_timeout: Duration) -> Self {
        let free = |_| Connection::free(0, Domain::Ipv4);
        Self {
            files,
            connections: (0..files.count()).map(free).collect(),
            dirty: Vec::new(),
            clock: IdleClock::new(idle_timeout),
        }
    }

    /// The file of the connection that a token was made for. `None` if that connection has gone, or if its file has
    /// another one by now.
    pub(super) fn find(&self, token: Token) -> Option<File> {
        let file = File(token.index());
        let connection = self.connections.get(self.files.index_of(file))?;
        let is_same = connection.phase().is_taken()
            && Token::new(token.operation(), connection.generation, token.index()) == token;
        is_same.then_some(file)
    }

    /// All places, taken or not.
    pub(super) fn iter(&self) -> impl Iterator<Item = (File, &Connection)> {
        self.connections.iter().enumerate().map(|(index, connection)| (self.files.at(index), connection))
    }

    /// Something has happened to a connection: what comes next for it is decided at the end of the turn.
    pub(super) fn mark_dirty(&mut self, file: File) {
        let now = self.clock.now();
        let connection = &mut self[file];
        connection.active_tick = now;
        if !connection.in_lists.dirty {
            connection.in_lists.dirty = true;
            self.dirty.push(file);
        }
    }

    /// Takes out what something has happened to. Each of it is to be cleaned, and the list handed back to
    /// [`Self::reuse_dirty`].
    pub(super) fn take_dirty(&mut self) -> Vec<File> {
        std::mem::take(&mut self.dirty)
    }

    /// What comes next for a connection is about to be decided.
    pub(super) fn clean(&mut self, file: File) {
        self[file].in_lists.dirty = false;
    }

    /// Takes the list's memory back: there is no allocation in a turn.
    pub(super) fn reuse_dirty(&mut self, mut list: Vec<File>) {
        list.clear();
        self.dirty = list;
    }

    /// There is a place for an accepted connection. Its idle time begins now. `final_bytes`: the server ends, and it
    /// may bring that many bytes.
    pub(super) fn serve(&mut self, file: File, final_bytes: Option<u32>) {
        let now = self.clock.now();
        let connection = &mut self[file];
        connection.active_tick = now;
        connection.serve(final_bytes);
    }

    /// Marks the connections dirty that `change` says have changed.
    pub(super) fn change_each(&mut self, mut change: impl FnMut(&mut Connection, &IdleClock) -> bool) {
        for index in 0..self.connections.len() {
            if change(&mut self.connections[index], &self.clock) {
                self.mark_dirty(self.files.at(index));
            }
        }
    }

    // The clock that finds idle connections.

    /// Has the clock tick.
    pub(super) fn run_clock(&mut self, ring: &mut Ring) {
        self.clock.run(ring, Operation::TcpTick.alone());
    }

    pub(super) fn ticked(&mut self) {
        self.clock.ticked();
    }

    /// A tick could not be: the clock is set again after a pause.
    pub(super) fn tick_failed(&mut self) {
        self.clock.failed();
    }

    /// How long a turn may sleep, so that the clock is set again.
    pub(super) fn sleep(&self) -> Option<Duration> {
        self.clock.sleep()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table::new(FileRange::new(10, 3), Duration::ZERO)
    }

    #[test]
    fn a_token_finds_its_connection_and_no_later_one() {
        let mut table = table();
        let file = File(11);
        let token = |generation| Operation::TcpReceive.token(generation, file.0);
        assert_eq!(table.find(token(0)), None, "nobody is there");
        table[file].accept(Domain::Ipv4, None);
        assert_eq!(table.find(token(1)), Some(file));
        assert_eq!(table.find(Operation::TcpSend.token(1, file.0)), Some(file), "whatever the operation");
        assert_eq!(table.find(token(2)), None);
        assert_eq!(table.find(Operation::TcpReceive.token(1, 12)), None, "another file");
        assert_eq!(table.find(Operation::TcpReceive.token(1, 13)), None, "beyond the table");
        table[file] = Connection::free(1, Domain::Ipv4);
        assert_eq!(table.find(token(1)), None, "it was closed");
        table[file].accept(Domain::Ipv6, None);
        assert_eq!((table.find(token(1)), table.find(token(2))), (None, Some(file)));
    }

    #[test]
    fn what_happens_twice_in_a_turn_is_looked_at_once() {
        let mut table = table();
        for file in [11, 10, 11] {
            table.mark_dirty(File(file));
        }
        let dirty = table.take_dirty();
        assert_eq!(dirty, [File(11), File(10)]);
        for file in &dirty {
            table.clean(*file);
        }
        table.mark_dirty(File(11));
        assert_eq!(table.take_dirty(), [File(11)], "it may happen again in the next turn");
        table.reuse_dirty(dirty);
        assert!(table.take_dirty().is_empty());
    }

    #[test]
    fn each_change_is_looked_at() {
        let mut table = table();
        table[File(12)].accept(Domain::Ipv4, None);
        table.serve(File(12), None);
        table.change_each(|connection, _| connection.begin_drain(100));
        assert_eq!(table.take_dirty(), [File(12)]);
        assert_eq!(table.iter().map(|(file, _)| file).collect::<Vec<_>>(), [File(10), File(11), File(12)]);
    }

    #[test]
    #[should_panic(expected = "before its range")]
    fn a_token_of_another_file_is_no_connection_s() {
        table().find(Operation::TcpReceive.token(0, 9));
    }
}
