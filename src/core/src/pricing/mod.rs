//! The price of an hour of a pod, by its amounts and its node's labels.
//!
//! | module | subject |
//! |---|---|
//! | `attributes` | the attributes that a charge is priced by |
//! | `accelerators` | the names under which nodes offer accelerators |
//! | `node_labels` | what the labels of a node say of its accelerators |
//! | `gpu_models` | the names of GPU models |
//! | `share` | the fraction of a GPU that one unit is |
//! | `basis` | what an estimate is made of |
//! | `price_list` | the rows of one list, and which of them matches a pod |
//! | `tariff` | electricity by the hour |
//! | `overhead` | monthly overheads |
//! | `catalog` | all lists over time, and their precedence |
//! | `breakdown` | the terms of a price, row by row |

mod accelerators;
mod attributes;
mod basis;
mod breakdown;
mod catalog;
mod gpu_models;
mod node_labels;
mod overhead;
mod price_list;
mod share;
mod tariff;

pub use accelerators::{
    gpu_names, is_gpu, is_gpu_driver, is_offered_again_as, is_same_vendor, is_unknown_accelerator,
    vendor,
};
pub use attributes::{CapacityType, OtherGpus, PricingAttributes, ResourceAmounts};
pub use basis::EstimateBasis;
pub use breakdown::{Breakdown, PriceComponent, PriceRow};
pub use catalog::{
    DEFAULT_LIST, DatedPriceList, HourlyRate, MAX_CHANGES, PriceCatalog, PriceLookup,
};
pub use gpu_models::canonical_model;
pub use node_labels::product_labels;
pub use overhead::{Overhead, OverheadCategory, ShareBy};
pub use price_list::{
    Carbon, GpuPrice, MONTH_HOURS, NodePrice, Power, PriceList, PriceScope, UnitFraction,
    VolumePrice,
};
pub use share::Share;
pub use tariff::{OverlappingPeriods, Tariff, TariffPeriod};
