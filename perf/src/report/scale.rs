//! Axes: where a value lies on them, and which values are written beside them.

/// A logarithmic axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogAxis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl LogAxis {
    /// From `low` to `high` (both above zero), drawn between the pixels `from` and `to`. The ends
    /// are moved outwards to round values.
    pub(super) fn new(low: f64, high: f64, from: f64, to: f64) -> Self {
        let low = round_down(low.max(1e-9));
        let high = round_up(high.max(low * 1.01));
        Self { low: low.log10(), high: high.log10(), from, to }
    }

    pub(super) fn at(&self, value: f64) -> f64 {
        let value = value.max(1e-9).log10().clamp(self.low, self.high);
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// The values to be written: whole powers of ten, and 2 and 5 between them if there is room.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let steps: &[f64] = if self.high - self.low <= 3.2 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let powers = self.low.floor() as i32..=self.high.ceil() as i32;
        let values = powers.flat_map(|power| steps.iter().map(move |s| s * 10f64.powi(power)));
        let near = 1e-9;
        let inside = |v: &f64| self.low - near <= v.log10() && v.log10() <= self.high + near;
        values.filter(inside).collect()
    }
}

const ROUND: [f64; 4] = [1.0, 2.0, 5.0, 10.0];

fn round_down(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    ROUND.iter().rev().map(|step| step * power).find(|v| *v <= value * 1.000_001).unwrap_or(power)
}

/// The next round value that is not below.
pub(super) fn round_up(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    ROUND.iter().map(|step| step * power).find(|v| value <= *v * 1.000_001).unwrap_or(value)
}

/// A linear axis from zero, or between two values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) from: f64,
    pub(super) to: f64,
}

impl Axis {
    pub(super) fn at(&self, value: f64) -> f64 {
        let share = (value - self.low) / (self.high - self.low).max(1e-12);
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// Round values, about so many.
    pub(super) fn ticks(&self, about: usize) -> Vec<f64> {
        let step = round_up((self.high - self.low).max(1e-9) / about.max(1) as f64);
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step + 1e-9).floor() as i64;
        (first..=last).map(|n| n as f64 * step).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_on_round_values_and_write_them() {
        let axis = LogAxis::new(1_300.0, 4_000_000.0, 0.0, 100.0);
        let ticks = axis.ticks();
        assert!((ticks[0] - 1e4).abs() < 1.0 || (ticks[0] - 1e3).abs() < 1.0, "{ticks:?}");
        assert!((axis.at(1_000.0)).abs() < 1e-6 && (axis.at(5e6) - 100.0).abs() < 1e-6);
        let narrow = LogAxis::new(30.0, 700.0, 0.0, 1.0).ticks();
        let rounded: Vec<_> = narrow.iter().map(|tick| tick.round()).collect();
        assert_eq!(rounded, [20.0, 50.0, 100.0, 200.0, 500.0, 1000.0]);
        let linear = Axis { low: 0.0, high: 47.0, from: 0.0, to: 1.0 };
        assert_eq!(linear.ticks(5), [0.0, 10.0, 20.0, 30.0, 40.0]);
    }
}
