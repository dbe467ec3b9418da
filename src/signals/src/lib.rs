//! Measured demand: one module a source, and the store that makes signals of samples.
//!
//! | module | subject |
//! |---|---|
//! | [`engine`] | reads an inference engine's metrics |
//! | [`schedule`] | which engine is read when, as a pure structure |
//! | [`power`] | reads what GPUs draw, from dcgm-exporter |
//! | [`exposition`] | the text format of those metrics |
//! | [`demand`] | what gateways hold: the message, and the leader's end of its stream |
//! | [`store`] | all samples of a workload as one signal; unknown is never zero |

pub mod demand;
pub mod engine;
pub mod exposition;
pub mod power;
pub mod schedule;
pub mod store;
