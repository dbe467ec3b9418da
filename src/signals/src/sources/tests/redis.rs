use std::sync::Mutex;

use super::SourceErrorKind::{
    AddressRefused, InvalidValue, NotFound, Protocol, Timeout, Unauthorized, Unreachable,
};
use super::*;

/// A server that answers each command, given as its words, with what `answer` says.
async fn scripted(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Endpoint {
    let answer = Arc::new(answer);
    server(move |mut stream| {
        let answer = answer.clone();
        async move {
            loop {
                let command = read_some(&mut stream).await;
                let command = String::from_utf8(command).unwrap();
                // `*2 $4 LLEN $4 jobs`, by lines
                let is_length = |line: &&str| !line.starts_with(['*', '$']);
                let words: Vec<&str> = command.lines().filter(is_length).collect();
                if words.is_empty() {
                    return;
                }
                let answer = answer(&words.join(" "));
                stream.write_all(answer.as_bytes()).await.ok();
            }
        }
    })
    .await
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

fn groups(fields: &[(&str, String)]) -> String {
    let values = fields.len() * 2;
    let fields = fields.iter().map(|(name, value)| bulk(name) + value);
    format!("*1\r\n*{values}\r\n{}", fields.collect::<String>())
}

fn list(endpoint: &Endpoint) -> Redis {
    Redis {
        addresses: vec![endpoint.clone()],
        mode: RedisMode::Standalone,
        database: 0,
        measure: RedisMeasure::List { key: "jobs".into() },
    }
}

fn stream(endpoint: &Endpoint, group: Option<&str>) -> Redis {
    Redis {
        measure: RedisMeasure::Stream {
            key: "jobs".into(),
            group: group.map(str::to_owned),
        },
        ..list(endpoint)
    }
}

fn sentinel(endpoint: &Endpoint) -> Redis {
    Redis {
        mode: RedisMode::Sentinel {
            master_name: "main".into(),
        },
        ..list(endpoint)
    }
}

fn cluster(endpoint: &Endpoint) -> Redis {
    Redis {
        mode: RedisMode::Cluster,
        ..list(endpoint)
    }
}

fn password() -> Credentials {
    Credentials {
        password: Some("s3cret".into()),
        ..Credentials::default()
    }
}

#[tokio::test]
async fn a_list_is_its_length_and_a_stream_its_entries() {
    let endpoint = scripted(|command| match command {
        "LLEN jobs" => ":12\r\n".into(),
        "XLEN jobs" => ":5\r\n".into(),
        "SELECT 3" => "+OK\r\n".into(),
        other => format!("-ERR unexpected {other}\r\n"),
    })
    .await;
    assert_eq!(read(list(&endpoint)).await, Ok(12_000));
    assert_eq!(read(stream(&endpoint, None)).await, Ok(5000));
    let database = Redis {
        database: 3,
        ..list(&endpoint)
    };
    assert_eq!(read(database).await, Ok(12_000));
}

#[tokio::test]
async fn a_group_is_what_it_has_not_acknowledged() {
    let name = ("name", bulk("workers"));
    let pending = ("pending", ":2\r\n".to_owned());
    let lag = |lag: &str| ("lag", lag.to_owned());
    for (fields, words) in [
        (vec![name.clone(), pending.clone()], "since version 7"),
        (
            vec![name.clone(), pending.clone(), lag("$-1\r\n")],
            "does not know the lag",
        ),
    ] {
        let answer = groups(&fields);
        let endpoint = scripted(move |_| answer.clone()).await;
        let read = read(stream(&endpoint, Some("workers"))).await;
        assert_fails(&read, InvalidValue, &[words, "`workers`"]);
    }
    let answer = groups(&[name, pending, lag(":5\r\n")]);
    let endpoint = scripted(move |_| answer.clone()).await;
    assert_eq!(read(stream(&endpoint, Some("workers"))).await, Ok(7000));
    let other = read(stream(&endpoint, Some("others"))).await;
    assert_fails(&other, NotFound, &["no group `others`", "`jobs`"]);
}

#[tokio::test]
async fn errors_of_the_server_say_what_would_be_right() {
    let answering = async |answer: &'static str| scripted(move |_| answer.to_owned()).await;
    let wrong = answering("-WRONGTYPE Operation against a key\r\n").await;
    assert_fails(
        &read(list(&wrong)).await,
        InvalidValue,
        &["`jobs`", "is no list"],
    );
    assert_fails(
        &read(stream(&wrong, None)).await,
        InvalidValue,
        &["is no stream"],
    );
    let missing = answering("-ERR no such key\r\n").await;
    let read_missing = read(stream(&missing, Some("g"))).await;
    assert_fails(&read_missing, NotFound, &["no stream `jobs`"]);
    let noauth = answering("-NOAUTH Authentication required.\r\n").await;
    assert_fails(
        &read(list(&noauth)).await,
        Unauthorized,
        &["Authentication required", "Secret"],
    );
    let noperm = answering("-NOPERM this user has no permissions\r\n").await;
    assert_fails(
        &read(list(&noperm)).await,
        Unauthorized,
        &["no permissions"],
    );
    let wrongpass = answering("-WRONGPASS invalid username-password pair s3cret\r\n").await;
    let read_wrong = read_with(list(&wrongpass), &password()).await;
    assert_fails(
        &read_wrong,
        Unauthorized,
        &["invalid username-password", "(redacted)"],
    );
    let open = answering("-ERR AUTH <password> called without any password configured\r\n").await;
    let read_open = read_with(list(&open), &password()).await;
    assert_fails(&read_open, Unauthorized, &["has no password"]);
    let moved = answering("-MOVED 7 127.0.0.1:1\r\n").await;
    assert_fails(
        &read(list(&moved)).await,
        Protocol,
        &["set the mode to Cluster"],
    );
    let http = answering("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    assert_fails(
        &read(list(&http)).await,
        Protocol,
        &["does not speak as Redis"],
    );
    let text = answering("+many\r\n").await;
    assert_fails(&read(list(&text)).await, Protocol, &["no integer"]);
    let negative = answering(":-4\r\n").await;
    assert_fails(&read(list(&negative)).await, Protocol, &["negative"]);
}

#[tokio::test]
async fn the_credentials_are_sent_first() {
    let commands = Arc::new(Mutex::new(Vec::new()));
    let received = commands.clone();
    let endpoint = scripted(move |command| {
        received.lock().unwrap().push(command.to_owned());
        if command.starts_with("AUTH") {
            "+OK\r\n"
        } else {
            ":1\r\n"
        }
        .into()
    })
    .await;
    assert_eq!(read_with(list(&endpoint), &password()).await, Ok(1000));
    let mut credentials = password();
    credentials.username = Some("ann".into());
    assert_eq!(read_with(list(&endpoint), &credentials).await, Ok(1000));
    let commands = commands.lock().unwrap();
    assert_eq!(
        *commands,
        ["AUTH s3cret", "LLEN jobs", "AUTH ann s3cret", "LLEN jobs"]
    );
}

#[tokio::test]
async fn the_master_is_the_one_that_the_sentinel_names() {
    let master = scripted(|_| ":3\r\n".into()).await;
    let address = format!(
        "*2\r\n{}{}",
        bulk("127.0.0.1"),
        bulk(&master.port.to_string())
    );
    let sentinels = scripted(move |command| match command {
        "SENTINEL GET-MASTER-ADDR-BY-NAME main" => address.clone(),
        _ => "*-1\r\n".into(),
    })
    .await;
    assert_eq!(read(sentinel(&sentinels)).await, Ok(3000));
    // the first sentinel may be gone
    let mut source = sentinel(&endpoint(1));
    source.addresses.push(sentinels.clone());
    assert_eq!(read(source).await, Ok(3000));
    let mut other = sentinel(&sentinels);
    other.mode = RedisMode::Sentinel {
        master_name: "other".into(),
    };
    assert_fails(&read(other).await, NotFound, &["knows no master `other`"]);
    let server = scripted(|_| "-ERR unknown command 'SENTINEL'\r\n".into()).await;
    assert_fails(
        &read(sentinel(&server)).await,
        Protocol,
        &["is no sentinel", "26379"],
    );
}

#[tokio::test]
async fn a_sentinel_that_names_the_metadata_service_leads_nowhere() {
    let address = format!("*2\r\n{}{}", bulk("169.254.169.254"), bulk("80"));
    let sentinels = scripted(move |_| address.clone()).await;
    let read = read(sentinel(&sentinels)).await;
    assert_fails(&read, AddressRefused, &["169.254.169.254", "link-local"]);
}

#[tokio::test]
async fn a_cluster_is_followed_to_the_node_of_the_key() {
    let node = scripted(|command| match command {
        "LLEN jobs" => ":4\r\n".into(),
        other => format!("-ERR unexpected {other}\r\n"),
    })
    .await;
    let port = node.port;
    let entry = scripted(move |_| format!("-MOVED 7 127.0.0.1:{port}\r\n")).await;
    assert_eq!(read(cluster(&entry)).await, Ok(4000));
    // a node that does not know its own address
    let entry = scripted(move |_| format!("-MOVED 7 :{port}\r\n")).await;
    assert_eq!(read(cluster(&entry)).await, Ok(4000));
    // a slot that is on its way
    let target = scripted(|command| match command {
        "ASKING" => "+OK\r\n".into(),
        _ => ":9\r\n".into(),
    })
    .await;
    let port = target.port;
    let entry = scripted(move |_| format!("-ASK 7 127.0.0.1:{port}\r\n")).await;
    assert_eq!(read(cluster(&entry)).await, Ok(9000));
}

#[tokio::test]
async fn a_node_that_names_the_metadata_service_leads_nowhere() {
    for answer in [
        "-MOVED 7 169.254.169.254:80\r\n",
        "-ASK 7 ::ffff:169.254.169.254:80\r\n",
    ] {
        let entry = scripted(|_| answer.into()).await;
        assert_fails(
            &read(cluster(&entry)).await,
            AddressRefused,
            &["169.254.169.254"],
        );
    }
}

#[tokio::test]
async fn nodes_that_send_on_and_on_are_left() {
    let entry = scripted(move |_| "-MOVED 7 :1\r\n".into()).await;
    assert_fails(&read(cluster(&entry)).await, Unreachable, &["refused"]);
    let (own_port, asked) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(0)));
    let (port, count) = (own_port.clone(), asked.clone());
    let entry = scripted(move |_| {
        *count.lock().unwrap() += 1;
        format!("-MOVED 7 :{}\r\n", port.lock().unwrap())
    })
    .await;
    *own_port.lock().unwrap() = entry.port;
    assert_fails(
        &read(cluster(&entry)).await,
        Protocol,
        &["`jobs`", "5 times"],
    );
    assert_eq!(*asked.lock().unwrap(), 6);
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    let array = endless("*1000000000\r\n", ":1\r\n").await;
    let read_array = read(list(&array)).await;
    assert_fails(&read_array, Protocol, &["longer than 1 MiB"]);
    let deep = endless("", "*1\r\n").await;
    assert!(read(list(&deep)).await.is_err());
    let line = endless("+", "a").await;
    assert_fails(&read(list(&line)).await, Protocol, &["longer than 1 MiB"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_drips_is_left_after_five_seconds() {
    let read = read(list(&dripping("$100000\r\n").await)).await;
    assert_fails(&read, Timeout, &["within 5 s"]);
}

#[tokio::test]
async fn a_connection_that_is_closed_is_an_error() {
    let closing = server(|_| async {}).await;
    assert_fails(
        &read(list(&closing)).await,
        Unreachable,
        &["the connection to 127"],
    );
}
