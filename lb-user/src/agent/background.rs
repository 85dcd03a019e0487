//! Work that takes too long for the agent's own task, one piece at a time.

use std::future::pending;

use tokio::task::{JoinError, JoinHandle};

/// At most one piece of work under way. Dropping it lets that end by itself.
#[derive(Debug)]
pub(super) struct Background<T>(Option<JoinHandle<T>>);

impl<T> Default for Background<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Background<T> {
    pub(super) fn is_busy(&self) -> bool {
        self.0.is_some()
    }

    /// Takes on work that was spawned just now. There must be none under way.
    pub(super) fn start(&mut self, work: JoinHandle<T>) {
        debug_assert!(!self.is_busy(), "two pieces of work at a time");
        self.0 = Some(work);
    }

    /// Waits until the work is done; forever if there is none. May be dropped
    /// and called again without losing the result.
    pub(super) async fn done(&mut self) -> Result<T, JoinError> {
        let Some(work) = &mut self.0 else {
            return pending().await;
        };
        let result = work.await;
        self.0 = None;
        result
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        sync::oneshot,
        time::{sleep, timeout},
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_is_busy_until_its_result_is_taken() {
        let mut background = Background::default();
        let soon = Duration::from_secs(1);
        assert!(timeout(soon, background.done()).await.is_err(), "no work");

        let (finish, finished) = oneshot::channel();
        background.start(tokio::spawn(finished));
        assert!(timeout(soon, background.done()).await.is_err(), "not done");
        assert!(background.is_busy());

        finish.send(7).unwrap();
        sleep(soon).await;
        assert!(background.is_busy(), "nobody has taken the result");
        assert_eq!(background.done().await.unwrap(), Ok(7));
        assert!(!background.is_busy());
    }

    #[tokio::test]
    async fn work_that_panics_is_done_too() {
        let mut background = Background::default();
        background.start(tokio::spawn(async { panic!("on purpose") }));
        let () = background.done().await.map_or((), |never: ()| never);
        assert!(!background.is_busy());
    }
}
