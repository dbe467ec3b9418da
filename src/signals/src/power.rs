//! Watts of GPUs by pod, from NVIDIA's dcgm-exporter.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::engine::{Error, Scraper};
use crate::exposition;

/// The port of an exporter that does not name its own.
pub const PORT: u16 = 9400;
/// Gauge: watts that a GPU draws.
const USAGE: &str = "DCGM_FI_DEV_POWER_USAGE";

/// No board draws more: those of 2026 draw 1,400 W at most. An exporter that reads a broken sensor
/// reports numbers without measure.
const MOST_OF_A_BOARD: f64 = 2_000.0;

/// Watts by namespace and name of a pod.
pub type Watts = BTreeMap<(String, String), f64>;

impl Scraper {
    /// Reads what an exporter says of the pods on its node.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn watts(&self, address: IpAddr, port: u16) -> Result<Watts, Error> {
        Ok(watts(&self.text(address, port, "/metrics").await?))
    }
}

/// The sum over the boards of each pod, each board once, however many series it has. A pod with a
/// board that reports what no board can draw has no reading. Where somebody has taken the labels'
/// names, the pod's are `exported_`.
fn watts(text: &str) -> Watts {
    let mut boards: BTreeMap<(String, String), BTreeMap<String, f64>> = BTreeMap::new();
    for (labels, value) in exposition::samples(text, USAGE) {
        let of = |name: &str| {
            let exported = labels.get(&format!("exported_{name}"));
            exported.or_else(|| labels.get(name)).cloned()
        };
        let Some(pod) = of("namespace").zip(of("pod")) else {
            continue;
        };
        let board = ["UUID", "uuid", "gpu", "device"];
        let board = board.iter().find_map(|name| labels.get(*name).cloned());
        if !pod.1.is_empty() {
            let readings = boards.entry(pod).or_default();
            let reading = readings.entry(board.unwrap_or_default()).or_insert(value);
            // one that is no number stays
            if value < *reading || value.is_nan() {
                *reading = value;
            }
        }
    }
    let is_possible = |watts: &f64| (0.0..=MOST_OF_A_BOARD).contains(watts);
    boards.retain(|_, readings| readings.values().all(is_possible));
    let sums = boards.into_iter();
    sums.map(|(pod, readings)| (pod, readings.values().sum()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_draws_what_its_gpus_draw_together() {
        let text = "# TYPE DCGM_FI_DEV_POWER_USAGE gauge\n\
            DCGM_FI_DEV_POWER_USAGE{gpu=\"0\",namespace=\"team\",pod=\"chat-0\"} 300.5\n\
            DCGM_FI_DEV_POWER_USAGE{gpu=\"1\",modelName=\"a, \\\"b\\\"}\",namespace=\"team\",pod=\"chat-0\"} 200\n\
            DCGM_FI_DEV_POWER_USAGE{gpu=\"2\",exported_namespace=\"other\",exported_pod=\"p\",namespace=\"gpu-operator\",pod=\"dcgm\"} 50\n\
            DCGM_FI_DEV_POWER_USAGE{gpu=\"3\",namespace=\"\",pod=\"\"} 60\n\
            DCGM_FI_DEV_POWER_USAGE{gpu=\"4\"} 60\n\
            DCGM_FI_DEV_POWER_USAGE{gpu=\"5\",namespace=\"team\",pod=\"broken\"} NaN\n\
            DCGM_FI_DEV_GPU_UTIL{gpu=\"0\",namespace=\"team\",pod=\"chat-0\"} 99\n";
        let key = |namespace: &str, pod: &str| (namespace.to_owned(), pod.to_owned());
        let told = Watts::from([(key("team", "chat-0"), 500.5), (key("other", "p"), 50.0)]);
        assert_eq!(watts(text), told);
    }

    #[test]
    fn a_reading_that_no_board_can_draw_is_none() {
        assert_eq!(watts(include_str!("impossible-watts.prom")), Watts::new());
        // nor is the sum of the pod's other boards its reading
        let text = "DCGM_FI_DEV_POWER_USAGE{UUID=\"a\",namespace=\"team\",pod=\"chat-0\"} 2000.5\n\
            DCGM_FI_DEV_POWER_USAGE{UUID=\"b\",namespace=\"team\",pod=\"chat-0\"} 300\n\
            DCGM_FI_DEV_POWER_USAGE{UUID=\"c\",namespace=\"team\",pod=\"chat-1\"} 300\n";
        let pods: Vec<String> = watts(text).into_keys().map(|(_, pod)| pod).collect();
        assert_eq!(pods, ["chat-1"]);
    }

    #[test]
    fn a_board_counts_once_however_many_series_it_has() {
        let text = "DCGM_FI_DEV_POWER_USAGE{UUID=\"a\",gpu=\"0\",namespace=\"team\",pod=\"chat-0\"} 300\n\
            DCGM_FI_DEV_POWER_USAGE{UUID=\"a\",gpu=\"0\",container=\"x\",namespace=\"team\",pod=\"chat-0\"} 310\n";
        assert_eq!(watts(text).into_values().collect::<Vec<_>>(), [300.0]);
    }
}
