//! The threads of a run: they start together, and their results are added up.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::model::results::Results;
use crate::workers::clock::Clock;
use crate::workers::live::Live;

/// The time from when all workers are ready to the first intended send time.
const START_DELAY: Duration = Duration::from_millis(1);

/// The gate at which a worker reports that it is ready and waits for the start.
pub(crate) struct StartGate {
    ready: Sender<()>,
    start: Receiver<Clock>,
}

impl StartGate {
    /// Reports that this worker is ready, and waits for the others. `None`: one of them failed, and there is no run.
    pub(crate) fn ready(self) -> Option<Clock> {
        let _ = self.ready.send(());
        drop(self.ready);
        self.start.recv().ok()
    }
}

/// How often to look for a reason to give up while workers prepare.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The stage of a run.
pub(crate) enum RunStage<'a> {
    /// Its workers prepare. With many sockets this takes a while.
    Preparing,
    /// Its workers run: the counts that they show, and a function that tells whether they are done.
    Running(&'a [Arc<Live>], &'a dyn Fn() -> bool),
}

/// Observes a run. It is called often while the workers prepare, and once when they run: then it returns when they are
/// done. While they prepare, false ends the run; the workers must notice the request to stop by themselves.
pub(crate) type Watch<'a> = dyn FnMut(RunStage<'_>) -> bool + 'a;

/// Runs `work` on `workers` threads. Each gets its number, its place to show counts, and its start gate. Returns the sum of
/// their results, or the first error.
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
        let gate = StartGate { ready: ready.clone(), start: wait };
        let work = Arc::clone(&work);
        threads.push(
            thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || work(number, live, gate))?,
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
            &mut |stage| {
                let RunStage::Running(lives, are_done) = stage else { return true };
                assert_eq!(lives.len(), 3);
                while !are_done() {
                    thread::yield_now();
                }
                true
            },
            |number, _live, gate| {
                let clock = gate.ready().expect("all are ready");
                clock.wait_for_start();
                let mut results = Results::new(Duration::ZERO);
                results.outcomes.at(0).counts.sent += u64::from(number);
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
            &mut |stage| matches!(stage, RunStage::Preparing) || panic!("no run"),
            |number, _live, gate| {
                if number == 1 {
                    return Err(io::Error::other("no"));
                }
                assert!(gate.ready().is_none());
                Ok(None)
            },
        );
        assert!(result.is_err());
    }
}
