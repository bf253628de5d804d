//! Counts of times, in nanoseconds: an HdrHistogram's buckets, and nothing else.
//!
//! Recording is what a shard does many times per request, so a time's bucket is nothing but the
//! upper bits of that time as a floating-point number: the exponent says between which powers of
//! two it lies, the first bits behind it where there. The buckets are those of an HdrHistogram of
//! two significant digits: turned into one ([`Counts::histogram`]), no count changes its place.
//! Smallest, largest and total follow from the buckets when somebody asks.
//!
//! A copy of it takes the groups of buckets only that were ever met: for a stage's times, some
//! 10 KiB.

use hdrhistogram::Histogram;

/// The largest time told apart: 60 s. Larger ones count as the largest.
pub const NANOS_MAX: u64 = 60_000_000_000;

/// Significant decimal digits of a value.
const DIGITS: u8 = 2;

/// Values below this have a bucket each; two digits need 200, rounded up to a power of two.
const EXACT: u64 = 256;

/// Buckets in a group: from each power of two to the next.
const GROUP: usize = EXACT as usize / 2;

const _: () = assert!(EXACT.is_power_of_two());

/// Of a floating-point number, the bits below those that tell its bucket.
const BITS_BELOW: u32 = f32::MANTISSA_DIGITS - 1 - GROUP.ilog2();

/// The upper bits of the shortest time told apart, which is 1 ns.
const FIRST: u32 = 1f32.to_bits() >> BITS_BELOW;

/// Places for buckets: a group for each power of two, up to centuries. What is never met takes no
/// memory.
const PLACES: usize = 8192;

const _: () = {
    assert!(PLACES.is_power_of_two());
    assert!((u64::MAX as f32).to_bits() >> BITS_BELOW <= FIRST + PLACES as u32);
};

/// Times counted by one shard on several lines; nobody else touches them.
#[derive(Clone, Debug)]
pub struct Recordings<const LINES: usize> {
    /// Of each line.
    buckets: Box<[[u64; PLACES]; LINES]>,
    sums_nanos: [f64; LINES],
}

/// A copy of the counts, to be handed over, merged, subtracted and turned into a histogram.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// The groups met, in their order, with their places.
    groups: Vec<(u8, Box<[u64; GROUP]>)>,
    sum_nanos: u64,
}

impl<const LINES: usize> Default for Recordings<LINES> {
    fn default() -> Self {
        let buckets = vec![[0; PLACES]; LINES].into_boxed_slice();
        let buckets = buckets.try_into().expect("made with that many lines");
        Self { buckets, sums_nanos: [0.0; LINES] }
    }
}

impl<const LINES: usize> Recordings<LINES> {
    /// One more of so many nanoseconds on a line: at least one, and less than centuries.
    #[inline]
    pub fn record(&mut self, line: usize, nanos: f32) {
        debug_assert!(1.0 <= nanos && nanos < u64::MAX as f32);
        let place = (nanos.to_bits() >> BITS_BELOW).wrapping_sub(FIRST) as usize % PLACES;
        self.buckets[line][place] += 1;
        self.sums_nanos[line] += f64::from(nanos);
    }

    /// What was recorded on a line so far; none if nothing was.
    #[must_use]
    pub fn counts(&self, line: usize) -> Option<Counts> {
        let sum_nanos = self.sums_nanos[line];
        if sum_nanos == 0.0 {
            return None;
        }
        let mut counts = Counts { groups: Vec::new(), sum_nanos: sum_nanos as u64 };
        let met = self.buckets[line].iter().enumerate().filter(|(_, met)| 0 < **met);
        for (at, met) in met {
            let smallest = f32::from_bits((at as u32 + FIRST) << BITS_BELOW);
            let place = place((smallest as u64).min(NANOS_MAX));
            let group = (place / GROUP) as u8;
            // They ascend in both.
            if counts.groups.last().is_none_or(|(last, _)| *last < group) {
                counts.groups.push((group, Box::new([0; GROUP])));
            }
            let (_, buckets) = counts.groups.last_mut().expect("just pushed if there was none");
            buckets[place % GROUP] += met;
        }
        Some(counts)
    }
}

/// The bucket that counts `nanos`.
#[inline]
fn place(nanos: u64) -> usize {
    // Below EXACT the two lowest groups are filled evenly; above, each doubling is one group.
    let shift = (u64::BITS - 8).saturating_sub(nanos.leading_zeros());
    ((shift as usize) << GROUP.ilog2()) + (nanos >> shift) as usize
}

/// The smallest value of a bucket, and how many values share it.
fn values(group: usize, bucket: usize) -> (u64, u64) {
    let shift = group.saturating_sub(1);
    let index = group * GROUP + bucket - shift * GROUP;
    ((index as u64) << shift, 1 << shift)
}

impl Counts {
    /// How many were counted.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.groups.iter().flat_map(|(_, buckets)| buckets.iter()).sum()
    }

    /// Whether none was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All times added up.
    #[must_use]
    pub fn sum_nanos(&self) -> u64 {
        self.sum_nanos
    }

    /// Their mean; zero of none.
    #[must_use]
    pub fn mean_nanos(&self) -> f64 {
        self.sum_nanos as f64 / (self.len() as f64).max(1.0)
    }

    /// The largest time that `quantile` of the counted do not exceed, as an HdrHistogram says it.
    #[must_use]
    pub fn at_quantile(&self, quantile: f64) -> u64 {
        let total = self.len();
        let rank = ((quantile * total as f64).ceil() as u64).clamp(1, total.max(1));
        let mut below = 0;
        for (nanos, step, count) in self.iter() {
            below += count;
            if rank <= below {
                return nanos + step - 1;
            }
        }
        0
    }

    /// Each bucket that counted something: its smallest value, how many values share it, its
    /// count.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        let groups = self.groups.iter();
        let buckets = groups.flat_map(|(group, buckets)| {
            buckets.iter().enumerate().map(|(bucket, count)| (usize::from(*group), bucket, *count))
        });
        buckets.filter(|(.., count)| 0 < *count).map(|(group, bucket, count)| {
            let (nanos, step) = values(group, bucket);
            (nanos, step, count)
        })
    }

    /// Adds another shard's, or another interval's.
    pub fn merge(&mut self, other: &Self) {
        for (group, others) in &other.groups {
            match self.groups.binary_search_by_key(group, |(group, _)| *group) {
                Ok(at) => add(&mut self.groups[at].1, others),
                Err(at) => self.groups.insert(at, (*group, others.clone())),
            }
        }
        self.sum_nanos = self.sum_nanos.wrapping_add(other.sum_nanos);
    }

    /// What came since `earlier`, a copy of the same recording.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut rest = self.clone();
        for (group, buckets) in &mut rest.groups {
            let before = earlier.groups.binary_search_by_key(group, |(group, _)| *group);
            let Ok(at) = before else { continue };
            let before = earlier.groups[at].1.iter();
            buckets.iter_mut().zip(before).for_each(|(now, before)| *now -= (*before).min(*now));
        }
        rest.groups.retain(|(_, buckets)| buckets.iter().any(|count| 0 < *count));
        rest.sum_nanos = self.sum_nanos.wrapping_sub(earlier.sum_nanos);
        rest
    }

    /// The same counts as an HdrHistogram.
    #[must_use]
    pub fn histogram(&self) -> Histogram<u64> {
        let mut histogram = empty();
        for (nanos, _, count) in self.iter() {
            histogram.record_n(nanos, count).expect("the range is the same");
        }
        histogram
    }
}

fn add(mine: &mut [u64; GROUP], others: &[u64; GROUP]) {
    mine.iter_mut().zip(others).for_each(|(mine, other)| *mine += other);
}

/// A histogram of the kit's range and precision.
#[must_use]
pub fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, NANOS_MAX, DIGITS).expect("the bounds and digits are valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values on both sides of every step.
    fn edges() -> impl Iterator<Item = u64> {
        let steps = (0..36).map(|power| 1u64 << power);
        let around = steps.flat_map(|step| [step - 1, step, step + 1, step + step / 3]);
        around.chain([NANOS_MAX - 1, NANOS_MAX]).filter(|nanos| *nanos <= NANOS_MAX)
    }

    fn record(recordings: &mut Recordings<2>, nanos: f32) {
        recordings.record(1, nanos);
    }

    /// Whatever is recorded is found where an HdrHistogram would have put it.
    #[test]
    fn buckets_are_those_of_an_hdr_histogram() {
        let mut recordings = Recordings::default();
        let mut theirs = empty();
        let nanos: Vec<f32> = edges().skip_while(|nanos| *nanos == 0).map(|n| n as f32).collect();
        for &nanos in &nanos {
            record(&mut recordings, nanos);
            theirs.record((nanos as u64).min(NANOS_MAX)).unwrap();
        }
        assert_eq!(recordings.counts(0), None, "nothing was recorded there");
        let ours = recordings.counts(1).unwrap();
        assert_eq!(ours.histogram(), theirs);
        assert_eq!(ours.len(), theirs.len());
        for quantile in [0.0, 0.1, 0.5, 0.9, 0.99, 0.999, 1.0] {
            let expected = theirs.value_at_quantile(quantile);
            assert_eq!(ours.at_quantile(quantile), expected, "at {quantile}");
        }
        let sum: f64 = nanos.iter().map(|nanos| f64::from(*nanos)).sum();
        assert_eq!(ours.sum_nanos(), sum as u64);
    }

    /// Every value lies in the bucket that is said to hold it, and buckets are 1 % wide at most.
    #[test]
    fn buckets_hold_what_they_say() {
        for nanos in edges() {
            let place = place(nanos);
            let (from, step) = values(place / GROUP, place % GROUP);
            assert!(from <= nanos && nanos < from + step, "{nanos}: {from}+{step}");
            assert!(step == 1 || step * 100 <= from, "{nanos}: {from}+{step}");
        }
    }

    /// What is beyond the range counts as its end.
    #[test]
    fn the_absurd_counts_as_the_largest() {
        let mut recordings = Recordings::default();
        record(&mut recordings, 1e18);
        let counts = recordings.counts(1).unwrap();
        assert!(counts.at_quantile(1.0) <= NANOS_MAX / 100 * 101);
        assert_eq!(counts.len(), 1);
    }

    /// An interval is the difference of two copies; intervals merged are the whole again.
    #[test]
    fn intervals_add_up_to_the_whole() {
        let mut recordings = Recordings::default();
        record(&mut recordings, 10.0);
        record(&mut recordings, 5_000.0);
        let first = recordings.counts(1).unwrap();
        record(&mut recordings, 10.0);
        record(&mut recordings, 7_000_000.0);
        let whole = recordings.counts(1).unwrap();
        let mut sum = whole.since(&first);
        assert_eq!((sum.len(), sum.sum_nanos()), (2, 7_000_010));
        sum.merge(&first);
        assert_eq!(sum, whole);
        assert!(whole.since(&whole).is_empty());
    }
}
