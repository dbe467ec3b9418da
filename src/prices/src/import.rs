//! CSV that users bring, in Bursar's own columns or in OpenCost's.
//!
//! All lines are read before anything is returned: either a whole PriceList, or the faults of all
//! lines.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use bursar_api::prices::{
    CapacityType, Cpu, GpuPrice, Memory, NodePrice, PriceListSpec, Storage, VolumePrice,
};
use bursar_core::currency;
use bursar_core::pricing::{MONTH_HOURS, canonical_model, product_labels};

use crate::table::Nanos;

/// The number of bad lines that are named.
const MAX_REPORTED_LINES: usize = 20;
const MAX_GPUS: usize = 500;
const MAX_NODES: usize = 1000;
const MAX_STORAGE_CLASSES: usize = 100;
const NVIDIA: &str = "nvidia.com/gpu";

/// Bursar's columns. The first three must be there; the order is free.
const BURSAR_COLUMNS: [&str; 11] = [
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
/// The columns of OpenCost's custom pricing (github.com/opencost/opencost,
/// pkg/cloud/provider/csvprovider.go).
const OPENCOST_COLUMNS: [&str; 8] = [
    "EndTimestamp",
    "InstanceID",
    "Region",
    "AssetClass",
    "InstanceIDField",
    "InstanceType",
    "MarketPriceHourly",
    "Version",
];
/// Node labels in which OpenCost finds an instance type.
const INSTANCE_TYPE_FIELDS: [&str; 2] = [
    "metadata.labels.node.kubernetes.io/instance-type",
    "metadata.labels.beta.kubernetes.io/instance-type",
];

/// Fields by which OpenCost finds one node; a line has its type in addition.
const SINGLE_NODE_FIELDS: [&str; 3] = ["", "spec.providerID", "metadata.name"];

/// Why a file is no price list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportError {
    /// The currency is not one.
    Currency(String),
    /// The header does not name the columns of a known form, or the text is no CSV.
    Header(String),
    /// There is no price in it.
    Empty,
    /// Lines that are not right.
    Lines {
        /// The first of them.
        errors: Vec<LineError>,
        /// How many more there are.
        more: usize,
    },
}

/// A fault of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineError {
    /// Its number in the file, from 1.
    pub line: u64,
    /// The fault, and what would be right.
    pub why: String,
}

impl std::error::Error for ImportError {}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Currency(code) => {
                write!(f, "{code:?} is not an ISO 4217 code: write one such as USD")
            }
            Self::Header(why) => write!(f, "header: {why}"),
            Self::Empty => write!(f, "there is no price below the header"),
            Self::Lines { errors, more } => {
                for (i, LineError { line, why }) in errors.iter().enumerate() {
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
/// All its faults.
pub fn read(text: &str, currency: &str) -> Result<PriceListSpec, ImportError> {
    if currency::digits(currency).is_none() {
        return Err(ImportError::Currency(currency.to_owned()));
    }
    let text = text.trim_start_matches('\u{feff}');
    // lines end as some editors still end them, and are counted as all of them count
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    let is_comment =
        |record: &csv::StringRecord| record.get(0).is_some_and(|first| first.starts_with('#'));
    let mut records = reader
        .into_records()
        .filter(|record| !record.as_ref().is_ok_and(is_comment));
    let header = records
        .next()
        .unwrap_or_else(|| Ok(csv::StringRecord::new()))
        .map_err(|error| ImportError::Header(error.to_string()))?;
    let form = Dialect::of(&header).map_err(ImportError::Header)?;
    let mut builder = PriceListBuilder::new(currency);
    for record in records {
        let record = record.map_err(|error| ImportError::Header(error.to_string()))?;
        let line = line_of(&text, &record);
        let row = Row {
            header: &header,
            record: &record,
        };
        let price = row.check_length().and_then(|()| match form {
            Dialect::Bursar => row.bursar(),
            Dialect::OpenCost => row.opencost(),
        });
        if let Err(why) = price.and_then(|price| builder.add(line, price)) {
            builder.errors.push(LineError { line, why });
        }
    }
    builder.finish(form)
}

/// The line that a record begins on. The reader says where it was before the empty lines that it
/// skipped.
fn line_of(text: &str, record: &csv::StringRecord) -> u64 {
    let Some(position) = record.position() else {
        return 0;
    };
    let before = usize::try_from(position.byte()).ok();
    let rest = before.and_then(|at| text.get(at..)).unwrap_or_default();
    let skipped = rest.bytes().take_while(|byte| *byte == b'\n').count();
    position.line() + skipped as u64
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Bursar,
    OpenCost,
}

impl Dialect {
    fn of(header: &csv::StringRecord) -> Result<Self, String> {
        let has = |name: &str| header.iter().any(|column| column == name);
        let found = header.iter().collect::<Vec<_>>().join(",");
        let is_opencosts = OPENCOST_COLUMNS.iter().all(|name| has(name));
        if !is_opencosts && !BURSAR_COLUMNS[..3].iter().all(|name| has(name)) {
            return Err(format!(
                "the columns are {found:?}; write {} (the first three must be there), or OpenCost's {}",
                BURSAR_COLUMNS.join(","),
                OPENCOST_COLUMNS.join(",")
            ));
        }
        let known = if is_opencosts {
            &OPENCOST_COLUMNS[..]
        } else {
            &BURSAR_COLUMNS[..]
        };
        let mut names: Vec<&str> = header.iter().collect();
        if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
            return Err(format!(
                "there is no column {unknown:?}; known are {}",
                known.join(",")
            ));
        }
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(twice) => Err(format!("column {:?} is there twice", twice[0])),
            None if is_opencosts => Ok(Self::OpenCost),
            None => Ok(Self::Bursar),
        }
    }
}

/// The price that a line gives.
enum ImportedPrice {
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

    fn limited_text(&self, column: &str, most: usize) -> Result<Option<String>, String> {
        let text = self.text(column);
        if text.chars().count() > most {
            return Err(format!("{column} is longer than {most} characters"));
        }
        Ok(Some(text)
            .filter(|text| !text.is_empty())
            .map(str::to_owned))
    }

    fn required_text(&self, column: &str, most: usize) -> Result<String, String> {
        self.limited_text(column, most)?
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

    fn bursar(&self) -> Result<ImportedPrice, String> {
        let price = self.price("price")?.to_string();
        let nameless = |price| match self.text("name") {
            "" => Ok(price),
            name => Err(format!(
                "name is {name:?}: leave it empty, as there is one such price in a list"
            )),
        };
        match self.text("kind") {
            "gpu" => Ok(ImportedPrice::Gpu(GpuPrice {
                model: self.required_text("name", 253)?,
                resource: self
                    .limited_text("resource", 253)?
                    .unwrap_or(NVIDIA.to_owned()),
                capacity_type: self.capacity_type()?,
                region: self.limited_text("region", 63)?,
                zone: self.limited_text("zone", 63)?,
                price_per_hour: price,
                watts: self.number("watts", 0, 100_000)?,
                source: self.limited_text("source", 1024)?,
                as_of: self.limited_text("asOf", 10)?,
            })),
            "node" => Ok(ImportedPrice::Node(NodePrice {
                instance_type: self.required_text("name", 63)?,
                resource: self
                    .limited_text("resource", 253)?
                    .unwrap_or(NVIDIA.to_owned()),
                gpus: self.number("gpus", 1, 1024)?,
                capacity_type: self.capacity_type()?,
                region: self.limited_text("region", 63)?,
                zone: self.limited_text("zone", 63)?,
                price_per_hour: price,
                source: self.limited_text("source", 1024)?,
                as_of: self.limited_text("asOf", 10)?,
            })),
            "storageClass" => Ok(ImportedPrice::Volume(VolumePrice {
                storage_class: self.required_text("name", 253)?,
                price_per_gibibyte_month: price,
            })),
            "ephemeral" => nameless(ImportedPrice::Ephemeral(price)),
            "cpu" => nameless(ImportedPrice::Cpu(price)),
            "memory" => nameless(ImportedPrice::Memory(price)),
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

    /// A line in OpenCost's columns. A column that narrows what the line is for is used, or the line
    /// is refused: without it, the price would be that of other machines.
    fn opencost(&self) -> Result<ImportedPrice, String> {
        let price = self.price("MarketPriceHourly")?;
        let field = self.text("InstanceIDField");
        match self.text("AssetClass") {
            "node" => self.opencost_node(field, price),
            "gpu" => self.opencost_gpu(field, price),
            "pv" if field == "spec.storageClassName" => {
                self.empty("Region", "Bursar has one price of a class for all regions")?;
                self.empty("InstanceType", "a volume is on no machine")?;
                let month = price.0.checked_mul(MONTH_HOURS.into()).map(Nanos);
                Ok(ImportedPrice::Volume(VolumePrice {
                    storage_class: self.required_text("InstanceID", 253)?,
                    price_per_gibibyte_month: month
                        .ok_or("MarketPriceHourly is too high")?
                        .to_string(),
                }))
            }
            "pv" => Err(format!(
                "InstanceIDField is {field:?}: Bursar prices volumes by class, so write spec.storageClassName there"
            )),
            class => Err(format!("AssetClass is {class:?}: write node, gpu or pv")),
        }
    }

    fn opencost_node(&self, field: &str, price: Nanos) -> Result<ImportedPrice, String> {
        let is_by_type = INSTANCE_TYPE_FIELDS.contains(&field);
        let (named, id) = (self.text("InstanceType"), self.text("InstanceID"));
        let column = match named {
            "" if is_by_type => "InstanceID",
            "" => {
                return Err(format!(
                    "InstanceIDField is {field:?}, which names one node: Bursar prices nodes by type, so write the InstanceType"
                ));
            }
            _ if is_by_type && named != id => {
                return Err(format!(
                    "InstanceType is {named:?}, and InstanceID, which InstanceIDField says is the type, is {id:?}: write one of them"
                ));
            }
            // the price of one node of this type
            _ if is_by_type || SINGLE_NODE_FIELDS.contains(&field) => "InstanceType",
            _ => {
                return Err(format!(
                    "InstanceIDField is {field:?}, by which Bursar cannot tell nodes apart: write {}, or spec.providerID with the InstanceType",
                    INSTANCE_TYPE_FIELDS[0]
                ));
            }
        };
        Ok(ImportedPrice::Node(NodePrice {
            instance_type: self.required_text(column, 63)?,
            resource: NVIDIA.to_owned(),
            gpus: None,
            capacity_type: None,
            region: self.limited_text("Region", 63)?,
            zone: None,
            price_per_hour: price.to_string(),
            source: None,
            as_of: None,
        }))
    }

    /// A price of a GPU is by the label that `InstanceIDField` names. Of a label of which the model
    /// is read only where another one is missing, the values that name a model are taken, as that
    /// model.
    fn opencost_gpu(&self, field: &str, price: Nanos) -> Result<ImportedPrice, String> {
        self.empty(
            "InstanceType",
            "Bursar prices GPUs by their model on any machine",
        )?;
        let label = field.strip_prefix("metadata.labels.").unwrap_or(field);
        let id = self.required_text("InstanceID", 253)?;
        let labels = product_labels(NVIDIA);
        let model = match labels.iter().position(|known| *known == label) {
            Some(0) => Some(id),
            Some(_) => canonical_model(&id).map(str::to_owned),
            None => None,
        };
        let model = model.ok_or_else(|| {
            format!(
                "InstanceIDField is {field:?}, by whose value {:?} Bursar cannot tell the GPU's model: write {}, and its value as InstanceID",
                self.text("InstanceID"),
                labels[0]
            )
        })?;
        Ok(ImportedPrice::Gpu(GpuPrice {
            model,
            resource: NVIDIA.to_owned(),
            capacity_type: None,
            region: self.limited_text("Region", 63)?,
            zone: None,
            price_per_hour: price.to_string(),
            watts: None,
            source: None,
            as_of: None,
        }))
    }

    /// Refuses a value that would change what the line is for.
    fn empty(&self, column: &str, why: &str) -> Result<(), String> {
        match self.text(column) {
            "" => Ok(()),
            value => Err(format!("{column} is {value:?}: leave it empty, as {why}")),
        }
    }
}

/// The list as far as it was read.
struct PriceListBuilder {
    spec: PriceListSpec,
    errors: Vec<LineError>,
    /// Of what a price was given, on which line, and which.
    seen: HashMap<String, (u64, String)>,
    first: BTreeMap<&'static str, u64>,
}

impl PriceListBuilder {
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
            errors: Vec::new(),
            seen: HashMap::new(),
            first: BTreeMap::new(),
        }
    }

    /// Takes a line's price in. OpenCost has a line for each machine, so the same price twice is
    /// one.
    fn add(&mut self, line: u64, price: ImportedPrice) -> Result<(), String> {
        let (key, amount) = price.key_and_amount();
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
            ImportedPrice::Gpu(row) => {
                if self.spec.gpus.len() == MAX_GPUS {
                    return Err(full("GPUs", MAX_GPUS));
                }
                self.first.entry("gpu").or_insert(line);
                self.spec.gpus.push(row);
            }
            ImportedPrice::Node(row) => {
                if self.spec.nodes.len() == MAX_NODES {
                    return Err(full("nodes", MAX_NODES));
                }
                self.first.entry("node").or_insert(line);
                self.spec.nodes.push(row);
            }
            ImportedPrice::Volume(row) => {
                let storage = self.spec.storage.get_or_insert_with(storage);
                if storage.persistent.len() == MAX_STORAGE_CLASSES {
                    return Err(full("storage classes", MAX_STORAGE_CLASSES));
                }
                storage.persistent.push(row);
            }
            ImportedPrice::Ephemeral(price) => {
                let storage = self.spec.storage.get_or_insert_with(storage);
                storage.ephemeral_per_gibibyte_month = Some(price);
            }
            ImportedPrice::Cpu(price) => {
                self.spec.cpu = Some(Cpu {
                    price_per_core_hour: price,
                });
            }
            ImportedPrice::Memory(price) => {
                self.spec.memory = Some(Memory {
                    price_per_gibibyte_hour: price,
                });
            }
        }
        Ok(())
    }

    fn finish(mut self, form: Dialect) -> Result<PriceListSpec, ImportError> {
        if let (Dialect::OpenCost, Some(line), true) =
            (form, self.first.get("gpu"), self.first.contains_key("node"))
        {
            self.errors.push(LineError {
                line: *line,
                why: "OpenCost adds a gpu's price to its node's, and Bursar's price of a node includes its GPUs: \
                      import the gpu lines alone, or node lines that include them"
                    .to_owned(),
            });
        }
        self.errors.sort_by_key(|error| error.line);
        let more = self.errors.len().saturating_sub(MAX_REPORTED_LINES);
        self.errors.truncate(MAX_REPORTED_LINES);
        if !self.errors.is_empty() {
            return Err(ImportError::Lines {
                errors: self.errors,
                more,
            });
        }
        if self.seen.is_empty() {
            return Err(ImportError::Empty);
        }
        Ok(self.spec)
    }
}

impl ImportedPrice {
    /// Of what it is the price, and the price.
    fn key_and_amount(&self) -> (String, String) {
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
mod tests;
