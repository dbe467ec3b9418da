//! The phases of the benchmark: at zero, at rest with a replica each, all queues jump at once, and
//! the two floors.

use std::{
    collections::BTreeMap,
    env, fs,
    net::IpAddr,
    process::Command,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{
    Installation, Programs, Services,
    audit::{self, Write},
    fleet::{self, PageSize},
    floor::{self, BareReader},
    services::JUMP,
    table::{Table, percent, percentile, seconds},
    usage::{Cpu, Usage},
};
use crate::{
    Cluster, NodeOptions, Options as ClusterOptions,
    bench_cluster::measure_on,
    error::{Error, Result, While},
    interrupt, process,
};

const CLUSTER: &str = "bench-scale";
/// Nothing is decided any more.
const SETTLED: Duration = Duration::from_secs(10);
/// One replica runs, one comes with the jump, and the bare client adds one.
const ROOM: usize = 3;

/// What is measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// The services.
    pub services: Services,
    /// Time of each measurement at rest.
    pub rest: Duration,
    /// Pages of the engines while their queues jump.
    pub jump_page: PageSize,
    /// Patches that the bare client sends at the same time.
    pub concurrency: usize,
    /// Whether the operator is built as it is meant to run.
    pub optimized: bool,
}

/// A measurement over a time in which nothing is to do.
struct IdleUsage {
    name: String,
    operator: Cpu,
    gateway: Cpu,
    resident: f64,
    peak: f64,
    reads: f64,
    writes: Vec<Write>,
}

/// From the jump of all queues to the patches of the Deployments.
struct Jump {
    name: String,
    /// Seconds from the jump to each Deployment's first patch, sorted.
    times: Vec<f64>,
    /// Deployments that were patched more than once.
    again: usize,
    writes: Vec<Write>,
}

/// Boots a cluster, measures, prints tables on standard output, and removes all it made.
///
/// # Errors
/// When a phase fails or a signal ends it. The cluster is stopped then too; after a failure its
/// logs stay.
pub fn run(options: &Options) -> Result<()> {
    interrupt::catch()?;
    let services = options.services;
    progress("building the operator");
    let programs = Programs::build(options.optimized)?;
    let nodes = services.nodes(ROOM);
    progress(&format!(
        "booting a control plane with {nodes} simulated nodes"
    ));
    let cluster = ClusterOptions {
        nodes: vec![NodeOptions::h100(8).simulated(); nodes],
        ..ClusterOptions::new(CLUSTER)
    };
    measure_on(&cluster, |cluster| measure(options, cluster, &programs))
}

fn progress(what: &str) {
    eprintln!("scale: {what}");
}

/// Seconds for something that takes longer the more services there are.
fn limit(services: &Services) -> u64 {
    120 + services.count as u64 / 2
}

fn measure(options: &Options, cluster: &Cluster, programs: &Programs) -> Result<()> {
    let services = options.services;
    progress("installing the chart");
    let mut installation = Installation::start(cluster, programs)?;
    installation.start_operator()?;
    progress(&format!("creating {} services", services.count));
    let began = Instant::now();
    let client = installation.client();
    installation.run(services.create(&client))?;
    let gateway = installation.gateway_address;
    wait_for_ports(&installation, &services, gateway)?;
    progress(&format!(
        "all have a port after {:.0} s",
        began.elapsed().as_secs_f64()
    ));
    settle(&installation, &services)?;

    let mut idle = vec![measure_idle(&mut installation, "at zero", options.rest)?];
    progress("one replica for each service");
    let began = Instant::now();
    installation.run(services.set_min_replicas(&client, 1))?;
    wait_for_replicas(&installation, &services, 1)?;
    progress(&format!(
        "all are ready after {:.0} s",
        began.elapsed().as_secs_f64()
    ));
    settle(&installation, &services)?;
    for size in [PageSize::Small, PageSize::Full] {
        installation.run(fleet::set_page_size(size))?;
        let name = format!("{} replicas, {} pages", services.count, size.word());
        idle.push(measure_idle(&mut installation, &name, options.rest)?);
    }

    installation.run(fleet::set_page_size(options.jump_page))?;
    // the last page of the old size has been read
    interrupt::sleep(Duration::from_secs(3))?;
    let first: Vec<String> = installation
        .run(services.replicas(&client))?
        .into_values()
        .flatten()
        .collect();
    progress("all queues jump");
    let (operator, reads) = jump(&installation, &services, &first)?;
    wait_for_replicas(&installation, &services, 2)?;
    settle(&installation, &services)?;

    progress("the operator stops; the floors");
    installation.stop_operator()?;
    set_depths(&installation, &first, 0)?;
    let mut readers = Vec::new();
    for size in [PageSize::Small, PageSize::Full] {
        installation.run(fleet::set_page_size(size))?;
        readers.push(bare_reader(cluster, &first, options.rest)?);
    }
    let client = bare_client(&installation, &services, &operator, options.concurrency)?;
    print(options, &idle, &readers, &[operator, client], &reads);
    Ok(())
}

fn wait_for_ports(installation: &Installation, services: &Services, gateway: IpAddr) -> Result<()> {
    let client = installation.client();
    let pause = pause(services);
    installation.wait_for("a port for each service", limit(services), async || {
        tokio::time::sleep(pause).await;
        Ok(services.held_at(&client, gateway).await?.is_some())
    })
}

fn wait_for_replicas(installation: &Installation, services: &Services, each: usize) -> Result<()> {
    let client = installation.client();
    let pause = pause(services);
    let what = format!("{each} replicas of each service");
    installation.wait_for(&what, 2 * limit(services), async || {
        tokio::time::sleep(pause).await;
        let replicas = services.replicas(&client).await?;
        Ok(replicas.len() == services.count && replicas.values().all(|all| all.len() >= each))
    })
}

/// Lists of a thousand objects cost the API server what is measured later: they are asked for
/// rarely.
fn pause(services: &Services) -> Duration {
    Duration::from_secs(services.count as u64 / 250)
}

/// Waits until nothing is decided any more.
fn settle(installation: &Installation, services: &Services) -> Result<()> {
    let limit = Duration::from_secs(limit(services));
    let quiet = installation
        .writes()?
        .wait_until_quiet(audit::decides, SETTLED, limit);
    quiet.map(drop)
}

fn measure_idle(installation: &mut Installation, name: &str, time: Duration) -> Result<IdleUsage> {
    progress(&format!("{name}, {} s", time.as_secs()));
    let operator = installation.operator()?.identity();
    let gateway = installation.gateway.identity();
    let mut log = installation.writes()?;
    let reads = installation.run(fleet::reads())?;
    let (before, gateway_before) = (Usage::of(operator)?, Usage::of(gateway)?);
    interrupt::sleep(time)?;
    let (after, gateway_after) = (Usage::of(operator)?, Usage::of(gateway)?);
    let reads = installation.run(fleet::reads())? - reads;
    Ok(IdleUsage {
        name: name.to_owned(),
        operator: after.since(&before),
        gateway: gateway_after.since(&gateway_before),
        resident: after.resident,
        peak: after.peak,
        reads: reads / time.as_secs_f64(),
        writes: log.read()?,
    })
}

fn set_depths(installation: &Installation, addresses: &[String], depth: u64) -> Result<f64> {
    let depths: BTreeMap<String, u64> = addresses.iter().map(|it| (it.clone(), depth)).collect();
    installation.run(fleet::set_depths(&depths))
}

/// Lets all queues jump and waits for a patch of each Deployment. Returns with it the pages read in
/// each second until then.
fn jump(
    installation: &Installation,
    services: &Services,
    addresses: &[String],
) -> Result<(Jump, Vec<f64>)> {
    let mut log = installation.writes()?;
    let mut count = installation.run(fleet::reads())?;
    let mut reads = Vec::new();
    let began = Instant::now();
    let at = set_depths(installation, addresses, JUMP)?;
    let mut writes = Vec::new();
    while audit::scalings(&writes, 2).len() < services.count {
        if began.elapsed().as_secs() > limit(services) {
            progress("not every Deployment was patched in time");
            break;
        }
        interrupt::sleep(Duration::from_secs(1))?;
        let now = installation.run(fleet::reads())?;
        reads.push(now - count);
        count = now;
        writes.extend(log.read()?);
    }
    let limit = Duration::from_secs(limit(services));
    writes.extend(log.wait_until_quiet(audit::decides, SETTLED, limit)?);
    Ok((Jump::new("operator", at, 2, writes), reads))
}

impl Jump {
    fn new(name: &str, at: f64, replicas: u64, writes: Vec<Write>) -> Self {
        let scalings = audit::scalings(&writes, replicas);
        let firsts = scalings.values().filter_map(|all| all.first());
        let mut times: Vec<f64> = firsts.map(|write| write.at - at).collect();
        times.sort_by(f64::total_cmp);
        let again = scalings.values().filter(|all| all.len() > 1).count();
        Self {
            name: name.to_owned(),
            times,
            again,
            writes,
        }
    }
}

/// Runs this program once more, as a reader of the same pages.
fn bare_reader(cluster: &Cluster, addresses: &[String], time: Duration) -> Result<BareReader> {
    progress("bare reader");
    let file = cluster.run_directory().join("addresses");
    fs::write(&file, addresses.join("\n")).while_(|| format!("writing {}", file.display()))?;
    let program = env::current_exe().while_(|| "looking for this program".into())?;
    let mut command = Command::new(program);
    command.arg("--bare-reader").arg(&file);
    command.args(["--rest", &time.as_secs().to_string()]);
    let output = process::run(&mut command, time + Duration::from_secs(60))?;
    serde_json::from_str(&output.stdout).map_err(|error| Error::Malformed {
        what: "the bare reader's result".into(),
        why: format!("{error}: {}", output.stdout),
    })
}

/// Sends the operator's patches once more, with its credentials.
fn bare_client(
    installation: &Installation,
    services: &Services,
    operator: &Jump,
    concurrency: usize,
) -> Result<Jump> {
    progress("bare client");
    let client = installation.operators_client()?;
    let versions = installation.run(services.deployment_versions(&client))?;
    let patches: BTreeMap<&str, &Write> = audit::scalings(&operator.writes, 2)
        .into_iter()
        .filter_map(|(deployment, writes)| Some((deployment, *writes.first()?)))
        .collect();
    let mut log = installation.writes()?;
    let at = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let sent = floor::send_patches(&client, &patches, &versions, concurrency);
    let done = installation.run(sent)?;
    if let Some((count, first)) = done.refused {
        progress(&format!(
            "{count} patches of the bare client were refused: {first}"
        ));
    }
    // the log may be written a moment after an answer was sent
    interrupt::sleep(Duration::from_secs(1))?;
    let name = format!("bare client, {concurrency} at a time");
    Ok(Jump::new(&name, at.as_secs_f64(), 3, log.read()?))
}

fn print(
    options: &Options,
    idle: &[IdleUsage],
    readers: &[BareReader],
    jumps: &[Jump],
    reads: &[f64],
) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "\n{} services in {} namespaces, {cores} cores; each row at rest took {} s\n",
        options.services.count,
        options.services.namespaces,
        options.rest.as_secs()
    );
    println!("{}", idle_table(idle, readers));
    for rest in idle {
        println!("writes {}: {}", rest.name, kinds(&rest.writes));
    }
    println!("\n{}", jump_table(options.services.count, jumps));
    if let Some(operator) = jumps.first() {
        println!("writes in the jump: {}", kinds(&operator.writes));
    }
    let mut sorted = reads.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |part| percentile(&sorted, part).unwrap_or(0.0);
    println!(
        "pages read a second in the jump, {} pages: {:.0} at the median, {:.0} at least",
        options.jump_page.word(),
        at(0.5),
        at(0.0)
    );
}

fn idle_table(idle: &[IdleUsage], readers: &[BareReader]) -> Table {
    let mut table = Table::new(&[
        "at rest", "user", "system", "CPU", "memory", "peak", "reads/s", "gateway", "machine",
    ]);
    for (index, rest) in idle.iter().enumerate() {
        table.row(vec![
            rest.name.clone(),
            percent(rest.operator.user),
            percent(rest.operator.system),
            percent(rest.operator.total()),
            format!("{:.0} MiB", rest.resident),
            format!("{:.0} MiB", rest.peak),
            format!("{:.0}", rest.reads),
            percent(rest.gateway.total()),
            percent(rest.operator.machine),
        ]);
        // the first one reads no page
        if let Some(reader) = index.checked_sub(1).and_then(|index| readers.get(index)) {
            let failed = match reader.failed {
                0 => String::new(),
                failed => format!(", {failed} failed"),
            };
            table.row(vec![
                format!("  bare reader, {:.0} bytes{failed}", reader.bytes),
                percent(reader.user),
                percent(reader.system),
                percent(reader.total()),
                String::new(),
                String::new(),
                format!("{:.0}", reader.reads),
            ]);
            let ratio = rest.operator.total() / reader.total();
            table.row(vec![
                "  operator / bare reader".to_owned(),
                String::new(),
                String::new(),
                format!("{ratio:.2}"),
            ]);
        }
    }
    table
}

fn jump_table(services: usize, jumps: &[Jump]) -> Table {
    let mut table = Table::new(&[
        "all queues jump",
        "median",
        "p90",
        "last",
        "patched",
        "again",
    ]);
    for jump in jumps {
        let at = |part| percentile(&jump.times, part).map_or("-".to_owned(), seconds);
        table.row(vec![
            jump.name.clone(),
            at(0.5),
            at(0.9),
            at(1.0),
            format!("{} of {services}", jump.times.len()),
            jump.again.to_string(),
        ]);
    }
    table
}

fn kinds(writes: &[Write]) -> String {
    let kinds = audit::by_kind(writes);
    if kinds.is_empty() {
        return "none".to_owned();
    }
    let words = kinds.iter().map(|(kind, count)| format!("{count} {kind}"));
    words.collect::<Vec<_>>().join(", ")
}
