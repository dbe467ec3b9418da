//! What clients and scrapers see, over loopback.

use crate::support::{Engine, events, json, text};
use axum::http::StatusCode;
use http_body_util::BodyExt;
use serde_json::json;

const FAST: [&str; 2] = ["--speedup", "1000"];

#[tokio::test]
async fn a_completion_comes_with_its_usage_and_is_counted() {
    let engine = Engine::start(&FAST);
    let answer = json(
        engine
            .post(
                "/v1/completions",
                r#"{"model": "m", "prompt": [1, 2, 3], "max_tokens": 4}"#,
            )
            .await,
    )
    .await;
    assert_eq!(answer["object"], "text_completion");
    assert_eq!(answer["choices"][0]["text"], " the queue grows and");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    let usage = json!({ "prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "prompt_tokens_details": null });
    assert_eq!(answer["usage"], usage);
    assert_eq!(engine.metric("prompt_tokens_total", "").await, 3.0);
    assert_eq!(engine.metric("generation_tokens_total", "").await, 4.0);
    assert_eq!(
        engine
            .metric("request_success_total", r#",finished_reason="length""#)
            .await,
        1.0
    );
    assert_eq!(
        engine.metric("time_to_first_token_seconds_count", "").await,
        1.0
    );
    assert_eq!(
        engine.metric("e2e_request_latency_seconds_count", "").await,
        1.0
    );
    assert_eq!(engine.metric("num_requests_running", "").await, 0.0);
}

#[tokio::test]
async fn a_streamed_chat_names_the_role_then_its_words_then_the_usage() {
    let engine = Engine::start(&FAST);
    let body = r#"{"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3, "ignore_eos": true,
        "stream": true, "stream_options": {"include_usage": true}}"#;
    let response = engine.post("/v1/chat/completions", body).await;
    assert_eq!(
        response.headers()["content-type"],
        "text/event-stream; charset=utf-8"
    );
    let events = events(response).await;
    assert_eq!(
        events[0]["choices"][0]["delta"],
        json!({ "role": "assistant", "content": "" })
    );
    let words: Vec<_> = events[1..4]
        .iter()
        .map(|event| &event["choices"][0]["delta"]["content"])
        .collect();
    assert_eq!(words, [" the", " queue", " grows"]);
    assert_eq!(events[3]["choices"][0]["finish_reason"], "length");
    assert_eq!(events[4]["choices"], json!([]));
    assert_eq!(events[4]["usage"]["completion_tokens"], 3);
    assert_eq!(events.len(), 5);
    assert!(events.iter().all(|event| event["id"] == events[0]["id"]));
}

#[tokio::test]
async fn tokens_of_a_stream_arrive_one_by_one_while_the_answer_is_being_made() {
    let engine = Engine::start(&["--speedup", "4"]);
    let body = r#"{"prompt": "x", "max_tokens": 1000, "ignore_eos": true, "stream": true}"#;
    let mut stream = engine.post("/v1/completions", body).await.into_body();
    let first = stream.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.starts_with(b"data: {"));
    assert_eq!(engine.metric("num_requests_running", "").await, 1.0);
    assert!(engine.metric("kv_cache_usage_perc", "").await > 0.0);
}

#[tokio::test]
async fn what_does_not_fit_into_the_batch_waits_and_is_served_when_there_is_room() {
    let engine = Engine::start(&["--max-num-seqs", "2"]);
    let endless = r#"{"prompt": "x", "max_tokens": 10000, "ignore_eos": true, "stream": true}"#;
    let first = engine.post("/v1/completions", endless).await;
    let second = engine.post("/v1/completions", endless).await;
    engine.until("num_requests_running", 2.0).await;
    let short =
        (0..3).map(|_| engine.post("/v1/completions", r#"{"prompt": "x", "max_tokens": 2}"#));
    let room = async {
        engine.until("num_requests_waiting", 3.0).await;
        drop((first, second));
    };
    let (answers, ()) = tokio::join!(futures::future::join_all(short), room);
    assert!(
        answers
            .iter()
            .all(|answer| answer.status() == StatusCode::OK)
    );
    assert_eq!(engine.metric("num_requests_waiting", "").await, 0.0);
}

#[tokio::test]
async fn a_client_that_goes_away_stops_its_request() {
    let engine = Engine::start(&[]);
    let body = r#"{"prompt": "x", "max_tokens": 10000, "ignore_eos": true, "stream": true}"#;
    let stream = engine.post("/v1/completions", body).await;
    engine.until("num_requests_running", 1.0).await;
    drop(stream);
    engine.until("num_requests_running", 0.0).await;
    assert_eq!(
        engine
            .metric("request_success_total", r#",finished_reason="abort""#)
            .await,
        1.0
    );
}

#[tokio::test]
async fn errors_come_in_openais_form() {
    let engine = Engine::start(&["--max-model-len", "100"]);
    let long = format!(r#"{{"prompt": "{}"}}"#, "word".repeat(100));
    let cases = [
        (r#"{"model": "other", "prompt": "x"}"#, 404, "NotFoundError"),
        ("{", 400, "BadRequestError"),
        (long.as_str(), 400, "BadRequestError"),
    ];
    for (body, status, kind) in cases {
        let response = engine.post("/v1/completions", body).await;
        assert_eq!(response.status().as_u16(), status);
        let error = &json(response).await["error"];
        assert_eq!(
            (&error["type"], &error["code"]),
            (&json!(kind), &json!(status))
        );
        assert!(error["message"].is_string());
    }
    assert_eq!(
        engine.get("/v1/nothing").await,
        (
            StatusCode::NOT_FOUND,
            r#"{"detail":"Not Found"}"#.to_owned()
        )
    );
    assert_eq!(
        engine.get("/v1/completions").await.0,
        StatusCode::METHOD_NOT_ALLOWED
    );
}

#[tokio::test]
async fn health_and_models_are_there_and_crash_is_not() {
    let engine = Engine::start(&[]);
    assert_eq!(engine.get("/health").await, (StatusCode::OK, String::new()));
    let (_, models) = engine.get("/v1/models").await;
    let models: serde_json::Value = serde_json::from_str(&models).unwrap();
    assert_eq!(
        (
            &models["data"][0]["id"],
            &models["data"][0]["max_model_len"]
        ),
        (&json!("m"), &json!(16_384))
    );
    let crash = engine.post("/crash", "").await;
    assert_eq!(crash.status(), StatusCode::NOT_FOUND);
    assert!(text(crash).await.is_ok());
}
