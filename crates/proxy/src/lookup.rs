//! Names to addresses, as the system finds them. It is asked for each name once at a time, on a thread that waits for its
//! answer: where names are not answered, connections come and go while it does, and each would leave such a thread.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::LazyLock;

use parking_lot::Mutex;
use tokio::sync::watch;

/// What was found, as often as it is wanted: errors cannot be copied.
type Found = Result<Vec<SocketAddr>, (io::ErrorKind, String)>;

/// The questions that wait for their answers.
static ASKED: LazyLock<Mutex<HashMap<String, watch::Receiver<Option<Found>>>>> = LazyLock::new(Mutex::default);

/// A question; when it is dropped the next one is asked anew.
struct Question {
    host: String,
    answer: watch::Sender<Option<Found>>,
}

impl Drop for Question {
    fn drop(&mut self) {
        ASKED.lock().remove(&self.host);
    }
}

/// The addresses behind a name, in the system's order.
pub(crate) async fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let mut found = shared(host, |host| Ok((host, 0).to_socket_addrs()?.collect())).await?;
    for address in &mut found {
        address.set_port(port);
    }
    Ok(found)
}

/// The answer to a question that is being asked already, or else to one that is asked now and finds its end even if nobody
/// waits for it any more.
async fn shared(
    host: &str,
    find: impl FnOnce(&str) -> io::Result<Vec<SocketAddr>> + Send + 'static,
) -> io::Result<Vec<SocketAddr>> {
    let mut answer = {
        let mut asked = ASKED.lock();
        match asked.get(host) {
            Some(answer) => answer.clone(),
            None => {
                let (sender, answer) = watch::channel(None);
                asked.insert(host.to_owned(), answer.clone());
                drop(asked);
                let question = Question { host: host.to_owned(), answer: sender };
                drop(tokio::task::spawn_blocking(move || {
                    let found = find(&question.host).map_err(|error| (error.kind(), error.to_string()));
                    question.answer.send_replace(Some(found));
                }));
                answer
            }
        }
    };
    let found = match answer.wait_for(Option::is_some).await {
        Ok(found) => found.clone(),
        // Its worker has ended before it was asked.
        Err(_) => None,
    };
    match found {
        Some(found) => found.map_err(|(kind, text)| io::Error::new(kind, text)),
        None => Err(io::ErrorKind::Interrupted.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const HOST: &str = "asked-by-many.test";

    #[tokio::test]
    async fn a_name_is_asked_for_once_at_a_time_however_many_want_it_and_give_up() {
        let asked = Arc::new(AtomicUsize::new(0));
        let (release, released) = mpsc::channel::<()>();
        let released = Arc::new(Mutex::new(released));
        let look_up = || {
            let (asked, released) = (Arc::clone(&asked), Arc::clone(&released));
            shared(HOST, move |_| {
                asked.fetch_add(1, Ordering::Relaxed);
                let _ = released.lock().recv_timeout(Duration::from_secs(20));
                Ok(vec!["192.0.2.7:0".parse().unwrap()])
            })
        };
        for _ in 0..20 {
            assert!(timeout(Duration::from_millis(1), look_up()).await.is_err());
        }
        let found = async {
            let (one, other) = tokio::join!(look_up(), look_up());
            (one.unwrap(), other.unwrap())
        };
        let (found, ()) = tokio::join!(found, async { release.send(()).unwrap() });
        assert!(found.0 == found.1 && found.0.len() == 1);
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        // What is asked later has an answer of its own, when the first question is over for good.
        while ASKED.lock().contains_key(HOST) {
            tokio::task::yield_now().await;
        }
        drop(release);
        look_up().await.unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn what_the_system_finds_has_the_port_and_what_it_does_not_find_is_told() {
        let found = addresses("localhost", 80).await.unwrap();
        assert!(!found.is_empty() && found.iter().all(|address| address.ip().is_loopback() && address.port() == 80));
        let error = shared("nobody.test", |_| Err(io::Error::new(io::ErrorKind::NotFound, "no such name")));
        assert_eq!(error.await.unwrap_err().to_string(), "no such name");
    }
}
