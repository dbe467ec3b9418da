//! Tables, as `kubectl get` prints them: no borders, names to the left, figures to the right.

use comfy_table::{
    CellAlignment, ColumnConstraint, ContentArrangement, Row, Table, Width, presets,
};

/// Columns between two columns.
const GAP: u16 = 2;
/// A name is not cut to fewer columns than this, nor than its title.
const MIN_NAME: u16 = 8;

/// A table whose first `names` columns are names. Names are cut so that lines fit into `width`;
/// figures never are.
pub(crate) fn table(
    titles: &[String],
    rows: &[Vec<String>],
    names: usize,
    width: Option<usize>,
) -> String {
    let mut table = Table::new();
    let mut header = Row::from(titles);
    header.max_height(1);
    table.load_style(presets::NOTHING).set_header(header);
    // a name with spaces is cut as any other, not wrapped at them
    table.set_delimiter('\n');
    match width {
        Some(width) => table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(u16::try_from(width).unwrap_or(u16::MAX)),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    for cells in rows {
        let mut row = Row::from(cells);
        row.max_height(1);
        table.add_row(row);
    }
    let widths = table.column_max_content_widths();
    let last = titles.len().saturating_sub(1);
    for (at, (column, content)) in table.column_iter_mut().zip(widths).enumerate() {
        let gap = if at == last { 0 } else { GAP };
        column.set_padding((0, gap));
        if at < names {
            let title = u16::try_from(titles[at].chars().count()).unwrap_or(u16::MAX);
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(
                content.min(MIN_NAME.max(title)) + gap,
            )));
        } else {
            column.set_constraint(ColumnConstraint::ContentWidth);
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(width: Option<usize>) -> String {
        let cells = |row: [&str; 3]| row.map(str::to_owned).to_vec();
        let rows = [
            cells(["a-namespace-with-a-long-name", "infd/chat", "1234567.89"]),
            cells(["ml", "tj/finetune", "0.10"]),
        ];
        table(&cells(["NAMESPACE", "WORKLOAD", "COST"]), &rows, 2, width)
    }

    #[test]
    fn names_are_cut_to_fit_and_figures_are_not() {
        assert_eq!(
            printed(Some(40)),
            "NAMESPACE        WORKLOAD           COST
a-namespace-wi…  infd/chat    1234567.89
ml               tj/finetune        0.10
"
        );
        for line in printed(Some(10)).lines().skip(1) {
            assert!(
                line.ends_with("1234567.89") || line.ends_with("0.10"),
                "{line}"
            );
        }
    }

    #[test]
    fn nothing_is_cut_where_there_is_no_terminal() {
        assert_eq!(
            printed(None),
            "NAMESPACE                     WORKLOAD           COST
a-namespace-with-a-long-name  infd/chat    1234567.89
ml                            tj/finetune        0.10
"
        );
    }

    #[test]
    fn a_name_with_spaces_is_one_line() {
        let text = table(
            &["GPU".to_owned(), "COST".to_owned()],
            &[vec!["NVIDIA H100 80GB HBM3".to_owned(), "6.88".to_owned()]],
            1,
            Some(20),
        );
        assert_eq!(text, "GPU             COST\nNVIDIA H100 8…  6.88\n");
    }
}
