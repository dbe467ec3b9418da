use std::sync::Mutex;

use super::SourceErrorKind::{
    AddressRefused, InvalidValue, NotFound, Protocol, Timeout, Unauthorized, Unreachable,
};
use super::*;

const LIST_OFFSETS: i16 = 2;
const METADATA: i16 = 3;
const OFFSET_FETCH: i16 = 9;
const FIND_COORDINATOR: i16 = 10;
const SASL_HANDSHAKE: i16 = 17;
const SASL_AUTHENTICATE: i16 = 36;

fn source(broker: &Endpoint) -> Kafka {
    Kafka {
        brokers: vec![broker.clone()],
        group: "workers".into(),
        topic: "jobs".into(),
        sasl: None,
        without_commits: WithoutCommits::Earliest,
    }
}

/// What a broker says. Partitions are 0, 1 and so on, and the broker leads them all.
#[derive(Clone)]
struct Broker {
    /// The address by which it names itself, as leader and as coordinator.
    host: String,
    port: i32,
    partitions: i32,
    topic_error: i16,
    group_error: i16,
    /// For each partition the offset that the group has committed.
    committed: Vec<i64>,
    earliest: i64,
    latest: i64,
    /// The password that SASL's PLAIN must have.
    password: Option<&'static str>,
}

impl Default for Broker {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 0,
            partitions: 2,
            topic_error: 0,
            group_error: 0,
            committed: vec![7, -1],
            earliest: 2,
            latest: 10,
            password: None,
        }
    }
}

fn string(text: &str) -> Vec<u8> {
    let length = i16::try_from(text.len()).unwrap().to_be_bytes();
    [&length, text.as_bytes()].concat()
}

fn int16(value: i16) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

fn int32(value: i32) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

fn int64(value: i64) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

fn array(elements: &[Vec<u8>]) -> Vec<u8> {
    [int32(elements.len().try_into().unwrap()), elements.concat()].concat()
}

/// No string.
const NULL: [u8; 2] = [0xff, 0xff];

impl Broker {
    /// The body of the response to a request.
    fn answer(&self, api: i16, body: &[u8]) -> Vec<u8> {
        let throttle = int32(0);
        match api {
            METADATA => {
                assert_eq!(body.last(), Some(&0), "a read creates no topic");
                let address = [string(&self.host), int32(self.port)].concat();
                let broker = [int32(1), address, NULL.to_vec()].concat();
                let partition = |index| {
                    let leader = [int16(0), int32(index), int32(1)].concat();
                    [leader, array(&[int32(1)]), array(&[int32(1)])].concat()
                };
                let partitions: Vec<_> = (0..self.partitions).map(partition).collect();
                let topic = [int16(self.topic_error), string("jobs"), vec![0]].concat();
                let topic = [topic, array(&partitions)].concat();
                let cluster = [NULL.to_vec(), int32(1)].concat();
                [throttle, array(&[broker]), cluster, array(&[topic])].concat()
            }
            FIND_COORDINATOR => {
                let error = [int16(self.group_error), NULL.to_vec()].concat();
                [
                    throttle,
                    error,
                    int32(1),
                    string(&self.host),
                    int32(self.port),
                ]
                .concat()
            }
            OFFSET_FETCH => {
                let committed = self.committed.iter().zip(0..);
                let partitions: Vec<_> = committed
                    .map(|(offset, index)| {
                        [int32(index), int64(*offset), NULL.to_vec(), int16(0)].concat()
                    })
                    .collect();
                let topic = [string("jobs"), array(&partitions)].concat();
                [throttle, array(&[topic]), int16(0)].concat()
            }
            LIST_OFFSETS => {
                let timestamp = body.last_chunk().copied().map(i64::from_be_bytes);
                let offset = match timestamp {
                    Some(-1) => self.latest,
                    Some(-2) => self.earliest,
                    other => panic!("timestamp {other:?}"),
                };
                let partition = |index| [int32(index), int16(0), int64(-1), int64(offset)].concat();
                let partitions: Vec<_> = (0..self.partitions).map(partition).collect();
                array(&[[string("jobs"), array(&partitions)].concat()])
            }
            SASL_HANDSHAKE => {
                let is_plain = body.ends_with(b"PLAIN");
                [
                    int16(if is_plain { 0 } else { 33 }),
                    array(&[string("PLAIN")]),
                ]
                .concat()
            }
            SASL_AUTHENTICATE => {
                let password = self.password.unwrap_or_default();
                let error = if body.ends_with(password.as_bytes()) {
                    0
                } else {
                    58
                };
                [int16(error), string("Authentication failed"), int32(0)].concat()
            }
            other => panic!("request {other}"),
        }
    }

    /// Serves, as the leader that it names unless another port is set.
    async fn serve(self) -> Endpoint {
        let broker = Arc::new(Mutex::new(self));
        let served = broker.clone();
        let endpoint = server(move |mut stream| {
            let broker = served.lock().unwrap().clone();
            async move {
                let mut is_known = broker.password.is_none();
                loop {
                    let mut length = [0; 4];
                    if stream.read_exact(&mut length).await.is_err() {
                        return;
                    }
                    let mut request = vec![0; u32::from_be_bytes(length) as usize];
                    stream.read_exact(&mut request).await.unwrap();
                    let (api, rest) = request.split_first_chunk::<2>().unwrap();
                    let (_version, rest) = rest.split_first_chunk::<2>().unwrap();
                    let (correlation, rest) = rest.split_first_chunk::<4>().unwrap();
                    let api = i16::from_be_bytes(*api);
                    is_known |= api == SASL_AUTHENTICATE;
                    if !is_known && api != SASL_HANDSHAKE {
                        return;
                    }
                    let body = broker.answer(api, &rest[2 + "bursar".len()..]);
                    let response = [&correlation[..], &body].concat();
                    let length = int32(response.len().try_into().unwrap());
                    stream.write_all(&[length, response].concat()).await.ok();
                }
            }
        })
        .await;
        let mut broker = broker.lock().unwrap();
        if broker.port == 0 {
            broker.port = endpoint.port.into();
        }
        endpoint
    }
}

#[tokio::test]
async fn the_lag_is_the_sum_over_the_partitions() {
    let broker = Broker::default().serve().await;
    // 10 - 7 of the first; of the second, without a commit, all from 2 on, or one
    assert_eq!(read(source(&broker)).await, Ok(11_000));
    let mut latest = source(&broker);
    latest.without_commits = WithoutCommits::Latest;
    assert_eq!(read(latest).await, Ok(4000));
    // the first broker may be gone
    let mut second = source(&endpoint(1));
    second.brokers.push(broker);
    assert_eq!(read(second).await, Ok(11_000));
}

#[tokio::test]
async fn a_commit_behind_the_end_is_no_lag() {
    let broker = Broker {
        committed: vec![10, 99],
        ..Broker::default()
    };
    assert_eq!(read(source(&broker.serve().await)).await, Ok(0));
}

#[tokio::test]
async fn errors_of_the_broker_say_what_would_be_right() {
    let topic = async |topic_error| {
        let broker = Broker {
            topic_error,
            ..Broker::default()
        };
        read(source(&broker.serve().await)).await
    };
    assert_fails(&topic(3).await, NotFound, &["no topic `jobs`"]);
    assert_fails(
        &topic(29).await,
        Unauthorized,
        &["may not describe topic `jobs`"],
    );
    assert_fails(&topic(5).await, Unreachable, &["leader"]);
    assert_fails(&topic(35).await, Protocol, &["older than Kafka 1.0"]);
    assert_fails(&topic(-1).await, Protocol, &["error -1"]);
    let group = async |group_error| {
        let broker = Broker {
            group_error,
            ..Broker::default()
        };
        read(source(&broker.serve().await)).await
    };
    assert_fails(
        &group(15).await,
        Unreachable,
        &["group `workers` has no coordinator"],
    );
    assert_fails(
        &group(30).await,
        Unauthorized,
        &["may not describe group `workers`"],
    );
    let partial = Broker {
        committed: vec![7],
        ..Broker::default()
    };
    let partial = read(source(&partial.serve().await)).await;
    assert_fails(&partial, Protocol, &["no offset of partition 1"]);
    let none = Broker {
        partitions: 0,
        ..Broker::default()
    };
    assert_fails(
        &read(source(&none.serve().await)).await,
        Protocol,
        &["no partitions"],
    );
    let mut nameless = source(&endpoint(1));
    nameless.topic = "t".repeat(250);
    assert_fails(&read(nameless).await, NotFound, &["250 bytes", "1 to 249"]);
}

#[tokio::test]
async fn a_thousand_partitions_are_read_and_no_more() {
    let broker = |partitions| Broker {
        partitions,
        committed: vec![4; partitions.try_into().unwrap()],
        ..Broker::default()
    };
    let most = broker(1000).serve().await;
    assert_eq!(read(source(&most)).await, Ok(6_000_000));
    let more = read(source(&broker(1001).serve().await)).await;
    assert_fails(&more, InvalidValue, &["1001 partitions", "1000"]);
}

#[tokio::test]
async fn a_broker_that_names_the_metadata_service_leads_nowhere() {
    for host in [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "fe80::1",
        "2852039166",
    ] {
        let broker = Broker {
            host: host.into(),
            port: 80,
            ..Broker::default()
        };
        let read = read(source(&broker.serve().await)).await;
        assert_fails(&read, AddressRefused, &["a link-local address"]);
    }
}

#[tokio::test]
async fn brokers_that_are_named_and_gone_are_named_in_the_error() {
    let broker = Broker {
        port: 1,
        ..Broker::default()
    };
    let read = read(source(&broker.serve().await)).await;
    assert_fails(&read, Unreachable, &["no connection to 127.0.0.1:1"]);
}

#[tokio::test]
async fn credentials_are_sent_on_each_connection_and_a_wrong_one_is_an_error() {
    let broker = Broker {
        password: Some("s3cret"),
        ..Broker::default()
    };
    let endpoint = broker.serve().await;
    let mut source = source(&endpoint);
    source.sasl = Some(Sasl::Plain);
    let mut credentials = Credentials {
        username: Some("ann".into()),
        password: Some("s3cret".into()),
        ..Credentials::default()
    };
    assert_eq!(read_with(source.clone(), &credentials).await, Ok(11_000));
    credentials.password = Some("other".into());
    let wrong = read_with(source.clone(), &credentials).await;
    assert_fails(&wrong, Unauthorized, &["Authentication failed", "Secret"]);
    let without = read(source.clone()).await;
    assert_fails(
        &without,
        Unauthorized,
        &["PLAIN needs username and password"],
    );
    source.sasl = Some(Sasl::ScramSha512);
    let other = read_with(source.clone(), &credentials).await;
    assert_fails(
        &other,
        Unauthorized,
        &["it offers PLAIN, not SCRAM-SHA-512"],
    );
    source.sasl = None;
    assert_fails(
        &read(source).await,
        Unreachable,
        &["closed the connection", "SASL"],
    );
}

#[tokio::test]
async fn what_is_no_broker_is_an_error() {
    for (answer, words) in [
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
            "longer than 1 MiB",
        ),
        (vec![0x15, 3, 3, 0, 2, 2, 80], "wants TLS"),
        (vec![0, 0, 0, 4, 0, 0, 0, 9], "belongs to no request"),
        (vec![0, 0, 0, 4, 0, 0, 0, 1], "is malformed"),
        // 2^31 - 1 brokers, of which none follows
        (
            [
                &[0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0][..],
                &[0x7f, 0xff, 0xff, 0xff],
            ]
            .concat(),
            "is malformed",
        ),
    ] {
        let read = read(source(&answering(answer).await)).await;
        assert_fails(&read, Protocol, &[words]);
    }
}

#[tokio::test]
async fn a_response_without_end_is_cut_off() {
    let large = answering([0, 0xff, 0xff, 0xff]).await;
    assert_fails(
        &read(source(&large)).await,
        Protocol,
        &["longer than 1 MiB"],
    );
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_drips_is_left_after_five_seconds() {
    let read = read(source(&dripping("\0\0\u{1}\0").await)).await;
    assert_fails(&read, Timeout, &["within 5 s"]);
}
