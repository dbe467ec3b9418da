use bursar_apitest::Server;

use super::*;

/// What callers behind the proxy send.
const PROXIED: &str = "proxied-authorization";
const READ_METRICS: Right = Right::GetPath("/metrics");

fn explain(namespace: &str) -> Right {
    Right::Get {
        group: "bursar.dev",
        resource: "explanations",
        namespace: namespace.to_owned(),
    }
}

fn sent(header: &'static str, value: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header, value.parse().unwrap());
    headers
}

fn token(token: &str) -> HeaderMap {
    sent("authorization", &format!("Bearer {token}"))
}

/// Prometheus may read metrics, and ana may read what was decided over namespace team.
fn server() -> (Server, AccessReviewer) {
    let server = Server::new(&["team"]);
    for user in ["prometheus", "ana"] {
        server.add_user(user, &format!("token-of-{user}"));
    }
    server.grant("prometheus", "get /metrics");
    server.grant("ana", "get explanations.bursar.dev in team");
    let reviewer = AccessReviewer::new(server.client(), PROXIED);
    (server, reviewer)
}

fn forbidden(user: &str, right: &str) -> Verdict {
    Err(Refusal::Forbidden {
        user: user.to_owned(),
        right: right.to_owned(),
    })
}

#[tokio::test]
async fn each_right_is_asked_for_by_itself() {
    let (_server, reviewer) = server();
    let (ana, prometheus) = (token("token-of-ana"), token("token-of-prometheus"));
    assert_eq!(reviewer.check(&ana, explain("team")).await, Ok(()));
    assert_eq!(
        reviewer.check(&ana, explain("other")).await,
        forbidden("ana", "get explanations.bursar.dev in namespace other")
    );
    assert_eq!(
        reviewer.check(&ana, READ_METRICS).await,
        forbidden("ana", "get /metrics")
    );
    assert_eq!(reviewer.check(&prometheus, READ_METRICS).await, Ok(()));
    assert_eq!(
        reviewer.check(&prometheus, explain("team")).await,
        forbidden(
            "prometheus",
            "get explanations.bursar.dev in namespace team"
        )
    );
}

#[tokio::test]
async fn who_sends_no_token_that_is_known_learns_nothing() {
    let (server, reviewer) = server();
    let none = reviewer.check(&HeaderMap::new(), READ_METRICS).await;
    assert_eq!(none, Err(Refusal::NoToken));
    let basic = sent("authorization", "Basic dG9rZW4=");
    let basic = reviewer.check(&basic, READ_METRICS).await;
    assert_eq!(basic, Err(Refusal::NoToken));
    let too_long = token(&"a".repeat(MAX_TOKEN_LEN + 1));
    let too_long = reviewer.check(&too_long, READ_METRICS).await;
    assert_eq!(too_long, Err(Refusal::UnknownToken));
    assert_eq!(server.token_reviews(), 0);
    let unknown = reviewer.check(&token("guess"), READ_METRICS).await;
    assert_eq!(unknown, Err(Refusal::UnknownToken));
}

#[tokio::test]
async fn through_the_api_servers_proxy_a_header_of_its_own_names_the_caller() {
    let (_server, reviewer) = server();
    let ana = sent(PROXIED, "bearer token-of-ana");
    assert_eq!(reviewer.check(&ana, explain("team")).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_used_again_only_for_a_short_time() {
    let (server, reviewer) = server();
    let (ana, stranger) = (token("token-of-ana"), token("guess"));
    for _ in 0..3 {
        assert_eq!(reviewer.check(&ana, explain("team")).await, Ok(()));
        let refused = reviewer.check(&stranger, explain("team")).await;
        assert_eq!(refused, Err(Refusal::UnknownToken));
    }
    assert_eq!(server.token_reviews(), 2);
    tokio::time::advance(REFUSED_TTL).await;
    server.add_user("bob", "guess");
    server.grant("bob", "get explanations.bursar.dev in team");
    assert_eq!(reviewer.check(&stranger, explain("team")).await, Ok(()));
    assert_eq!(reviewer.check(&ana, explain("team")).await, Ok(()));
    assert_eq!(server.token_reviews(), 3);
    tokio::time::advance(GRANTED_TTL).await;
    assert_eq!(reviewer.check(&ana, explain("team")).await, Ok(()));
    assert_eq!(server.token_reviews(), 4);
}

#[tokio::test(start_paused = true)]
async fn strangers_have_few_tokens_reviewed_in_a_second() {
    let (server, reviewer) = server();
    let asking = (0..1000).map(|number| {
        let reviewer = reviewer.clone();
        tokio::spawn(async move {
            let guess = token(&format!("guess-{number}"));
            reviewer.check(&guess, READ_METRICS).await
        })
    });
    let asking: Vec<_> = asking.collect();
    tokio::time::sleep(Duration::from_millis(1050)).await;
    assert_eq!(server.token_reviews(), 44);
    let mut unavailable = 0;
    for asked in asking {
        let refusal = asked.await.unwrap().unwrap_err();
        unavailable += usize::from(matches!(refusal, Refusal::Unavailable(_)));
    }
    assert!(
        unavailable > 700,
        "who waits too long is told so: {unavailable}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_tokens_pushes_out_nobody_who_has_the_right() {
    let (server, reviewer) = server();
    let prometheus = token("token-of-prometheus");
    assert_eq!(reviewer.check(&prometheus, READ_METRICS).await, Ok(()));
    for number in 0..2 * MAX_CACHED {
        let guess = token(&format!("guess-{number}"));
        let refused = reviewer.check(&guess, READ_METRICS).await;
        assert_eq!(refused, Err(Refusal::UnknownToken));
        assert!(reviewer.verdicts.lock().unwrap().len() <= MAX_CACHED);
    }
    let asked = server.token_reviews();
    assert_eq!(reviewer.check(&prometheus, READ_METRICS).await, Ok(()));
    assert_eq!(server.token_reviews(), asked);
}

#[tokio::test]
async fn without_the_api_servers_answer_nothing_is_granted() {
    let failing = tower::service_fn(|_: http::Request<kube::client::Body>| async {
        Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("down"))
    });
    let reviewer = AccessReviewer::new(kube::Client::new(failing, "default"), PROXIED);
    let verdict = reviewer.check(&token("token-of-ana"), READ_METRICS).await;
    assert!(
        matches!(verdict, Err(Refusal::Unavailable(_))),
        "{verdict:?}"
    );
    assert_eq!(
        verdict.unwrap_err().into_response().status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
}
