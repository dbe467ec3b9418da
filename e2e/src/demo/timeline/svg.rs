//! Writes SVG: elements, attributes and numbers, with the same bytes for the same drawing.

use std::fmt::{self, Write};

/// A coordinate or a length, written with one digit after the point, which is left out where it is
/// 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Number(pub(super) f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:.1}", self.0);
        let text = text.strip_suffix(".0").unwrap_or(&text);
        f.write_str(if text == "-0" { "0" } else { text })
    }
}

/// An SVG document that is being written.
#[derive(Debug, Default)]
pub(super) struct Svg {
    text: String,
    depth: usize,
}

impl Svg {
    /// An element without contents.
    pub(super) fn empty(&mut self, name: &str, attributes: &[(&str, &dyn fmt::Display)]) {
        self.tag(name, attributes);
        self.text.push_str("/>\n");
    }

    /// An element with text.
    pub(super) fn with_text(
        &mut self,
        name: &str,
        attributes: &[(&str, &dyn fmt::Display)],
        text: &str,
    ) {
        self.tag(name, attributes);
        self.text.push('>');
        self.escape(text);
        self.text.push_str("</");
        self.text.push_str(name);
        self.text.push_str(">\n");
    }

    /// An element with other elements, which `contents` writes.
    pub(super) fn group(
        &mut self,
        name: &str,
        attributes: &[(&str, &dyn fmt::Display)],
        contents: impl FnOnce(&mut Self),
    ) {
        self.tag(name, attributes);
        self.text.push_str(">\n");
        self.depth += 1;
        contents(self);
        self.depth -= 1;
        self.indent();
        self.text.push_str("</");
        self.text.push_str(name);
        self.text.push_str(">\n");
    }

    /// The document.
    pub(super) fn into_text(self) -> String {
        self.text
    }

    fn tag(&mut self, name: &str, attributes: &[(&str, &dyn fmt::Display)]) {
        self.indent();
        self.text.push('<');
        self.text.push_str(name);
        for (name, value) in attributes {
            self.text.push(' ');
            self.text.push_str(name);
            self.text.push_str("=\"");
            self.escape(&value.to_string());
            self.text.push('"');
        }
    }

    fn indent(&mut self) {
        for _ in 0..self.depth {
            self.text.push_str("  ");
        }
    }

    fn escape(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                '&' => self.text.push_str("&amp;"),
                '<' => self.text.push_str("&lt;"),
                '>' => self.text.push_str("&gt;"),
                '"' => self.text.push_str("&quot;"),
                other => self.text.push(other),
            }
        }
    }
}

/// The data of a path's `d` attribute.
#[derive(Debug, Default)]
pub(super) struct Path(String);

impl Path {
    /// Begins at a point.
    pub(super) fn move_to(&mut self, x: f64, y: f64) {
        self.command("M", &[x, y]);
    }

    /// A line to a point.
    pub(super) fn line_to(&mut self, x: f64, y: f64) {
        self.command("L", &[x, y]);
    }

    /// Back to where it began.
    pub(super) fn close(&mut self) {
        self.0.push('Z');
    }

    /// Whether nothing was drawn.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn command(&mut self, letter: &str, numbers: &[f64]) {
        self.0.push_str(letter);
        for (index, number) in numbers.iter().enumerate() {
            let separator = if index == 0 { "" } else { " " };
            write!(self.0, "{separator}{}", Number(*number)).ok();
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_never_minus_zero() {
        let text = |number| Number(number).to_string();
        assert_eq!(text(12.0), "12");
        assert_eq!(text(12.34), "12.3");
        assert_eq!(text(-0.04), "0");
        assert_eq!(text(12.97), "13");
    }

    #[test]
    fn text_and_attributes_are_escaped() {
        let mut svg = Svg::default();
        svg.group("g", &[("id", &"a\"b")], |svg| {
            svg.with_text("text", &[("x", &Number(1.0))], "1 < 2 & 3");
        });
        assert_eq!(
            svg.into_text(),
            "<g id=\"a&quot;b\">\n  <text x=\"1\">1 &lt; 2 &amp; 3</text>\n</g>\n"
        );
    }
}
