//! How fast the leader scaled the service up for held requests, as it measured that itself: from
//! its log.

use kube::{Api, Client};
use tokio::task::JoinSet;

use super::{manifests::NAMESPACE, pod_logs};
use crate::operator;

/// Calls `on_wake_up` with the milliseconds from the first held request to the Deployment's patch,
/// at each wake-up of the demo's service, until the result is dropped.
pub(super) fn follow(
    client: Client,
    on_wake_up: impl Fn(u64) + Send + Sync + 'static,
) -> JoinSet<()> {
    let pods = Api::namespaced(client, operator::NAMESPACE);
    let controllers = "app.kubernetes.io/component=controller";
    pod_logs::follow(pods, controllers, move |line| {
        if let Some(milliseconds) = wake_up_in(line) {
            on_wake_up(milliseconds);
        }
    })
}

/// The milliseconds in a line of the controller's log about this service.
fn wake_up_in(line: &str) -> Option<u64> {
    let fields = line.split_once("woken by a held request")?.1;
    let value = |name: &str| {
        fields
            .split_whitespace()
            .find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
    };
    if value("namespace")?.trim_matches('"') != NAMESPACE {
        return None;
    }
    value("milliseconds")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wakes_are_read_from_the_log_of_this_namespace_only() {
        let line = |namespace: &str| {
            format!(
                "2026 INFO bursar_controller::inference: woken by a held request namespace=\"{namespace}\" name=\"chat\" milliseconds=41"
            )
        };
        assert_eq!(wake_up_in(&line("team")), Some(41));
        assert_eq!(wake_up_in(&line("other")), None);
        assert_eq!(wake_up_in("scaled milliseconds=3"), None);
    }
}
