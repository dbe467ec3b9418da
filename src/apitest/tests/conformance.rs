//! The in-memory server against the checks that a real one passes too, and tests of its own.

use std::sync::Arc;

use bursar_apitest::Server;
use bursar_apitest::conformance::CHECKS;
use bursar_apitest::faults::{CrashPoint, Faults};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::json;

fn config(name: &str) -> ConfigMap {
    serde_json::from_value(
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}),
    )
    .expect("a ConfigMap")
}

#[tokio::test]
async fn the_server_passes_the_script() {
    let server = Server::new(&["check"]);
    let mut failed = Vec::new();
    for check in CHECKS {
        if let Err(error) = (check.run)(server.client(), "check".to_owned()).await {
            failed.push(format!("{}: {error}", check.name));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[tokio::test]
async fn a_process_crashes_before_or_after_its_write() {
    for (point, made) in [
        (CrashPoint::Before, vec!["a"]),
        (CrashPoint::After, vec!["a", "b"]),
    ] {
        let server = Server::new(&["ns"]);
        let faults = Arc::new(Faults::crash(1, point));
        let api: Api<ConfigMap> = Api::namespaced(server.client_with(&faults), "ns");
        let params = PostParams::default();
        api.create(&params, &config("a")).await.unwrap();
        assert!(api.create(&params, &config("b")).await.is_err());
        assert!(
            faults.has_crashed() && api.get_opt("a").await.is_err(),
            "a dead process reads nothing"
        );
        let names: Vec<_> = server
            .objects::<ConfigMap>()
            .into_iter()
            .filter_map(|each| each.metadata.name)
            .collect();
        assert_eq!(names, made);
    }
}

#[tokio::test]
async fn a_competing_write_comes_first() {
    let server = Server::new(&["ns"]);
    let theirs: Api<ConfigMap> = Api::namespaced(server.client(), "ns");
    let faults = Arc::new(Faults::competing_write(0, async move {
        theirs
            .create(&PostParams::default(), &config("a"))
            .await
            .unwrap();
    }));
    let api: Api<ConfigMap> = Api::namespaced(server.client_with(&faults), "ns");
    let lost = api.create(&PostParams::default(), &config("a")).await;
    assert!(matches!(lost, Err(kube::Error::Api(status)) if status.code == 409));
}

#[tokio::test]
async fn a_watcher_goes_on_after_its_version_expired() {
    let server = Server::new(&["ns"]);
    let api: Api<ConfigMap> = Api::namespaced(server.client(), "ns");
    api.create(&PostParams::default(), &config("a"))
        .await
        .unwrap();
    let names = watcher(api.clone(), watcher::Config::default())
        .default_backoff()
        .applied_objects()
        .filter_map(|object| async { object.ok()?.metadata.name });
    let mut names = std::pin::pin!(names);
    assert_eq!(names.next().await.as_deref(), Some("a"));
    api.create(&PostParams::default(), &config("b"))
        .await
        .unwrap();
    server.compact();
    let seen: Vec<String> = names
        .by_ref()
        .take(2)
        .map(Ok::<_, ()>)
        .try_collect()
        .await
        .unwrap();
    assert!(seen.contains(&"b".to_owned()), "{seen:?}");
}
