//! The gang: how its ranks find each other at rank 0, and the barrier after each step.

use std::fmt::Debug;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout_at};

use crate::wire::{Order, Peer, Report, Then, WireError};

/// Between two tries to reach rank 0, whose name may not resolve yet.
const RETRY: Duration = Duration::from_millis(200);
/// A connection says who it is within this time.
const HELLO_LIMIT: Duration = Duration::from_secs(5);

/// torchrun's description of the gang, checked.
#[derive(Debug, Clone)]
pub(crate) struct Membership {
    /// Host of rank 0.
    pub(crate) master: String,
    /// Port of rank 0.
    pub(crate) port: u16,
    /// How many ranks there are, at least 1.
    pub(crate) world_size: u32,
    /// Which this is, below the size.
    pub(crate) rank: u32,
}

/// How long ranks wait for each other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Until all have come.
    pub(crate) rendezvous: Duration,
    /// For a message of a rank while steps run; longer than a step.
    pub(crate) peer: Duration,
}

/// Why the gang is broken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GangError {
    /// Rank 0 has no port.
    #[error("rank 0 cannot listen on port {port}: {why}")]
    Listen {
        /// Which one.
        port: u16,
        /// What the system says.
        why: io::Error,
    },
    /// Rank 0 was not found.
    #[error("rank 0 was not reached at {address} within {:.0} s: {why}", .limit.as_secs_f64())]
    Unreachable {
        /// Where it should be.
        address: String,
        /// How long it was tried.
        limit: Duration,
        /// The last reason.
        why: io::Error,
    },
    /// Not all came.
    #[error("ranks {missing:?} did not come within {:.0} s", .limit.as_secs_f64())]
    Missing {
        /// Who.
        missing: Vec<u32>,
        /// How long they were waited for.
        limit: Duration,
    },
    /// A rank is gone.
    #[error("rank {rank}: {why}")]
    Peer {
        /// Which.
        rank: u32,
        /// What happened.
        why: WireError,
    },
}

/// Rank 0's side.
#[derive(Debug)]
pub(crate) struct Master {
    /// Rank 1 and so on, in order.
    workers: Vec<Peer>,
    patience: Patience,
}

impl Master {
    /// Waits until all ranks have come. One that comes again, restarted, takes its own place.
    ///
    /// # Errors
    /// When the port is taken, or a rank does not come in time.
    pub(crate) async fn gather(
        membership: &Membership,
        patience: Patience,
    ) -> Result<Self, GangError> {
        let deadline = Instant::now() + patience.rendezvous;
        let port = membership.port;
        let refuse = |why| GangError::Listen { port, why };
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
            .await
            .map_err(refuse)?;
        println!(
            "rank 0: listens on port {}",
            listener.local_addr().map_err(refuse)?.port()
        );
        let mut places: Vec<Option<Peer>> = (1..membership.world_size).map(|_| None).collect();
        while places.iter().any(Option::is_none) {
            let Ok(accepted) = timeout_at(deadline, listener.accept()).await else {
                let absent = (1..).zip(&places).filter(|(_, place)| place.is_none());
                return Err(GangError::Missing {
                    missing: absent.map(|(rank, _)| rank).collect(),
                    limit: patience.rendezvous,
                });
            };
            let (stream, _) = accepted.map_err(refuse)?;
            match greet(stream, membership.world_size).await {
                Ok((rank, peer)) => {
                    if let Some(place) = places.get_mut(rank as usize - 1) {
                        *place = Some(peer);
                    }
                }
                Err(why) => eprintln!("a connection that is no rank: {why}"),
            }
        }
        Ok(Self {
            workers: places.into_iter().flatten().collect(),
            patience,
        })
    }

    /// Starts the attempt once every rank has promised to take part: one that has gone meanwhile leaves no step half computed.
    ///
    /// # Errors
    /// When a rank is gone.
    pub(crate) async fn start(&mut self, attempt: u64, step: u64) -> Result<(), GangError> {
        self.tell(Order::Gathered).await?;
        for report in self.hear().await? {
            expect(report, |report| (report == Report::Ready).then_some(()))?;
        }
        self.tell(Order::Start { attempt, step }).await
    }

    /// Waits until all ranks have computed a step. Returns whether one of them was told to end.
    ///
    /// # Errors
    /// When a rank is gone.
    pub(crate) async fn collect(&mut self, step: u64) -> Result<bool, GangError> {
        let mut stopped = false;
        for report in self.hear().await? {
            stopped |= expect(report, |report| match report {
                Report::Done { step: done, stop } if done == step => Some(stop),
                _ => None,
            })?;
        }
        Ok(stopped)
    }

    /// Tells all ranks that a step counts, and what comes after it.
    ///
    /// # Errors
    /// When a rank is gone.
    pub(crate) async fn commit(&mut self, step: u64, then: Then) -> Result<(), GangError> {
        self.tell(Order::Commit { step, then }).await
    }

    async fn tell(&mut self, order: Order) -> Result<(), GangError> {
        for (rank, worker) in (1..).zip(&mut self.workers) {
            worker
                .send(order)
                .await
                .map_err(|why| GangError::Peer { rank, why })?;
        }
        Ok(())
    }

    /// One report of each rank.
    async fn hear(&mut self) -> Result<Vec<(u32, Report)>, GangError> {
        let mut reports = Vec::new();
        for (rank, worker) in (1..).zip(&mut self.workers) {
            let report = worker.receive(self.patience.peer).await;
            reports.push((rank, report.map_err(|why| GangError::Peer { rank, why })?));
        }
        Ok(reports)
    }

    /// Waits until the others have read the last order and gone, so that the end of this process takes nothing from them.
    pub(crate) async fn part(mut self) {
        for worker in &mut self.workers {
            // gone is what it should be
            let _ = worker.receive::<Report>(self.patience.peer).await;
        }
    }
}

async fn greet(stream: TcpStream, world_size: u32) -> Result<(u32, Peer), WireError> {
    stream.set_nodelay(true)?;
    let mut peer = Peer::new(stream);
    match peer.receive(HELLO_LIMIT).await? {
        Report::Hello {
            rank,
            world_size: size,
        } if size == world_size && (1..size).contains(&rank) => Ok((rank, peer)),
        other => Err(WireError::Unexpected(format!("{other:?}"))),
    }
}

/// Every other rank's side.
#[derive(Debug)]
pub(crate) struct Worker {
    master: Peer,
    patience: Patience,
}

impl Worker {
    /// Finds rank 0 and waits until all others have, too.
    ///
    /// # Errors
    /// When rank 0 is not found in time, or ends.
    pub(crate) async fn join(
        membership: &Membership,
        patience: Patience,
    ) -> Result<Self, GangError> {
        let master = reach(membership, patience.rendezvous).await?;
        let mut worker = Self {
            master: Peer::new(master),
            patience,
        };
        let hello = Report::Hello {
            rank: membership.rank,
            world_size: membership.world_size,
        };
        let order = worker.ask(hello, patience.rendezvous).await?;
        expect((0, order), |order| (order == Order::Gathered).then_some(()))?;
        Ok(worker)
    }

    /// Promises to take part. Returns the attempt and the first step.
    ///
    /// # Errors
    /// When rank 0 is gone.
    pub(crate) async fn start(&mut self) -> Result<(u64, u64), GangError> {
        let order = self.ask(Report::Ready, self.patience.peer).await?;
        expect((0, order), |order| match order {
            Order::Start { attempt, step } => Some((attempt, step)),
            _ => None,
        })
    }

    /// Reports a step, and waits until all have computed it.
    ///
    /// # Errors
    /// When rank 0 is gone.
    pub(crate) async fn barrier(&mut self, step: u64, stop: bool) -> Result<Then, GangError> {
        let order = self
            .ask(Report::Done { step, stop }, self.patience.peer)
            .await?;
        expect((0, order), |order| match order {
            Order::Commit {
                step: committed,
                then,
            } if committed == step => Some(then),
            _ => None,
        })
    }

    async fn ask(&mut self, report: Report, limit: Duration) -> Result<Order, GangError> {
        let lost = |why| GangError::Peer { rank: 0, why };
        self.master.send(report).await.map_err(lost)?;
        self.master.receive(limit).await.map_err(lost)
    }
}

/// What is wanted from a rank's message, or the error that it is another one.
fn expect<M: Debug + Copy, T>(
    (rank, message): (u32, M),
    wanted: impl FnOnce(M) -> Option<T>,
) -> Result<T, GangError> {
    wanted(message).ok_or_else(|| GangError::Peer {
        rank,
        why: WireError::Unexpected(format!("{message:?}")),
    })
}

async fn reach(membership: &Membership, limit: Duration) -> Result<TcpStream, GangError> {
    let deadline = Instant::now() + limit;
    let address = format!("{}:{}", membership.master, membership.port);
    let mut last = None;
    loop {
        match timeout_at(deadline, connect(&address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => {
                if last.is_none() {
                    eprintln!(
                        "rank {}: {address} does not answer yet: {error}",
                        membership.rank
                    );
                }
                last = Some(error);
            }
            Err(_) => {
                let why = last.unwrap_or_else(|| io::ErrorKind::TimedOut.into());
                return Err(GangError::Unreachable {
                    address,
                    limit,
                    why,
                });
            }
        }
        sleep(RETRY).await;
    }
}

async fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
