//! The world of this thread.

use std::cell::RefCell;

use super::world::World;

thread_local! {
    pub(super) static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Asks the world of this thread; `None` if it has none and lives in the real one.
pub(crate) fn ask<T>(question: impl FnOnce(&mut World) -> T) -> Option<T> {
    WORLD.with_borrow_mut(|world| world.as_mut().map(question))
}
