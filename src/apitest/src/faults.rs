//! What befalls a client: its process dies at a chosen write, or somebody else writes first.

use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;

/// When a process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashPoint {
    /// The write never reaches the server.
    Before,
    /// The server has written, and nobody hears of it.
    After,
}

#[derive(Default)]
struct State {
    writes: usize,
    crash: Option<(usize, CrashPoint)>,
    competing_write: Option<(usize, BoxFuture<'static, ()>)>,
    dead: bool,
}

/// What befalls one client. Counts its writes too.
#[derive(Default)]
pub struct Faults {
    state: Mutex<State>,
}

impl Faults {
    /// The process dies at its write number `write`, counted from 0: that request and all later ones fail.
    pub fn crash(write: usize, point: CrashPoint) -> Self {
        let faults = Self::default();
        faults.state().crash = Some((write, point));
        faults
    }

    /// Another client writes just before write number `write`.
    pub fn competing_write(
        write: usize,
        action: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let faults = Self::default();
        faults.state().competing_write = Some((write, action.boxed()));
        faults
    }

    /// How many writes were sent.
    pub fn writes(&self) -> usize {
        self.state().writes
    }

    /// Whether the process has died.
    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A write comes; true if it may reach the server.
    pub(crate) async fn before(&self) -> bool {
        let competing_write = {
            let mut state = self.state();
            let write = state.writes;
            state.dead |= state.crash == Some((write, CrashPoint::Before));
            state.competing_write.take_if(|(at, _)| *at == write)
        };
        if let Some((_, action)) = competing_write {
            action.await;
        }
        !self.is_dead()
    }

    /// The write is done; true if its answer may reach the client.
    pub(crate) fn after(&self) -> bool {
        let mut state = self.state();
        state.dead |= state.crash == Some((state.writes, CrashPoint::After));
        state.writes += 1;
        !state.dead
    }
}
