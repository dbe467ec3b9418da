//! The tables' rows, and prices as whole nano-units.

use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};

/// Why a table could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct TableError {
    path: PathBuf,
    source: csv::Error,
}

/// Reads all rows of a table with a header.
pub(crate) fn read<Row: DeserializeOwned>(path: &Path) -> Result<Vec<Row>, TableError> {
    let fail = |source| TableError {
        path: path.to_owned(),
        source,
    };
    csv::Reader::from_path(path)
        .map_err(fail)?
        .deserialize()
        .collect::<Result<_, _>>()
        .map_err(fail)
}

/// A row of `aws-on-demand.csv`.
#[derive(Deserialize)]
pub(crate) struct AwsRow {
    pub(crate) date: String,
    pub(crate) region: String,
    pub(crate) instance_type: String,
    pub(crate) manufacturer: String,
    #[serde(deserialize_with = "deserialize_count")]
    pub(crate) count: Option<u32>,
    pub(crate) usd_per_hour: Nanos,
}

/// A row of `gcp.csv`.
#[derive(Deserialize)]
pub(crate) struct GcpRow {
    pub(crate) date: String,
    pub(crate) region: String,
    pub(crate) instance_type: String,
    #[serde(deserialize_with = "deserialize_count")]
    pub(crate) count: Option<u32>,
    pub(crate) usd_per_hour: Nanos,
    pub(crate) usd_per_hour_spot: Option<Nanos>,
}

/// A row of `machines.csv`.
#[derive(Deserialize)]
pub(crate) struct MachineRow {
    pub(crate) date: String,
    pub(crate) instance_type: String,
    pub(crate) resource: String,
    #[serde(deserialize_with = "deserialize_count")]
    pub(crate) count: Option<u32>,
    pub(crate) usd_per_hour: Nanos,
    pub(crate) source: String,
}

/// A row of `per-gpu.csv` or `accelerators.csv`: what one GPU costs in one cloud, for one size of
/// machine.
#[derive(Deserialize)]
pub(crate) struct PerGpuRow {
    pub(crate) accelerator: String,
    pub(crate) cloud: String,
    pub(crate) source: String,
    pub(crate) as_of: String,
    pub(crate) od_median: Option<Nanos>,
    pub(crate) spot_median: Option<Nanos>,
}

/// A row of `gpu-tdp.csv`: what one GPU draws at most.
#[derive(Deserialize)]
pub(crate) struct TdpRow {
    pub(crate) gpu: String,
    pub(crate) tdp_watts: u32,
    pub(crate) source: String,
}

/// Billionths of a unit of money, as the ledger counts them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Nanos(pub(crate) u64);

impl Nanos {
    /// Reads a plain decimal, rounding to the nearest nano-unit: some sources give more digits than
    /// money has.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        if !(whole.bytes().chain(fraction.bytes())).all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let digits = format!("{fraction:0<10}");
        let tenths: u64 = digits.get(..10)?.parse().ok()?;
        let whole = whole.parse::<u64>().ok()?.checked_mul(1_000_000_000)?;
        whole.checked_add((tenths + 5) / 10).map(Self)
    }
}

impl std::fmt::Display for Nanos {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = format!("{}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl<'de> Deserialize<'de> for Nanos {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom(format!("'{text}' is no price")))
    }
}

/// The middle price; of an even number, the mean of the two in the middle.
pub(crate) fn median(mut prices: Vec<Nanos>) -> Option<Nanos> {
    prices.sort_unstable();
    let upper = prices.get(prices.len() / 2)?;
    let lower = prices.get((prices.len() - 1) / 2)?;
    Some(Nanos((lower.0 + upper.0) / 2))
}

/// A number of GPUs; `None` for a machine that has a fraction of one.
fn deserialize_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let number = text.strip_suffix(".0").unwrap_or(&text);
    Ok(number.parse().ok().filter(|count| *count > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_read_and_written_to_the_nano_unit() {
        for (text, nanos, written) in [
            ("55.04", 55_040_000_000, "55.04"),
            ("5.06879789041096", 5_068_797_890, "5.06879789"),
            ("0.9999999999", 1_000_000_000, "1"),
            ("8", 8_000_000_000, "8"),
        ] {
            assert_eq!(Nanos::parse(text), Some(Nanos(nanos)));
            assert_eq!(Nanos(nanos).to_string(), written);
        }
        assert_eq!(["", "-1", "+1", "inf", "1.x"].map(Nanos::parse), [None; 5]);
    }

    #[test]
    fn the_median_of_an_even_number_is_the_mean_of_the_middle() {
        assert_eq!(
            median(vec![Nanos(9), Nanos(1), Nanos(5), Nanos(3)]),
            Some(Nanos(4))
        );
        assert_eq!(median(vec![Nanos(9), Nanos(1), Nanos(5)]), Some(Nanos(5)));
        assert_eq!(median(Vec::new()), None);
    }
}
