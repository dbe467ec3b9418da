//! `kubectl bursar prices`: imports prices, and finds nodes without one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bursar_api::PriceList;
use bursar_api::gpu_inventory::{DevicePools, GpuOffer, gpu_offers, unknown_accelerators};
use bursar_api::prices::EffectivePrices;
use bursar_core::pricing::{DEFAULT_LIST, PriceLookup, PricingAttributes, product_labels};
use bursar_prices::import::{self, ImportError};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};

use crate::client::{ClientError, api_error, price_lists};

/// The commands about prices.
#[derive(Debug, Subcommand)]
pub(crate) enum PricesCommand {
    /// Apply a PriceList made of a CSV file, in Bursar's columns or OpenCost's. A file with a bad
    /// line changes nothing.
    #[command(
        after_help = "Example: kubectl bursar prices import contract.csv --name contract --currency EUR --dry-run"
    )]
    Import(ImportArgs),
    /// List nodes without a price or with a provisional one, and accelerators that no rule knows, with
    /// the fix. Exits with 1 if there are any.
    #[command(after_help = "Example: kubectl bursar prices check")]
    Check,
}

/// Arguments of `prices import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The CSV file.
    pub(crate) file: PathBuf,
    /// Name of the PriceList. One of that name is replaced.
    #[arg(long, default_value = "imported")]
    pub(crate) name: String,
    /// ISO 4217 code of the file's currency.
    #[arg(long, default_value = "USD")]
    pub(crate) currency: String,
    /// Have the API server check the PriceList, and change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

const FIELD_MANAGER: &str = "kubectl-bursar";

/// Why prices were not imported or not checked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("reading {}: {source}", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{} was not imported, nothing is changed:\n{source}", path.display())]
    Import { path: PathBuf, source: ImportError },
    #[error("PriceList {DEFAULT_LIST} is the one that Bursar ships: choose another --name")]
    Shipped,
    #[error("{what}: {why}")]
    Api { what: String, why: String },
}

/// Runs a command about prices. A client is made only for what needs the cluster.
pub(crate) async fn run<F>(
    client: impl FnOnce() -> F,
    command: &PricesCommand,
) -> Result<ExitCode, Error>
where
    F: Future<Output = Result<Client, ClientError>>,
{
    match command {
        PricesCommand::Import(args) => {
            // the whole file is checked before the cluster is asked
            let list = price_list_from_file(args)?;
            print!("{}", apply(&client().await?, &list, args.dry_run).await?);
        }
        PricesCommand::Check => {
            let check = check(&client().await?, Timestamp::now()).await?;
            print!("{}", check.text);
            if !check.complete {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The PriceList of a file.
fn price_list_from_file(args: &ImportArgs) -> Result<PriceList, Error> {
    if args.name == DEFAULT_LIST {
        return Err(Error::Shipped);
    }
    let text = read(&args.file)?;
    let spec = import::read(&text, &args.currency).map_err(|source| Error::Import {
        path: args.file.clone(),
        source,
    })?;
    Ok(PriceList::new(&args.name, spec))
}

fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })
}

/// Applies the whole list; returns a message. In a dry run the API server checks it and stores
/// nothing.
async fn apply(client: &Client, list: &PriceList, dry_run: bool) -> Result<String, Error> {
    let name = list.name_any();
    let params = PatchParams {
        dry_run,
        ..PatchParams::apply(FIELD_MANAGER)
    };
    let api: Api<PriceList> = Api::all(client.clone());
    api.patch(&name, &params, &Patch::Apply(list))
        .await
        .map_err(|error| refused(&name, &error))?;
    let classes = list
        .spec
        .storage
        .iter()
        .flat_map(|storage| &storage.persistent);
    Ok(format!(
        "PriceList {name} {}: {} prices of GPUs, {} of nodes, {} of storage classes, in {}\n",
        if dry_run {
            "would be applied (dry run)"
        } else {
            "applied"
        },
        list.spec.gpus.len(),
        list.spec.nodes.len(),
        classes.count(),
        list.spec.currency
    ))
}

fn refused(name: &str, error: &kube::Error) -> Error {
    let mut why = api_error(error);
    if matches!(error, kube::Error::Api(status) if status.code == 409) {
        why.push_str("; somebody else wrote that list: choose another --name, or delete it first");
    }
    Error::Api {
        what: format!("applying PriceList {name}"),
        why,
    }
}

/// The result of looking up every GPU's price.
struct PriceCheck {
    /// The result in words; ends with a newline.
    text: String,
    /// True if every GPU has a listed price, and every accelerator is known.
    complete: bool,
}

/// Looks up the price of every GPU of the cluster's nodes.
async fn check(client: &Client, now: Timestamp) -> Result<PriceCheck, Error> {
    let failed = |what: &str, error: &kube::Error| Error::Api {
        what: what.to_owned(),
        why: api_error(error),
    };
    let nodes = Api::<Node>::all(client.clone())
        .list(&ListParams::default())
        .await
        .map_err(|error| failed("listing nodes", &error))?;
    let slices = match Api::<ResourceSlice>::all(client.clone())
        .list(&ListParams::default())
        .await
    {
        Ok(slices) => slices.items,
        // no dynamic resource allocation
        Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
        Err(error) => return Err(failed("listing ResourceSlices", &error)),
    };
    let lists = price_lists(client)
        .await
        .map_err(|error| failed("listing PriceLists (is Bursar installed?)", &error))?;
    Ok(check_offers(&nodes.items, &slices, &lists, now))
}

fn check_offers(
    nodes: &[Node],
    slices: &[ResourceSlice],
    lists: &[PriceList],
    now: Timestamp,
) -> PriceCheck {
    let prices = EffectivePrices::from_lists(lists, None, now);
    let pools = DevicePools::from_slices(slices);
    let offers: Vec<GpuOffer> = (nodes.iter())
        .flat_map(|node| gpu_offers(node, &pools))
        .collect();
    let unpriced: Vec<String> = offers
        .iter()
        .filter_map(|offer| unpriced(offer, &prices, now))
        .collect();
    let mut text = String::new();
    for (name, why) in &prices.refused {
        text.push_str(&format!("PriceList {name} is not used: {why}\n"));
    }
    if offers.is_empty() {
        text.push_str("no node has GPUs\n");
    } else {
        text.push_str(&format!(
            "{} of {} kinds of GPU on {} nodes have a price\n",
            offers.len() - unpriced.len(),
            offers.len(),
            nodes.len()
        ));
    }
    unpriced.iter().for_each(|each| text.push_str(each));
    let unknown = unknown(nodes);
    text.push_str(&unknown);
    PriceCheck {
        text,
        complete: unpriced.is_empty() && unknown.is_empty(),
    }
}

/// Describes the resources that look like accelerators and that no rule knows, each once.
fn unknown(nodes: &[Node]) -> String {
    let mut found: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for node in nodes {
        for resource in unknown_accelerators(node) {
            found.entry(resource).or_default().push(node.name_any());
        }
    }
    let described = found.into_iter().map(|(resource, nodes)| {
        let more = match nodes.len() - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!(
            "\nresource {resource} (node {}{more}) looks like an accelerator, and no rule knows it: pods that hold it \
             are charged nothing for it, and no budget counts it\n",
            nodes[0]
        )
    });
    described.collect()
}

/// Describes an offer without a listed price, and the fix; `None` if the price is listed.
fn unpriced(offer: &GpuOffer, prices: &EffectivePrices, now: Timestamp) -> Option<String> {
    let GpuOffer {
        name: what,
        attributes: facts,
    } = offer;
    let one = PricingAttributes {
        gpus: 1,
        ..facts.clone()
    };
    let currency = &prices.lists.currency;
    let state = match prices.lists.price(&one, now) {
        PriceLookup::Listed(_) => return None,
        PriceLookup::Provisional(quote) => format!(
            "is charged provisionally at {} {currency} an hour, the dearest listed",
            quote.cost.total().rounded(4)
        ),
        PriceLookup::Unknown => "has no price: its spend is unknown".to_owned(),
    };
    let node = facts.node.as_deref().unwrap_or_default();
    let resource = &facts.resource;
    let mut text = format!("\nnode {node}: {what} {state}\n");
    if facts.instance_type.is_none() {
        text.push_str("  label node.kubernetes.io/instance-type is missing; a cloud's node controller sets it\n");
    }
    if facts.model.is_none() {
        let label = product_labels(resource)[0];
        let by = match label.split('/').next() {
            Some("amd.com") => "AMD's node labeller",
            Some("gpu.intel.com") => "Intel's feature discovery",
            Some("cloud.google.com") => "GKE",
            Some("karpenter.k8s.aws") => "Karpenter",
            Some("habana.ai") => "an administrator",
            _ => "NVIDIA's GPU feature discovery",
        };
        text.push_str(&format!("  label {label} is missing; {by} sets it\n"));
    }
    let row = match (&facts.instance_type, &facts.model) {
        (Some(instance_type), _) => format!(
            "spec.nodes of a PriceList: {{instanceType: {instance_type}, resource: {resource}, pricePerHour: \"...\"}}"
        ),
        (None, Some(model)) => format!(
            "spec.gpus of a PriceList: {{model: {model}, resource: {resource}, pricePerHour: \"...\"}}"
        ),
        (None, None) => {
            text.push_str("  set one of these labels, then look again\n");
            return Some(text);
        }
    };
    text.push_str(&format!("  add to {row}\n"));
    Some(text)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(name: &str, capacity: Value, labels: Value) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": name, "labels": labels}, "status": {"capacity": capacity}
        }))
        .unwrap()
    }

    fn prices(name: &str, currency: &str) -> PriceList {
        serde_json::from_value(json!({
            "apiVersion": "bursar.dev/v1alpha1", "kind": "PriceList", "metadata": {"name": name},
            "spec": {"currency": currency, "gpus": [{"model": "H100", "pricePerHour": "2.5"}]},
        }))
        .unwrap()
    }

    #[test]
    fn nodes_without_a_price_are_named_with_what_is_missing_and_the_fix() {
        let product = "nvidia.com/gpu.product";
        let nodes = [
            node("cpu", json!({"cpu": "8"}), json!({})),
            node(
                "good",
                json!({"nvidia.com/gpu": "8"}),
                json!({product: "H100"}),
            ),
            node("bare", json!({"nvidia.com/gpu": "8"}), json!({})),
            node(
                "new",
                json!({"nvidia.com/gpu": "8"}),
                json!({product: "B300"}),
            ),
            node(
                "amd",
                json!({"amd.com/gpu": "8"}),
                json!({"node.kubernetes.io/instance-type": "mi300"}),
            ),
        ];
        let check = check_offers(
            &nodes,
            &[],
            &[prices("ours", "USD"), prices("z", "EUR")],
            Timestamp::UNIX_EPOCH,
        );
        assert!(!check.complete);
        assert_eq!(
            check.text,
            "PriceList z is not used: its currency is EUR, and lists that go before it are in USD
1 of 4 kinds of GPU on 5 nodes have a price

node bare: nvidia.com/gpu is charged provisionally at 2.5000 USD an hour, the dearest listed
  label node.kubernetes.io/instance-type is missing; a cloud's node controller sets it
  label nvidia.com/gpu.product is missing; NVIDIA's GPU feature discovery sets it
  set one of these labels, then look again

node new: nvidia.com/gpu is charged provisionally at 2.5000 USD an hour, the dearest listed
  label node.kubernetes.io/instance-type is missing; a cloud's node controller sets it
  add to spec.gpus of a PriceList: {model: B300, resource: nvidia.com/gpu, pricePerHour: \"...\"}

node amd: amd.com/gpu has no price: its spend is unknown
  label amd.com/gpu.product-name is missing; AMD's node labeller sets it
  add to spec.nodes of a PriceList: {instanceType: mi300, resource: amd.com/gpu, pricePerHour: \"...\"}
"
        );
        let check = check_offers(
            &nodes[..2],
            &[],
            &[prices("ours", "USD")],
            Timestamp::UNIX_EPOCH,
        );
        assert!(check.complete);
        assert_eq!(check.text, "1 of 1 kinds of GPU on 2 nodes have a price\n");
    }

    #[test]
    fn accelerators_that_no_rule_knows_are_listed_once_with_a_node() {
        let npu = |name| {
            node(
                name,
                json!({"huawei.com/Ascend910": "8", "cpu": "8"}),
                json!({}),
            )
        };
        let nodes = [
            npu("a"),
            npu("b"),
            node("c", json!({"hygon.com/dcu": "0"}), json!({})),
        ];
        let check = check_offers(&nodes, &[], &[prices("ours", "USD")], Timestamp::UNIX_EPOCH);
        assert!(!check.complete);
        assert_eq!(
            check.text,
            "no node has GPUs

resource huawei.com/Ascend910 (node a and 1 more) looks like an accelerator, and no rule knows it: pods that hold it are \
charged nothing for it, and no budget counts it
"
        );
    }

    #[test]
    fn devices_without_a_price_are_named_as_other_gpus_are() {
        let attributes = |product: &str| json!({"productName": {"string": product}});
        let devices = json!([
            {"name": "gpu-0", "attributes": attributes("H100")},
            {"name": "gpu-1", "attributes": attributes("NVIDIA B300")},
        ]);
        let pool = json!({"name": "dra", "generation": 1, "resourceSliceCount": 1});
        let spec = json!({"driver": "gpu.nvidia.com", "nodeName": "dra", "pool": pool, "devices": devices});
        let slice = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
        let nodes = [node("dra", json!({}), json!({}))];
        let check = check_offers(
            &nodes,
            &[slice],
            &[prices("ours", "USD")],
            Timestamp::UNIX_EPOCH,
        );
        assert!(!check.complete);
        assert_eq!(
            check.text,
            "1 of 2 kinds of GPU on 1 nodes have a price

node dra: gpu.nvidia.com/NVIDIA-B300 is charged provisionally at 2.5000 USD an hour, the dearest listed
  label node.kubernetes.io/instance-type is missing; a cloud's node controller sets it
  add to spec.gpus of a PriceList: {model: NVIDIA-B300, resource: gpu.nvidia.com, pricePerHour: \"...\"}
"
        );
    }

    #[test]
    fn the_shipped_list_is_not_overwritten_and_a_missing_file_is_named() {
        let args = |name: &str| ImportArgs {
            file: "no-such-file.csv".into(),
            name: name.into(),
            currency: "USD".into(),
            dry_run: false,
        };
        let error = price_list_from_file(&args("default"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("choose another --name"), "{error}");
        let error = price_list_from_file(&args("ours")).unwrap_err().to_string();
        assert!(error.starts_with("reading no-such-file.csv: "), "{error}");
    }
}
