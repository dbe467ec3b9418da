//! Tables for a terminal, and the numbers in them.

use std::fmt::Write;

/// A table with a head; the first column is text, the others are numbers.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with this head.
    pub fn new(head: &[&str]) -> Self {
        Self {
            rows: vec![head.iter().map(|&word| word.to_owned()).collect()],
        }
    }

    /// Adds a row. Cells that are missing are empty.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                if column == 0 {
                    write!(line, "{cell:<width$}")?;
                } else {
                    write!(line, "  {cell:>width$}")?;
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A share of one core.
pub fn percent(share: f64) -> String {
    format!("{share:.1}%")
}

/// A time in seconds.
pub fn seconds(time: f64) -> String {
    format!("{time:.2} s")
}

/// The value below or at which a part of all values lies; `None` without values.
pub fn percentile(sorted: &[f64], part: f64) -> Option<f64> {
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["at rest", "CPU"]);
        table.row(vec!["zero".into(), percent(0.25)]);
        assert_eq!(table.to_string(), "at rest   CPU\nzero     0.2%\n");
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let values: Vec<f64> = (1..=10).map(f64::from).collect();
        let at = |part| percentile(&values, part);
        assert_eq!(
            [at(0.5), at(0.9), at(1.0)],
            [Some(5.0), Some(9.0), Some(10.0)]
        );
        assert_eq!(percentile(&[], 0.5), None);
    }
}
