//! What a pod costs an hour: the price lists' answer to what the node's labels say.
//!
//! | module | subject |
//! |---|---|
//! | `facts` | what a charge is priced by |
//! | `book` | the rows of one list, and which of them speaks of a pod |
//! | `tariff` | electricity by the hour |
//! | `overhead` | monthly overheads |
//! | `lists` | all lists over time, and which goes before which |
//! | `terms` | how a price comes about, row by row |

mod book;
mod facts;
mod lists;
mod overhead;
mod tariff;
mod terms;

pub use book::{
    Carbon, GpuPrice, MONTH_HOURS, NodePrice, Power, PriceBook, Units, VolumePrice, Where,
};
pub use facts::{
    Amounts, CapacityType, Facts, Share, is_gpu, is_gpu_driver, is_of_vendor, product_labels,
};
pub use lists::{DEFAULT_LIST, MOST_CHANGES, PriceList, PriceLists, Priced, Quote};
pub use overhead::{Overhead, OverheadPart, ShareBy};
pub use tariff::{Overlap, Tariff, TariffPeriod};
pub use terms::{Row, Term};
