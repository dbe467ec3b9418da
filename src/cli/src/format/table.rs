//! Tables of text: names to the left, figures to the right.

/// Between two columns.
const GAP: usize = 2;
/// A name is not cut to fewer columns than this.
const SHORTEST: usize = 8;

/// A table whose first `names` columns are names. Names are cut so that lines fit into `width`, the widest first; figures never are.
pub(crate) fn table(
    titles: &[String],
    rows: &[Vec<String>],
    names: usize,
    width: Option<usize>,
) -> String {
    let length = |text: &String| text.chars().count();
    let mut widths: Vec<usize> = titles.iter().map(length).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(length(cell));
        }
    }
    if let Some(limit) = width {
        fit(&mut widths, names, limit);
    }
    let mut text = String::new();
    for row in std::iter::once(titles).chain(rows.iter().map(Vec::as_slice)) {
        let cells = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(at, (cell, width))| {
                if at < names {
                    format!("{:<width$}", cut(cell, *width))
                } else {
                    format!("{cell:>width$}")
                }
            });
        let line = cells.collect::<Vec<_>>().join(&" ".repeat(GAP));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn fit(widths: &mut [usize], names: usize, limit: usize) {
    let gaps = GAP * widths.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > limit {
        let widest = widths.iter_mut().take(names).max();
        match widest.filter(|width| **width > SHORTEST) {
            Some(width) => *width -= 1,
            None => return,
        }
    }
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_to_fit_and_figures_are_not() {
        let cells = |row: [&str; 3]| row.map(str::to_owned).to_vec();
        let rows = [
            cells(["a-namespace-with-a-long-name", "infd/chat", "1234567.89"]),
            cells(["ml", "tj/finetune", "0.10"]),
        ];
        let text = table(
            &cells(["NAMESPACE", "WORKLOAD", "COST"]),
            &rows,
            2,
            Some(40),
        );
        assert_eq!(
            text,
            "NAMESPACE        WORKLOAD           COST
a-namespace-wi…  infd/chat    1234567.89
ml               tj/finetune        0.10
"
        );
    }
}
