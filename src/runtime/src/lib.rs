//! What both processes need to run: leadership, an admin server, ports, tracing, shutdown. No domain.

pub mod admin;
pub mod lease;
pub mod listen;
pub mod shutdown;
pub mod trace;
