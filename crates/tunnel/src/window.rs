//! Which messages of a session have come already (paper, section 5.4.6): a ring of bits, after RFC 6479.

/// Bits of one block of the ring.
const BLOCK: u64 = u64::BITS as u64;
/// Blocks a session begins with: 64 bytes…
const FEW: usize = 8;
/// …and by how much they grow when its messages overtake one another by far…
const GROWTH: usize = 4;
/// …up to 1 KiB, which is as much as the kernel's.
const MANY: usize = FEW * GROWTH * GROWTH;

/// The message has come already, or is too old to tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Replayed;

/// Remembers the counters of the last messages. Nothing is allocated before the first.
#[derive(Default)]
pub(crate) struct ReplayWindow {
    /// One more than the greatest counter that came.
    next: u64,
    /// A power of two of blocks. The bit of a counter has its place whatever the greatest one is.
    ring: Box<[u64]>,
}

impl ReplayWindow {
    /// Whether a message with this counter is new. Asked before the message is known to be authentic.
    pub(crate) fn check(&self, counter: u64) -> Result<(), Replayed> {
        if counter >= self.next {
            return Ok(());
        }
        let too_old = self.next - counter > self.span();
        if too_old || self.ring[self.place(counter)] & bit(counter) != 0 { Err(Replayed) } else { Ok(()) }
    }

    /// A message with this counter, which [`Self::check`] passed, was authentic. Returns whether it is the greatest.
    pub(crate) fn mark(&mut self, counter: u64) -> bool {
        if self.ring.is_empty() {
            self.ring = vec![0; FEW].into();
        }
        let greatest = counter >= self.next;
        if greatest {
            self.advance(counter);
        } else if self.next - counter > self.span() / 2 && self.ring.len() < MANY {
            self.grow();
        }
        let place = self.place(counter);
        self.ring[place] |= bit(counter);
        greatest
    }

    /// How far behind the greatest one a message may come. The block being filled may hold but one bit.
    fn span(&self) -> u64 {
        (self.ring.len() as u64).saturating_sub(1) * BLOCK
    }

    #[allow(clippy::cast_possible_truncation, reason = "the remainder is less than the length")]
    fn place(&self, counter: u64) -> usize {
        ((counter / BLOCK) & (self.ring.len() as u64 - 1)) as usize
    }

    /// Forgets what falls out of the window.
    fn advance(&mut self, counter: u64) {
        let (old, new) = (self.next.saturating_sub(1) / BLOCK, counter / BLOCK);
        if new - old >= self.ring.len() as u64 {
            self.ring.fill(0);
        } else {
            for block in old + 1..=new {
                let place = self.place(block * BLOCK);
                self.ring[place] = 0;
            }
        }
        self.next = counter + 1;
    }

    /// Of those that had fallen out of the window already, all count as seen.
    fn grow(&mut self) {
        let few = std::mem::take(&mut self.ring);
        self.ring = vec![u64::MAX; few.len() * GROWTH].into();
        let newest = (self.next - 1) / BLOCK;
        for block in newest.saturating_sub(few.len() as u64 - 1)..=newest {
            let (from, to) = (block & (few.len() as u64 - 1), self.place(block * BLOCK));
            self.ring[to] = few[usize::try_from(from).expect("less than the length")];
        }
    }
}

fn bit(counter: u64) -> u64 {
    1 << (counter % BLOCK)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::random::Seeded;

    const SPAN: u64 = (FEW as u64 - 1) * BLOCK;
    const WIDE: u64 = (MANY as u64 - 1) * BLOCK;

    fn take(window: &mut ReplayWindow, counter: u64) -> bool {
        let new = window.check(counter).is_ok();
        if new {
            window.mark(counter);
        }
        new
    }

    #[test]
    fn each_comes_once_in_any_order() {
        let mut window = ReplayWindow::default();
        for counter in [0, 1, 3, 2, 9, 8, 7, 70, 69, 4] {
            assert!(take(&mut window, counter), "{counter}");
            assert!(!take(&mut window, counter), "{counter} again");
        }
    }

    #[test]
    fn the_window_has_an_edge() {
        let mut window = ReplayWindow::default();
        assert!(take(&mut window, SPAN));
        assert!(!take(&mut window, 0), "one too old");
        assert!(take(&mut window, 1));
        let mut wide = ReplayWindow::default();
        assert!(take(&mut wide, SPAN) && take(&mut wide, 50), "far behind: it grows");
        assert!(take(&mut wide, 1984) && take(&mut wide, 600), "and again");
        assert!(take(&mut wide, WIDE + 500));
        assert!(!take(&mut wide, 500), "one too old");
        assert!(!take(&mut wide, 600) && take(&mut wide, 501) && !take(&mut wide, 501));
    }

    #[test]
    fn a_jump_forgets_what_was_before() {
        let mut window = ReplayWindow::default();
        assert!(take(&mut window, 5));
        let far = u64::MAX - (1 << 13) - 2;
        assert!(take(&mut window, far));
        assert!(!take(&mut window, far) && !take(&mut window, 5) && !take(&mut window, 6));
        assert!(take(&mut window, far - SPAN + 1) && take(&mut window, far - 1));
    }

    /// Never taken twice; taken whenever it is new and among the last `SPAN`.
    #[test]
    fn agrees_with_a_set() {
        for seed in 0..200 {
            let mut random = Seeded::new(seed);
            let (mut window, mut seen, mut greatest) = (ReplayWindow::default(), HashSet::new(), 0_u64);
            for _ in 0..3_000 {
                let reach = [3, 100, SPAN, 3 * SPAN, 10 * WIDE][(random.number() % 5) as usize];
                let counter = match random.number() % 8 {
                    0 => greatest + random.number() % reach,
                    1..5 => greatest + random.number() % 4,
                    _ => greatest.saturating_sub(random.number() % reach),
                };
                let taken = take(&mut window, counter);
                assert!(!taken || seen.insert(counter), "seed {seed}: {counter} taken twice");
                if counter + SPAN > greatest {
                    assert!(taken || seen.contains(&counter), "seed {seed}: {counter} refused");
                }
                greatest = greatest.max(counter);
            }
        }
    }
}
