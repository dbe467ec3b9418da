//! Faults of a client: its process crashes at a chosen write, or another client writes first.

use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;

/// The point at which a process crashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashPoint {
    /// Before the write reaches the server.
    Before,
    /// After the write, before the client gets the response.
    After,
}

#[derive(Default)]
struct State {
    writes: usize,
    crash: Option<(usize, CrashPoint)>,
    competing_write: Option<(usize, BoxFuture<'static, ()>)>,
    dead: bool,
}

/// The faults of one client, and the number of its writes.
#[derive(Default)]
pub struct Faults {
    state: Mutex<State>,
}

impl Faults {
    /// The process crashes at write number `write`, counted from 0: that request and all later ones
    /// fail.
    pub fn crash(write: usize, point: CrashPoint) -> Self {
        let faults = Self::default();
        faults.state().crash = Some((write, point));
        faults
    }

    /// Another client acts just before write number `write`.
    pub fn competing_write(
        write: usize,
        action: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let faults = Self::default();
        faults.state().competing_write = Some((write, action.boxed()));
        faults
    }

    /// The number of writes that were sent.
    pub fn writes(&self) -> usize {
        self.state().writes
    }

    /// True if the process has crashed.
    pub fn has_crashed(&self) -> bool {
        self.state().dead
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called before a write; true if it may reach the server.
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
        !self.has_crashed()
    }

    /// Called after a write; true if the response may reach the client.
    pub(crate) fn after(&self) -> bool {
        let mut state = self.state();
        state.dead |= state.crash == Some((state.writes, CrashPoint::After));
        state.writes += 1;
        !state.dead
    }
}
