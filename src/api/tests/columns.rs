//! What `kubectl get` prints of one namespace fits into 80 columns.

use std::collections::BTreeMap;

use bursar_api::crds;

const WIDTH: usize = 80;
/// What kubectl puts between two columns.
const GAP: usize = 3;

/// The longest values that are to be expected, by column.
const LONGEST: [(&str, &[(&str, &str)]); 5] = [
    (
        "inferencedeployments",
        &[
            ("Name", "twenty-letters-chat0"),
            ("Ready", "100"),
            ("Desired", "100"),
            ("Limited-By", "Stabilization"),
            ("Today", "1234.5678"),
            ("Rate/h", "123.4567"),
        ],
    ),
    (
        "trainingjobs",
        &[
            ("Name", "twenty-letters-train"),
            ("Phase", "Suspended"),
            ("Ready", "100"),
            ("Limited-By", "PriceUnknown"),
            ("Total", "12345.6789"),
            ("Rate/h", "123.4567"),
        ],
    ),
    (
        "budgetpolicies",
        &[
            ("Name", "twenty-letters-team0"),
            ("Limit", "10000.00"),
            ("Period", "Monthly"),
            ("Spent", "12345.6789"),
            ("Remaining", "12345.6789"),
            ("Phase", "Exhausted"),
        ],
    ),
    (
        "spendcorrections",
        &[
            ("Name", "twenty-letters-cred0"),
            ("Namespace", "twenty-letters-team0"),
            ("Date", "2026-11-30"),
            ("Amount", "-12345.67"),
            ("Accepted", "False"),
        ],
    ),
    (
        "spendrecords",
        &[
            (
                "Name",
                "twenty-letters-team0.infd.twenty-letters-chat0.2026-11",
            ),
            ("Settled", "12345.678901234"),
        ],
    ),
];

#[test]
fn what_kubectl_prints_fits_into_80_columns() {
    let definitions = crds::all();
    for (plural, longest) in LONGEST {
        let crd = definitions
            .iter()
            .find(|crd| crd.spec.names.plural == plural)
            .unwrap();
        let version = &crd.spec.versions[0];
        let columns = version.additional_printer_columns.iter().flatten();
        // kubectl shows the others with `-o wide`
        let shown = columns.filter(|column| column.priority.unwrap_or(0) == 0);
        let names: Vec<&str> = std::iter::once("Name")
            .chain(shown.map(|column| column.name.as_str()))
            .collect();
        let longest: BTreeMap<&str, &str> = longest.iter().copied().collect();
        let widths = names.iter().map(|name| {
            let value = longest
                .get(name)
                .unwrap_or_else(|| panic!("{plural}: how long can {name} be?"));
            value.len().max(name.len())
        });
        let width = widths.sum::<usize>() + GAP * (names.len() - 1);
        assert!(width <= WIDTH, "{plural}: {names:?} take {width} columns");
    }
}
