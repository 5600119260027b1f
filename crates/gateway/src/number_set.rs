//! Which numbers are taken, and the next that is not.

/// Bits of a word.
const WORD: usize = 64;

/// Numbers below a bound, each taken or free. A free one is found by looking at two words for each six bits of the bound,
/// however many are taken.
#[derive(Debug)]
pub(crate) struct NumberSet {
    /// First a bit for each number, 1: taken; then, for each word of the level below, a bit, 1: it is full. Words behind
    /// the end of a level are empty.
    levels: Vec<Vec<u64>>,
    bound: usize,
    taken: usize,
}

impl NumberSet {
    pub(crate) fn new(bound: usize) -> Self {
        let mut levels = vec![Vec::new()];
        let mut words = bound.div_ceil(WORD);
        while words > 1 {
            levels.push(Vec::new());
            words = words.div_ceil(WORD);
        }
        Self { levels, bound, taken: 0 }
    }

    pub(crate) fn bound(&self) -> usize {
        self.bound
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken
    }

    /// The first free number from this one on.
    pub(crate) fn free_from(&self, from: usize) -> Option<usize> {
        // Up, until there is a bit that is not set at or behind the place where we came from; then down again.
        let (mut level, mut at) = (0, from);
        let mut found = loop {
            let free = !self.word(level, at / WORD) & (u64::MAX << (at % WORD));
            if free != 0 {
                break at / WORD * WORD + free.trailing_zeros() as usize;
            }
            at = at / WORD + 1;
            level += 1;
            if level == self.levels.len() {
                return None;
            }
        };
        while level > 0 {
            level -= 1;
            found = found * WORD + (!self.word(level, found)).trailing_zeros() as usize;
        }
        (found < self.bound).then_some(found)
    }

    /// Takes a number; returns whether it was free.
    pub(crate) fn take(&mut self, number: usize) -> bool {
        if number >= self.bound || self.word(0, number / WORD) >> (number % WORD) & 1 == 1 {
            return false;
        }
        self.taken += 1;
        let mut at = number;
        for level in &mut self.levels {
            if level.len() <= at / WORD {
                level.resize(at / WORD + 1, 0);
            }
            level[at / WORD] |= 1 << (at % WORD);
            if level[at / WORD] != u64::MAX {
                break;
            }
            at /= WORD;
        }
        true
    }

    /// Gives a number back that was taken.
    pub(crate) fn give_back(&mut self, number: usize) {
        let mut at = number;
        let mut was_full = true;
        for (depth, level) in self.levels.iter_mut().enumerate() {
            let Some(word) = level.get_mut(at / WORD).filter(|word| was_full && **word >> (at % WORD) & 1 == 1) else {
                return;
            };
            self.taken -= usize::from(depth == 0);
            was_full = *word == u64::MAX;
            *word &= !(1 << (at % WORD));
            at /= WORD;
        }
    }

    fn word(&self, level: usize, index: usize) -> u64 {
        self.levels[level].get(index).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn agrees_with_a_set() {
        for bound in [1, 2, 63, 64, 65, 4095, 4096, 4097, 10_000] {
            let (mut numbers, mut model) = (NumberSet::new(bound), BTreeSet::new());
            let mut random = Seeded(7 + bound as u64);
            for step in 0..30_000 {
                let number = random.below(bound + 2);
                // Now rather full, now rather empty.
                if random.below(8) < if step / 5000 % 2 == 0 { 6 } else { 2 } {
                    assert_eq!(numbers.take(number), number < bound && model.insert(number), "{number} of {bound}");
                } else {
                    numbers.give_back(number);
                    model.remove(&number);
                }
                let from = random.below(bound + 1);
                let first = (from..bound).find(|number| !model.contains(number));
                assert_eq!(numbers.free_from(from), first, "from {from} of {bound}");
                assert_eq!(numbers.taken(), model.len());
            }
        }
    }

    #[test]
    fn sixteen_million_can_all_be_taken() {
        let mut numbers = NumberSet::new(1 << 24);
        let mut next = 0;
        while let Some(free) = numbers.free_from(next) {
            assert_eq!(free, next);
            assert!(numbers.take(free));
            next += 1;
        }
        assert_eq!((next, numbers.free_from(0)), (1 << 24, None));
        numbers.give_back(12_345_678);
        assert_eq!(numbers.free_from(0), Some(12_345_678));
    }

    struct Seeded(u64);

    impl Seeded {
        fn below(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from((self.0 >> 32) % bound as u64).unwrap()
        }
    }
}
