//! Watts of GPUs by pod, from NVIDIA's dcgm-exporter.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::engine::{Error, Scraper};
use crate::exposition;

/// The port of an exporter that does not name its own.
pub const PORT: u16 = 9400;
/// Gauge: watts that a GPU draws.
const USAGE: &str = "DCGM_FI_DEV_POWER_USAGE";

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

/// The sum over the GPUs of each pod. Where somebody has taken the labels' names, the pod's are `exported_`.
fn watts(text: &str) -> Watts {
    let mut sums = Watts::new();
    for (labels, value) in exposition::samples(text, USAGE) {
        let of = |name: &str| {
            let exported = labels.get(&format!("exported_{name}"));
            exported.or_else(|| labels.get(name)).cloned()
        };
        let Some(pod) = of("namespace").zip(of("pod")) else {
            continue;
        };
        if value.is_finite() && value >= 0.0 && !pod.1.is_empty() {
            *sums.entry(pod).or_default() += value;
        }
    }
    sums
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
}
