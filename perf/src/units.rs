//! Figures as people read them: three significant digits and the unit that fits.
//!
//! In tables and wherever a figure changes before the reader's eyes it keeps its three digits
//! ([`nanos`], [`figure`]): `1.40 ms` below `1.39 ms`. Round values, those of axes and sentences,
//! are told without the zeros ([`brief_nanos`], [`brief_figure`]): `5 ms`.

/// A time: `850 ns`, `12.3 µs`, `4.50 ms`, `7.89 s`.
#[must_use]
pub fn nanos(nanos: f64) -> String {
    time(nanos, digits)
}

/// A time without zeros at its end: `4.5 ms`.
#[must_use]
pub fn brief_nanos(nanos: f64) -> String {
    time(nanos, brief_digits)
}

fn time(nanos: f64, digits: fn(f64) -> String) -> String {
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
        "" => brief_figure(value, unit),
        _ => told(value, unit, digits),
    }
}

/// A figure without zeros at its end: `2 GB/s`.
#[must_use]
pub fn brief_figure(value: f64, unit: &str) -> String {
    match unit {
        "ns" => brief_nanos(value),
        "s" => brief_nanos(value * 1e9),
        _ => told(value, unit, brief_digits),
    }
}

fn told(value: f64, unit: &str, digits: fn(f64) -> String) -> String {
    let steps = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    if unit == "ratio" {
        return format!("{:.1} %", value * 100.0);
    }
    let found = steps.iter().find(|(size, _)| size * 0.9995 <= value.abs());
    let (size, prefix) = found.copied().unwrap_or((1.0, ""));
    // A prefix belongs to a symbol, but not to a word: MB/s, k/s, k records/s.
    let is_symbol = unit.starts_with(['/', 'B']);
    let between = if is_symbol || prefix.is_empty() { "" } else { " " };
    format!("{} {prefix}{between}{unit}", digits(value / size)).trim_end().to_owned()
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

/// Three significant digits.
fn digits(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 {
        "0".to_owned()
    } else if size < 0.01 {
        format!("{value:.1e}")
    } else if size < 9.995 {
        format!("{value:.2}")
    } else if size < 99.95 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

/// Three significant digits, no more zeros than needed.
pub(crate) fn brief_digits(value: f64) -> String {
    let text = digits(value);
    let has_fraction = text.contains('.') && !text.contains('e');
    match has_fraction {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The unit is the one that leaves one to three digits before the point.
    #[test]
    fn times_have_the_unit_that_fits() {
        let told = [1.0, 850.0, 999.9, 12_340.0, 4_560_000.0, 61e9].map(nanos);
        assert_eq!(told, ["1.00 ns", "850 ns", "1.00 µs", "12.3 µs", "4.56 ms", "61.0 s"]);
        assert_eq!(nanos(0.0), "0 ns");
    }

    /// Figures that follow each other in one place have as many digits as each other.
    #[test]
    fn digits_do_not_come_and_go() {
        assert_eq!([1.39e6, 1.4e6, 1.402e6].map(nanos), ["1.39 ms", "1.40 ms", "1.40 ms"]);
        assert_eq!(
            [21.0, 20.96, 9.994].map(|n| figure(n * 1e6, "B/s")),
            ["21.0 MB/s", "21.0 MB/s", "9.99 MB/s"]
        );
    }

    /// Nobody writes 5.00 ms on an axis.
    #[test]
    fn round_values_are_told_briefly() {
        assert_eq!([5e6, 2.5e3, 0.0].map(brief_nanos), ["5 ms", "2.5 µs", "0 ns"]);
        assert_eq!(brief_figure(2e9, "B/s"), "2 GB/s");
        assert_eq!(brief_figure(40.0, "s"), "40 s");
    }

    #[test]
    fn figures_have_their_unit() {
        assert_eq!(figure(1_234_567.0, "B/s"), "1.23 MB/s");
        assert_eq!(figure(0.4567, "ratio"), "45.7 %");
        assert_eq!(figure(12.0, "requests/s"), "12.0 requests/s");
        assert_eq!(figure(20_000.0, "records/s"), "20.0 k records/s");
        assert_eq!(figure(1_480.0, "/s"), "1.48 k/s");
        assert_eq!(figure(268.0, "/s"), "268 /s");
        assert_eq!(figure(0.0, "B/s"), "0 B/s");
        assert_eq!(figure(2_000_000.0, ""), "2 M");
        assert_eq!(figure(3.0, ""), "3");
        assert_eq!(count(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(count(123), "123");
    }
}
