//! Parts that the controller and the gateway share: leader election, health and metrics, ports, who may
//! read what, logging, shutdown. Nothing here knows the domain.

pub mod access;
pub mod admin;
mod connections;
pub mod leader_election;
pub mod listen;
pub mod logging;
pub mod open_files;
pub mod server;
pub mod shutdown;
