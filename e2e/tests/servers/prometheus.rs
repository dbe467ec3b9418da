use bursar_signals::sources::{HttpUrl, Prometheus};

use super::*;

#[test]
fn confined_to_a_namespace() {
    let directory = TempDir::new().unwrap();
    let [port] = free_ports();
    let address = format!("{HOST}:{port}");
    let target = |namespace| servers::prometheus::Target {
        job: namespace,
        address: &address,
        namespace,
    };
    let targets = [target("team"), target("other")];
    let command = servers::prometheus::server(directory.path(), HOST, port, &targets).unwrap();
    let _server = Server::start(directory.path(), "prometheus", command, port);
    let url = HttpUrl::parse(&format!("http://{address}")).unwrap();
    let source = |query: &str, label| {
        SignalSource::Prometheus(Prometheus::new(url.clone(), query, label).unwrap())
    };
    let team = Some(("namespace", "team"));
    let confined = |query: &str| source(query, team);
    wait_for(&source("sum(up)", None), &nobody(), 2000);
    assert_eq!(read(&confined("sum(up)"), &nobody()), Ok(1000));
    let other = r#"sum(up{namespace="other"}) + scalar(sum(up{namespace=~".+"})) / 4"#;
    assert_eq!(read(&confined(other), &nobody()), Ok(1250));
    assert_eq!(
        read(&confined(r#"topk(scalar(sum(up)), up)"#), &nobody()),
        Ok(1000)
    );
    assert_fails(
        &confined(r#"up{job="other"}"#),
        &nobody(),
        NotFound,
        "no sample",
    );
    assert_fails(&source("up", None), &nobody(), InvalidValue, "2 samples");
    assert_fails(
        &confined("up[1m]"),
        &nobody(),
        InvalidValue,
        "a range of samples",
    );
    assert_fails(&confined("0 / 0"), &nobody(), InvalidValue, "NaN");
    assert_fails(&confined("\"text\""), &nobody(), InvalidValue, "a string");
    assert_fails(
        &confined("sum(up) - 2"),
        &nobody(),
        InvalidValue,
        "negative",
    );
    let duplicates = "up * on (instance) group_left scrape_duration_seconds";
    assert_fails(
        &source(duplicates, None),
        &nobody(),
        Protocol,
        "refuses the query",
    );
}
