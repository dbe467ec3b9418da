//! The training: steps with a barrier after each, checkpoints, and an end in good order when told to.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;

use crate::checkpoint::{Checkpoint, CheckpointError, Store};
use crate::gang::{GangError, Master, Membership, Patience, Worker};
use crate::journal::{Journal, JournalError};
use crate::wire::Then;

/// The work.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    /// Steps in all.
    pub(crate) steps: u64,
    /// How long one takes.
    pub(crate) step_time: Duration,
    /// Steps after which a checkpoint is written without being asked for; 0 for never.
    pub(crate) checkpoint_every: u64,
    /// Where ranks note what they compute.
    pub(crate) journal: Option<PathBuf>,
}

/// How a rank ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All steps are done.
    Finished,
    /// Told to end; what is done is in the checkpoint.
    Stopped,
}

/// Why a rank failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrainError {
    /// The other ranks.
    #[error(transparent)]
    Gang(#[from] GangError),
    /// The checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// What follows the commit of a step, when `done` steps are done. `stop`: a rank was told to end.
fn after(done: u64, work: &Work, stop: bool) -> (Then, bool) {
    let then = match (done >= work.steps, stop) {
        (true, _) => Then::Finish,
        (false, true) => Then::Stop,
        (false, false) => Then::Continue,
    };
    let regular = work.checkpoint_every > 0 && done.is_multiple_of(work.checkpoint_every);
    (then, regular || then != Then::Continue)
}

/// Runs one rank until all steps are done or the gang is told to end. `stop` becomes true when this rank is.
///
/// # Errors
/// When another rank is gone, or a file cannot be written.
pub(crate) async fn train(
    membership: &Membership,
    patience: Patience,
    work: &Work,
    store: &Store,
    mut stop: watch::Receiver<bool>,
) -> Result<Outcome, TrainError> {
    // a rank that is started again after the end has nobody left to meet
    if store.read().await?.steps >= work.steps {
        return Ok(Outcome::Finished);
    }
    let met = tokio::select! {
        biased;
        met = Met::everybody(membership, patience) => met?,
        _ = stop.wait_for(|stop| *stop) => return Ok(Outcome::Stopped),
    };
    let mut rank = met.start(membership, work, store).await?;
    loop {
        tokio::time::sleep(work.step_time).await;
        rank.journal.step(rank.step)?;
        let told = *stop.borrow();
        let then = rank.barrier(told, work, store).await?;
        rank.step += 1;
        match then {
            Then::Continue => {}
            Then::Stop | Then::Finish => {
                rank.part().await;
                return Ok(match then {
                    Then::Finish => Outcome::Finished,
                    Then::Continue | Then::Stop => Outcome::Stopped,
                });
            }
        }
    }
}

/// A rank's side of the gang, once all are there.
enum Met {
    Master(Master),
    Worker(Worker),
}

impl Met {
    /// Until it returns nothing has been promised, and the future may be dropped.
    async fn everybody(membership: &Membership, patience: Patience) -> Result<Self, GangError> {
        Ok(match membership.rank {
            0 => Self::Master(Master::gather(membership, patience).await?),
            _ => Self::Worker(Worker::join(membership, patience).await?),
        })
    }

    async fn start(
        self,
        membership: &Membership,
        work: &Work,
        store: &Store,
    ) -> Result<Rank, TrainError> {
        let mut gang = self;
        let (attempt, step) = match &mut gang {
            Self::Master(master) => {
                let last = store.read().await?;
                let (attempt, step) = (last.attempts + 1, last.steps);
                let begun = Checkpoint {
                    steps: step,
                    attempts: attempt,
                };
                store.write(begun).await?;
                master.start(attempt, step).await?;
                (attempt, step)
            }
            Self::Worker(worker) => worker.start().await?,
        };
        println!(
            "rank {} of {}: attempt {attempt} from step {step}",
            membership.rank, membership.world_size
        );
        let journal = Journal::open(work.journal.as_deref(), membership.rank, attempt, step)?;
        Ok(Rank {
            gang,
            journal,
            attempt,
            step,
        })
    }
}

/// A rank at work.
struct Rank {
    gang: Met,
    journal: Journal,
    attempt: u64,
    /// The step that is next.
    step: u64,
}

impl Rank {
    /// The step counts once rank 0 says so; what it says is in the checkpoint by then, if it is to be.
    async fn barrier(
        &mut self,
        told: bool,
        work: &Work,
        store: &Store,
    ) -> Result<Then, TrainError> {
        match &mut self.gang {
            Met::Worker(worker) => Ok(worker.barrier(self.step, told).await?),
            Met::Master(master) => {
                let stop = master.collect(self.step).await? || told;
                let done = self.step + 1;
                let (then, checkpoint) = after(done, work, stop);
                if checkpoint {
                    let attempts = self.attempt;
                    let reached = Checkpoint {
                        steps: done,
                        attempts,
                    };
                    store.write(reached).await?;
                }
                let written = if checkpoint {
                    ", in the checkpoint"
                } else {
                    ""
                };
                println!("step {done} of {}{written}", work.steps);
                master.commit(self.step, then).await?;
                Ok(then)
            }
        }
    }

    async fn part(self) {
        if let Met::Master(master) = self.gang {
            master.part().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(steps: u64, checkpoint_every: u64) -> Work {
        Work {
            steps,
            step_time: Duration::from_millis(1),
            checkpoint_every,
            journal: None,
        }
    }

    #[test]
    fn the_last_step_finishes_even_when_told_to_end() {
        assert_eq!(after(10, &work(10, 0), false), (Then::Finish, true));
        assert_eq!(after(10, &work(10, 0), true), (Then::Finish, true));
    }

    #[test]
    fn told_to_end_every_step_is_a_checkpoint() {
        assert_eq!(after(7, &work(10, 0), true), (Then::Stop, true));
        assert_eq!(after(7, &work(10, 5), true), (Then::Stop, true));
    }

    #[test]
    fn checkpoints_come_every_so_many_steps_or_never() {
        let at = |every: u64| {
            (1..10)
                .filter(|done| after(*done, &work(10, every), false).1)
                .collect::<Vec<_>>()
        };
        assert_eq!(at(4), [4, 8]);
        assert!(at(0).is_empty());
    }
}
