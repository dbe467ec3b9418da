//! Writes `charts/bursar/files/default-prices.yaml` from the tables in `charts/bursar/prices`, whose README says where they come from.

mod list;
mod table;

use std::path::{Path, PathBuf};

/// Where the chart lies.
fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/bursar")
}

/// The PriceList that the tables give.
fn generate() -> Result<String, table::TableError> {
    let prices = chart().join("prices");
    let nodes = [
        list::aws_nodes(&table::read(&prices.join("aws-on-demand.csv"))?),
        list::gcp_nodes(&table::read(&prices.join("gcp.csv"))?),
    ];
    let gpus = list::gpus(&table::read(&prices.join("per-gpu.csv"))?);
    Ok(list::yaml(&gpus, &nodes.concat()))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let target = chart().join("files/default-prices.yaml");
    std::fs::write(&target, generate()?)?;
    println!("wrote {}", target.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_price_list_is_up_to_date() {
        let shipped = std::fs::read_to_string(chart().join("files/default-prices.yaml")).unwrap();
        assert!(
            shipped == generate().unwrap(),
            "charts/bursar/files/default-prices.yaml is stale: cargo run -p bursar-prices"
        );
    }

    #[test]
    fn kubectl_apply_takes_the_default_price_list() {
        let bytes = generate().unwrap().len();
        assert!(bytes < 100_000, "{bytes} bytes; list fewer regions");
    }

    #[test]
    fn every_row_names_its_source_and_date_and_none_is_free() {
        let list = generate().unwrap();
        let rows: Vec<&str> = list
            .lines()
            .filter(|line| line.starts_with("    - {"))
            .collect();
        assert!(rows.len() > 300);
        for row in rows {
            assert!(
                row.contains("source: \"") && row.contains("asOf: \"20"),
                "{row}"
            );
            assert!(
                row.contains("pricePerHour: \"") && !row.contains("pricePerHour: \"0\""),
                "{row}"
            );
        }
    }

    #[test]
    fn no_two_rows_speak_of_the_same_machines() {
        let list = generate().unwrap();
        let mut keys: Vec<&str> = list
            .lines()
            .filter_map(|line| line.strip_prefix("    - {")?.split(" pricePerHour").next())
            .collect();
        let rows = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), rows);
    }
}
