//! Figures as people read them: three significant digits and the unit that fits.

/// A time: `850 ns`, `12.3 µs`, `4.56 ms`, `7.89 s`.
#[must_use]
pub fn nanos(nanos: f64) -> String {
    let steps = [(1e9, "s"), (1e6, "ms"), (1e3, "µs")];
    match steps.iter().find(|(size, _)| size * 0.9995 <= nanos) {
        Some((size, unit)) => format!("{} {unit}", digits(nanos / size)),
        None => format!("{} ns", digits(nanos)),
    }
}

/// A figure in a unit of [`crate::outcome::Figure`].
#[must_use]
pub fn figure(value: f64, unit: &str) -> String {
    match unit {
        "ns" => nanos(value),
        "s" => nanos(value * 1e9),
        "ratio" => format!("{:.1} %", value * 100.0),
        "B" => format!("{}B", decimal(value)),
        "B/s" => format!("{}B/s", decimal(value)),
        "" => decimal(value).trim_end().to_owned(),
        _ => format!("{}{unit}", decimal(value)),
    }
}

/// A number with its decimal prefix, and a space between the number and what follows: `1.23 M`.
fn decimal(value: f64) -> String {
    let steps = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let found = steps.iter().find(|(size, _)| size * 0.9995 <= value.abs());
    match found {
        Some((size, prefix)) => format!("{} {prefix}", digits(value / size)),
        None => format!("{} ", digits(value)),
    }
}

/// A count with thin gaps between thousands: `1 234 567`.
#[must_use]
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if 0 < at && (digits.len() - at).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// Three significant digits, no more zeros than needed.
pub(crate) fn digits(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 {
        "0".to_owned()
    } else if size < 0.01 {
        format!("{value:.1e}")
    } else if size < 9.995 {
        let text = format!("{value:.2}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else if size < 99.95 {
        let text = format!("{value:.1}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        format!("{value:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The unit is the one that leaves one to three digits before the point.
    #[test]
    fn times_have_the_unit_that_fits() {
        let told = [1.0, 850.0, 999.9, 12_340.0, 4_560_000.0, 61e9].map(nanos);
        assert_eq!(told, ["1 ns", "850 ns", "1 µs", "12.3 µs", "4.56 ms", "61 s"]);
        assert_eq!(nanos(0.0), "0 ns");
    }

    #[test]
    fn figures_have_their_unit() {
        assert_eq!(figure(1_234_567.0, "B/s"), "1.23 MB/s");
        assert_eq!(figure(0.4567, "ratio"), "45.7 %");
        assert_eq!(figure(12.0, "requests/s"), "12 requests/s");
        assert_eq!(figure(2_000_000.0, ""), "2 M");
        assert_eq!(figure(3.0, ""), "3");
        assert_eq!(count(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(count(123), "123");
    }
}
