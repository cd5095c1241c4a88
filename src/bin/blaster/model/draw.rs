//! Random choices that can be repeated, so that nobody has to remember them.

use rand::SeedableRng;
use rand::rngs::SmallRng;

/// The random numbers of one datagram: always the same for the same arguments.
pub(crate) fn rng(seed: u64, flow: u32, sequence: u64) -> SmallRng {
    // an odd factor spreads neighbouring numbers over all bits; the seeding of the generator does the rest
    SmallRng::seed_from_u64(
        seed ^ (u64::from(flow) << 32 | u64::from(flow)).wrapping_mul(0x9e6c_63d0_876a_68ef)
            ^ sequence.wrapping_mul(0xd1b5_4a32_d192_ed03),
    )
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    #[test]
    fn the_same_again_and_neighbours_differ() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..10 {
            for flow in 0..10 {
                for sequence in 0..10 {
                    let drawn = rng(seed, flow, sequence).next_u64();
                    assert_eq!(drawn, rng(seed, flow, sequence).next_u64());
                    assert!(seen.insert(drawn), "{seed}, {flow}, {sequence} met before");
                }
            }
        }
    }
}
