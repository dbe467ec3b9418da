//! The end-to-end harness: a real Kubernetes cluster on one machine, in namespaces of its own, without Docker, a registry or the
//! internet.
//!
//! | module | subject |
//! |---|---|
//! | [`mod@setup`] | installs packages and builds the cluster's programs, once |
//! | [`prerequisites`] | what the machine must have |
//! | [`tools`] | the programs of the cluster, built from pinned Go modules into the [`cache`] |
//! | [`image`] | the checkout's binaries as OCI archives, written by [`oci`] |
//! | [`cluster`] | boots, enters and stops a cluster; made of a [`control_plane`] and [`node`]s |
//! | [`program`] | programs of this checkout that run in a cluster's namespaces, without an image |
//! | [`addons`] | other projects' controllers, installed by their charts |
//! | [`access`] | kubectl, helm and a client, for these clusters and for others |
//! | [`operator`] | Bursar, installed with helm |
//! | [`traffic`] | requests as clients send them |
//! | [`oracle`] | charges and writes, recomputed from the audit log |
//! | [`demo`] | what `cargo demo` shows |
//! | [`servers`] | Redis, RabbitMQ, NATS, Prometheus and Kafka, unpacked into the cache |
//! | [`frameworks`] | PyTorch, TensorFlow, JAX and Open MPI for pods, unpacked into the cache |
//! | [`scale`] | hundreds of services on simulated nodes: writes, times and load |
//! | [`runner`] | runs the scenarios of an end-to-end test binary against one cluster |
//! | [`scenario`] | what scenarios share |
//!
//! Everything here is blocking and uses no threads, because a process may only move into the cluster's network
//! ([`cluster::Cluster::join`]) while it has a single one.

pub mod access;
pub mod addons;
mod bench_cluster;
pub mod cache;
mod cgroup;
pub mod cluster;
pub mod control_plane;
pub mod demo;
pub mod error;
pub mod frameworks;
pub mod growth;
pub mod image;
mod interrupt;
mod namespace;
pub mod node;
pub mod oci;
pub mod operator;
pub mod oracle;
pub mod prerequisites;
pub mod process;
pub mod program;
mod progress;
pub mod runner;
pub mod scale;
pub mod scenario;
pub mod servers;
pub mod setup;
mod simulated_nodes;
mod template;
pub mod tools;
pub mod traffic;
mod unpacked;

pub use access::Access;
pub use cluster::{Cluster, Lifetime, Options};
pub use error::{Error, Result};
pub use node::NodeOptions;
pub use setup::setup;
