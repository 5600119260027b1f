//! Waiting for what must happen, and no longer than that.

use std::io;
use std::time::Duration;

/// More than anything on one machine takes, also while it is busy; reached only by what hangs.
pub const LONG: Duration = Duration::from_secs(20);

/// Time between two looks of [`eventually`].
const LOOK_EVERY: Duration = Duration::from_millis(3);

/// What `work` gives, if it does so in time.
///
/// # Errors
/// `TimedOut`, naming `what`; or the error of the work itself.
pub async fn within<T>(what: &str, limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("{what}: not within {limit:?}"))),
    }
}

/// Looks again and again until there is something to see.
///
/// # Errors
/// `TimedOut`, naming `what`; or the first error of a look.
pub async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> io::Result<Option<T>>,
) -> io::Result<T> {
    // Around the looks as well, of which any could hang.
    within(what, limit, async {
        loop {
            if let Some(seen) = look().await? {
                return Ok(seen);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
    .await
}
