//! The harness itself: a node that runs pods, counts GPUs and routes Services.

use std::time::Duration;

use bursar_e2e::{
    Access, Cluster, NodeOptions,
    runner::{Images, Scenario, ScenarioResult, Suite},
};

pub(crate) fn suite() -> Suite {
    Suite {
        name: "smoke",
        nodes: vec![NodeOptions::h100(2)],
        gang_scheduling: false,
        images: Images::None,
        addons: &[],
        setup: None,
        scenarios: vec![
            Scenario::new("the_scheduler_counts_gpus", 2, gpus),
            Scenario::new("names_of_services_resolve", 2, names),
        ],
    }
}

fn pod(name: &str, gpus: u32) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}","namespace":"default"}},"spec":{{"terminationGracePeriodSeconds":0,
        "containers":[{{"name":"c","image":"bursar.local/pause:dev","imagePullPolicy":"Never","resources":{{"limits":{{"nvidia.com/gpu":{gpus}}}}}}}]}}}}"#
    )
}

fn gpus(cluster: &Cluster) -> ScenarioResult {
    cluster.apply(&pod("fits", 2))?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/fits", "--timeout=50s"])?;
    cluster.apply(&pod("waits", 1))?;
    cluster.kubectl(&[
        "wait",
        "--for=condition=PodScheduled=False",
        "pod/waits",
        "--timeout=30s",
    ])?;
    cluster.kubectl(&["delete", "pod", "fits"])?;
    cluster.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "pod/waits",
        "--timeout=50s",
    ])?;
    Ok(())
}

fn names(_: &Cluster) -> ScenarioResult {
    use std::net::{TcpStream, ToSocketAddrs};
    let address = "kubernetes.default.svc.cluster.local:443"
        .to_socket_addrs()?
        .next()
        .ok_or("the name has no address")?;
    TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    Ok(())
}
