//! Whether the first lists of the watches go on.

use std::sync::Arc;
use std::time::Duration;

use kube::runtime::watcher::Event;
use tokio::sync::Notify;

/// Told when a list has brought more than ever before.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress(Arc<Notify>);

impl Progress {
    /// One list of these.
    pub(super) fn of_list(&self) -> ListProgress {
        ListProgress {
            all: self.clone(),
            listed: 0,
            most: 0,
            is_complete: false,
        }
    }

    /// Waits for `filled`, and gives up once no list has brought anything new for so long.
    pub(crate) async fn watch<T>(
        &self,
        filled: impl Future<Output = T>,
        limit: Duration,
    ) -> Option<T> {
        let mut filled = std::pin::pin!(filled);
        loop {
            tokio::select! {
                filled = &mut filled => return Some(filled),
                () = self.0.notified() => {}
                () = tokio::time::sleep(limit) => return None,
            }
        }
    }
}

/// The progress of one list. One that fails and begins anew has none before it is longer than it was.
#[derive(Debug)]
pub(super) struct ListProgress {
    all: Progress,
    listed: u64,
    most: u64,
    is_complete: bool,
}

impl ListProgress {
    /// Takes an event of the watch.
    pub(super) fn note<K>(&mut self, event: &Event<K>) {
        if self.is_complete {
            return;
        }
        match event {
            Event::Init => self.listed = 0,
            Event::InitApply(_) => self.listed += 1,
            Event::InitDone => self.is_complete = true,
            Event::Apply(_) | Event::Delete(_) => {}
        }
        if self.listed > self.most || self.is_complete {
            self.most = self.listed.max(self.most);
            self.all.0.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(150);
    const MINUTE: Duration = Duration::from_secs(60);

    /// What becomes of a list that brings these events, one a minute, and when.
    async fn listed(events: Vec<Event<()>>) -> (bool, u64) {
        let (progress, start) = (Progress::default(), Instant::now());
        let mut list = progress.of_list();
        let filled = async {
            for event in events {
                tokio::time::sleep(MINUTE).await;
                list.note(&event);
            }
            if !list.is_complete {
                std::future::pending::<()>().await;
            }
        };
        let is_filled = progress.watch(filled, LIMIT).await.is_some();
        (is_filled, start.elapsed().as_secs() / 60)
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_list_is_waited_for_while_it_goes_on() {
        let mut events = vec![Event::Init];
        events.extend((0..30).map(|_| Event::InitApply(())));
        events.push(Event::InitDone);
        assert_eq!(listed(events).await, (true, 32));
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_stands_still_or_begins_again_and_again_is_given_up() {
        assert_eq!(listed(Vec::new()).await, (false, 2));
        let stuck = vec![Event::Init, Event::InitApply(())];
        assert_eq!(listed(stuck).await, (false, 4));
        let again = [Event::Init, Event::InitApply(()), Event::Apply(())];
        let again = again.iter().cycle().take(60).cloned().collect();
        assert_eq!(listed(again).await, (false, 4));
    }
}
