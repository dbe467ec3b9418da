//! Prometheus.

use std::{fmt::Write, path::Path, process::Command};

use super::{make_directory, write_file};
use crate::{error::Result, unpacked::Unpacked};

/// A page of metrics that is read once a second.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The label `job`.
    pub job: &'a str,
    /// Host and port.
    pub address: &'a str,
    /// The label `namespace` of all its series.
    pub namespace: &'a str,
}

/// A server that reads these pages.
///
/// # Errors
/// When it cannot be unpacked, or its configuration not be written.
pub fn server(directory: &Path, address: &str, port: u16, targets: &[Target]) -> Result<Command> {
    let own = make_directory(directory, &format!("prometheus-{port}"))?;
    let mut text = "global: {scrape_interval: 1s}\nscrape_configs:\n".to_owned();
    for target in targets {
        let Target {
            job,
            address,
            namespace,
        } = target;
        let labels = format!("{{namespace: \"{namespace}\"}}");
        let page = format!("{{targets: [\"{address}\"], labels: {labels}}}");
        // writing to a text does not fail
        writeln!(text, "- {{job_name: \"{job}\", static_configs: [{page}]}}").ok();
    }
    let configuration = write_file(&own, "prometheus.yaml", &text)?;
    let mut command = unpacked()?.command("prometheus");
    command
        .arg(format!("--config.file={}", configuration.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            own.join("data").display()
        ))
        .arg(format!("--web.listen-address={address}:{port}"));
    Ok(command)
}

pub(super) fn unpacked() -> Result<Unpacked> {
    Unpacked::packages("prometheus", &["prometheus"])
}
