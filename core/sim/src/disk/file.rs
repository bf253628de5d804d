//! The bytes of one file: what reads see now, and what a power loss may leave of them.
//!
//! A write that has completed sits in the device's volatile cache until a sync. A power loss
//! then leaves, for each sector of 512 bytes, any one of the versions written since the last
//! durable one, or that durable one. The size of the file is treated alike.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::random::Random;

/// The unit of direct I/O.
pub(crate) const BLOCK_BYTES: usize = 4096;

/// The unit a power loss cannot tear.
const SECTOR_BYTES: usize = 512;

static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// A file, as the disk holds it.
#[derive(Debug, Default)]
pub(crate) struct File {
    size: u64,
    durable_size: u64,
    /// Sizes it had since the durable one, each with its version.
    sizes: Vec<(u64, u64)>,
    /// What reads see, by block number; zeros where there is nothing.
    now: BTreeMap<u64, Bytes>,
    durable: BTreeMap<u64, Bytes>,
    /// Contents since the durable one, by block number, oldest first.
    cached: BTreeMap<u64, Vec<(u64, Bytes)>>,
}

/// How much of what was only cached a power loss takes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Loss {
    /// All of it: the cache is gone.
    Everything,
    /// Nothing: the device wrote it out in time.
    Nothing,
    /// Whole blocks, here and there.
    Blocks,
    /// Sectors, here and there.
    Sectors,
}

impl File {
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The space it takes.
    pub(crate) fn space(&self) -> u64 {
        self.size.max(self.durable_size).next_multiple_of(BLOCK_BYTES as u64)
    }

    /// Up to `size` bytes at `position`, less at the end of the file.
    pub(crate) fn read(&self, position: u64, size: u32) -> Vec<u8> {
        let end = (position + u64::from(size)).min(self.size);
        let mut bytes = Vec::new();
        for block in blocks(position, end.saturating_sub(position)) {
            bytes.extend_from_slice(content(&self.now, block));
        }
        bytes.truncate(end.saturating_sub(position) as usize);
        bytes
    }

    /// Puts aligned `bytes` into the cache; the file grows if they lie past its end.
    pub(crate) fn write(&mut self, version: u64, position: u64, bytes: &Bytes) {
        for (place, block) in blocks(position, bytes.len() as u64).enumerate() {
            let part = bytes.slice(place * BLOCK_BYTES..(place + 1) * BLOCK_BYTES);
            self.cache(version, block, part);
        }
        self.grow(version, position + bytes.len() as u64);
    }

    /// Puts some sectors of `bytes` into the cache: a write that failed or was cut off.
    pub(crate) fn write_torn(
        &mut self,
        version: u64,
        position: u64,
        bytes: &Bytes,
        random: &mut Random,
    ) {
        for (place, block) in blocks(position, bytes.len() as u64).enumerate() {
            let new = bytes.slice(place * BLOCK_BYTES..(place + 1) * BLOCK_BYTES);
            let old = Bytes::copy_from_slice(content(&self.now, block));
            self.cache(version, block, mix(&[old, new], random));
        }
        if random.coin() {
            self.grow(version, position + bytes.len() as u64);
        } else {
            self.cut(self.size);
        }
    }

    /// Makes one range durable as it is now: the end of a durable write.
    pub(crate) fn persist(&mut self, position: u64, size_bytes: u64) {
        for block in blocks(position, size_bytes) {
            self.cached.remove(&block);
            match self.now.get(&block) {
                Some(bytes) => self.durable.insert(block, bytes.clone()),
                None => self.durable.remove(&block),
            };
        }
        let end = (position + size_bytes).min(self.size);
        self.durable_size = self.durable_size.max(end);
        self.sizes.retain(|grown| end < grown.1);
    }

    /// Makes all that was cached up to `version` durable.
    pub(crate) fn sync(&mut self, version: u64) {
        let durable = &mut self.durable;
        self.cached.retain(|block, versions| {
            let synced = versions.iter().take_while(|cached| cached.0 <= version).count();
            if let Some(last) = versions.drain(..synced).next_back() {
                durable.insert(*block, last.1);
            }
            !versions.is_empty()
        });
        let synced = self.sizes.iter().take_while(|size| size.0 <= version).count();
        if let Some(last) = self.sizes.drain(..synced).next_back() {
            self.durable_size = last.1;
        }
    }

    /// A sync that failed: what was cached up to `version` counts as clean from now on, though
    /// only some of it reached the device. The next sync will not try the rest again.
    pub(crate) fn sync_badly(&mut self, version: u64, random: &mut Random) {
        for (block, versions) in &mut self.cached {
            let tried = versions.iter().take_while(|cached| cached.0 <= version).count();
            let last = versions.drain(..tried).next_back();
            if let Some(last) = last.filter(|_| random.coin()) {
                self.durable.insert(*block, last.1);
            }
        }
        self.cached.retain(|_, versions| !versions.is_empty());
    }

    /// Grows the file to `size`, with zeros.
    pub(crate) fn grow(&mut self, version: u64, size: u64) {
        if self.size < size {
            self.size = size;
            self.sizes.push((version, size));
        }
    }

    /// Makes the file exactly `size` bytes, durably.
    pub(crate) fn truncate(&mut self, size: u64) {
        if size < self.size {
            self.cut(size);
        }
        self.size = size;
        self.durable_size = size;
        self.sizes.clear();
    }

    /// Makes the file `size` zero bytes, durably.
    pub(crate) fn prewrite(&mut self, size: u64) {
        *self = Self { size, durable_size: size, ..Self::default() };
    }

    /// A power loss.
    pub(crate) fn lose_power(&mut self, loss: Loss, random: &mut Random) {
        let cached = std::mem::take(&mut self.cached);
        for (block, versions) in cached {
            let durable = Bytes::copy_from_slice(content(&self.durable, block));
            let mut choices = vec![durable];
            choices.extend(versions.into_iter().map(|version| version.1));
            let left = match loss {
                Loss::Everything => choices.swap_remove(0),
                Loss::Nothing => choices.swap_remove(choices.len() - 1),
                Loss::Blocks => random.pick(&choices).clone(),
                Loss::Sectors => mix(&choices, random),
            };
            self.durable.insert(block, left);
        }
        let sizes = std::mem::take(&mut self.sizes);
        let left = match (loss, sizes.last()) {
            (Loss::Everything, _) | (_, None) => self.durable_size,
            (Loss::Nothing, Some(last)) => last.1,
            (_, Some(_)) if random.coin() => self.durable_size,
            (_, Some(_)) => random.pick(&sizes).1,
        };
        self.now = self.durable.clone();
        self.cut(left);
        self.size = left;
        self.durable_size = left;
    }

    /// Flips one bit of what is durable: rot. False if the file holds nothing.
    pub(crate) fn rot(&mut self, random: &mut Random) -> bool {
        let blocks: Vec<u64> = self.durable.keys().copied().collect();
        if blocks.is_empty() {
            return false;
        }
        let block = *random.pick(&blocks);
        let mut bytes = content(&self.durable, block).to_vec();
        let place = random.index(bytes.len());
        bytes[place] ^= 1 << random.below(8);
        let rotten = Bytes::from(bytes);
        if !self.cached.contains_key(&block) {
            self.now.insert(block, rotten.clone());
        }
        self.durable.insert(block, rotten);
        true
    }

    fn cache(&mut self, version: u64, block: u64, bytes: Bytes) {
        self.now.insert(block, bytes.clone());
        self.cached.entry(block).or_default().push((version, bytes));
    }

    /// Drops all bytes at and past `size`, in every version.
    fn cut(&mut self, size: u64) {
        let kept = size.div_ceil(BLOCK_BYTES as u64);
        self.now.split_off(&kept);
        self.durable.split_off(&kept);
        self.cached.split_off(&kept);
        let left = (size % BLOCK_BYTES as u64) as usize;
        if left != 0 {
            let last = kept - 1;
            let clear = |bytes: &mut Bytes| {
                let mut cleared = bytes.to_vec();
                cleared[left..].fill(0);
                *bytes = Bytes::from(cleared);
            };
            self.now.get_mut(&last).into_iter().for_each(clear);
            self.durable.get_mut(&last).into_iter().for_each(clear);
            self.cached
                .get_mut(&last)
                .into_iter()
                .flatten()
                .for_each(|cached| clear(&mut cached.1));
        }
    }
}

/// One block in which each sector comes from any of `versions`.
fn mix(versions: &[Bytes], random: &mut Random) -> Bytes {
    let mut mixed = Vec::with_capacity(BLOCK_BYTES);
    for sector in 0..BLOCK_BYTES / SECTOR_BYTES {
        let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
        mixed.extend_from_slice(&random.pick(versions)[range]);
    }
    Bytes::from(mixed)
}

/// Sector by sector either of two equally long runs of bytes: a read that meets a write.
pub(crate) fn mix_sectors(into: &mut [u8], other: &[u8], random: &mut Random) {
    for (sector, other) in into.chunks_mut(SECTOR_BYTES).zip(other.chunks(SECTOR_BYTES)) {
        if random.coin() {
            let both = sector.len().min(other.len());
            sector[..both].copy_from_slice(&other[..both]);
        }
    }
}

fn content(blocks: &BTreeMap<u64, Bytes>, block: u64) -> &[u8] {
    blocks.get(&block).map_or(&ZEROS[..], |bytes| &bytes[..])
}

fn blocks(position: u64, size_bytes: u64) -> std::ops::Range<u64> {
    let block = BLOCK_BYTES as u64;
    position / block..(position + size_bytes).div_ceil(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(byte: u8) -> Bytes {
        Bytes::from(vec![byte; BLOCK_BYTES])
    }

    fn left_after(seed: u64, loss: Loss, prepare: impl Fn(&mut File)) -> Vec<u8> {
        let mut file = File::default();
        prepare(&mut file);
        file.lose_power(loss, &mut Random::new(seed));
        file.read(0, 1 << 20)
    }

    /// What was cached may be lost, kept, or torn at sectors, but each sector is one it once held.
    #[test]
    fn a_cached_write_may_be_torn_at_sectors_only() {
        let mut torn = 0;
        for seed in 0..100 {
            let left = left_after(seed, Loss::Sectors, |file| {
                file.write(1, 0, &block(1));
                file.persist(0, 4096);
                file.write(2, 0, &block(2));
                file.write(3, 0, &block(3));
            });
            let sectors: Vec<u8> = left.chunks(SECTOR_BYTES).map(|sector| sector[0]).collect();
            assert!(left.chunks(SECTOR_BYTES).all(|s| s.iter().all(|byte| *byte == s[0])));
            assert!(sectors.iter().all(|byte| (1..=3).contains(byte)));
            torn += u32::from(sectors.iter().any(|byte| *byte != sectors[0]));
        }
        assert!(0 < torn);
    }

    /// A durable write stays, whatever is written around it and however the power goes.
    #[test]
    fn a_durable_write_stays() {
        for seed in 0..100 {
            for loss in [Loss::Everything, Loss::Nothing, Loss::Blocks, Loss::Sectors] {
                let left = left_after(seed, loss, |file| {
                    file.write(1, 0, &block(1));
                    file.write(2, 4096, &block(2));
                    file.persist(4096, 4096);
                });
                assert_eq!(left.len(), 8192);
                assert_eq!(left[4096..], block(2)[..]);
            }
        }
    }

    /// A sync covers what had completed when it was asked for, and nothing later.
    #[test]
    fn a_sync_covers_what_came_before_it() {
        let left = left_after(1, Loss::Everything, |file| {
            file.write(1, 0, &block(1));
            file.write(2, 0, &block(2));
            file.write(3, 4096, &block(3));
            file.sync(1);
        });
        assert_eq!(left, block(1)[..]);
    }

    /// After a failed sync the next one succeeds and still does not save the bytes: fsyncgate.
    #[test]
    fn a_failed_sync_makes_the_next_one_lie() {
        let lost = (0..100).filter(|seed| {
            let mut file = File::default();
            file.truncate(4096);
            file.write(1, 0, &block(1));
            file.sync_badly(1, &mut Random::new(*seed));
            assert_eq!(file.read(0, 4096), block(1)[..], "it can still be read");
            file.sync(1);
            file.lose_power(Loss::Nothing, &mut Random::new(*seed));
            file.read(0, 4096) == block(0)[..]
        });
        assert!(0 < lost.count());
    }

    /// Space that was reserved and never written reads as zeros, also where a cut was before.
    #[test]
    fn reserved_space_reads_as_zeros() {
        let mut file = File::default();
        file.write(1, 0, &block(7));
        file.truncate(100);
        file.grow(2, 8192);
        let read = file.read(0, 8192);
        assert_eq!(read[..100], [7; 100]);
        assert!(read[100..].iter().all(|byte| *byte == 0));
    }

    /// The size may be lost too: a file that grew without a sync is short after a power loss.
    #[test]
    fn growth_is_lost_without_a_sync() {
        assert!(left_after(1, Loss::Everything, |file| file.grow(1, 4096)).is_empty());
        let synced = left_after(1, Loss::Everything, |file| {
            file.grow(1, 4096);
            file.sync(1);
        });
        assert_eq!(synced.len(), 4096);
    }
}
