//! Parts that the controller and the gateway share: leader election, admin server, ports, logging,
//! shutdown. Nothing here knows the domain.

pub mod admin;
pub mod leader_election;
pub mod listen;
pub mod logging;
pub mod shutdown;
