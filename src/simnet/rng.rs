//! The simulation's dice: the same seed throws the same numbers on every machine, for ever.

/// SplitMix64 (Steele, Lea and Flood, 2014): small, fast and good enough to choose faults.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// Dice of their own for each `stream` of a seed, so that taking one part of a scenario out
    /// does not change what the others throw.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let mut rng = Self(seed ^ stream.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        rng.next();
        rng
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 when `end` is 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.next()) * end as u128) >> 64) as usize
    }

    /// A number from `least` to `most`.
    pub(crate) fn between(&mut self, least: usize, most: usize) -> usize {
        least + self.below(most.saturating_sub(least) + 1)
    }

    /// True so many times in a thousand.
    pub(crate) fn chance(&mut self, per_mille: u16) -> bool {
        // A fault that is switched off throws no dice: the others fall as they would have.
        per_mille > 0 && self.below(1000) < usize::from(per_mille)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dice_fall_the_same_on_every_machine() {
        let mut rng = Rng::new(7, 1);
        assert_eq!(
            [rng.next(), rng.next(), rng.next()],
            [8_812_850_814_335_159_531, 16_532_829_582_249_440_261, 16_059_746_124_654_338_559]
        );
    }

    #[test]
    fn every_number_below_the_end_comes_up_and_no_other() {
        let mut rng = Rng::new(1, 0);
        let mut seen = [0; 10];
        for _ in 0..1000 {
            seen[rng.below(10)] += 1;
        }
        assert!(seen.iter().all(|count| (60..140).contains(count)), "{seen:?}");
        assert_eq!(rng.below(0), 0);
        assert!((0..100).all(|_| (3..=5).contains(&rng.between(3, 5))));
        assert!(!(0..100).any(|_| rng.chance(0)) && (0..100).all(|_| rng.chance(1000)));
    }
}
