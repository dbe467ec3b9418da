//! RabbitMQ with its management API.

use std::{path::Path, process::Command};

use super::{User, make_directory, write_file};
use crate::{error::Result, unpacked::Unpacked};

/// The ports of a server; the last two are its own business and nobody else's.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// AMQP.
    pub amqp: u16,
    /// The management API.
    pub management: u16,
    /// Between nodes.
    pub distribution: u16,
    /// Erlang's names of nodes.
    pub names: u16,
}

/// A server with one user, who may do everything.
///
/// # Errors
/// When it cannot be unpacked, or its configuration not be written.
pub fn server(directory: &Path, address: &str, ports: Ports, user: User) -> Result<Command> {
    let own = make_directory(directory, &format!("rabbitmq-{}", ports.amqp))?;
    let Ports {
        amqp,
        management,
        distribution,
        names,
    } = ports;
    let User { name, password } = user;
    let configuration = write_file(
        &own,
        "rabbitmq.conf",
        &format!(
            "listeners.tcp.1 = {address}:{amqp}\n\
             management.tcp.ip = {address}\n\
             management.tcp.port = {management}\n\
             default_user = {name}\n\
             default_pass = {password}\n\
             loopback_users = none\n\
             log.console = true\n"
        ),
    )?;
    let plugins = write_file(&own, "enabled_plugins", "[rabbitmq_management].\n")?;
    // the one below /usr/sbin changes to a user that an installation makes
    let program = "/usr/lib/rabbitmq/bin/rabbitmq-server";
    let mut command = unpacked()?.command(program);
    command
        .env("HOME", &own)
        .env("RABBITMQ_CONFIG_FILE", configuration)
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", plugins)
        .env("RABBITMQ_MNESIA_BASE", own.join("data"))
        .env("RABBITMQ_LOG_BASE", own.join("log"))
        .env("RABBITMQ_LOGS", "-")
        .env("RABBITMQ_NODENAME", "bursar@localhost")
        .env("RABBITMQ_DIST_PORT", distribution.to_string())
        .env("ERL_EPMD_PORT", names.to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1");
    Ok(command)
}

pub(super) fn unpacked() -> Result<Unpacked> {
    Unpacked::packages("rabbitmq", &["rabbitmq-server"])
}
