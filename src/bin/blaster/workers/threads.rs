//! The threads of a run: made ready together, started together, added up together.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::model::results::Results;
use crate::workers::clock::Clock;
use crate::workers::live::Live;

/// From when all are ready to the first intended send time.
const START_DELAY: Duration = Duration::from_millis(1);

/// What a worker's thread gets: where it says that it is ready and hears when to start.
pub(crate) struct StartGate {
    ready: Sender<()>,
    start: Receiver<Clock>,
}

impl StartGate {
    /// Says that this worker is ready and waits for the others. `None`: one of them failed, there will be
    /// no run.
    pub(crate) fn ready(self) -> Option<Clock> {
        let _ = self.ready.send(());
        drop(self.ready);
        self.start.recv().ok()
    }
}

/// How often to look for a reason to give up while workers prepare themselves.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a run is at.
pub(crate) enum RunStage<'a> {
    /// Its workers prepare themselves, which takes a while where there are many sockets.
    Preparing,
    /// They run: what they show, and a way to ask whether they are done.
    Running(&'a [Arc<Live>], &'a dyn Fn() -> bool),
}

/// Looks on: now and then while workers prepare themselves, then once for as long as they run. Says whether to go
/// on; the workers have to hear by themselves that they are to prepare no further.
pub(crate) type Watch<'a> = dyn FnMut(RunStage<'_>) -> bool + 'a;

/// Runs `work` on `workers` threads, each with its number, its place to show counts, and its post.
/// Returns the sum of what they bring home, or the first error.
pub(crate) fn run<E, W>(workers: u32, warmup: Duration, watch: &mut Watch<'_>, work: W) -> Result<Results, E>
where
    E: From<io::Error> + Send + 'static,
    W: Fn(u32, Arc<Live>, StartGate) -> Result<Option<Results>, E> + Send + Sync + 'static,
{
    let work = Arc::new(work);
    let (ready, all_ready) = mpsc::channel();
    let mut threads: Vec<JoinHandle<_>> = Vec::new();
    let mut starts = Vec::new();
    let mut lives = Vec::new();
    for number in 0..workers {
        let (start, wait) = mpsc::channel();
        let live = Arc::new(Live::default());
        lives.push(Arc::clone(&live));
        starts.push(start);
        let post = StartGate { ready: ready.clone(), start: wait };
        let work = Arc::clone(&work);
        threads.push(
            thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || work(number, live, post))?,
        );
    }
    drop(ready);
    let is_ready = || loop {
        match all_ready.recv_timeout(LOOK_EVERY) {
            Ok(()) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) if !watch(RunStage::Preparing) => return false,
            Err(RecvTimeoutError::Timeout) => {}
        }
    };
    if std::iter::repeat_with(is_ready).take(workers as usize).all(|ready| ready)
        && watch(RunStage::Preparing)
    {
        let clock = Clock::starting_in(START_DELAY);
        for start in &starts {
            let _ = start.send(clock);
        }
        watch(RunStage::Running(&lives, &|| threads.iter().all(JoinHandle::is_finished)));
    }
    drop(starts);
    let mut results = Results::new(warmup);
    for thread in threads {
        if let Some(part) = thread.join().expect("a worker that panics ends the process")? {
            results.merge(&part);
        }
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_start_together_and_their_results_add_up() {
        let results = run::<io::Error, _>(
            3,
            Duration::ZERO,
            &mut |moment| {
                let RunStage::Running(lives, are_done) = moment else { return true };
                assert_eq!(lives.len(), 3);
                while !are_done() {
                    thread::yield_now();
                }
                true
            },
            |number, _live, post| {
                let clock = post.ready().expect("all are ready");
                clock.wait_for_start();
                let mut results = Results::new(Duration::ZERO);
                results.outcomes.page(0).counts.sent += u64::from(number);
                Ok(Some(results))
            },
        )
        .unwrap();
        assert_eq!(results.outcomes.total().counts.sent, 3);
    }

    #[test]
    fn one_that_fails_starts_none() {
        let result = run(
            2,
            Duration::ZERO,
            &mut |moment| matches!(moment, RunStage::Preparing) || panic!("no run"),
            |number, _live, post| {
                if number == 1 {
                    return Err(io::Error::other("no"));
                }
                assert!(post.ready().is_none());
                Ok(None)
            },
        );
        assert!(result.is_err());
    }
}
