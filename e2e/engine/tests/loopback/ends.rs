//! How it starts and how it ends.

use std::time::{Duration, Instant};

use crate::support::{Engine, LIMIT, events, text};
use http_body_util::BodyExt;

/// A second of work at this speed-up.
const SPEED: [&str; 2] = ["--speedup", "6"];
const WORK: &str = r#"{"prompt": "x", "max_tokens": 200, "ignore_eos": true, "stream": true}"#;

fn engine(on_sigterm: &str) -> Engine {
    Engine::start(
        &[
            &SPEED[..],
            &["--on-sigterm", on_sigterm, "--drain-quiet", "500ms"],
        ]
        .concat(),
    )
}

#[tokio::test]
async fn close_refuses_new_requests_at_once_and_finishes_those_it_has() {
    let mut engine = engine("close");
    let running = engine.post("/v1/completions", WORK).await;
    engine.until("num_requests_running", 1.0).await;
    engine.terminate();
    let since = Instant::now();
    // the signal takes a moment; an accepted request in that moment is answered
    while engine.send("GET", "/health", "").await.is_ok() {
        assert!(since.elapsed() < LIMIT, "the socket stays open");
    }
    assert_eq!(events(running).await.len(), 200);
    assert!(engine.exit().await.success());
}

#[tokio::test]
async fn drain_still_serves_what_arrives_after_the_signal_and_then_exits() {
    let mut engine = engine("drain");
    let running = engine.post("/v1/completions", WORK).await;
    engine.until("num_requests_running", 1.0).await;
    engine.terminate();
    let late = loop {
        let answer = engine.post("/v1/completions", WORK).await;
        if answer
            .headers()
            .get("connection")
            .is_some_and(|value| value == "close")
        {
            break answer;
        }
    };
    assert_eq!(events(running).await.len(), 200);
    assert_eq!(events(late).await.len(), 200);
    assert!(engine.exit().await.success());
}

#[tokio::test]
async fn exit_loses_what_runs() {
    let mut engine = engine("exit");
    let mut running = engine.post("/v1/completions", WORK).await;
    running.frame().await.unwrap().unwrap();
    engine.terminate();
    assert_eq!(engine.exit().await.code(), Some(143));
    assert!(text(running).await.is_err());
}

#[tokio::test]
async fn a_crash_ends_it_like_a_kill_when_that_is_allowed() {
    let mut engine = Engine::start(&["--allow-crash"]);
    assert!(engine.send("POST", "/crash", "").await.is_err());
    assert_eq!(engine.exit().await.code(), Some(137));
}

#[tokio::test]
async fn it_listens_only_after_the_start_up_delay() {
    let since = Instant::now();
    let engine = Engine::start(&["--startup-delay", "300ms"]);
    assert!(since.elapsed() >= Duration::from_millis(300));
    assert_eq!(engine.get("/health").await.0, 200);
}

#[test]
fn wrong_flags_are_refused_by_name() {
    for (flag, value, says) in [
        ("--speedup", "0", "between 0.001 and"),
        ("--startup-delay", "5", "write it as 5s"),
        ("--hardware", "b200", "nothing was measured on 8 x b200"),
    ] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_bursar-engine"))
            .args([flag, value])
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(says), "{error}");
    }
}
