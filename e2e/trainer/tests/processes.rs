//! Whole gangs, each rank in a process of its own.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use tempfile::TempDir;

/// No wait in these tests is longer.
const LIMIT: Duration = Duration::from_secs(20);

/// What outlives an attempt.
struct Job {
    directory: TempDir,
    world_size: u32,
    flags: Vec<String>,
}

/// A rank that runs, and what it says on stdout and stderr.
struct Rank {
    process: Child,
    lines: Receiver<String>,
}

#[derive(Debug, Deserialize)]
struct Line {
    rank: u32,
    attempt: u64,
    from: Option<u64>,
    step: Option<u64>,
}

impl Job {
    fn new(world_size: u32, steps: u32, flags: &[&str]) -> Self {
        let common = ["--step-time", "20ms", "--steps", &steps.to_string()].map(str::to_owned);
        Self {
            directory: TempDir::new().expect("a directory for the checkpoint"),
            world_size,
            flags: common
                .into_iter()
                .chain(flags.iter().map(|flag| (*flag).to_owned()))
                .collect(),
        }
    }

    fn rank(&self, rank: u32, port: u16) -> Rank {
        let mut process = Command::new(env!("CARGO_BIN_EXE_bursar-trainer"))
            .envs([
                ("MASTER_ADDR", "127.0.0.1"),
                ("MASTER_PORT", &port.to_string()),
            ])
            .envs([
                ("WORLD_SIZE", self.world_size.to_string()),
                ("RANK", rank.to_string()),
            ])
            .env("BURSAR_TRAINER_PEER_TIMEOUT", "5s")
            .arg("--checkpoint")
            .arg(self.directory.path())
            .arg("--journal")
            .arg(self.journal())
            .args(&self.flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the trainer starts");
        let (said, lines) = channel();
        let errors = said.clone();
        let stdout = BufReader::new(process.stdout.take().expect("stdout is piped"));
        let stderr = BufReader::new(process.stderr.take().expect("stderr is piped"));
        thread::spawn(move || {
            stdout
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| said.send(line))
        });
        thread::spawn(move || {
            stderr
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| errors.send(line))
        });
        Rank { process, lines }
    }

    fn attempt(&self) -> Vec<Rank> {
        let master = self.rank(0, 0);
        let line = master.until("listens on port");
        let port = line
            .split(' ')
            .next_back()
            .and_then(|port| port.parse().ok());
        let port = port.expect("the line ends with the port");
        let workers = (1..self.world_size).map(|rank| self.rank(rank, port));
        std::iter::once(master).chain(workers).collect()
    }

    fn journal(&self) -> std::path::PathBuf {
        self.directory.path().join("journal")
    }

    fn lines(&self) -> Vec<Line> {
        let text = fs::read_to_string(self.journal()).unwrap_or_default();
        let parse = |line| serde_json::from_str(line).expect("a line of the journal is whole");
        text.lines().map(parse).collect()
    }

    /// Steps of each rank in the order in which they count: those that a later attempt starts before are struck out.
    fn counted(&self) -> BTreeMap<u32, Vec<u64>> {
        let mut counted: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for line in self.lines() {
            let steps = counted.entry(line.rank).or_default();
            match (line.from, line.step) {
                (Some(from), _) => steps.retain(|step| *step < from),
                (_, step) => steps.extend(step),
            }
        }
        counted
    }

    fn assert_each_step_counts_once(&self, steps: u64) {
        let all: Vec<_> = (0..steps).collect();
        let expected = (0..self.world_size)
            .map(|rank| (rank, all.clone()))
            .collect();
        assert_eq!(self.counted(), expected);
    }

    /// Steps computed, struck out or not.
    fn computed(&self) -> usize {
        self.lines()
            .iter()
            .filter(|line| line.step.is_some())
            .count()
    }

    fn attempts(&self) -> u64 {
        self.lines()
            .iter()
            .map(|line| line.attempt)
            .max()
            .unwrap_or(0)
    }

    /// Steps in the checkpoint.
    fn checkpoint(&self) -> u64 {
        let Ok(bytes) = fs::read(self.directory.path().join("checkpoint.json")) else {
            return 0;
        };
        let checkpoint: serde_json::Value =
            serde_json::from_slice(&bytes).expect("the checkpoint is JSON");
        checkpoint["steps"]
            .as_u64()
            .expect("it has a number of steps")
    }
}

impl Rank {
    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.process.id()).expect("process ids are small");
        kill(Pid::from_raw(id), signal).expect("the process takes a signal");
    }

    fn until(&self, says: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self
                .lines
                .recv_timeout(left)
                .expect("the line comes in time");
            if line.contains(says) {
                return line;
            }
        }
    }

    fn exit(&mut self) -> Option<i32> {
        let since = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().expect("the process is ours") {
                return status.code();
            }
            assert!(since.elapsed() < LIMIT, "the process does not end");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        // it may have ended already
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn exits(ranks: &mut [Rank]) -> Vec<Option<i32>> {
    ranks.iter_mut().map(Rank::exit).collect()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    listener.local_addr().expect("it has an address").port()
}

fn no_checkpoint(directory: &Path) -> bool {
    !directory.join("checkpoint.json").exists()
}

#[test]
fn a_gang_computes_every_step_together_and_ends_well() {
    let job = Job::new(3, 10, &[]);
    assert_eq!(exits(&mut job.attempt()), [Some(0); 3]);
    job.assert_each_step_counts_once(10);
    assert_eq!(
        (job.computed(), job.attempts(), job.checkpoint()),
        (30, 1, 10)
    );
}

#[test]
fn a_rank_that_starts_again_after_the_end_ends_well_alone() {
    let job = Job::new(2, 2, &[]);
    assert_eq!(exits(&mut job.attempt()), [Some(0); 2]);
    assert_eq!(job.rank(1, free_port()).exit(), Some(0));
    assert_eq!(job.computed(), 4);
}

#[test]
fn whichever_rank_is_told_to_end_no_step_is_lost_or_done_twice() {
    let job = Job::new(3, 40, &[]);
    for told in [&[1][..], &[0], &[0, 1, 2], &[2, 1]] {
        let mut ranks = job.attempt();
        ranks[0].until(&format!("step {} ", job.checkpoint() + 3));
        for rank in told {
            ranks[*rank].signal(Signal::SIGTERM);
        }
        assert_eq!(exits(&mut ranks), [Some(143); 3]);
        job.assert_each_step_counts_once(job.checkpoint());
    }
    assert_eq!(exits(&mut job.attempt()), [Some(0); 3]);
    job.assert_each_step_counts_once(40);
    assert_eq!((job.computed(), job.attempts()), (120, 5));
}

#[test]
fn when_a_rank_is_killed_the_others_fail_and_the_next_attempt_goes_on_from_the_checkpoint() {
    for killed in [0, 2] {
        let job = Job::new(3, 40, &["--checkpoint-every", "20"]);
        let mut ranks = job.attempt();
        ranks[0].until("step 22 ");
        ranks[killed].signal(Signal::SIGKILL);
        let mut expected = [Some(1); 3];
        expected[killed] = None;
        assert_eq!(exits(&mut ranks), expected);

        let resumed = job.checkpoint();
        assert_eq!(resumed, 20);
        assert_eq!(exits(&mut job.attempt()), [Some(0); 3]);
        job.assert_each_step_counts_once(40);
        assert!(
            job.computed() > 120,
            "steps after the checkpoint are computed again"
        );
    }
}

#[test]
fn when_a_rank_hangs_the_others_fail_in_bounded_time() {
    let job = Job::new(2, 1000, &["--peer-timeout", "300ms"]);
    let mut ranks = job.attempt();
    ranks[0].until("step 2 ");
    ranks[1].signal(Signal::SIGSTOP);
    assert_eq!(ranks[0].exit(), Some(1));
}

#[test]
fn ranks_that_come_before_rank_0_wait_for_it() {
    let job = Job::new(2, 2, &[]);
    let port = free_port();
    let mut early = job.rank(1, port);
    early.until("does not answer yet");
    let mut master = job.rank(0, port);
    assert_eq!((early.exit(), master.exit()), (Some(0), Some(0)));
}

#[test]
fn told_to_end_before_all_have_come_a_rank_ends_and_computes_nothing() {
    let job = Job::new(2, 2, &[]);
    let mut early = job.rank(1, free_port());
    early.until("does not answer yet");
    early.signal(Signal::SIGTERM);
    assert_eq!(early.exit(), Some(143));
    assert!(!job.journal().exists() && no_checkpoint(job.directory.path()));
}

#[test]
fn a_gang_that_is_not_whole_in_time_fails_and_says_who_is_missing() {
    let job = Job::new(3, 2, &["--rendezvous-timeout", "500ms"]);
    let port = free_port();
    let (mut master, mut worker) = (job.rank(0, port), job.rank(1, port));
    master.until("ranks [2] did not come");
    assert_eq!((master.exit(), worker.exit()), (Some(1), Some(1)));
    assert!(!job.journal().exists());
}

#[test]
fn a_rank_outside_the_gang_is_refused() {
    let job = Job::new(2, 2, &[]);
    let mut rank = job.rank(2, free_port());
    rank.until("RANK is 2, which a gang with WORLD_SIZE 2 does not have");
    assert_eq!(rank.exit(), Some(1));
}
