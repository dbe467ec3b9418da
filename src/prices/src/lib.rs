//! From tables to PriceLists.
//!
//! | module | subject |
//! |---|---|
//! | [`import`] | CSV that users bring: Bursar's own columns, and OpenCost's |
//! | `list` | the rows of the default list |
//! | `table` | the public price tables that it is made of |

pub mod import;
mod list;
mod table;

use std::path::Path;

pub use table::TableError;

/// The default PriceList that the tables in `folder` give, as YAML.
///
/// # Errors
/// A table that is missing or cannot be read.
pub fn default_list(folder: &Path) -> Result<String, TableError> {
    let nodes = [
        list::aws_nodes(&table::read(&folder.join("aws-on-demand.csv"))?),
        list::gcp_nodes(&table::read(&folder.join("gcp.csv"))?),
        list::machines(&table::read(&folder.join("machines.csv"))?),
    ];
    let per_gpu: [Vec<table::PerGpuRow>; 2] = [
        table::read(&folder.join("per-gpu.csv"))?,
        table::read(&folder.join("accelerators.csv"))?,
    ];
    let gpus = list::gpus(
        &per_gpu.into_iter().flatten().collect::<Vec<_>>(),
        &table::read(&folder.join("gpu-tdp.csv"))?,
    );
    Ok(list::yaml(&gpus, &nodes.concat()))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn chart() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/bursar")
    }

    fn generate() -> Result<String, TableError> {
        default_list(&chart().join("prices"))
    }

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
        // the annotation of a client-side apply may have 256 KiB
        assert!(bytes < 200_000, "{bytes} bytes; list fewer regions");
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

    #[test]
    fn every_gpu_and_instance_type_of_the_tables_is_listed() {
        let list = generate().unwrap();
        let prices = chart().join("prices");
        let aws: Vec<table::AwsRow> = table::read(&prices.join("aws-on-demand.csv")).unwrap();
        let gcp: Vec<table::GcpRow> = table::read(&prices.join("gcp.csv")).unwrap();
        let types = aws.iter().map(|row| &row.instance_type);
        for instance_type in types.chain(gcp.iter().map(|row| &row.instance_type)) {
            assert!(
                list.contains(&format!("- {{instanceType: {instance_type},")),
                "{instance_type} is not listed"
            );
        }
        let read =
            |file: &str| -> Vec<table::PerGpuRow> { table::read(&prices.join(file)).unwrap() };
        let gpus = [read("per-gpu.csv"), read("accelerators.csv")];
        let priced = gpus
            .iter()
            .flatten()
            .filter(|row| row.od_median.is_some() || row.spot_median.is_some());
        for row in priced {
            assert!(
                list::is_listed(&row.accelerator),
                "{} is in no row of MODELS",
                row.accelerator
            );
        }
    }

    #[test]
    fn watts_are_those_of_the_table_with_their_source() {
        let list = generate().unwrap();
        let row = |model: &str| {
            let start = format!("    - {{model: {model},");
            list.lines().find(|line| line.starts_with(&start)).unwrap()
        };
        assert!(row("NVIDIA-H100-80GB-HBM3").contains("watts: 700"));
        assert!(row("NVIDIA-L4").contains("watts: 72") && row("NVIDIA-L4").contains("UNVERIFIED"));
        assert!(!row("NVIDIA-B300-SXM6-AC").contains("watts"));
    }
}
