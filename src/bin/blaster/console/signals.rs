//! The signals that end a run. A thread of its own waits for them, so that they count even if the main thread blocks.

use std::sync::{Arc, LazyLock};
use std::{io, process, thread};

use tubular_echo::kernel::sys::EndSignals;

use crate::workers::stop::Stop;

static STOP: LazyLock<Arc<Stop>> = LazyLock::new(Arc::default);

/// The request that the signals make.
pub(crate) fn stop() -> &'static Arc<Stop> {
    &STOP
}

/// Listens to the signals from now on. Call this before other threads start: they inherit that the signals are blocked.
pub(crate) fn listen() -> io::Result<()> {
    let mut signals = EndSignals::block()?;
    let listen = move || {
        loop {
            signals.wait();
            STOP.ask();
            // a third one means that something blocks in spite of the second
            if STOP.times() > 2 {
                process::exit(1);
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(listen).map(drop)
}
