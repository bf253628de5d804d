//! A drawing as SVG text: lines, boxes, words. Colours are classes; the style sheet decides them,
//! so that one drawing is legible in the dark and in the light.

use std::fmt::Write as _;

/// Width of a character of the small text, about: to know whether words fit.
pub(super) const CHAR_WIDTH: f64 = 7.2;

/// Height of a line of text.
pub(super) const LINE_HEIGHT: f64 = 17.0;

/// A drawing being made.
#[derive(Clone, Debug)]
pub(super) struct Canvas {
    width: f64,
    out: String,
}

/// Where a word stands against its point.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Anchor {
    fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Middle => "middle",
            Self::End => "end",
        }
    }
}

impl Canvas {
    pub(super) fn new(width: f64) -> Self {
        Self { width, out: String::new() }
    }

    pub(super) fn width(&self) -> f64 {
        self.width
    }

    pub(super) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let _ = write!(
            self.out,
            "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
            from.0, from.1, to.0, to.1
        );
    }

    pub(super) fn rect(&mut self, class: &str, at: (f64, f64), size: (f64, f64)) {
        let _ = write!(
            self.out,
            "<rect class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
            at.0,
            at.1,
            size.0.max(0.0),
            size.1.max(0.0)
        );
    }

    pub(super) fn words(&mut self, class: &str, at: (f64, f64), anchor: Anchor, words: &str) {
        let _ = write!(
            self.out,
            "<text class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{}\">{}</text>",
            at.0,
            at.1,
            anchor.name(),
            escaped(words)
        );
    }

    /// A line through all points.
    pub(super) fn curve(&mut self, class: &str, points: &[(f64, f64)]) {
        let mut path = String::new();
        for (at, (x, y)) in points.iter().enumerate() {
            let _ = write!(path, "{}{x:.1} {y:.1}", if at == 0 { "M" } else { "L" });
        }
        self.path(class, &path);
    }

    pub(super) fn path(&mut self, class: &str, path: &str) {
        if !path.is_empty() {
            let _ = write!(self.out, "<path class=\"{class}\" d=\"{path}\"/>");
        }
    }

    /// The names of the curves, in as many lines as they need; how high they stand.
    pub(super) fn legend(&mut self, from: (f64, f64), names: &[(usize, &str)]) -> f64 {
        let (mut x, mut y) = from;
        for (colour, name) in names {
            let width = 26.0 + name.chars().count() as f64 * CHAR_WIDTH;
            if self.width < x + width && from.0 < x {
                x = from.0;
                y += LINE_HEIGHT;
            }
            self.line(&format!("curve c{}", colour % COLOURS), (x, y), (x + 14.0, y));
            self.words("t", (x + 18.0, y + 4.0), Anchor::Start, name);
            x += width;
        }
        y - from.1 + LINE_HEIGHT
    }

    /// The drawing of this height, named for those who cannot see it.
    pub(super) fn finish(self, height: f64, name: &str) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0} {height:.0}\" \
             width=\"{:.0}\" height=\"{height:.0}\" role=\"img\" aria-label=\"{}\">{}</svg>\n",
            self.width,
            self.width,
            escaped(name),
            self.out
        )
    }
}

/// How many colours curves may have before they repeat.
pub(super) const COLOURS: usize = 10;

/// How many shades a heat map has.
pub(super) const SHADES: usize = 8;

/// Text that stands in HTML and SVG as it is.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            char if char.is_control() => out.push(' '),
            char => out.push(char),
        }
    }
    out
}

/// The style of all drawings, in the light and in the dark.
pub(super) const STYLE: &str = "\
:root{--paper:#ffffff;--card:#f6f7f9;--ink:#1b2230;--soft:#5a6475;--grid:#dfe3ea;--edge:#c9d0da;\
--c0:#1f62d0;--c1:#c2410c;--c2:#15803d;--c3:#9333ea;--c4:#b4810a;--c5:#0e7490;--c6:#be185d;\
--c7:#4d5b6e;--c8:#6b8e00;--c9:#b91c1c;\
--h0:#e3edfb;--h1:#c3daf7;--h2:#94bdf0;--h3:#619ae4;--h4:#3b78d2;--h5:#2459b0;--h6:#173f86;\
--h7:#0b2557;--mark:#d9480f;--mid:#ffc933}\
@media (prefers-color-scheme:dark){:root{--paper:#12161d;--card:#1a2029;--ink:#e6eaf0;\
--soft:#9aa6b6;--grid:#2a323e;--edge:#3a4452;\
--c0:#6ea8ff;--c1:#ff9254;--c2:#5fd387;--c3:#c796ff;--c4:#f0c04f;--c5:#4cc9e0;--c6:#ff7fb0;\
--c7:#a9b6c8;--c8:#b6d94c;--c9:#ff7d7d;\
--h0:#16253f;--h1:#1a3562;--h2:#1f4a8c;--h3:#2a66ba;--h4:#4387e0;--h5:#74abf3;--h6:#addbff;\
--h7:#eef8ff;--mark:#ff9254;--mid:#0b2038}}\
svg text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;\
font-variant-numeric:tabular-nums;fill:var(--soft)}svg text.s{fill:var(--ink)}svg text.b{fill:var(--ink);font-weight:600}\
.grid{stroke:var(--grid);stroke-width:1}.axis{stroke:var(--edge);stroke-width:1}\
.curve{fill:none;stroke-width:1.6;stroke-linejoin:round}.wide{stroke-width:2.6}.faint{stroke-width:1;opacity:.45}\
.area{stroke:none;opacity:.75}.track{fill:var(--grid);opacity:.55}\
.mark{fill:none;stroke:var(--mark);stroke-width:1.5}\
.median{fill:none;stroke:var(--mid);stroke-width:1.6;stroke-dasharray:5 3}\
.c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.c3{stroke:var(--c3)}\
.c4{stroke:var(--c4)}.c5{stroke:var(--c5)}.c6{stroke:var(--c6)}.c7{stroke:var(--c7)}\
.c8{stroke:var(--c8)}.c9{stroke:var(--c9)}\
.f0{fill:var(--c0)}.f1{fill:var(--c1)}.f2{fill:var(--c2)}.f3{fill:var(--c3)}\
.f4{fill:var(--c4)}.f5{fill:var(--c5)}.f6{fill:var(--c6)}.f7{fill:var(--c7)}\
.f8{fill:var(--c8)}.f9{fill:var(--c9)}\
.h0{fill:var(--h0)}.h1{fill:var(--h1)}.h2{fill:var(--h2)}.h3{fill:var(--h3)}\
.h4{fill:var(--h4)}.h5{fill:var(--h5)}.h6{fill:var(--h6)}.h7{fill:var(--h7)}";
