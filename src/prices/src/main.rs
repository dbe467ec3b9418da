//! Writes `charts/bursar/files/default-prices.yaml` from the tables in `charts/bursar/prices`,
//! whose README says where they come from.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/bursar");
    let target = chart.join("files/default-prices.yaml");
    std::fs::write(&target, bursar_prices::default_list(&chart.join("prices"))?)?;
    println!("wrote {}", target.display());
    Ok(())
}
