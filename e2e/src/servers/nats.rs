//! NATS with JetStream.

use std::{path::Path, process::Command};

use super::{TlsFiles, User, make_directory, write_file};
use crate::{error::Result, unpacked::Unpacked};

/// A server with JetStream. With `user` all clients must be that one.
///
/// # Errors
/// When it cannot be unpacked, or its configuration not be written.
pub fn server(
    directory: &Path,
    address: &str,
    port: u16,
    user: Option<User>,
    tls: Option<&TlsFiles>,
) -> Result<Command> {
    let own = make_directory(directory, &format!("nats-{port}"))?;
    let mut text = format!(
        "listen: \"{address}:{port}\"\njetstream {{ store_dir: \"{}\" }}\n",
        own.display()
    );
    if let Some(User { name, password }) = user {
        text += &format!("authorization {{ user: \"{name}\", password: \"{password}\" }}\n");
    }
    if let Some(tls) = tls {
        let (certificate, key) = (tls.certificate.display(), tls.key.display());
        text += &format!("tls {{ cert_file: \"{certificate}\", key_file: \"{key}\" }}\n");
    }
    let configuration = write_file(&own, "nats.conf", &text)?;
    let mut command = unpacked()?.command("nats-server");
    command.arg("--config").arg(configuration);
    Ok(command)
}

pub(super) fn unpacked() -> Result<Unpacked> {
    Unpacked::packages("nats", &["nats-server"])
}
