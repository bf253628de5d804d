//! Which requests have their stages recorded: of each [`SAMPLED_ONE_IN`] that follow one another
//! one, drawn by lot.
//!
//! Every request has the same chance, whatever it asks for and however regularly requests come: a
//! plain "every sixteenth" would see one connection of sixteen that take turns, and no other. A
//! request that is not drawn costs one subtraction.

/// Of so many requests one is drawn.
pub const SAMPLED_ONE_IN: u32 = 16;

const _: () = assert!(SAMPLED_ONE_IN.is_power_of_two());

/// Draws. The same seed draws the same places.
#[derive(Clone, Debug)]
pub struct Lot {
    /// So many requests come before the one that is drawn next.
    left: u32,
    /// So many of its sixteen come behind it.
    behind: u32,
    state: u64,
}

impl Lot {
    /// The first one is among the first [`SAMPLED_ONE_IN`].
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // A state of zero would stay zero.
        let mut lot = Self { left: 0, behind: 0, state: seed.wrapping_add(0x9e37_79b9_7f4a_7c15) };
        lot.state |= 1;
        lot.draw();
        lot
    }

    /// Whether this request is drawn. To be asked once for each.
    #[inline]
    pub fn is_drawn(&mut self) -> bool {
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                false
            }
            None => true,
        }
    }

    /// The next one is drawn, among the sixteen after these.
    pub fn draw(&mut self) {
        // xorshift64*: its upper bits are even enough for a lot.
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let drawn = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d);
        let place = (drawn >> (u64::BITS - SAMPLED_ONE_IN.ilog2())) as u32;
        self.left = self.behind + place;
        self.behind = SAMPLED_ONE_IN - 1 - place;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUNDS: u32 = 20_000;

    /// The places at which requests are drawn, over so many sixteens.
    fn drawn(seed: u64) -> Vec<u32> {
        let mut lot = Lot::new(seed);
        let mut drawn = Vec::new();
        for at in 0..ROUNDS * SAMPLED_ONE_IN {
            if lot.is_drawn() {
                lot.draw();
                drawn.push(at);
            }
        }
        drawn
    }

    /// Of each sixteen in a row exactly one is drawn, whatever the seed.
    #[test]
    fn one_of_each_sixteen_is_drawn() {
        for seed in [0, 1, 7, u64::MAX] {
            let rounds: Vec<u32> = drawn(seed).iter().map(|at| at / SAMPLED_ONE_IN).collect();
            assert_eq!(rounds, (0..ROUNDS).collect::<Vec<_>>(), "seed {seed}");
        }
    }

    /// However regularly requests come, each place in their order is drawn as often as any other.
    #[test]
    fn no_place_in_a_regular_order_is_preferred() {
        for period in [2, 3, 16, 64] {
            let mut met = vec![0u32; period];
            drawn(1).iter().for_each(|at| met[*at as usize % period] += 1);
            let expected = f64::from(ROUNDS) / period as f64;
            // Five standard deviations.
            let most = 5.0 * expected.sqrt();
            for (place, met) in met.iter().enumerate() {
                let off = (f64::from(*met) - expected).abs();
                assert!(off < most, "place {place} of {period}: {met} for {expected}");
            }
        }
    }
}
