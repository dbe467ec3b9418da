//! etcd, API server, controller manager and scheduler.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    error::{Result, While},
    namespace::{self, Component},
    process::{self, Identity},
    template,
    tools::Tools,
};

/// Address of the control plane on the cluster's network.
pub const ADDRESS: &str = "10.89.0.1";
const PORT: u16 = 6443;
/// Address of the cluster's DNS server.
pub const DNS: &str = "10.96.0.10";

const ETCD_URL: &str = "http://127.0.0.1:2379";
const SERVICE_CIDR: &str = "10.96.0.0/16";
/// Long enough for a busy machine; it takes 4 s on a quiet one with two cores.
const API_LIMIT: Duration = Duration::from_secs(120);
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// What the controllers' clients may ask in a second. With their own 20 a second, a thousand
/// Deployments take minutes to get their pods; clusters of this size raise it.
const LARGE_CLIENT_LIMITS: [&str; 2] = ["--kube-api-qps=200", "--kube-api-burst=400"];

/// Kubernetes 1.37 has this gate, and leaves it off.
const GANG_SCHEDULING: &str = "--feature-gates=GenericWorkload=true";

/// Who asks with which token: people and nodes, and Kubernetes' own controllers.
const TOKENS: &str =
    "admin,admin,1,\"system:masters\"\ncontrollers,system:kube-controller-manager,2\n";

/// How a control plane is started.
pub(crate) struct ControlPlaneOptions {
    /// Whether the API server writes an audit log.
    pub(crate) audit: bool,
    /// Whether PodGroups are served, and gangs placed as a whole.
    pub(crate) gang_scheduling: bool,
    /// For thousands of pods: the audit log has fewer bodies, and controllers may ask more often.
    pub(crate) large: bool,
}

/// Starts the control plane in the namespaces of `init` and returns when its API server is ready.
/// Writes `run/kubeconfig`.
pub(crate) fn start(
    init: Identity,
    tools: &Tools,
    run: &Path,
    options: &ControlPlaneOptions,
) -> Result<Vec<Component>> {
    let pki = run.join("pki");
    create_service_account_keys(&pki)?;
    create_proxy_certificate(&pki)?;
    let path = |name: &str| run.join(name).display().to_string();
    let write = |name: &str, text: &str| {
        fs::write(run.join(name), text).while_(|| format!("writing {}", path(name)))
    };
    write("tokens.csv", TOKENS)?;
    let policy = if options.large {
        include_str!("../cluster/audit-scale.yaml")
    } else {
        include_str!("../cluster/audit.yaml")
    };
    write("audit.yaml", policy)?;

    let launch = |name: &str, args: &[String]| {
        let mut command = namespace::command(init, tools.program(name));
        command.args(args);
        Component::start(
            name,
            &command,
            None,
            run.join("log").join(format!("{name}.log")),
            Stdio::null(),
        )
    };
    let etcd = launch(
        "etcd",
        &[
            format!("--data-dir={}", path("etcd")),
            format!("--listen-client-urls={ETCD_URL}"),
            format!("--advertise-client-urls={ETCD_URL}"),
            "--listen-peer-urls=http://127.0.0.1:2380".into(),
            "--unsafe-no-fsync".into(),
            "--log-level=error".into(),
        ],
    )?;

    let mut args = vec![
        format!("--etcd-servers={ETCD_URL}"),
        format!("--cert-dir={}", pki.display()),
        format!("--bind-address={ADDRESS}"),
        format!("--advertise-address={ADDRESS}"),
        format!("--secure-port={PORT}"),
        format!("--service-cluster-ip-range={SERVICE_CIDR}"),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        format!(
            "--service-account-signing-key-file={}",
            pki.join("sa.key").display()
        ),
        format!(
            "--service-account-key-file={}",
            pki.join("sa.pub").display()
        ),
        format!(
            "--proxy-client-cert-file={}",
            pki.join("proxy.crt").display()
        ),
        format!(
            "--proxy-client-key-file={}",
            pki.join("proxy.key").display()
        ),
        format!(
            "--requestheader-client-ca-file={}",
            pki.join("proxy.crt").display()
        ),
        "--requestheader-username-headers=X-Remote-User".into(),
        "--requestheader-group-headers=X-Remote-Group".into(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
        format!("--token-auth-file={}", path("tokens.csv")),
        "--authorization-mode=RBAC".into(),
        "--allow-privileged".into(),
        "--kubelet-preferred-address-types=InternalIP".into(),
    ];
    if options.audit {
        args.extend([
            format!("--audit-policy-file={}", path("audit.yaml")),
            format!("--audit-log-path={}", path("audit.log")),
            // A single file, because the ledger's oracle reads it from its beginning.
            "--audit-log-maxsize=100000".into(),
        ]);
    }
    if options.gang_scheduling {
        args.push(GANG_SCHEDULING.into());
        args.push("--runtime-config=scheduling.k8s.io/v1beta1=true".into());
    }
    let api_server = launch("kube-apiserver", &args)?;
    let mut components = vec![etcd, api_server];

    let certificate = pki.join("apiserver.crt");
    // the key is written after the certificate, which may still be empty when it is there
    let key = pki.join("apiserver.key");
    wait(&mut components, "API server's certificate", &mut || {
        Ok(key.exists())
    })?;
    let mut encode = Command::new("base64");
    encode.arg("-w0").arg(&certificate);
    let ca = process::run(&mut encode, COMMAND_LIMIT)?.stdout;
    let config = template::fill(
        include_str!("../cluster/kubeconfig.yaml"),
        &[("CA", ca.trim())],
    )?;
    write("kubeconfig", &config)?;
    // each of its controllers then acts as a ServiceAccount of kube-system, as in every real cluster
    let config = config.replace("{token: admin}", "{token: controllers}");
    write("controllers.kubeconfig", &config)?;

    wait(&mut components, "API server", &mut || {
        // Each kubectl is a process, so none is started before the server listens.
        if !listens(init, PORT) {
            return Ok(false);
        }
        let mut command = namespace::network_command(init, tools.program("kubectl"));
        command.args([
            "--kubeconfig",
            &path("kubeconfig"),
            "--request-timeout=5s",
            "get",
            "--raw=/readyz",
        ]);
        Ok(process::run(&mut command, COMMAND_LIMIT).is_ok_and(|output| output.stdout == "ok"))
    })?;

    let mut clients = vec!["--leader-elect=false".into()];
    if options.large {
        clients.extend(LARGE_CLIENT_LIMITS.map(String::from));
    }
    if options.gang_scheduling {
        clients.push(GANG_SCHEDULING.into());
    }
    let controllers = [
        format!("--kubeconfig={}", path("controllers.kubeconfig")),
        "--use-service-account-credentials".into(),
        format!(
            "--service-account-private-key-file={}",
            pki.join("sa.key").display()
        ),
        format!("--root-ca-file={}", certificate.display()),
    ];
    components.push(launch(
        "kube-controller-manager",
        &[&clients[..], &controllers].concat(),
    )?);
    clients.push(format!("--kubeconfig={}", path("kubeconfig")));
    components.push(launch("kube-scheduler", &clients)?);
    Ok(components)
}

/// Waits until `done` is true. A component that ends meanwhile is an error.
fn wait(
    components: &mut [Component],
    what: &str,
    done: &mut dyn FnMut() -> Result<bool>,
) -> Result<()> {
    let log = components
        .last()
        .map(|component| component.log.clone())
        .unwrap_or_default();
    process::wait_until(what, API_LIMIT, &log, || {
        components.iter_mut().try_for_each(Component::check)?;
        done()
    })
}

/// Whether something listens on an IPv4 port of the network of `init`.
fn listens(init: Identity, port: u16) -> bool {
    let sockets = fs::read_to_string(format!("/proc/{}/net/tcp", init.pid)).unwrap_or_default();
    has_listener(&sockets, port)
}

/// Whether `/proc/PID/net/tcp` has a listening socket on this port. The fields of a line are a
/// number, the local address, the remote address and the state, which is 0A for a listening socket.
fn has_listener(sockets: &str, port: u16) -> bool {
    let local = format!(":{port:04X}");
    sockets.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        matches!(fields[..], [_, address, _, "0A", ..] if address.ends_with(&local))
    })
}

/// The keys that sign ServiceAccount tokens. The API server makes its own certificate.
fn create_service_account_keys(pki: &Path) -> Result<()> {
    fs::create_dir_all(pki).while_(|| format!("creating {}", pki.display()))?;
    let (private, public) = (pki.join("sa.key"), pki.join("sa.pub"));
    let mut command = Command::new("openssl");
    process::run(
        command.args(["genrsa", "-out"]).arg(&private).arg("2048"),
        COMMAND_LIMIT,
    )?;
    let mut command = Command::new("openssl");
    process::run(
        command
            .args(["rsa", "-pubout", "-in"])
            .arg(&private)
            .arg("-out")
            .arg(public),
        COMMAND_LIMIT,
    )?;
    Ok(())
}

/// The certificate by which API servers that extend this one know that a request comes from it. It is its own authority.
fn create_proxy_certificate(pki: &Path) -> Result<()> {
    let mut command = Command::new("openssl");
    let curve = "ec_paramgen_curve:prime256v1";
    command.args(["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", curve]);
    command.args(["-subj", "/CN=front-proxy", "-days", "3650"]);
    command.arg("-keyout").arg(pki.join("proxy.key"));
    command.arg("-out").arg(pki.join("proxy.crt"));
    process::run(&mut command, COMMAND_LIMIT).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_listens_is_told_from_a_connection() {
        let sockets = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when\n   \
             0: 0100007F:094B 00000000:0000 0A 00000000:00000000 00:00000000\n   \
             1: 0159590A:192B 0A59590A:8C2A 01 00000000:00000000 00:00000000\n";
        assert!(has_listener(sockets, 2379));
        assert!(!has_listener(sockets, PORT), "that is a connection");
        assert!(has_listener(&sockets.replace(" 01 ", " 0A "), PORT));
        assert!(!has_listener(sockets, 0x8C2A), "that is the other end");
    }
}
