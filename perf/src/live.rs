//! The bar that shows how far a measurement has come, on standard error of a terminal; nothing
//! where that is no terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::machine::{Measured, Step};

/// Units of the bar.
const WHOLE: u64 = 1000;

/// A bar, and the lines that stand above it.
#[derive(Debug)]
pub struct Live {
    bar: ProgressBar,
}

impl Default for Live {
    fn default() -> Self {
        Self::new()
    }
}

impl Live {
    /// An empty bar.
    #[must_use]
    pub fn new() -> Self {
        let bar = ProgressBar::new(WHOLE);
        let style = ProgressStyle::with_template("{bar:30} {percent:>3} % {elapsed} {wide_msg}");
        bar.set_style(style.expect("the template is valid"));
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar }
    }

    /// Shows a step; `line` is given each finished case, to be printed above the bar.
    pub fn show(&self, step: &Step<'_>, line: impl FnOnce(&Measured)) {
        match step {
            Step::Runs(name, share) => {
                self.bar.set_position((share * WHOLE as f64) as u64);
                self.bar.set_message((*name).to_owned());
            }
            Step::Ended(measured) => self.bar.suspend(|| line(measured)),
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each case is told once it has ended, terminal or not; the bar goes as far as was told.
    #[test]
    fn cases_are_told_when_they_have_ended() {
        let live = Live::new();
        let mut told = Vec::new();
        live.show(&Step::Runs("write 1 MiB", 0.25), |_| panic!("it has not ended"));
        assert_eq!(live.bar.position(), WHOLE / 4);
        assert_eq!(live.bar.message(), "write 1 MiB");
        let measured = Measured { name: "write 1 MiB".to_owned(), count: 3, ..Measured::default() };
        live.show(&Step::Ended(&measured), |ended| told.push(ended.count));
        assert_eq!(told, [3]);
        live.finish();
        assert!(live.bar.is_finished());
    }
}
