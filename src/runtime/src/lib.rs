//! What both processes need to run: leadership, an admin server, ports, tracing, shutdown. No domain.

pub mod admin;
pub mod leader_election;
pub mod listen;
pub mod logging;
pub mod shutdown;
