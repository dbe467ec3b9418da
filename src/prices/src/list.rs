//! From tables to the rows of a PriceList.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::table::{AwsRow, GcpRow, MachineRow, Nanos, PerGpuRow, TdpRow, median};

const AWS: &str = "karpenter-provider-aws@1d927085, Apache-2.0";
const GCP: &str = "Cyclenerd@fd66b26f, Apache-2.0";
const NVIDIA: &str = "nvidia.com/gpu";
const FSDL: &str = "the-full-stack/website@2bddc6d5, MIT";
/// Prices that were copied one by one: facts, of which `prices/README.md` names the origin.
const SKYPILOT: &str = "skypilot-org/skypilot-catalog, v8 (facts)";
const DATA_RECEIPTS: &str = "datareceipts/data-receipts, 109-gpu-pricing (facts)";
const CLIFFCENTER: &str = "cliffcenter.com, AMD inference economics (facts)";

/// The region whose price applies to the AWS regions that have no row of their own.
const AWS_DEFAULT_REGION: &str = "us-east-1";

/// Regions of Google Cloud that are listed by name. All 40 would be too much for `kubectl apply`;
/// the others share a median.
const GCP_REGIONS: [&str; 5] = [
    "asia-southeast1",
    "europe-west1",
    "europe-west4",
    "us-central1",
    "us-east4",
];

/// GPU feature discovery's product names, what the tables of prices call the same GPU, and what the
/// table of watts does; nothing where that has no such board. (It has the K80 with both its GPUs.)
const MODELS: &[(&str, &[&str], &str)] = &[
    ("NVIDIA-GB300", &["GB300"], ""),
    ("NVIDIA-GB200", &["GB200"], ""),
    ("NVIDIA-B300-SXM6-AC", &["B300"], ""),
    ("NVIDIA-B200", &["B200"], "B200"),
    ("NVIDIA-GH200-480GB", &["GH200-96GB"], ""),
    ("NVIDIA-H200", &["H200-141GB"], "H200-SXM-141GB"),
    // nobody lists the board with the NVL bridge apart: it has the same chip and memory
    ("NVIDIA-H200-NVL", &["H200-141GB"], ""),
    ("NVIDIA-H100-NVL", &["H100-NVL-94GB"], ""),
    (
        "NVIDIA-H100-80GB-HBM3",
        &["H100-80GB", "H100-80GB-MEGA", "H100-HGX-80GB"],
        "H100-SXM5-80GB",
    ),
    (
        "NVIDIA-H100-PCIe",
        &["H100-80GB", "H100-PCIe-80GB"],
        "H100-PCIe-80GB",
    ),
    ("NVIDIA-A100-SXM4-80GB", &["A100-80GB"], "A100-SXM4-80GB"),
    ("NVIDIA-A100-80GB-PCIe", &["A100-80GB"], ""),
    ("NVIDIA-A100-SXM4-40GB", &["A100-40GB"], ""),
    ("NVIDIA-A100-PCIE-40GB", &["A100-40GB"], "A100-PCIe-40GB"),
    (
        "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition",
        &["RTX-PRO-6000", "rtx-pro-server-6000"],
        "",
    ),
    (
        "NVIDIA-RTX-PRO-4500-Blackwell-Server-Edition",
        &["rtx-pro-4500"],
        "",
    ),
    ("NVIDIA-L40S", &["L40S-48GB"], "L40S"),
    ("NVIDIA-L4", &["L4"], "L4"),
    ("NVIDIA-A40", &["A40-48GB"], "A40"),
    ("NVIDIA-A10G", &["A10G-24GB"], "A10G"),
    ("NVIDIA-A10", &["A10", "A10-24GB"], "A10"),
    ("NVIDIA-RTX-A6000", &["A6000-48GB"], "RTX-A6000"),
    ("NVIDIA-RTX-A5000", &["A5000-24GB"], ""),
    ("NVIDIA-RTX-A4000", &["A4000-16GB"], "RTX-A4000"),
    ("NVIDIA-T4G", &["T4G-16GB"], ""),
    ("Tesla-T4", &["T4-16GB"], "T4"),
    ("Tesla-V100-SXM2-16GB", &["V100-16GB"], "V100-SXM2-16GB"),
    ("Tesla-V100-SXM2-32GB", &["V100-32GB"], "V100-SXM2-32GB"),
    ("Tesla-P100-PCIE-16GB", &["P100-16GB"], "P100"),
    ("Tesla-P4", &["P4-8GB"], ""),
    ("Tesla-K80", &["K80-12GB"], ""),
    ("Quadro-RTX-6000", &["Quadro-RTX-6000-24GB"], ""),
    ("Quadro-RTX-5000", &["RTX5000-16GB"], ""),
    ("Quadro-RTX-4000", &["RTX4000-8GB"], ""),
    ("MI355X", &["MI355X"], ""),
    ("MI325X", &["MI325X"], ""),
    ("MI300X", &["MI300X"], "MI300X"),
    ("Radeon-Pro-V520", &["radeon-pro-v520"], ""),
    ("tpu-v4-podslice", &["tpu-v4"], ""),
    ("tpu-v5-lite-podslice", &["tpu-v5e"], ""),
    ("tpu-v5p-slice", &["tpu-v5p"], ""),
    ("tpu-v6e-slice", &["tpu-v6e"], ""),
    ("inferentia", &["inferentia"], ""),
    ("inferentia2", &["inferentia2"], ""),
    ("trainium", &["trainium"], ""),
];

/// The extended resource that a model is offered as.
fn resource_of(model: &str) -> &'static str {
    let is_of = |names: &[&str]| names.iter().any(|name| model.starts_with(name));
    match () {
        () if is_of(&["MI", "Radeon"]) => "amd.com/gpu",
        () if is_of(&["tpu-"]) => "google.com/tpu",
        () if is_of(&["inferentia", "trainium"]) => "aws.amazon.com/neuron",
        () => NVIDIA,
    }
}

/// True if the default list has a price for this accelerator of `per-gpu.csv`.
#[cfg(test)]
pub(crate) fn is_listed(accelerator: &str) -> bool {
    let mut names = MODELS.iter().flat_map(|(_, names, _)| *names);
    names.any(|name| *name == accelerator)
}

/// A row of `spec.gpus`.
pub(crate) struct GpuRow {
    model: &'static str,
    capacity_type: Option<&'static str>,
    price: Nanos,
    watts: Option<u32>,
    source: String,
    as_of: String,
}

/// A row of `spec.nodes`.
#[derive(Clone)]
pub(crate) struct NodeRow {
    instance_type: String,
    resource: String,
    region: Option<String>,
    capacity_type: &'static str,
    gpus: Option<u32>,
    price: Nanos,
    source: String,
    as_of: String,
}

/// AWS on demand: the home region's price applies to every region that has no row of its own.
pub(crate) fn aws_nodes(table: &[AwsRow]) -> Vec<NodeRow> {
    table
        .iter()
        .map(|aws| {
            let is_default = aws.region == AWS_DEFAULT_REGION;
            NodeRow {
                instance_type: aws.instance_type.clone(),
                resource: match aws.manufacturer.as_str() {
                    "amd" => "amd.com/gpu".to_owned(),
                    "aws" => "aws.amazon.com/neuron".to_owned(),
                    _ => NVIDIA.to_owned(),
                },
                region: (!is_default).then(|| aws.region.clone()),
                capacity_type: "OnDemand",
                gpus: aws.count,
                price: aws.usd_per_hour,
                source: if is_default {
                    format!("{AWS_DEFAULT_REGION}: {AWS}")
                } else {
                    AWS.to_owned()
                },
                as_of: aws.date.clone(),
            }
        })
        .collect()
}

/// Google Cloud, on demand and spot: the listed regions, and the median of all regions for the
/// others.
pub(crate) fn gcp_nodes(table: &[GcpRow]) -> Vec<NodeRow> {
    let mut types: BTreeMap<&str, Vec<&GcpRow>> = BTreeMap::new();
    for gcp in table {
        types.entry(&gcp.instance_type).or_default().push(gcp);
    }
    let mut rows = Vec::new();
    for (instance_type, offers) in types {
        for (capacity_type, price) in [
            (
                "OnDemand",
                (|gcp| Some(gcp.usd_per_hour)) as fn(&GcpRow) -> Option<Nanos>,
            ),
            ("Spot", |gcp| gcp.usd_per_hour_spot),
        ] {
            let priced: Vec<(&GcpRow, Nanos)> = offers
                .iter()
                .filter_map(|gcp| Some((*gcp, price(gcp)?)))
                .collect();
            let Some((first, _)) = priced.first() else {
                continue;
            };
            let row = |region: Option<&str>, price, source| NodeRow {
                instance_type: instance_type.to_owned(),
                resource: NVIDIA.to_owned(),
                region: region.map(str::to_owned),
                capacity_type,
                gpus: first.count,
                price,
                source,
                as_of: first.date.clone(),
            };
            let all = median(priced.iter().map(|(_, price)| *price).collect());
            rows.extend(all.map(|price| {
                row(
                    None,
                    price,
                    format!("median of {} regions: {GCP}", priced.len()),
                )
            }));
            let listed = priced
                .iter()
                .filter(|(gcp, _)| GCP_REGIONS.contains(&gcp.region.as_str()));
            rows.extend(listed.map(|(gcp, price)| row(Some(&gcp.region), *price, GCP.to_owned())));
        }
    }
    rows
}

/// Machines whose prices were copied one by one, on demand and for every region.
pub(crate) fn machines(table: &[MachineRow]) -> Vec<NodeRow> {
    let rows = table.iter().map(|machine| NodeRow {
        instance_type: machine.instance_type.clone(),
        resource: machine.resource.clone(),
        region: None,
        capacity_type: "OnDemand",
        gpus: machine.count,
        price: machine.usd_per_hour,
        source: citation(&machine.source).to_owned(),
        as_of: machine.date.clone(),
    });
    rows.collect()
}

/// For each model the median over the clouds, on demand (for any capacity type, with its watts) and
/// spot.
pub(crate) fn gpus(table: &[PerGpuRow], watts: &[TdpRow]) -> Vec<GpuRow> {
    let mut rows = Vec::new();
    for (model, accelerators, board) in MODELS.iter().copied() {
        let offers: Vec<&PerGpuRow> = table
            .iter()
            .filter(|row| accelerators.contains(&row.accelerator.as_str()))
            .collect();
        let on_demand = across_clouds(model, None, &offers, |row| row.od_median);
        let tdp = watts.iter().find(|row| row.gpu == board);
        rows.extend(on_demand.map(|row| row.with_watts(tdp)));
        rows.extend(across_clouds(model, Some("Spot"), &offers, |row| {
            row.spot_median
        }));
    }
    rows
}

impl GpuRow {
    fn with_watts(self, tdp: Option<&TdpRow>) -> Self {
        let Some(tdp) = tdp else { return self };
        Self {
            watts: Some(tdp.tdp_watts),
            source: format!("{}; watts: {}", self.source, tdp.source),
            ..self
        }
    }
}

/// The median over clouds of each cloud's median over machine sizes, from the newest source that
/// knows the cloud.
fn across_clouds(
    model: &'static str,
    capacity_type: Option<&'static str>,
    offers: &[&PerGpuRow],
    price: fn(&PerGpuRow) -> Option<Nanos>,
) -> Option<GpuRow> {
    let mut clouds: BTreeMap<&str, BTreeMap<(&str, &str), Vec<Nanos>>> = BTreeMap::new();
    for offer in offers {
        if let Some(price) = price(offer) {
            clouds
                .entry(&offer.cloud)
                .or_default()
                .entry((&offer.as_of, &offer.source))
                .or_default()
                .push(price);
        }
    }
    let newest: Vec<_> = clouds
        .into_values()
        .filter_map(|sources| sources.into_iter().next_back())
        .collect();
    let dates: BTreeSet<&str> = newest.iter().map(|((as_of, _), _)| *as_of).collect();
    let sources: BTreeSet<&str> = newest
        .iter()
        .map(|((_, source), _)| citation(source))
        .collect();
    let (oldest, latest) = (dates.first()?, dates.last()?);
    let paid = capacity_type.map_or("on demand", |_| "spot");
    let basis = match newest.len() {
        1 => "one cloud".to_owned(),
        _ if oldest == latest => format!("median of {} clouds", newest.len()),
        count => format!("median of {count} clouds since {oldest}"),
    };
    let sources = sources.into_iter().collect::<Vec<_>>().join("; ");
    let medians = newest.into_iter().filter_map(|(_, sizes)| median(sizes));
    Some(GpuRow {
        model,
        capacity_type,
        price: median(medians.collect())?,
        watts: None,
        source: format!("{paid}, {basis}: {sources}"),
        as_of: (*latest).to_owned(),
    })
}

/// Origin and licence of a source named in `per-gpu.csv`.
fn citation(source: &str) -> &str {
    match source {
        "karpenter-provider-aws" => AWS,
        "Cyclenerd" => GCP,
        "FSDL(2023-2025)" => FSDL,
        "skypilot-catalog" => SKYPILOT,
        "data-receipts" => DATA_RECEIPTS,
        "cliffcenter" => CLIFFCENTER,
        other => other,
    }
}

/// The PriceList, one row a line.
pub(crate) fn yaml(gpus: &[GpuRow], nodes: &[NodeRow]) -> String {
    let optional = |key: &str, value: Option<&str>| {
        value
            .map(|value| format!(" {key}: {value},"))
            .unwrap_or_default()
    };
    let mut out = String::from(HEADER);
    for row in gpus {
        let capacity = optional("capacityType", row.capacity_type);
        let GpuRow {
            model,
            price,
            source,
            as_of,
            ..
        } = row;
        let resource = resource_of(model);
        let watts = optional("watts", row.watts.map(|watts| watts.to_string()).as_deref());
        let _ = writeln!(
            out,
            "    - {{model: {model}, resource: {resource},{capacity}{watts} pricePerHour: \"{price}\", source: \"{source}\", asOf: \"{as_of}\"}}"
        );
    }
    out.push_str("  nodes:\n");
    for row in nodes {
        let NodeRow {
            instance_type,
            capacity_type,
            price,
            source,
            as_of,
            ..
        } = row;
        let region = optional("region", row.region.as_deref());
        let resource = optional(
            "resource",
            Some(row.resource.as_str()).filter(|name| *name != NVIDIA),
        );
        let gpus = optional("gpus", row.gpus.map(|gpus| gpus.to_string()).as_deref());
        let _ = writeln!(
            out,
            "    - {{instanceType: {instance_type},{resource}{region} capacityType: {capacity_type},{gpus} pricePerHour: \"{price}\", source: \"{source}\", asOf: \"{as_of}\"}}"
        );
    }
    out
}

const HEADER: &str = "\
# Generated by `cargo run -p bursar-prices`; do not edit. List prices in USD; committed use and negotiated discounts are not in them.
# Sources: github.com/aws/karpenter-provider-aws, github.com/Cyclenerd/google-cloud-pricing-cost-calculator (c) Nils Knieling, both
# Apache-2.0; github.com/the-full-stack/website (c) 2023 Full Stack Deep Learning, LLC, MIT; single prices of other sources.
# prices/README.md has licences, method, and the origin of the watts.
apiVersion: bursar.dev/v1alpha1
kind: PriceList
metadata:
  name: default
  labels:
    app.kubernetes.io/managed-by: bursar
spec:
  currency: USD
  gpus:
";
