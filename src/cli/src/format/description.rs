//! Names with their values, wrapped, as `kubectl describe` prints them.

use super::table::table;
use textwrap::{Options, WordSeparator, WordSplitter, WrapAlgorithm};

/// Columns of a line before its value.
const VALUE_COLUMN: usize = 17;

const TABLE_INDENT: &str = "  ";

/// Text of lines that fit a width.
pub(crate) struct Description {
    text: String,
    width: usize,
}

impl Description {
    /// Without any line yet; lines are wrapped to `width` columns.
    pub(crate) fn new(width: usize) -> Self {
        Self {
            text: String::new(),
            width,
        }
    }

    /// All lines; ends with a newline unless there is none.
    pub(crate) fn into_text(self) -> String {
        self.text
    }

    /// Adds a line as it is.
    pub(crate) fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    /// Adds a heading of the lines that follow.
    pub(crate) fn heading(&mut self, text: &str) {
        self.line("");
        self.line(text);
    }

    /// Adds a name with its value.
    pub(crate) fn row(&mut self, name: &str, value: &str) {
        let first = format!("  {name:<width$}", width = VALUE_COLUMN - 2);
        self.wrapped(&first, value, VALUE_COLUMN);
    }

    /// Adds `value` after `first`, broken between words, with further lines indented. A word that
    /// is too long stays whole, so that it can be copied.
    pub(crate) fn wrapped(&mut self, first: &str, value: &str, indent: usize) {
        let is_apart = first.is_empty() || first.ends_with(' ');
        let first = format!("{first}{}", if is_apart { "" } else { " " });
        let indent = " ".repeat(indent);
        let options = Options::new(self.width)
            .initial_indent(&first)
            .subsequent_indent(&indent)
            .break_words(false)
            .word_separator(WordSeparator::AsciiSpace)
            .word_splitter(WordSplitter::NoHyphenation)
            .wrap_algorithm(WrapAlgorithm::FirstFit);
        let words: Vec<&str> = value.split_whitespace().collect();
        if words.is_empty() {
            self.line(first.trim_end());
            return;
        }
        for line in textwrap::wrap(&words.join(" "), options) {
            self.line(line.trim_end());
        }
    }
}

impl Description {
    /// Adds a table whose first column is names.
    pub(crate) fn table(&mut self, titles: &[&str], rows: &[Vec<String>]) {
        let titles: Vec<String> = titles.iter().map(|title| (*title).to_owned()).collect();
        let width = self.width.saturating_sub(TABLE_INDENT.len());
        self.line("");
        for line in table(&titles, rows, 1, Some(width)).lines() {
            self.line(&format!("{TABLE_INDENT}{line}"));
        }
        self.line("");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_wrapped_between_words_and_long_words_stay_whole() {
        let mut description = Description::new(40);
        description.row("reason", "budget team is exhausted:  0.50 of 0.50 spent");
        description.row("a longer name than fits", "value");
        description.row(
            "pod",
            "finetune-of-a-long-name-0-with-a-suffix-x7k2p: serving",
        );
        description.row("empty", "");
        assert_eq!(
            description.into_text(),
            "  reason         budget team is
                 exhausted: 0.50 of 0.50
                 spent
  a longer name than fits value
  pod            finetune-of-a-long-name-0-with-a-suffix-x7k2p:
                 serving
  empty
"
        );
    }
}
