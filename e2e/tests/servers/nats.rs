use std::io::{BufRead, BufReader, Read};

use bursar_signals::sources::Nats;

use super::*;

/// A client of NATS that sends requests.
struct NatsClient(BufReader<TcpStream>);

impl NatsClient {
    fn connect(port: u16) -> Self {
        let stream = TcpStream::connect((HOST, port)).unwrap();
        stream.set_read_timeout(Some(COMMAND_LIMIT)).unwrap();
        let User { name, password } = ANN;
        let connect = format!(r#"CONNECT {{"verbose":false,"user":"{name}","pass":"{password}"}}"#);
        let mut client = Self(BufReader::new(stream));
        client.send(&format!("{connect}\r\nSUB reply 1\r\n"));
        client
    }

    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn request(&mut self, subject: &str, payload: &str) -> String {
        let length = payload.len();
        self.send(&format!("PUB {subject} reply {length}\r\n{payload}\r\n"));
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0);
            assert!(!line.starts_with("-ERR"), "{line}");
            if line.starts_with("MSG ") {
                let bytes = line.split_whitespace().last().unwrap().parse::<usize>();
                let mut payload = vec![0; bytes.unwrap() + 2];
                self.0.read_exact(&mut payload).unwrap();
                return String::from_utf8(payload).unwrap();
            }
        }
    }
}

#[test]
fn with_a_user() {
    let directory = TempDir::new().unwrap();
    let [port] = free_ports();
    let start = || {
        let command = servers::nats::server(directory.path(), HOST, port, Some(ANN), None);
        Server::start(directory.path(), "nats", command.unwrap(), port)
    };
    let server = start();
    let source = |stream: &str, consumer: &str| {
        SignalSource::Nats(Nats {
            endpoint: endpoint(port),
            stream: stream.into(),
            consumer: consumer.into(),
        })
    };
    let workers = source("JOBS", "workers");
    assert_fails(&workers, &ann(), NotFound, "stream not found");
    let mut client = NatsClient::connect(port);
    client.request(
        "$JS.API.STREAM.CREATE.JOBS",
        r#"{"name":"JOBS","subjects":["jobs"]}"#,
    );
    let consumer = r#"{"durable_name":"workers","ack_policy":"explicit"}"#;
    let consumer = format!(r#"{{"stream_name":"JOBS","config":{consumer}}}"#);
    client.request("$JS.API.CONSUMER.DURABLE.CREATE.JOBS.workers", &consumer);
    for _ in 0..5 {
        client.request("jobs", "a");
    }
    // one is delivered and not acknowledged
    client.request("$JS.API.CONSUMER.MSG.NEXT.JOBS.workers", "1");
    assert_eq!(read(&workers, &ann()), Ok(5000));
    assert_fails(
        &source("JOBS", "others"),
        &ann(),
        NotFound,
        "consumer not found",
    );
    assert_fails(&workers, &nobody(), Unauthorized, "wants a user");
    assert_fails(
        &workers,
        &credentials("wrong"),
        Unauthorized,
        "Authorization Violation",
    );
    drop(server);
    assert_fails(&workers, &ann(), Unreachable, "refused");
    let _server = start();
    wait_for(&workers, &ann(), 5000);
}

#[test]
fn over_tls() {
    let directory = TempDir::new().unwrap();
    let files = tls_files(directory.path());
    let [port] = free_ports();
    let command = servers::nats::server(directory.path(), HOST, port, None, Some(&files));
    let _server = Server::start(directory.path(), "nats", command.unwrap(), port);
    let source = |tls| {
        SignalSource::Nats(Nats {
            endpoint: Endpoint {
                tls,
                ..endpoint(port)
            },
            stream: "JOBS".into(),
            consumer: "workers".into(),
        })
    };
    let trusting = Credentials {
        ca: Some(fs::read(&files.authority).unwrap()),
        ..nobody()
    };
    // the answer came through TLS
    assert_fails(&source(true), &trusting, NotFound, "stream not found");
    assert_fails(&source(true), &nobody(), Unreachable, "unknown authority");
    assert_fails(&source(false), &trusting, Unreachable, "wants TLS");
}
