//! Chance from a seed: which sectors and names survive.

use bytes::Bytes;

use super::{SECTOR_BYTES, Survival};

/// `bytes` where the coin says so, in the other sectors what is there already.
pub fn tear(now: &[u8], position: usize, bytes: &Bytes, random: &mut Random) -> Bytes {
    let mut torn = bytes.to_vec();
    for (i, sector) in torn.chunks_mut(SECTOR_BYTES).enumerate() {
        let start = position + i * SECTOR_BYTES;
        if random.below(2) == 0 {
            sector.fill(0);
            if let Some(old) = now.get(start..now.len().min(start + sector.len())) {
                sector[..old.len()].copy_from_slice(old);
            }
        }
    }
    Bytes::from(torn)
}

/// Whether something survives.
pub enum Luck {
    Always(bool),
    Toss(Random),
}

impl Luck {
    pub fn of(survival: Survival) -> Self {
        match survival {
            Survival::Nothing => Self::Always(false),
            Survival::Everything => Self::Always(true),
            Survival::Torn { seed } => Self::Toss(Random(seed)),
        }
    }

    pub fn toss(&mut self) -> bool {
        match self {
            Self::Always(luck) => *luck,
            Self::Toss(random) => random.below(2) == 0,
        }
    }
}

/// Random numbers from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        assert!(0 < end);
        self.next() % end
    }
}
