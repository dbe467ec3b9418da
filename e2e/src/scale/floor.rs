//! What the operator is compared with in the same run: a reader that does nothing with the pages it
//! reads, and a client that sends the operator's own patches and decides nothing.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use http::Method;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    audit::Write,
    fleet,
    services::{MERGE, send},
};
use crate::error::{Error, Result, While};

/// As often as the operator reads a replica.
const PACE: Duration = Duration::from_secs(1);
/// Connections are opened and buffers grow in this time, which does not count.
const WARM_UP: Duration = Duration::from_secs(5);

/// What a bare reader has used.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct BareReader {
    /// Percent of a core in its own code.
    pub user: f64,
    /// Percent of a core in the kernel.
    pub system: f64,
    /// Pages a second.
    pub reads: f64,
    /// Bytes of a page.
    pub bytes: f64,
    /// Reads that failed.
    pub failed: u64,
}

impl BareReader {
    /// Percent of a core.
    pub fn total(&self) -> f64 {
        self.user + self.system
    }
}

/// Reads the pages of all addresses in `file`, one a line, once a second for `seconds`, on kept
/// connections, as the operator's client does, and drops them. Prints a [`BareReader`] as JSON.
///
/// # Errors
/// When the file cannot be read or the system refuses a runtime.
pub fn read_pages(file: &Path, seconds: u64) -> Result<()> {
    let text = fs::read_to_string(file).while_(|| format!("reading {}", file.display()))?;
    let addresses: Vec<String> = text.lines().map(str::to_owned).collect();
    // the operator's kind of runtime
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .while_(|| "starting a runtime".into())?;
    let result = runtime.block_on(measure(&addresses, Duration::from_secs(seconds)))?;
    println!("{}", serde_json::json!(result));
    Ok(())
}

#[derive(Debug, Default)]
struct Counts {
    reads: AtomicU64,
    bytes: AtomicU64,
    failed: AtomicU64,
}

async fn measure(addresses: &[String], time: Duration) -> Result<BareReader> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Client<HttpConnector, Empty<Bytes>> =
        Client::builder(TokioExecutor::new()).build(connector);
    let counts = Arc::new(Counts::default());
    let readers: Vec<_> = addresses
        .iter()
        .enumerate()
        .map(|(index, address)| {
            let delay = PACE.mul_f64(index as f64 / addresses.len() as f64);
            let uri = format!("http://{address}:{}/metrics", fleet::PORT);
            tokio::spawn(read(client.clone(), uri, delay, Arc::clone(&counts)))
        })
        .collect();
    tokio::time::sleep(WARM_UP).await;
    let look = || {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (
            count(&counts.reads),
            count(&counts.bytes),
            count(&counts.failed),
        )
    };
    let (before, then) = (processor_time()?, look());
    tokio::time::sleep(time).await;
    let (after, now) = (processor_time()?, look());
    readers.iter().for_each(tokio::task::JoinHandle::abort);
    let seconds = time.as_secs_f64();
    let reads = (now.0 - then.0) as f64;
    Ok(BareReader {
        user: (after.0 - before.0) / seconds * 100.0,
        system: (after.1 - before.1) / seconds * 100.0,
        reads: reads / seconds,
        bytes: (now.1 - then.1) as f64 / reads.max(1.0),
        failed: now.2 - then.2,
    })
}

async fn read(
    client: Client<HttpConnector, Empty<Bytes>>,
    uri: String,
    delay: Duration,
    counts: Arc<Counts>,
) {
    let Ok(uri) = uri.parse::<http::Uri>() else {
        counts.failed.fetch_add(1, Ordering::Relaxed);
        return;
    };
    tokio::time::sleep(delay).await;
    let mut ticks = tokio::time::interval(PACE);
    loop {
        ticks.tick().await;
        let page = async {
            let mut body = client.get(uri.clone()).await.ok()?.into_body();
            let mut bytes = 0;
            while let Some(frame) = body.frame().await {
                bytes += frame.ok()?.data_ref().map_or(0, Bytes::len) as u64;
            }
            Some(bytes)
        };
        match page.await {
            Some(bytes) => {
                counts.reads.fetch_add(1, Ordering::Relaxed);
                counts.bytes.fetch_add(bytes, Ordering::Relaxed);
            }
            None => {
                counts.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Seconds of this process in its own code and in the kernel.
fn processor_time() -> Result<(f64, f64)> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)
        .map_err(Into::into)
        .while_(|| "asking for processor time".into())?;
    let seconds = |time: nix::sys::time::TimeVal| time.num_microseconds() as f64 / 1e6;
    Ok((seconds(usage.user_time()), seconds(usage.system_time())))
}

/// What a bare client has done.
#[derive(Debug, Clone, Default)]
pub struct BareClient {
    /// Patches that were refused, with the first answer.
    pub refused: Option<(usize, String)>,
}

/// Sends again the patches that the operator sent, each with one more replica and the Deployment's
/// present resourceVersion, `concurrency` at a time. `patches` are by Deployment, as
/// `NAMESPACE/NAME`, and so are `versions`.
///
/// # Errors
/// When a patch has a form that cannot be repeated.
pub async fn send_patches(
    client: &kube::Client,
    patches: &BTreeMap<&str, &Write>,
    versions: &BTreeMap<String, String>,
    concurrency: usize,
) -> Result<BareClient> {
    let mut requests = Vec::new();
    for (deployment, write) in patches {
        requests.push(repetition(
            write,
            versions.get(*deployment).map(String::as_str),
        )?);
    }
    let sent = requests.iter().map(|(method, content_type, body, uri)| {
        let method = method.clone();
        async move { send(client, method, uri, content_type, body).await }
    });
    let answers: Vec<_> = futures::stream::iter(sent)
        .buffer_unordered(concurrency)
        .collect()
        .await;
    let refused: Vec<String> = answers
        .into_iter()
        .filter_map(Result::err)
        .map(|error| error.to_string())
        .collect();
    let first = refused.first().cloned();
    Ok(BareClient {
        refused: first.map(|first| (refused.len(), first)),
    })
}

/// Method, content type, body and URI of a write that is sent once more with one more replica.
fn repetition<'a>(
    write: &'a Write,
    version: Option<&str>,
) -> Result<(Method, &'static str, Value, &'a str)> {
    let mut body = write.body.clone();
    let (method, content_type) = match write.verb.as_str() {
        "update" => (Method::PUT, "application/json"),
        _ if write.uri.contains("force=true") => (Method::PATCH, "application/apply-patch+yaml"),
        _ => (Method::PATCH, MERGE),
    };
    let replicas = body["spec"]["replicas"].as_u64();
    let Some(replicas) = replicas else {
        return Err(Error::Malformed {
            what: format!("patch of {}", write.object),
            why: format!("it names no number of replicas: {}", write.body),
        });
    };
    body["spec"]["replicas"] = (replicas + 1).into();
    if let (Some(version), true) = (version, body["metadata"]["resourceVersion"].is_string()) {
        body["metadata"]["resourceVersion"] = version.into();
    }
    Ok((method, content_type, body, &write.uri))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_is_repeated_with_one_more_replica_at_the_present_version() {
        let write = |uri: &str, body: Value| Write {
            at: 0.0,
            verb: "patch".into(),
            resource: "deployments".into(),
            object: "a/b".into(),
            uri: uri.into(),
            code: 200,
            body,
        };
        let applied = write(
            "/d?force=true&fieldManager=bursar",
            json!({"metadata": {"resourceVersion": "7"}, "spec": {"replicas": 2}}),
        );
        let (_, form, body, uri) = repetition(&applied, Some("9")).unwrap();
        assert_eq!(
            (form, uri),
            ("application/apply-patch+yaml", applied.uri.as_str())
        );
        assert_eq!(
            body,
            json!({"metadata": {"resourceVersion": "9"}, "spec": {"replicas": 3}})
        );
        let merged = write("/d", json!({"spec": {"replicas": 2}}));
        let (_, form, body, _) = repetition(&merged, Some("9")).unwrap();
        assert_eq!((form, body), (MERGE, json!({"spec": {"replicas": 3}})));
        assert!(repetition(&write("/d", json!({"spec": {}})), None).is_err());
    }
}
