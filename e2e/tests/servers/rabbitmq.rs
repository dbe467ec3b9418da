use std::io::Read;

use bursar_signals::sources::{RabbitMq, RabbitMqProtocol};

use super::*;

/// Sends a request to RabbitMQ's management API.
fn manage(port: u16, method: &str, path: &str, body: &str) {
    let mut stream = TcpStream::connect((HOST, port)).unwrap();
    stream.set_read_timeout(Some(COMMAND_LIMIT)).unwrap();
    let length = body.len();
    let request = format!(
        "{method} /api/{path} HTTP/1.1\r\nhost: {HOST}\r\nauthorization: Basic YW5uOnMzY3JldA==\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 20"),
        "{method} {path}: {answer}"
    );
}

#[test]
fn by_amqp_and_by_the_management_api() {
    let directory = TempDir::new().unwrap();
    let [amqp, management, distribution, names] = free_ports();
    let ports = servers::rabbitmq::Ports {
        amqp,
        management,
        distribution,
        names,
    };
    let command = servers::rabbitmq::server(directory.path(), HOST, ports, ANN).unwrap();
    let server = Server::start(directory.path(), "rabbitmq", command, management);
    let source = |protocol, vhost: &str, queue: &str| {
        let port = match protocol {
            RabbitMqProtocol::Amqp => amqp,
            RabbitMqProtocol::Management => management,
        };
        SignalSource::RabbitMq(RabbitMq {
            endpoint: endpoint(port),
            protocol,
            vhost: vhost.into(),
            queue: queue.into(),
        })
    };
    manage(management, "PUT", "queues/%2F/jobs", r#"{"durable":true}"#);
    let message =
        r#"{"properties":{},"routing_key":"jobs","payload":"a","payload_encoding":"string"}"#;
    for _ in 0..3 {
        manage(
            management,
            "POST",
            "exchanges/%2F/amq.default/publish",
            message,
        );
    }
    for protocol in [RabbitMqProtocol::Amqp, RabbitMqProtocol::Management] {
        let jobs = source(protocol, "/", "jobs");
        wait_for(&jobs, &ann(), 3000);
        assert_fails(
            &source(protocol, "/", "missing"),
            &ann(),
            NotFound,
            "missing",
        );
        assert_fails(
            &source(protocol, "other", "jobs"),
            &ann(),
            NotFound,
            "other",
        );
        assert_fails(&jobs, &credentials("wrong"), Unauthorized, "refuse");
    }
    // a user who may connect and nothing else
    manage(
        management,
        "PUT",
        "users/bob",
        r#"{"password":"b0b","tags":""}"#,
    );
    let none = r#"{"configure":"","write":"","read":""}"#;
    manage(management, "PUT", "permissions/%2F/bob", none);
    let bob = Credentials {
        username: Some("bob".into()),
        password: Some("b0b".into()),
        ..nobody()
    };
    assert_eq!(
        read(&source(RabbitMqProtocol::Amqp, "/", "jobs"), &bob),
        Ok(3000)
    );
    drop(server);
    assert_fails(
        &source(RabbitMqProtocol::Amqp, "/", "jobs"),
        &ann(),
        Unreachable,
        "refused",
    );
}
