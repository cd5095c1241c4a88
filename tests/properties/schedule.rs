//! blaster's pacer: the intended send times are exact, however long the schedule is.

use crate::input::Input;
use crate::model::pacer::Pacer;
use crate::model::quantity::Rate;

/// Takes any rate, train and number of threads that the command line allows.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let per_1000_s = 1 + input.u64() % 1_000_000_000_000;
    let datagrams = 1 + u32::from(input.u8()) % 128;
    let workers = 1 + u32::from(input.u8()) % 64;
    let worker = u32::from(input.u8()) % workers;
    let mut pacer = Pacer::new(Rate { per_1000_s }, datagrams, worker, workers);
    // train n of the whole schedule is due after n × datagrams / rate, rounded down to nanoseconds
    let due_ns = |taken: u64| {
        let trains = u128::from(worker) + u128::from(taken) * u128::from(workers);
        trains * u128::from(datagrams) * 1_000_000_000_000 / u128::from(per_1000_s)
    };
    let mut taken = 0;
    while !input.is_empty() && taken < 64 {
        let next_ns = u64::try_from(due_ns(taken)).expect("64 trains at the lowest rate take 17 years");
        assert_eq!(pacer.next_ns(), next_ns);
        let ahead_ns = input.u64() >> (input.u8() % 64);
        let now_ns = next_ns.saturating_add(ahead_ns).saturating_sub(input.u16().into());
        let left = pacer.left(now_ns);
        assert!(left == 0 || due_ns(taken + left - 1) < now_ns.into(), "the last of them is due before");
        assert!(due_ns(taken + left) >= now_ns.into(), "the one after them is not");
        let due = next_ns <= now_ns;
        assert_eq!(pacer.take(now_ns), due.then_some(next_ns));
        taken += u64::from(due);
    }
}
