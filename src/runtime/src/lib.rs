//! What both processes need to run: leadership, an admin server, tracing, shutdown. No domain.

pub mod admin;
pub mod lease;
pub mod shutdown;
pub mod trace;
