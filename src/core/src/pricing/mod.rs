//! The price of an hour of a pod, by its amounts and its node's labels.
//!
//! | module | subject |
//! |---|---|
//! | `attributes` | the attributes that a charge is priced by |
//! | `basis` | what an estimate is made of |
//! | `price_list` | the rows of one list, and which of them matches a pod |
//! | `tariff` | electricity by the hour |
//! | `overhead` | monthly overheads |
//! | `catalog` | all lists over time, and their precedence |
//! | `breakdown` | the terms of a price, row by row |

mod attributes;
mod basis;
mod breakdown;
mod catalog;
mod overhead;
mod price_list;
mod tariff;

pub use attributes::{
    CapacityType, PricingAttributes, ResourceAmounts, Share, is_gpu, is_gpu_driver, is_same_vendor,
    product_labels,
};
pub use basis::EstimateBasis;
pub use breakdown::{PriceComponent, PriceRow};
pub use catalog::{
    DEFAULT_LIST, DatedPriceList, HourlyRate, MAX_CHANGES, PriceCatalog, PriceLookup,
};
pub use overhead::{Overhead, OverheadCategory, ShareBy};
pub use price_list::{
    Carbon, GpuPrice, MONTH_HOURS, NodePrice, Power, PriceList, PriceScope, UnitFraction,
    VolumePrice,
};
pub use tariff::{OverlappingPeriods, Tariff, TariffPeriod};
