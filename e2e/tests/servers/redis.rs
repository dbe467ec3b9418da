use bursar_signals::sources::{Redis, RedisMeasure, RedisMode};

use super::*;

fn redis(port: u16, measure: RedisMeasure) -> Redis {
    Redis {
        addresses: vec![endpoint(port)],
        mode: RedisMode::Standalone,
        database: 0,
        measure,
    }
}

fn list(key: &str) -> RedisMeasure {
    RedisMeasure::List { key: key.into() }
}

fn stream(key: &str, group: Option<&str>) -> RedisMeasure {
    RedisMeasure::Stream {
        key: key.into(),
        group: group.map(str::to_owned),
    }
}

/// Runs commands of Redis, one a line.
fn redis_commands(port: u16, options: &[&str], commands: &str) {
    let mut client = servers::redis::client(HOST, port).unwrap();
    client.args(["--no-auth-warning"]).args(options);
    let output = run(client, commands);
    let has_failed = ["ERR", "CLUSTERDOWN", "Could not", "error"]
        .iter()
        .any(|word| output.contains(word));
    assert!(!has_failed, "{output}");
}

/// Waits until a node knows that the cluster serves all slots.
fn wait_for_cluster(port: u16) {
    let began = Instant::now();
    loop {
        let mut client = servers::redis::client(HOST, port).unwrap();
        client.args(["cluster", "info"]);
        let state = run(client, "");
        if state.contains("cluster_state:ok") {
            return;
        }
        assert!(began.elapsed() < CHANGE_LIMIT, "{state}");
        thread::sleep(POLL);
    }
}

#[test]
fn with_a_password() {
    let directory = TempDir::new().unwrap();
    let [port] = free_ports();
    let options = servers::redis::Options {
        password: Some(ANN.password),
        ..Default::default()
    };
    let start = || {
        let command = servers::redis::server(directory.path(), HOST, port, options).unwrap();
        Server::start(directory.path(), "redis", command, port)
    };
    let server = start();
    let fill = "RPUSH jobs a b c\nXGROUP CREATE events workers $ MKSTREAM\n\
        XADD events * a 1\nXADD events * a 2\nXADD events * a 3\n\
        XREADGROUP GROUP workers w COUNT 1 STREAMS events >\nSELECT 2\nRPUSH jobs a\n";
    redis_commands(port, &["-a", ANN.password], fill);
    let password = Credentials {
        password: Some(ANN.password.into()),
        ..nobody()
    };
    let source = |measure| SignalSource::Redis(redis(port, measure));
    assert_eq!(read(&source(list("jobs")), &password), Ok(3000));
    assert_eq!(read(&source(list("missing")), &password), Ok(0));
    assert_eq!(read(&source(stream("events", None)), &password), Ok(3000));
    // one is delivered, two are not
    assert_eq!(
        read(&source(stream("events", Some("workers"))), &password),
        Ok(3000)
    );
    let second = SignalSource::Redis(Redis {
        database: 2,
        ..redis(port, list("jobs"))
    });
    assert_eq!(read(&second, &password), Ok(1000));

    let jobs = source(list("jobs"));
    assert_fails(
        &source(stream("events", Some("x"))),
        &password,
        NotFound,
        "no group `x`",
    );
    assert_fails(
        &source(stream("missing", Some("x"))),
        &password,
        NotFound,
        "no stream `missing`",
    );
    assert_fails(&source(list("events")), &password, InvalidValue, "`events`");
    assert_fails(
        &source(stream("jobs", None)),
        &password,
        InvalidValue,
        "is no stream",
    );
    assert_fails(&jobs, &nobody(), Unauthorized, "Authentication required");
    let wrong = Credentials {
        password: Some("wrong".into()),
        ..nobody()
    };
    assert_fails(
        &jobs,
        &wrong,
        Unauthorized,
        "invalid username-password pair",
    );
    let tls = SignalSource::Redis(Redis {
        addresses: vec![Endpoint {
            tls: true,
            ..endpoint(port)
        }],
        ..redis(port, list("jobs"))
    });
    assert_fails(&tls, &password, Unreachable, "TLS");
    drop(server);
    assert_fails(&jobs, &password, Unreachable, "refused");
    let _server = start();
    assert_eq!(read(&jobs, &password), Ok(0));
}

#[test]
fn over_tls() {
    let directory = TempDir::new().unwrap();
    let files = tls_files(directory.path());
    let [port] = free_ports();
    let options = servers::redis::Options {
        tls: Some(&files),
        ..Default::default()
    };
    let command = servers::redis::server(directory.path(), HOST, port, options).unwrap();
    let _server = Server::start(directory.path(), "redis", command, port);
    let authority = files.authority.to_str().unwrap();
    redis_commands(port, &["--tls", "--cacert", authority], "RPUSH jobs a b\n");
    let source = SignalSource::Redis(Redis {
        addresses: vec![Endpoint {
            tls: true,
            ..endpoint(port)
        }],
        ..redis(port, list("jobs"))
    });
    let trusting = Credentials {
        ca: Some(fs::read(&files.authority).unwrap()),
        ..nobody()
    };
    assert_eq!(read(&source, &trusting), Ok(2000));
    assert_fails(&source, &nobody(), Unreachable, "unknown authority");
    let plain = SignalSource::Redis(redis(port, list("jobs")));
    assert_fails(&plain, &nobody(), Unreachable, "broke");
}

#[test]
fn behind_a_sentinel() {
    let directory = TempDir::new().unwrap();
    let [port, sentinel_port] = free_ports();
    let options = servers::redis::Options {
        password: Some(ANN.password),
        ..Default::default()
    };
    let path = directory.path();
    let command = servers::redis::server(path, HOST, port, options).unwrap();
    let _server = Server::start(path, "redis", command, port);
    redis_commands(port, &["-a", ANN.password], "RPUSH jobs a b c d\n");
    let password = Some(ANN.password);
    let command = servers::redis::sentinel(path, HOST, sentinel_port, "main", port, password);
    let _sentinel = Server::start(path, "sentinel", command.unwrap(), sentinel_port);
    let source = |addresses: Vec<u16>, master_name: &str| {
        SignalSource::Redis(Redis {
            addresses: addresses.into_iter().map(endpoint).collect(),
            mode: RedisMode::Sentinel {
                master_name: master_name.into(),
            },
            ..redis(port, list("jobs"))
        })
    };
    let password = Credentials {
        password: Some(ANN.password.into()),
        ..nobody()
    };
    assert_eq!(
        read(&source(vec![sentinel_port], "main"), &password),
        Ok(4000)
    );
    assert_eq!(
        read(&source(vec![1, sentinel_port], "main"), &password),
        Ok(4000)
    );
    assert_fails(
        &source(vec![sentinel_port], "other"),
        &password,
        NotFound,
        "`other`",
    );
    assert_fails(
        &source(vec![port], "main"),
        &password,
        Protocol,
        "is no sentinel",
    );
}

#[test]
fn cluster_of_three() {
    let directory = TempDir::new().unwrap();
    let ports: [u16; 3] = free_ports();
    let options = servers::redis::Options {
        cluster: true,
        ..Default::default()
    };
    let _servers = ports.map(|port| {
        let command = servers::redis::server(directory.path(), HOST, port, options).unwrap();
        Server::start(directory.path(), &format!("redis-{port}"), command, port)
    });
    let mut create = servers::redis::client(HOST, ports[0]).unwrap();
    create.args(["--cluster", "create"]);
    create
        .args(ports.map(|port| format!("{HOST}:{port}")))
        .arg("--cluster-yes");
    run(create, "");
    ports.into_iter().for_each(wait_for_cluster);
    // each of these keys is on another node
    for (key, length) in [("a", 1), ("b", 2), ("c", 3)] {
        let elements = "x ".repeat(length);
        redis_commands(ports[0], &["-c"], &format!("RPUSH {key} {elements}\n"));
        for port in ports {
            let mut source = redis(port, list(key));
            source.mode = RedisMode::Cluster;
            let value = u64::try_from(length).unwrap() * 1000;
            wait_for(&SignalSource::Redis(source), &nobody(), value);
        }
    }
    let reads = ports.map(|port| read(&SignalSource::Redis(redis(port, list("a"))), &nobody()));
    let moved: Vec<_> = reads
        .iter()
        .filter_map(|read| read.as_ref().err())
        .collect();
    assert_eq!(moved.len(), 2);
    assert!(
        moved[0].to_string().contains("set the mode to Cluster"),
        "{moved:?}"
    );
}
