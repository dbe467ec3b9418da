//! Parts that the controller and the gateway share: leader election, health and metrics, ports, who may
//! read what, logging, shutdown. Nothing here knows the domain.

pub mod access;
pub mod admin;
pub mod https;
pub mod leader_election;
pub mod listen;
pub mod logging;
pub mod shutdown;
