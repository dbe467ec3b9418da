//! A page of names and what is said of them, at 80 columns.

/// Columns of a page.
pub(crate) const WIDTH: usize = 80;
/// Columns of a line before its value.
const INDENT: usize = 17;

/// Lines of at most [`WIDTH`] columns.
#[derive(Default)]
pub(crate) struct Page {
    pub(crate) text: String,
}

impl Page {
    /// A line as it is.
    pub(crate) fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    /// What the lines after it are about.
    pub(crate) fn heading(&mut self, text: &str) {
        self.line("");
        self.line(text);
    }

    /// A name and what is said of it.
    pub(crate) fn row(&mut self, name: &str, value: &str) {
        self.wrapped(
            &format!("  {name:<width$}", width = INDENT - 2),
            value,
            INDENT,
        );
    }

    /// `value` after `first`, broken between words; further lines begin at column `indent`. A word that is too long stays whole,
    /// so that it can be copied.
    pub(crate) fn wrapped(&mut self, first: &str, value: &str, indent: usize) {
        let mut line = if first.chars().count() < indent || first.ends_with(' ') || first.is_empty()
        {
            first.to_owned()
        } else {
            format!("{first} ")
        };
        let mut is_empty = true;
        for part in value.split_whitespace() {
            if !is_empty && line.chars().count() + 1 + part.chars().count() > WIDTH {
                self.line(line.trim_end());
                line = " ".repeat(indent);
                is_empty = true;
            }
            if !is_empty {
                line.push(' ');
            }
            line.push_str(part);
            is_empty = false;
        }
        self.line(line.trim_end());
    }
}
