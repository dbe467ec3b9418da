//! The servers of queues and metrics that signals are read from: real ones, unpacked into the cache and never installed.
//!
//! | module | subject |
//! |---|---|
//! | [`redis`] | Redis, its sentinels and clusters |
//! | [`rabbitmq`] | RabbitMQ with its management API |
//! | [`nats`] | NATS with JetStream |
//! | [`prometheus`] | Prometheus |
//! | [`kafka`] | Kafka, from Maven Central, on Debian's Java |
//!
//! Each function writes the configuration of a server into a directory, and returns the command that serves in the foreground
//! until it is killed. All that it started ends with it. [`crate::program::Program::start`] runs it in a cluster. The first call
//! for a server unpacks it; [`setup`] does so for all of them, where there is a network.

pub mod kafka;
pub mod nats;
pub mod prometheus;
pub mod rabbitmq;
pub mod redis;

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    error::{Result, While},
    unpacked::make_directory,
};

/// A user with a password.
#[derive(Debug, Clone, Copy)]
pub struct User<'a> {
    /// The user's name.
    pub name: &'a str,
    /// The password, without quotes and spaces.
    pub password: &'a str,
}

/// The files of a server's TLS, in PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The authority that signed the certificate.
    pub authority: PathBuf,
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Unpacks all of them that the cache lacks.
///
/// # Errors
/// When something cannot be downloaded.
pub fn setup() -> Result<()> {
    redis::unpacked()?;
    rabbitmq::unpacked()?;
    nats::unpacked()?;
    prometheus::unpacked()?;
    kafka::unpacked()?;
    Ok(())
}

/// Writes a file of a server's configuration.
fn write_file(directory: &Path, name: &str, contents: &str) -> Result<PathBuf> {
    let path = directory.join(name);
    fs::write(&path, contents).while_(|| format!("writing {}", path.display()))?;
    Ok(path)
}
