//! Redis: a server, a node of a cluster, or a sentinel.

use std::{path::Path, process::Command};

use super::{TlsFiles, make_directory, write_file};
use crate::{error::Result, unpacked::Unpacked};

/// How a server serves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// What clients must know.
    pub password: Option<&'a str>,
    /// With it the port is one of TLS.
    pub tls: Option<&'a TlsFiles>,
    /// Whether it is a node of a cluster, which also uses the port 10,000 above its own.
    pub cluster: bool,
}

/// A server that keeps everything in memory.
///
/// # Errors
/// When it cannot be unpacked, or its configuration not be written.
pub fn server(directory: &Path, address: &str, port: u16, options: Options) -> Result<Command> {
    let own = make_directory(directory, &format!("redis-{port}"))?;
    let mut lines = vec![
        format!("bind {address}"),
        format!("dir {}", own.display()),
        "save \"\"".into(),
        "protected-mode no".into(),
    ];
    match options.tls {
        None => lines.push(format!("port {port}")),
        Some(tls) => lines.extend([
            "port 0".into(),
            format!("tls-port {port}"),
            format!("tls-ca-cert-file {}", tls.authority.display()),
            format!("tls-cert-file {}", tls.certificate.display()),
            format!("tls-key-file {}", tls.key.display()),
            "tls-auth-clients no".into(),
        ]),
    }
    if let Some(password) = options.password {
        lines.push(format!("requirepass {password}"));
    }
    if options.cluster {
        lines.extend([
            "cluster-enabled yes".into(),
            "cluster-node-timeout 2000".into(),
        ]);
    }
    let configuration = write_file(&own, "redis.conf", &(lines.join("\n") + "\n"))?;
    let mut command = unpacked()?.command("redis-server");
    command.arg(configuration);
    Ok(command)
}

/// A sentinel that is alone, for the master at `master_port` of the same address.
///
/// # Errors
/// When it cannot be unpacked, or its configuration not be written.
pub fn sentinel(
    directory: &Path,
    address: &str,
    port: u16,
    master_name: &str,
    master_port: u16,
    master_password: Option<&str>,
) -> Result<Command> {
    let own = make_directory(directory, &format!("redis-{port}"))?;
    let mut lines = vec![
        format!("bind {address}"),
        format!("port {port}"),
        format!("dir {}", own.display()),
        "protected-mode no".into(),
        format!("sentinel monitor {master_name} {address} {master_port} 1"),
    ];
    if let Some(password) = master_password {
        lines.push(format!("sentinel auth-pass {master_name} {password}"));
    }
    // sentinels write what they learn into it
    let configuration = write_file(&own, "sentinel.conf", &(lines.join("\n") + "\n"))?;
    let mut command = unpacked()?.command("redis-sentinel");
    command.arg(configuration);
    Ok(command)
}

/// `redis-cli` for the server at an address, without arguments for it yet.
///
/// # Errors
/// When it cannot be unpacked.
pub fn client(address: &str, port: u16) -> Result<Command> {
    let mut command = unpacked()?.command("redis-cli");
    command.args(["-h", address, "-p", &port.to_string()]);
    Ok(command)
}

pub(super) fn unpacked() -> Result<Unpacked> {
    Unpacked::packages("redis", &["redis-server", "redis-sentinel", "redis-tools"])
}
