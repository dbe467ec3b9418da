//! Each source of signals against the server that it reads, on loopback: `cargo test -p bursar-e2e --test servers`. Root is needed,
//! to lay the unpacked servers over the machine's files in namespaces of their own. A first run downloads 150 MB.

#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by ending

mod kafka;
mod nats;
mod prometheus;
mod rabbitmq;
mod redis;

use std::{
    fs,
    io::Write,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bursar_e2e::{
    process,
    servers::{self, TlsFiles, User},
};
use bursar_signals::{
    address_policy::StandardPolicy,
    dial::{Dialer, Endpoint},
    sources::{
        Credentials, SignalSource, SourceError,
        SourceErrorKind::{self, InvalidValue, NotFound, Protocol, Unauthorized, Unreachable},
    },
};
use tempfile::TempDir;

const HOST: &str = "127.0.0.1";
const START_LIMIT: Duration = Duration::from_secs(60);
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
const CHANGE_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);
const ANN: User = User {
    name: "ann",
    password: "s3cret",
};

/// A server that is killed in the end.
struct Server {
    process: Child,
    port: u16,
}

impl Server {
    /// Starts a server, and waits until it listens.
    fn start(directory: &Path, name: &str, mut command: Command, port: u16) -> Self {
        let log = directory.join(format!("{name}.log"));
        let output = fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        let process = command.spawn().unwrap();
        let mut server = Self { process, port };
        let began = Instant::now();
        while TcpStream::connect((HOST, port)).is_err() {
            let has_ended = server.process.try_wait().unwrap().is_some();
            assert!(
                !has_ended && began.elapsed() < START_LIMIT,
                "{}",
                process::tail(&log)
            );
            thread::sleep(POLL);
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
        // what it had started is killed then, and holds the port for a moment
        let began = Instant::now();
        while TcpStream::connect((HOST, self.port)).is_ok() && began.elapsed() < START_LIMIT {
            thread::sleep(POLL);
        }
    }
}

/// Ports that nobody listens on, below those of which Redis' cluster bus would be none.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: Vec<TcpListener> = (0..)
        .map(|_| TcpListener::bind((HOST, 0)).unwrap())
        .filter(|listener| listener.local_addr().unwrap().port() < 55_000)
        .take(N)
        .collect();
    std::array::from_fn(|index| listeners[index].local_addr().unwrap().port())
}

fn endpoint(port: u16) -> Endpoint {
    Endpoint {
        host: HOST.into(),
        port,
        tls: false,
    }
}

fn credentials(password: &str) -> Credentials {
    Credentials {
        username: Some(ANN.name.into()),
        password: Some(password.into()),
        ..Credentials::default()
    }
}

/// The credentials that are right.
fn ann() -> Credentials {
    credentials(ANN.password)
}

fn nobody() -> Credentials {
    Credentials::default()
}

/// Reads a signal once.
fn read(source: &SignalSource, credentials: &Credentials) -> Result<u64, SourceError> {
    let allowed = vec!["127.0.0.0/8".parse().unwrap()];
    let dialer = Dialer::new(Arc::new(StandardPolicy { allowed }));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(source.read(credentials, &dialer))
}

/// Reads until the value is this one, which a server may know only after a while.
fn wait_for(source: &SignalSource, credentials: &Credentials, value: u64) {
    let began = Instant::now();
    loop {
        let read = read(source, credentials);
        if read == Ok(value) {
            return;
        }
        assert!(
            began.elapsed() < CHANGE_LIMIT,
            "{read:?} instead of {value}"
        );
        thread::sleep(POLL);
    }
}

#[track_caller]
fn assert_fails(
    source: &SignalSource,
    credentials: &Credentials,
    kind: SourceErrorKind,
    words: &str,
) {
    let error = read(source, credentials).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(
        error.to_string().contains(words),
        "no `{words}` in: {error}"
    );
    assert!(!error.to_string().contains(ANN.password), "{error}");
}

/// Runs a program to its end, with this as its standard input.
fn run(mut command: Command, input: &str) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < COMMAND_LIMIT, "{command:?} does not end");
        thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}{errors}");
    text + &errors
}

/// An authority, and a certificate for [`HOST`] that it signed.
fn tls_files(directory: &Path) -> TlsFiles {
    let write = |name: &str, pem: String| -> PathBuf {
        let path = directory.join(name);
        fs::write(&path, pem).unwrap();
        path
    };
    let mut parameters = rcgen::CertificateParams::new(vec![]).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    // of another name than the certificate, which OpenSSL takes for its own authority otherwise
    let name = &mut parameters.distinguished_name;
    name.push(rcgen::DnType::CommonName, "authority");
    let key = rcgen::KeyPair::generate().unwrap();
    let authority = rcgen::CertifiedIssuer::self_signed(parameters, key).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let parameters = rcgen::CertificateParams::new(vec![HOST.to_owned()]).unwrap();
    let certificate = parameters.signed_by(&key, &authority).unwrap();
    TlsFiles {
        authority: write("ca.crt", authority.pem()),
        certificate: write("tls.crt", certificate.pem()),
        key: write("tls.key", key.serialize_pem()),
    }
}
