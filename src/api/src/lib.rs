//! The `bursar.dev/v1alpha1` resources: their types, the rules that the API server checks, and
//! their conversion into the core's types.
//!
//! | module | resource |
//! |---|---|
//! | [`inference`] | InferenceDeployment (`infd`) |
//! | [`training`] | TrainingJob (`tj`) |
//! | [`budget`] | BudgetPolicy (`budget`) |
//! | [`correction`] | SpendCorrection (`correction`) |
//! | [`prices`] | PriceList (`prices`) |
//! | [`revenue`] | the revenue of an InferenceDeployment |
//! | [`signal`] | the signals of an InferenceDeployment |
//! | [`engine`] | the inference engine of an InferenceDeployment |
//! | [`caller_peers`] | who may reach an InferenceDeployment through gateways |
//! | [`spend`] | SpendRecord (`spend`) |
//!
//! [`lenient`] reads objects one by one, so that one that cannot be read stops no other.
//! [`gpu_inventory`] reads which GPUs nodes offer; [`explanation`] is what the leader answers
//! `kubectl bursar explain`, and [`pause`] what `kubectl bursar pause` writes.
//!
//! Amounts of money are decimal strings and durations are Go-style strings; [`quantities`] has
//! their rules and reads them.

#![allow(
    unreachable_pub,
    reason = "KubeSchema copies each struct into a function, with its visibility"
)]
#![allow(
    clippy::duplicated_attributes,
    reason = "print columns repeat their types"
)]

pub mod budget;
pub mod caller_peers;
pub mod conditions;
pub mod correction;
pub mod crds;
pub mod engine;
pub mod explanation;
pub mod gpu_inventory;
pub mod inference;
pub mod lenient;
pub mod names;
pub mod pause;
pub mod prices;
pub mod quantities;
pub mod revenue;
pub mod scaling;
pub mod signal;
pub mod spend;
pub mod template;
pub mod training;

pub use budget::BudgetPolicy;
pub use correction::SpendCorrection;
pub use inference::InferenceDeployment;
pub use prices::PriceList;
pub use spend::SpendRecord;
pub use training::TrainingJob;
