use bursar_signals::sources::{Kafka, Sasl, WithoutCommits};

use super::*;

#[test]
fn with_and_without_sasl() {
    let directory = TempDir::new().unwrap();
    let [plain, sasl, controller] = free_ports();
    let ports = servers::kafka::Ports {
        plain,
        sasl,
        controller,
    };
    let command = servers::kafka::server(directory.path(), HOST, ports, ANN).unwrap();
    let server = Server::start(directory.path(), "kafka", command, plain);
    run(
        servers::kafka::producer(HOST, plain, "jobs").unwrap(),
        "a\nb\nc\nd\ne\n",
    );
    let kafka = |without_commits| Kafka {
        brokers: vec![endpoint(plain)],
        group: "workers".into(),
        topic: "jobs".into(),
        sasl: None,
        without_commits,
    };
    let earliest = SignalSource::Kafka(kafka(WithoutCommits::Earliest));
    let latest = SignalSource::Kafka(kafka(WithoutCommits::Latest));
    // the first question makes the topic that commits are kept in
    wait_for(&earliest, &nobody(), 5000);
    // one of each partition that has any
    let first = read(&latest, &nobody()).unwrap();
    assert!((1000..5000).contains(&first), "{first}");
    run(
        servers::kafka::commit(HOST, plain, "workers", "jobs", 0).unwrap(),
        "",
    );
    assert_eq!(read(&latest, &nobody()), Ok(5000));

    let with_sasl = |mechanism| {
        SignalSource::Kafka(Kafka {
            brokers: vec![endpoint(sasl)],
            sasl: mechanism,
            ..kafka(WithoutCommits::Latest)
        })
    };
    for mechanism in [Sasl::Plain, Sasl::ScramSha256, Sasl::ScramSha512] {
        let source = with_sasl(Some(mechanism));
        assert_eq!(read(&source, &ann()), Ok(5000), "{mechanism:?}");
        assert_fails(
            &source,
            &credentials("wrong"),
            Unauthorized,
            "refuses the credentials",
        );
        assert_fails(
            &source,
            &nobody(),
            Unauthorized,
            "needs username and password",
        );
    }
    assert_fails(&with_sasl(None), &nobody(), Unreachable, "SASL");
    let missing = SignalSource::Kafka(Kafka {
        topic: "missing".into(),
        ..kafka(WithoutCommits::Latest)
    });
    assert_fails(&missing, &nobody(), NotFound, "no topic `missing`");
    // reading did not make it
    assert_fails(&missing, &nobody(), NotFound, "no topic `missing`");
    run(
        servers::kafka::commit(HOST, plain, "workers", "jobs", 99).unwrap(),
        "",
    );
    assert_eq!(read(&latest, &nobody()), Ok(0));
    drop(server);
    assert_fails(&latest, &nobody(), Unreachable, "refused");
}
