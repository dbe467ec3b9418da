//! The chart on a cluster of simulated nodes, and the programs that stand for its pods: the
//! operator and a gateway of this checkout, and a fleet of engines. The programs have the
//! credentials of their ServiceAccounts.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{Client, core::ObjectList};
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;

use super::{
    audit::AuditLog,
    fleet::{self, PageSize},
};
use crate::{
    Access, Cluster, access,
    error::{Error, Result, While},
    image::{self, Program as Built},
    interrupt, operator,
    program::{Program, write_file},
    scenario,
};

const CONTROLLER: &str = "bursar-controller";
const GATEWAY: &str = "bursar-gateway";
const HEALTH_PORT: &str = "--health-port=9090";
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// The programs that run, as files.
#[derive(Debug, Clone)]
pub struct Programs {
    bursar: PathBuf,
    engine: PathBuf,
}

impl Programs {
    /// Builds them; optimized ones as they are meant to run. A cluster's network has no crates to
    /// fetch, so this comes before [`Cluster::join`].
    ///
    /// # Errors
    /// When the build fails.
    pub fn build(optimized: bool) -> Result<Self> {
        let built = image::programs(&[Built::Bursar, Built::Engine], optimized)?;
        let [bursar, engine] =
            <[PathBuf; 2]>::try_from(built).map_err(|_| unexpected("programs", "not two"))?;
        Ok(Self { bursar, engine })
    }
}

/// The running programs.
pub struct Installation<'a> {
    cluster: &'a Cluster,
    runtime: Runtime,
    client: Client,
    controller: PathBuf,
    operator: Option<Program>,
    /// The gateway.
    pub gateway: Program,
    /// The fleet of engines.
    pub engines: Program,
    /// Where the gateway holds requests.
    pub gateway_address: IpAddr,
}

impl<'a> Installation<'a> {
    /// Installs the chart without a controller, and starts the gateway and the engines. The process
    /// must be in the cluster's network ([`Cluster::join`]).
    ///
    /// # Errors
    /// When something does not start.
    pub fn start(cluster: &'a Cluster, Programs { bursar, engine }: &Programs) -> Result<Self> {
        let values = ["controller.replicas=0", "gateway.replicas=1"];
        operator::install(cluster, operator::IMAGE, &values)?;

        let secret: Secret = object(cluster, &["get", "secret", "bursar-gateway-tls"])?;
        let data = secret.data.unwrap_or_default();
        let file = |name: &str| {
            let contents = data
                .get(name)
                .ok_or_else(|| unexpected("TLS secret", name))?;
            write_file(cluster, &format!("gateway-{name}"), &contents.0)
        };
        let (certificate, key) = (file("tls.crt")?, file("tls.key")?);
        file("ca.crt")?;
        let selector = "app.kubernetes.io/component=gateway";
        let pods: ObjectList<Pod> = object(cluster, &["get", "pods", "-l", selector])?;
        let pod = pods.items.first();
        let uid = pod.and_then(|pod| pod.metadata.uid.clone());
        let address = pod.and_then(|pod| pod.status.as_ref()?.pod_ip.clone());
        let (Some(uid), Some(address)) = (uid, address) else {
            return Err(unexpected("the gateway's pod", "it has no address"));
        };

        let mut command = Command::new(engine);
        command.args(["--fleet", PageSize::Small.word()]);
        command.args(["--port", &fleet::PORT.to_string()]);
        let engines = Program::start(cluster, "engines", &command)?;

        let mut command = Command::new(bursar);
        command
            .args(["gateway", "--pod-ip", &address, "--pod-uid", &uid])
            .args(["--termination-grace=10s", "--tls-cert"])
            .arg(certificate)
            .arg("--tls-key")
            .arg(key)
            .env("KUBECONFIG", kubeconfig(cluster, GATEWAY)?);
        let gateway = Program::start(cluster, "gateway", &command)?;

        let runtime = scenario::client_runtime().while_(|| "starting a runtime".into())?;
        let client = runtime.block_on(cluster.client())?;
        let installation = Self {
            cluster,
            runtime,
            client,
            controller: bursar.clone(),
            operator: None,
            gateway,
            engines,
            gateway_address: address
                .parse()
                .map_err(|_| unexpected("the gateway's address", &address))?,
        };
        installation.wait_for("the engines to answer", 20, async || {
            Ok(fleet::reads().await.is_ok())
        })?;
        Ok(installation)
    }

    /// Starts the operator, with the options that the chart gives it.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_operator(&mut self) -> Result<()> {
        let token = self.token(&["--audience=bursar-gateway"])?;
        let token = write_file(self.cluster, "gateway-token", token.as_bytes())?;
        let prices = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../charts/bursar/files/default-prices.yaml");
        let mut command = Command::new(&self.controller);
        command
            .args(["controller", "--pod-name=operator", "--log-format=json"])
            .args([HEALTH_PORT, "--gateway-ca"])
            .arg(self.cluster.run_directory().join("gateway-ca.crt"))
            .arg("--gateway-token")
            .arg(token)
            .arg("--price-list")
            .arg(prices)
            .env("RUST_LOG", "info")
            .env("KUBECONFIG", kubeconfig(self.cluster, CONTROLLER)?);
        self.operator = Some(Program::start(self.cluster, "operator", &command)?);
        Ok(())
    }

    /// The operator.
    ///
    /// # Errors
    /// When it does not run.
    pub fn operator(&mut self) -> Result<&Program> {
        let stopped = || unexpected("the operator", "it was not started");
        let operator = self.operator.as_mut().ok_or_else(stopped)?;
        operator.check()?;
        Ok(operator)
    }

    /// Ends the operator.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop_operator(&mut self) -> Result<()> {
        match self.operator.take() {
            Some(operator) => operator.terminate(STOP_LIMIT),
            None => Ok(()),
        }
    }

    /// A client with the operator's rights.
    ///
    /// # Errors
    /// When there are no credentials.
    pub fn operators_client(&self) -> Result<Client> {
        let kubeconfig = kubeconfig(self.cluster, CONTROLLER)?;
        self.runtime.block_on(access::client(&kubeconfig))
    }

    /// The writes of the operator from now on.
    ///
    /// # Errors
    /// When there is no audit log.
    pub fn writes(&self) -> Result<AuditLog> {
        let user = format!("system:serviceaccount:{}:{CONTROLLER}", operator::NAMESPACE);
        AuditLog::of(self.cluster.audit_log(), &user)
    }

    /// The cluster.
    pub fn cluster(&self) -> &'a Cluster {
        self.cluster
    }

    /// An administrator's client; it works within [`Self::run`].
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Runs a future to its end, or to a signal that asks this process to end.
    ///
    /// # Errors
    /// The future's, or [`Error::Interrupted`].
    pub fn run<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime.block_on(async {
            tokio::select! {
                result = future => result,
                interrupted = interrupt::wait() => Err(interrupted),
            }
        })
    }

    /// Asks again and again until `done`.
    ///
    /// # Errors
    /// When that takes longer than `seconds`, or the error of `done`.
    pub fn wait_for(
        &self,
        what: &str,
        seconds: u64,
        mut done: impl AsyncFnMut() -> Result<bool>,
    ) -> Result<()> {
        let limit = Duration::from_secs(seconds);
        let wait = async {
            while !done().await? {
                tokio::time::sleep(super::LOOK).await;
            }
            Ok(())
        };
        self.run(async {
            match tokio::time::timeout(limit, wait).await {
                Ok(waited) => waited,
                Err(_) => Err(Error::Slow {
                    what: what.into(),
                    limit,
                    tail: crate::process::tail(
                        &self.cluster.run_directory().join("log/operator.log"),
                    ),
                }),
            }
        })
    }

    fn token(&self, flags: &[&str]) -> Result<String> {
        token(self.cluster, CONTROLLER, flags)
    }
}

fn token(cluster: &Cluster, account: &str, flags: &[&str]) -> Result<String> {
    let args = [
        "-n",
        operator::NAMESPACE,
        "create",
        "token",
        account,
        "--duration=24h",
    ];
    let token = cluster.kubectl(&[&args, flags].concat())?;
    Ok(token.trim().to_owned())
}

/// The cluster's kubeconfig with the token of a ServiceAccount in place of the administrator's.
fn kubeconfig(cluster: &Cluster, account: &str) -> Result<PathBuf> {
    let path = cluster.kubeconfig();
    let text = fs::read_to_string(&path).while_(|| format!("reading {}", path.display()))?;
    let token = token(cluster, account, &[])?;
    let text = text.replace("{token: admin}", &format!("{{token: {token}}}"));
    write_file(cluster, &format!("kubeconfig-{account}"), text.as_bytes())
}

/// What kubectl shows of an object in the operator's namespace.
fn object<T: DeserializeOwned>(cluster: &Cluster, args: &[&str]) -> Result<T> {
    let args = [&["-n", operator::NAMESPACE, "-o", "json"], args].concat();
    let text = cluster.kubectl(&args)?;
    serde_json::from_str(&text).map_err(|error| unexpected("kubectl", &error.to_string()))
}

fn unexpected(what: &str, why: &str) -> Error {
    Error::Malformed {
        what: what.into(),
        why: why.into(),
    }
}
