//! CSV that users bring, in Bursar's own columns or in OpenCost's.
//!
//! All lines are read before anything is answered: either a whole PriceList comes out, or what is wrong with which lines.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use bursar_api::prices::{
    CapacityType, Cpu, GpuPrice, Memory, NodePrice, PriceListSpec, Storage, VolumePrice,
};
use bursar_core::{currency, price::MONTH_HOURS};

use crate::table::Nanos;

/// As many bad lines as are told apart.
const MOST_PROBLEMS: usize = 20;
const MOST_GPUS: usize = 500;
const MOST_NODES: usize = 1000;
const MOST_CLASSES: usize = 100;
const NVIDIA: &str = "nvidia.com/gpu";

/// Bursar's columns. The first three must be there; the order is free.
const OURS: [&str; 11] = [
    "kind",
    "name",
    "price",
    "resource",
    "capacityType",
    "region",
    "zone",
    "gpus",
    "watts",
    "source",
    "asOf",
];
/// The columns of OpenCost's custom pricing (github.com/opencost/opencost, pkg/cloud/provider/csvprovider.go).
const OPENCOST: [&str; 8] = [
    "EndTimestamp",
    "InstanceID",
    "Region",
    "AssetClass",
    "InstanceIDField",
    "InstanceType",
    "MarketPriceHourly",
    "Version",
];
/// Where OpenCost finds an instance type among a node's labels.
const INSTANCE_TYPE_FIELDS: [&str; 2] = [
    "metadata.labels.node.kubernetes.io/instance-type",
    "metadata.labels.beta.kubernetes.io/instance-type",
];

/// Why a file is no price list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportError {
    /// The currency is not one.
    Currency(String),
    /// The first line does not name the columns of a known form.
    Header(String),
    /// There is no price in it.
    Empty,
    /// What is wrong with which lines.
    Lines {
        /// The first of them.
        problems: Vec<Problem>,
        /// How many more there are.
        more: usize,
    },
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Its number; the header is line 1.
    pub line: u64,
    /// What is wrong, and what would be right.
    pub why: String,
}

impl std::error::Error for ImportError {}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Currency(code) => {
                write!(f, "{code:?} is not an ISO 4217 code: write one such as USD")
            }
            Self::Header(why) => write!(f, "line 1: {why}"),
            Self::Empty => write!(f, "there is no price below the header"),
            Self::Lines { problems, more } => {
                for (i, Problem { line, why }) in problems.iter().enumerate() {
                    let newline = if i == 0 { "" } else { "\n" };
                    write!(f, "{newline}line {line}: {why}")?;
                }
                match more {
                    0 => Ok(()),
                    more => write!(f, "\nand {more} more lines"),
                }
            }
        }
    }
}

/// Reads a file of prices in `currency`.
///
/// # Errors
/// All that is wrong with it, if anything is.
pub fn read(text: &str, currency: &str) -> Result<PriceListSpec, ImportError> {
    if currency::digits(currency).is_none() {
        return Err(ImportError::Currency(currency.to_owned()));
    }
    let text = text.trim_start_matches('\u{feff}');
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .comment(Some(b'#'))
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    let header = reader
        .headers()
        .map_err(|error| ImportError::Header(error.to_string()))?
        .clone();
    let form = Form::of(&header).map_err(ImportError::Header)?;
    let mut import = Import::new(currency);
    for record in reader.records() {
        let line = |record: &csv::StringRecord| record.position().map_or(0, csv::Position::line);
        match record {
            Err(error) => {
                let line = error.position().map_or(0, csv::Position::line);
                import.problems.push(Problem {
                    line,
                    why: error.to_string(),
                });
            }
            Ok(record) => {
                let line = line(&record);
                let row = Row {
                    header: &header,
                    record: &record,
                };
                let taken = row.check_length().and_then(|()| match form {
                    Form::Ours => row.ours(),
                    Form::OpenCost => row.opencost(),
                });
                if let Err(why) = taken.and_then(|price| import.take(line, price)) {
                    import.problems.push(Problem { line, why });
                }
            }
        }
    }
    import.finish(form)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Ours,
    OpenCost,
}

impl Form {
    fn of(header: &csv::StringRecord) -> Result<Self, String> {
        let has = |name: &str| header.iter().any(|column| column == name);
        let found = header.iter().collect::<Vec<_>>().join(",");
        if OPENCOST.iter().all(|name| has(name)) {
            return Ok(Self::OpenCost);
        }
        if !OURS[..3].iter().all(|name| has(name)) {
            return Err(format!(
                "the columns are {found:?}; write {} (the first three must be there), or OpenCost's {}",
                OURS.join(","),
                OPENCOST.join(",")
            ));
        }
        let mut names: Vec<&str> = header.iter().collect();
        if let Some(unknown) = names.iter().find(|name| !OURS.contains(name)) {
            return Err(format!(
                "there is no column {unknown:?}; known are {}",
                OURS.join(",")
            ));
        }
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(twice) => Err(format!("column {:?} stands twice", twice[0])),
            None => Ok(Self::Ours),
        }
    }
}

/// The price that a line gives.
enum Price {
    Gpu(GpuPrice),
    Node(NodePrice),
    Volume(VolumePrice),
    Ephemeral(String),
    Cpu(String),
    Memory(String),
}

struct Row<'a> {
    header: &'a csv::StringRecord,
    record: &'a csv::StringRecord,
}

impl Row<'_> {
    fn check_length(&self) -> Result<(), String> {
        let (has, wants) = (self.record.len(), self.header.len());
        if has == wants {
            Ok(())
        } else {
            Err(format!("it has {has} columns, and the header {wants}"))
        }
    }

    /// The column's value; empty if there is no such column.
    fn text(&self, column: &str) -> &str {
        let at = self.header.iter().position(|name| name == column);
        at.and_then(|at| self.record.get(at)).unwrap_or_default()
    }

    fn bounded(&self, column: &str, most: usize) -> Result<Option<String>, String> {
        let text = self.text(column);
        if text.chars().count() > most {
            return Err(format!("{column} is longer than {most} characters"));
        }
        Ok(Some(text)
            .filter(|text| !text.is_empty())
            .map(str::to_owned))
    }

    fn named(&self, column: &str, most: usize) -> Result<String, String> {
        self.bounded(column, most)?
            .ok_or_else(|| format!("{column} is empty"))
    }

    fn number(&self, column: &str, least: i32, most: i32) -> Result<Option<i32>, String> {
        let text = self.text(column);
        if text.is_empty() {
            return Ok(None);
        }
        let number = text.parse().ok().filter(|n| (least..=most).contains(n));
        let refuse =
            || format!("{column} is {text:?}: write a whole number from {least} to {most}");
        number.ok_or_else(refuse).map(Some)
    }

    fn price(&self, column: &str) -> Result<Nanos, String> {
        let text = self.text(column);
        Nanos::parse(text).ok_or_else(|| {
            format!(
                "{column} is {text:?}: write a decimal number that is not negative, such as 2.50"
            )
        })
    }

    fn ours(&self) -> Result<Price, String> {
        let price = self.price("price")?.to_string();
        let nameless = |price| match self.text("name") {
            "" => Ok(price),
            name => Err(format!(
                "name is {name:?}: leave it empty, as there is one such price in a list"
            )),
        };
        match self.text("kind") {
            "gpu" => Ok(Price::Gpu(GpuPrice {
                model: self.named("name", 253)?,
                resource: self.bounded("resource", 253)?.unwrap_or(NVIDIA.to_owned()),
                capacity_type: self.capacity_type()?,
                region: self.bounded("region", 63)?,
                zone: self.bounded("zone", 63)?,
                price_per_hour: price,
                watts: self.number("watts", 0, 100_000)?,
                source: self.bounded("source", 1024)?,
                as_of: self.bounded("asOf", 10)?,
            })),
            "node" => Ok(Price::Node(NodePrice {
                instance_type: self.named("name", 63)?,
                resource: self.bounded("resource", 253)?.unwrap_or(NVIDIA.to_owned()),
                gpus: self.number("gpus", 1, 1024)?,
                capacity_type: self.capacity_type()?,
                region: self.bounded("region", 63)?,
                zone: self.bounded("zone", 63)?,
                price_per_hour: price,
                source: self.bounded("source", 1024)?,
                as_of: self.bounded("asOf", 10)?,
            })),
            "storageClass" => Ok(Price::Volume(VolumePrice {
                storage_class: self.named("name", 253)?,
                price_per_gibibyte_month: price,
            })),
            "ephemeral" => nameless(Price::Ephemeral(price)),
            "cpu" => nameless(Price::Cpu(price)),
            "memory" => nameless(Price::Memory(price)),
            kind => Err(format!(
                "kind is {kind:?}: write gpu, node, storageClass, ephemeral, cpu or memory"
            )),
        }
    }

    fn capacity_type(&self) -> Result<Option<CapacityType>, String> {
        match self.text("capacityType") {
            "" => Ok(None),
            "OnDemand" => Ok(Some(CapacityType::OnDemand)),
            "Spot" => Ok(Some(CapacityType::Spot)),
            "Reserved" => Ok(Some(CapacityType::Reserved)),
            other => Err(format!(
                "capacityType is {other:?}: write OnDemand, Spot or Reserved, or leave it empty"
            )),
        }
    }

    fn opencost(&self) -> Result<Price, String> {
        let price = self.price("MarketPriceHourly")?;
        let region = self.bounded("Region", 63)?;
        let field = self.text("InstanceIDField");
        match self.text("AssetClass") {
            "node" => {
                let column = match self.text("InstanceType") {
                    "" if INSTANCE_TYPE_FIELDS.contains(&field) => "InstanceID",
                    "" => {
                        return Err(format!(
                            "it prices one node by {field:?}: Bursar prices nodes by type, so write the InstanceType"
                        ));
                    }
                    _ => "InstanceType",
                };
                Ok(Price::Node(NodePrice {
                    instance_type: self.named(column, 63)?,
                    resource: NVIDIA.to_owned(),
                    gpus: None,
                    capacity_type: None,
                    region,
                    zone: None,
                    price_per_hour: price.to_string(),
                    source: None,
                    as_of: None,
                }))
            }
            "gpu" => Ok(Price::Gpu(GpuPrice {
                model: self.named("InstanceID", 253)?,
                resource: NVIDIA.to_owned(),
                capacity_type: None,
                region,
                zone: None,
                price_per_hour: price.to_string(),
                watts: None,
                source: None,
                as_of: None,
            })),
            "pv" if field == "spec.storageClassName" => {
                let month = price.0.checked_mul(MONTH_HOURS.into()).map(Nanos);
                Ok(Price::Volume(VolumePrice {
                    storage_class: self.named("InstanceID", 253)?,
                    price_per_gibibyte_month: month
                        .ok_or("MarketPriceHourly is too high")?
                        .to_string(),
                }))
            }
            "pv" => Err(format!(
                "it prices one volume by {field:?}: Bursar prices volumes by class, so write spec.storageClassName there"
            )),
            class => Err(format!("AssetClass is {class:?}: write node, gpu or pv")),
        }
    }
}

/// The list as far as it was read.
struct Import {
    spec: PriceListSpec,
    problems: Vec<Problem>,
    /// Of what a price was given, on which line, and which.
    seen: HashMap<String, (u64, String)>,
    first: BTreeMap<&'static str, u64>,
}

impl Import {
    fn new(currency: &str) -> Self {
        Self {
            spec: PriceListSpec {
                currency: currency.to_owned(),
                effective_from: None,
                gpus: Vec::new(),
                nodes: Vec::new(),
                cpu: None,
                memory: None,
                storage: None,
                power: None,
                overheads: Vec::new(),
            },
            problems: Vec::new(),
            seen: HashMap::new(),
            first: BTreeMap::new(),
        }
    }

    /// Takes a line's price in. OpenCost has a line for each machine, so the same price twice is one.
    fn take(&mut self, line: u64, price: Price) -> Result<(), String> {
        let (key, amount) = price.identity();
        if let Some((earlier, other)) = self.seen.get(&key) {
            if *other == amount {
                return Ok(());
            }
            return Err(format!(
                "it says {amount} of what line {earlier} says {other}: keep one"
            ));
        }
        self.seen.insert(key, (line, amount));
        let full = |kind: &str, most: usize| {
            format!("a PriceList takes {most} prices of {kind} at most: leave some out")
        };
        let storage = || Storage {
            ephemeral_per_gibibyte_month: None,
            persistent: Vec::new(),
        };
        match price {
            Price::Gpu(row) => {
                if self.spec.gpus.len() == MOST_GPUS {
                    return Err(full("GPUs", MOST_GPUS));
                }
                self.first.entry("gpu").or_insert(line);
                self.spec.gpus.push(row);
            }
            Price::Node(row) => {
                if self.spec.nodes.len() == MOST_NODES {
                    return Err(full("nodes", MOST_NODES));
                }
                self.first.entry("node").or_insert(line);
                self.spec.nodes.push(row);
            }
            Price::Volume(row) => {
                let storage = self.spec.storage.get_or_insert_with(storage);
                if storage.persistent.len() == MOST_CLASSES {
                    return Err(full("storage classes", MOST_CLASSES));
                }
                storage.persistent.push(row);
            }
            Price::Ephemeral(price) => {
                let storage = self.spec.storage.get_or_insert_with(storage);
                storage.ephemeral_per_gibibyte_month = Some(price);
            }
            Price::Cpu(price) => {
                self.spec.cpu = Some(Cpu {
                    price_per_core_hour: price,
                });
            }
            Price::Memory(price) => {
                self.spec.memory = Some(Memory {
                    price_per_gibibyte_hour: price,
                });
            }
        }
        Ok(())
    }

    fn finish(mut self, form: Form) -> Result<PriceListSpec, ImportError> {
        if let (Form::OpenCost, Some(line), true) =
            (form, self.first.get("gpu"), self.first.contains_key("node"))
        {
            self.problems.push(Problem {
                line: *line,
                why: "OpenCost adds a gpu's price to its node's, and Bursar's price of a node includes its GPUs: \
                      import the gpu lines alone, or node lines that include them"
                    .to_owned(),
            });
        }
        self.problems.sort_by_key(|problem| problem.line);
        let more = self.problems.len().saturating_sub(MOST_PROBLEMS);
        self.problems.truncate(MOST_PROBLEMS);
        if !self.problems.is_empty() {
            return Err(ImportError::Lines {
                problems: self.problems,
                more,
            });
        }
        if self.seen.is_empty() {
            return Err(ImportError::Empty);
        }
        Ok(self.spec)
    }
}

impl Price {
    /// Of what it is the price, and the price.
    fn identity(&self) -> (String, String) {
        let place =
            |capacity: &Option<CapacityType>, region: &Option<String>, zone: &Option<String>| {
                format!("{capacity:?} {region:?} {zone:?}")
            };
        match self {
            Self::Gpu(row) => {
                let place = place(&row.capacity_type, &row.region, &row.zone);
                let key = format!("gpu {:?} {:?} {place}", row.model, row.resource);
                (key, row.price_per_hour.clone())
            }
            Self::Node(row) => {
                let place = place(&row.capacity_type, &row.region, &row.zone);
                let key = format!("node {:?} {:?} {place}", row.instance_type, row.resource);
                (key, row.price_per_hour.clone())
            }
            Self::Volume(row) => (
                format!("storageClass {:?}", row.storage_class),
                row.price_per_gibibyte_month.clone(),
            ),
            Self::Ephemeral(price) => ("ephemeral".to_owned(), price.clone()),
            Self::Cpu(price) => ("cpu".to_owned(), price.clone()),
            Self::Memory(price) => ("memory".to_owned(), price.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPENCOST_HEADER: &str = "EndTimestamp,InstanceID,Region,AssetClass,InstanceIDField,InstanceType,MarketPriceHourly,Version";

    fn problems(text: &str) -> Vec<String> {
        let error = read(text, "USD").unwrap_err();
        error.to_string().lines().map(str::to_owned).collect()
    }

    #[test]
    fn our_own_columns_come_in_any_order_with_comments_and_a_byte_order_mark() {
        let text = "\u{feff}# the contract\nprice,kind,name,region,capacityType,gpus,watts\n\
            2.10,gpu,NVIDIA-H100-80GB-HBM3,,Spot,,700\n31.50, node ,p5.48xlarge,us-east-1,,8,\n\
            0.125,storageClass,fast,,,,\n0.02,ephemeral,,,,,\n0.04,cpu,,,,,\n0.005,memory,,,,,\n";
        let spec = read(text, "EUR").unwrap();
        assert_eq!(spec.currency, "EUR");
        let (gpu, node) = (&spec.gpus[0], &spec.nodes[0]);
        assert_eq!((gpu.price_per_hour.as_str(), gpu.watts), ("2.1", Some(700)));
        assert_eq!(gpu.capacity_type, Some(CapacityType::Spot));
        assert_eq!(
            (node.gpus, node.region.as_deref()),
            (Some(8), Some("us-east-1"))
        );
        let storage = spec.storage.as_ref().unwrap();
        assert_eq!(storage.persistent[0].price_per_gibibyte_month, "0.125");
        assert_eq!(
            storage.ephemeral_per_gibibyte_month.as_deref(),
            Some("0.02")
        );
        let book = spec.to_core().unwrap();
        assert_eq!(book.core_hour, Some("0.04".parse().unwrap()));
        assert_eq!(book.gib_hour, Some("0.005".parse().unwrap()));
    }

    #[test]
    fn opencosts_file_is_read_by_type_label_and_storage_class() {
        let nodes = format!(
            "{OPENCOST_HEADER}\n,i-1,us-east-1,node,spec.providerID,p5.48xlarge,55.04,v1\n\
             ,i-2,us-east-1,node,spec.providerID,p5.48xlarge,55.04,v1\n\
             ,g5.xlarge,,node,metadata.labels.node.kubernetes.io/instance-type,,1.006,v1\n\
             ,fast,,pv,spec.storageClassName,,0.0001369863014,v1\n"
        );
        let spec = read(&nodes, "USD").unwrap();
        let types: Vec<&str> = spec
            .nodes
            .iter()
            .map(|row| row.instance_type.as_str())
            .collect();
        assert_eq!(types, ["p5.48xlarge", "g5.xlarge"]);
        // 0.1 a month, to the nano-unit an hour
        let volumes = &spec.storage.as_ref().unwrap().persistent;
        assert_eq!(volumes[0].price_per_gibibyte_month, "0.09999978");
        let gpus = format!("{OPENCOST_HEADER}\n,H100,,gpu,nvidia.com/gpu.product,,2.5,\n");
        assert_eq!(read(&gpus, "USD").unwrap().gpus[0].model, "H100");
    }

    #[test]
    fn what_opencost_means_otherwise_is_refused_and_not_guessed() {
        let text = format!(
            "{OPENCOST_HEADER}\n,i-1,,node,spec.providerID,,1,\n,vol-1,,pv,metadata.name,,1,\n,x,,disk,,,1,\n\
             ,p5,,node,,p5,1,\n,H100,,gpu,nvidia.com/gpu.product,,1,\n"
        );
        let problems = problems(&text);
        for (line, part) in [
            (2, "write the InstanceType"),
            (3, "spec.storageClassName"),
            (4, "write node, gpu or pv"),
            (6, "includes its GPUs"),
        ] {
            let start = format!("line {line}: ");
            let found = problems.iter().find(|each| each.starts_with(&start));
            assert!(
                found.is_some_and(|each| each.contains(part)),
                "{line}: {problems:?}"
            );
        }
        assert_eq!(problems.len(), 4);
    }

    #[test]
    fn wrong_columns_are_refused_with_those_that_would_be_right() {
        for (text, part) in [
            ("", "the columns are"),
            (
                "kind;name;price\ngpu;H100;2\n",
                "the columns are \"kind;name;price\"",
            ),
            ("kind,name\ngpu,H100\n", "write kind,name,price"),
            ("kind,name,price,colour\n", "no column \"colour\""),
            ("kind,name,price,price\n", "\"price\" stands twice"),
            (
                "InstanceID,MarketPriceHourly\n",
                "or OpenCost's EndTimestamp",
            ),
        ] {
            let error = read(text, "USD").unwrap_err();
            assert!(
                matches!(error, ImportError::Header(_)),
                "{text:?}: {error:?}"
            );
            assert!(error.to_string().contains(part), "{error}");
        }
        assert_eq!(read("kind,name,price\n", "USD"), Err(ImportError::Empty));
        let currency = read("kind,name,price\ngpu,H100,1\n", "XXX").unwrap_err();
        assert!(currency.to_string().contains("ISO 4217"));
    }

    #[test]
    fn each_bad_line_is_named_with_its_reason() {
        let text = "kind,name,price,capacityType,gpus\n\
            gpu,H100,-1,,\ngpu,H100,\"2,50\",,\ngpu,,2,,\ngpu,H100,2\nnode,p5,2,spot,8\nnode,p5,2,,0\nfpga,x,2,,\n\
            gpu,H100,2,,\ngpu,H100,3,,\ngpu,H100,,,\ncpu,x,1,,\n";
        let found = problems(text);
        let expected = [
            "line 2: price is \"-1\": write a decimal number",
            "line 3: price is \"2,50\": write a decimal number",
            "line 4: name is empty",
            "line 5: it has 3 columns, and the header 5",
            "line 6: capacityType is \"spot\": write OnDemand, Spot or Reserved",
            "line 7: gpus is \"0\": write a whole number from 1 to 1024",
            "line 8: kind is \"fpga\": write gpu, node,",
            "line 10: it says 3 of what line 9 says 2",
            "line 11: price is \"\"",
            "line 12: name is \"x\": leave it empty",
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}\n{expected}");
        }
    }

    #[test]
    fn one_bad_line_among_ten_thousand_is_found_and_nothing_is_taken() {
        let mut text = String::from("kind,name,price\n");
        for i in 0..10_000 {
            let price = if i == 7_000 { "free" } else { "2.5" };
            text.push_str(&format!("node,type-{},{price}\n", i % 900));
        }
        assert_eq!(
            problems(&text),
            [
                "line 7002: price is \"free\": write a decimal number that is not negative, such as 2.50"
            ]
        );
    }

    #[test]
    fn twenty_bad_lines_are_told_and_the_rest_counted() {
        let text = format!("kind,name,price\n{}", "gpu,H100,x\n".repeat(25));
        let found = problems(&text);
        assert_eq!((found.len(), found[20].as_str()), (21, "and 5 more lines"));
    }

    #[test]
    fn more_prices_than_a_list_takes_are_refused() {
        let rows: String = (0..1001).map(|i| format!("node,t{i},1\n")).collect();
        assert_eq!(
            problems(&format!("kind,name,price\n{rows}")),
            ["line 1002: a PriceList takes 1000 prices of nodes at most: leave some out"]
        );
    }
}
