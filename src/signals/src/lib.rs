//! Measured demand: one module a source, and the store that makes signals of samples.
//!
//! | module | subject |
//! |---|---|
//! | [`engine`] | reads an inference engine's metrics |
//! | [`engine_metrics`] | what those metrics are called, and what a page of them says |
//! | [`engine_reads`] | reads all engines, each once a second |
//! | [`schedule`] | which engine is read when, as a pure structure |
//! | [`polls`] | reads signals outside the replicas, each at its own interval |
//! | [`power`] | reads what GPUs draw, from dcgm-exporter |
//! | [`metrics_page`] | a page of metrics over HTTP, on a connection that is kept |
//! | [`exposition`] | the text format of those metrics |
//! | [`demand`] | what gateways hold: the message, and the leader's end of its stream |
//! | [`sources`] | reads queues, topics and queries of other servers |
//! | [`dial`] | connections to servers that tenants name |
//! | [`address_policy`] | which addresses those may have |
//! | [`credentials`] | what they are asked with |
//! | [`store`] | all samples of a workload as one signal; unknown is never zero |

pub mod address_policy;
pub mod credentials;
pub mod demand;
pub mod dial;
pub mod engine;
pub mod engine_metrics;
pub mod engine_reads;
pub mod exposition;
pub mod metrics_page;
pub mod polls;
pub mod power;
mod request_time;
pub mod schedule;
pub mod sources;
pub mod store;
