//! How many requests a gateway forwards in a second of CPU time, with answers of 1 KiB.
//!
//! `cargo bench -p bursar-gateway` prints the figures of this machine: clients that keep their
//! connections and clients that open one for each request, each 120,000 requests in batches, so that
//! the last batch shows whether anything piles up. Clients and replica are a process of their own;
//! the CPU time is the gateway's alone.

// a benchmark fails by ending
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader as LineReader, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bursar_gateway::measure::MeasuredGateway;
use nix::sys::resource::{UsageWho, getrusage};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

const BATCHES: usize = 6;
const BATCH: usize = 20_000;
const CLIENTS: usize = 32;
const PEER: &str = "--peer";

fn main() {
    let runtime = Runtime::new().unwrap();
    if std::env::args().any(|argument| argument == PEER) {
        runtime.block_on(run_peer());
    } else {
        measure(&runtime);
    }
}

/// The gateways' side.
fn measure(runtime: &Runtime) {
    let program = std::env::current_exe().unwrap();
    let mut peer = Command::new(program)
        .arg(PEER)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = peer.stdin.take().unwrap();
    let mut output = LineReader::new(peer.stdout.take().unwrap()).lines();
    let replica: SocketAddr = output.next().unwrap().unwrap().parse().unwrap();
    for (name, keep) in [
        ("kept client connections", true),
        ("a new client connection for each request", false),
    ] {
        let port = runtime.block_on(free_port());
        let gateway = runtime.block_on(MeasuredGateway::start(port, replica, keep));
        let _gateway = gateway.unwrap();
        let mut batch = |count: usize| {
            let (cpu, began) = (cpu_time(), Instant::now());
            writeln!(input, "{port} {keep} {count}").unwrap();
            assert_eq!(output.next().unwrap().unwrap(), "done");
            (cpu_time() - cpu, began.elapsed())
        };
        batch(1_000);
        println!("{name}, {CLIENTS} at a time, answers of 1 KiB:");
        for number in 1..=BATCHES {
            let (cpu, elapsed) = batch(BATCH);
            println!(
                "  up to {:>7}: {:>6.0} requests a CPU-second, {:>6.0} a second",
                number * BATCH,
                BATCH as f64 / cpu.as_secs_f64(),
                BATCH as f64 / elapsed.as_secs_f64(),
            );
        }
    }
    drop(input);
    peer.wait().unwrap();
}

/// The CPU time of this process, which has no part but the gateways.
fn cpu_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let micros = [usage.user_time(), usage.system_time()]
        .map(|time| time.tv_sec() * 1_000_000 + time.tv_usec());
    Duration::from_micros(u64::try_from(micros.iter().sum::<i64>()).unwrap())
}

async fn free_port() -> u16 {
    let probe = TcpListener::bind("[::]:0").await.unwrap();
    probe.local_addr().unwrap().port()
}

/// The clients' and the replica's side: a line with port, kind and number asks for requests.
async fn run_peer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(answer(stream));
        }
    });
    // it may block: tasks have threads of their own
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let mut words = line.split(' ');
        let port: u16 = words.next().unwrap().parse().unwrap();
        let keep: bool = words.next().unwrap().parse().unwrap();
        let count: usize = words.next().unwrap().parse().unwrap();
        let clients = (0..CLIENTS).map(|client| {
            let share = count / CLIENTS + usize::from(client < count % CLIENTS);
            tokio::spawn(ask(port, client, keep, share))
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.unwrap();
        }
        println!("done");
    }
}

/// Answers each request of a connection with 1 KiB.
async fn answer(stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let mut stream = BufReader::new(stream);
    let body = "x".repeat(1_024);
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 1024\r\n\r\n{body}");
    while read_message(&mut stream).await.is_some() {
        if stream.get_mut().write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Sends requests one after another.
async fn ask(port: u16, client: usize, keep: bool, count: usize) {
    // each client has an address of its own, so that it does not run out of ports
    let address = SocketAddr::from(([127, 0, 0, u8::try_from(client + 1).unwrap()], port));
    let mut connection = None;
    for _ in 0..count {
        let mut stream = match connection.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(address).await.unwrap();
                stream.set_nodelay(true).unwrap();
                BufReader::new(stream)
            }
        };
        let request = b"POST /v1/completions HTTP/1.1\r\nhost: chat\r\ncontent-type: application/json\r\ncontent-length: 16\r\n\r\n{\"prompt\": \"Hi\"}";
        stream.get_mut().write_all(request).await.unwrap();
        let head = read_message(&mut stream).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        connection = keep.then_some(stream);
    }
}

/// Reads one message with its body; `None` if the connection ends.
async fn read_message(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    Some(head)
}
