//! Wait for a descriptor or a process while this process, or the machine, has none left. That says nothing of what is
//! checked; but what has not been checked for long is not called healthy either.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::time::Duration;

use rustix::io::Errno;
use tokio::time::Instant;

/// How long a run waits. The limit of a check may be shorter.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks whether there is one again.
const PAUSE: Duration = Duration::from_millis(50);

tokio::task_local! {
    /// What the run waits for.
    static LACK: RefCell<Option<io::Error>>;
}

/// Does what needs descriptors or processes, as soon as there are some.
pub(crate) async fn wait<T, F>(work: impl Fn() -> F) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let end = Instant::now() + PATIENCE;
    loop {
        let done = work().await;
        match done {
            Err(error) if is_short(&error) && Instant::now() < end => note(Some(error)),
            done => {
                note(None);
                return done;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether this means that there is no descriptor or process.
pub(crate) fn is_short(error: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE, Errno::AGAIN].iter().any(|lack| error.raw_os_error() == Some(lack.raw_os_error()))
}

/// Runs this to its end, and says what it was still waiting for where a limit of its own cut that short.
pub(crate) async fn watch<T>(run: impl Future<Output = T>) -> (T, Option<io::Error>) {
    LACK.scope(RefCell::default(), async {
        let done = run.await;
        (done, LACK.with(RefCell::take))
    })
    .await
}

fn note(lack: Option<io::Error>) {
    // Nobody watches in a test of a part.
    let _ = LACK.try_with(|noted| noted.replace(lack));
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_has_no_descriptor_waits_for_one_and_not_for_ever() {
        let asked = std::cell::Cell::new(0);
        let lacking = async |until: u32, lack: Errno| {
            asked.set(0);
            let ask = || {
                asked.set(asked.get() + 1);
                std::future::ready(if asked.get() < until { Err(io::Error::from(lack)) } else { Ok(()) })
            };
            (wait(ask).await.map_err(|error| error.raw_os_error()), asked.get())
        };
        assert_eq!(lacking(4, Errno::MFILE).await, (Ok(()), 4));
        let start = Instant::now();
        let (given_up, asked) = lacking(u32::MAX, Errno::NFILE).await;
        assert_eq!(given_up, Err(Some(Errno::NFILE.raw_os_error())));
        assert!(asked > 10 && start.elapsed() >= PATIENCE && start.elapsed() < PATIENCE * 2);
        // What was refused by the other side is refused.
        assert_eq!(lacking(2, Errno::CONNREFUSED).await, (Err(Some(Errno::CONNREFUSED.raw_os_error())), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_ends_the_wait_tells_what_it_was_for() {
        let short = || std::future::ready(Err::<(), _>(io::Error::from(Errno::MFILE)));
        let (late, lack) = watch(timeout(Duration::from_secs(1), wait(short))).await;
        assert!(late.is_err());
        assert_eq!(lack.unwrap().raw_os_error(), Some(Errno::MFILE.raw_os_error()));
        // Who gave up says so itself, and who got one lacks nothing, whatever then takes too long.
        let (given_up, lack) = watch(wait(short)).await;
        assert!(given_up.is_err() && lack.is_none());
        let once = std::cell::Cell::new(true);
        let second = || {
            let first = once.replace(false);
            std::future::ready(if first { Err(io::Error::from(Errno::MFILE)) } else { Ok(()) })
        };
        let slow = async {
            wait(second).await.unwrap();
            std::future::pending::<()>().await;
        };
        let (late, lack) = watch(timeout(Duration::from_secs(9), slow)).await;
        assert!(late.is_err() && lack.is_none());
    }
}
