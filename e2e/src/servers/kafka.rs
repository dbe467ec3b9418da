//! Kafka: one process that is broker and controller. Debian has no package of it; its jars come from Maven Central, each with its
//! hash in `e2e/tools/kafka/jars.txt`, and run on Debian's Java.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{User, make_directory, write_file};
use crate::{
    error::{Error, Result},
    process,
    unpacked::Unpacked,
};

/// Jars of `kafka_2.13` and of `kafka-tools` with what they need to serve, produce and commit: a hash and a path in a line.
const JARS: &str = include_str!("../../tools/kafka/jars.txt");
const REPOSITORY: &str = "https://repo1.maven.org/maven2/";
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(5 * 60);
const FORMAT_LIMIT: Duration = Duration::from_secs(60);
/// An installation would make a link to it in `/usr/bin`.
const JAVA: &str = "/usr/lib/jvm/default-java/bin/java";
/// Any one will do for one node.
const CLUSTER_ID: &str = "MkU3OEVBNTcwNTJENDM2Qk";
/// The partitions of a topic that is made by its first message.
pub const PARTITIONS: u32 = 3;

/// The ports of a broker.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// For anybody.
    pub plain: u16,
    /// For the user, by SASL's PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512.
    pub sasl: u16,
    /// For the controller.
    pub controller: u16,
}

/// A broker, which names itself `address`. Its storage is formatted here.
///
/// # Errors
/// When it cannot be unpacked, or its storage not be formatted.
pub fn server(directory: &Path, address: &str, ports: Ports, user: User) -> Result<Command> {
    let own = make_directory(directory, &format!("kafka-{}", ports.plain))?;
    let User { name, password } = user;
    let Ports {
        plain,
        sasl,
        controller,
    } = ports;
    let listeners = format!("PLAINTEXT://{address}:{plain},SASL_PLAINTEXT://{address}:{sasl}");
    let modules = "org.apache.kafka.common.security";
    let lines = [
        "process.roles=broker,controller".into(),
        "node.id=1".into(),
        format!("controller.quorum.bootstrap.servers={address}:{controller}"),
        "controller.listener.names=CONTROLLER".into(),
        format!("listeners={listeners},CONTROLLER://{address}:{controller}"),
        format!("advertised.listeners={listeners}"),
        "inter.broker.listener.name=PLAINTEXT".into(),
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT".into(),
        "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512".into(),
        format!(
            "listener.name.sasl_plaintext.plain.sasl.jaas.config=\
             {modules}.plain.PlainLoginModule required user_{name}=\"{password}\";"
        ),
        format!("listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config={modules}.scram.ScramLoginModule required;"),
        format!("listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config={modules}.scram.ScramLoginModule required;"),
        format!("log.dirs={}", own.join("data").display()),
        format!("num.partitions={PARTITIONS}"),
        "offsets.topic.num.partitions=1".into(),
        "offsets.topic.replication.factor=1".into(),
        String::new(),
    ];
    let configuration = write_file(&own, "server.properties", &lines.join("\n"))?;
    if !own.join("data/meta.properties").exists() {
        let mut format = java("kafka.tools.StorageTool")?;
        format
            .args(["format", "--standalone", "--cluster-id", CLUSTER_ID])
            .arg("--config")
            .arg(&configuration);
        for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
            let user = format!("{mechanism}=[name={name},password={password}]");
            format.args(["--add-scram", &user]);
        }
        process::run(&mut format, FORMAT_LIMIT)?;
    }
    let mut command = java("kafka.Kafka")?;
    command.arg(configuration);
    Ok(command)
}

/// A program that sends each line of its standard input as a message.
///
/// # Errors
/// When it cannot be unpacked.
pub fn producer(address: &str, port: u16, topic: &str) -> Result<Command> {
    let mut command = java("org.apache.kafka.tools.ConsoleProducer")?;
    command.args([
        "--bootstrap-server",
        &format!("{address}:{port}"),
        "--topic",
        topic,
    ]);
    Ok(command)
}

/// A program that commits an offset for a group without members, in each partition of the topic (`TOPIC`) or in one
/// (`TOPIC:PARTITION`): at most the partition's last.
///
/// # Errors
/// When it cannot be unpacked.
pub fn commit(address: &str, port: u16, group: &str, topic: &str, offset: u64) -> Result<Command> {
    let mut command = java("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand")?;
    command
        .args(["--bootstrap-server", &format!("{address}:{port}")])
        .args(["--group", group, "--topic", topic, "--reset-offsets"])
        .args(["--to-offset", &offset.to_string(), "--execute"]);
    Ok(command)
}

pub(super) struct Programs {
    java: Unpacked,
    jars: Unpacked,
}

pub(super) fn unpacked() -> Result<Programs> {
    Ok(Programs {
        // Debian's default has the version of the release
        java: Unpacked::packages("java", &["default-jre-headless"])?,
        jars: Unpacked::make("servers", "kafka", download)?,
    })
}

/// A program of Kafka.
fn java(class: &str) -> Result<Command> {
    let Programs { java, jars } = unpacked()?;
    let mut command = java.command(JAVA);
    // small, and soon started
    command.args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp"]);
    command.arg(jars.root().join("*")).arg(class);
    Ok(command)
}

/// Downloads the jars, and checks their hashes.
fn download(directory: &Path) -> Result<()> {
    eprintln!("setup: downloading Kafka's jars into the cache");
    for line in JARS.lines() {
        let malformed = || Error::Malformed {
            what: "e2e/tools/kafka/jars.txt".into(),
            why: format!("`{line}` is no hash and path"),
        };
        let (hash, path) = line.split_once(' ').ok_or_else(malformed)?;
        let name: PathBuf = Path::new(path).file_name().ok_or_else(malformed)?.into();
        // apt's own program for downloads is on every machine that has apt
        let mut command = Command::new("/usr/lib/apt/apt-helper");
        command
            .args(["-o", "APT::Sandbox::User=root", "download-file"])
            .arg(format!("{REPOSITORY}{path}"))
            .arg(directory.join(name))
            .arg(format!("SHA256:{hash}"));
        process::run(&mut command, DOWNLOAD_LIMIT)?;
    }
    Ok(())
}
