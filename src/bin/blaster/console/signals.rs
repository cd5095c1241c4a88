//! The signals that end a run, heard by a thread that does nothing else: whatever holds up the main thread.

use std::sync::{Arc, LazyLock};
use std::{io, process, thread};

use tubular_echo::kernel::sys::EndSignals;

use crate::workers::stop::Stop;

static STOP: LazyLock<Arc<Stop>> = LazyLock::new(Arc::default);

/// What they ask for.
pub(crate) fn stop() -> &'static Arc<Stop> {
    &STOP
}

/// Hears them from now on, before any other thread is started: it inherits that they are blocked.
pub(crate) fn listen() -> io::Result<()> {
    let mut signals = EndSignals::block()?;
    let listen = move || {
        loop {
            signals.wait();
            STOP.ask();
            // nothing that we know of waits for so long after the second one
            if STOP.times() > 2 {
                process::exit(1);
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(listen).map(drop)
}
