//! How wide text may be.

use std::io::stdout;

use terminal_size::{Width, terminal_size_of};

/// Columns of text that is read in a pipe or a file, so that the same answer always looks the same.
pub(crate) const TEXT_WIDTH: usize = 80;
/// Sentences are hard to follow in longer lines than this.
const MAX_TEXT_WIDTH: usize = 120;
/// Sentences are wrapped to no fewer columns than this.
const MIN_TEXT_WIDTH: usize = 40;

/// Columns that a table may have: those of the terminal. A pipe takes any number.
pub(crate) fn table_width() -> Option<usize> {
    terminal_size_of(stdout()).map(|(Width(columns), _)| columns.into())
}

/// Columns that sentences are wrapped to.
pub(crate) fn text_width() -> usize {
    table_width().map_or(TEXT_WIDTH, |columns| {
        columns.clamp(MIN_TEXT_WIDTH, MAX_TEXT_WIDTH)
    })
}
