//! Bursar as its users install it: pods of an image built from this checkout, put there by `helm install` under their own rights.

use std::{path::Path, time::Duration};

use http::Request;
use kube::Client;

use crate::{Access, Result};

/// The operator's namespace.
pub const NAMESPACE: &str = "bursar-system";
const HELM_LIMIT: Duration = Duration::from_secs(180);

/// The image of this checkout in our own clusters.
pub const IMAGE: &str = "bursar.local/bursar:dev";

/// Installs the chart with this image (`NAME:TAG`) and `values` (`key=value`), and waits until everything is ready.
///
/// # Errors
/// helm's words.
pub fn install(cluster: &dyn Access, image: &str, values: &[&str]) -> Result<()> {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../charts/bursar")
        .display()
        .to_string();
    let mut args = vec![
        "upgrade",
        "--install",
        "bursar",
        &chart,
        "--namespace",
        NAMESPACE,
        "--create-namespace",
    ];
    let (repository, tag) = image.rsplit_once(':').unwrap_or((image, "latest"));
    let image = format!("image.repository={repository},image.tag={tag}");
    // a tag may look like a number
    args.extend(["--wait", "--timeout", "2m", "--set-string", &image]);
    args.extend(values.iter().flat_map(|value| ["--set", value]));
    cluster.helm(&args, HELM_LIMIT).map(drop)
}

/// Uninstalls it.
///
/// # Errors
/// helm's words.
pub fn uninstall(cluster: &dyn Access) -> Result<()> {
    cluster
        .helm(
            &[
                "uninstall",
                "bursar",
                "--namespace",
                NAMESPACE,
                "--wait",
                "--timeout",
                "3m",
            ],
            HELM_LIMIT * 2,
        )
        .map(drop)
}

/// What a pod of Bursar answers on its secure port to whoever has this token.
///
/// # Errors
/// The API server's words, or the pod's.
pub async fn get_secure(
    client: &Client,
    pod: &str,
    path: &str,
    token: &str,
) -> std::result::Result<String, kube::Error> {
    let uri = format!("/api/v1/namespaces/{NAMESPACE}/pods/https:{pod}:8443/proxy{path}");
    // the API server takes `Authorization` for itself
    let request = Request::get(uri)
        .header("bursar-authorization", format!("Bearer {token}"))
        .body(Vec::new())
        .map_err(kube::Error::HttpError)?;
    client.request_text(request).await
}

/// A token of ServiceAccount `name` in `namespace`.
///
/// # Errors
/// kubectl's words.
pub fn token(cluster: &dyn Access, namespace: &str, name: &str) -> Result<String> {
    let token = ["-n", namespace, "create", "token", name, "--duration=24h"];
    Ok(cluster.kubectl(&token)?.trim().to_owned())
}
