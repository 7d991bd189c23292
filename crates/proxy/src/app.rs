//! The application behind the proxy: dialled for each connection, and waited for where the settings say so.
//!
//! An application may start after its proxy, and it is restarted now and then. With `local_service_wait_ms` a proxy that
//! has just started opens its public listener only when the application listens, so that nobody is sent to an instance
//! that cannot answer; and a connection that comes while the application is being restarted waits for it instead of
//! being closed. Both have the same deadline, after which things are as if nothing had been waited for.

use std::io;
use std::time::Duration;

use lictor_task::Scope;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::settings::{Place, Public};
use crate::socket;

/// How soon an application that does not listen is tried again.
const LOOK: Duration = Duration::from_millis(50);

/// Connects to the application. One that refuses is tried again for as long as the settings say.
pub(crate) async fn dial(public: &Public) -> io::Result<TcpStream> {
    patiently(public.wait, || try_once(&public.app, public.connect_timeout)).await
}

/// Tries again what is refused until `wait` is over. Any other outcome is final.
async fn patiently<T, F: Future<Output = io::Result<T>>>(wait: Duration, mut attempt: impl FnMut() -> F) -> F::Output {
    let end = Instant::now() + wait;
    loop {
        match attempt().await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && Instant::now() < end => {
                tokio::time::sleep(LOOK).await;
            }
            outcome => return outcome,
        }
    }
}

async fn try_once(app: &Place, limit: Duration) -> io::Result<TcpStream> {
    socket::reach(app, limit).await
}

/// What the public listener of a proxy that has just started waits for.
pub(crate) struct Awaited {
    scope: Scope,
    state: State,
    over: watch::Sender<bool>,
}

enum State {
    /// Nobody has asked yet.
    Untouched,
    /// It is looked for.
    Waiting {
        app: Place,
        until: Instant,
        looking: Scope,
    },
    Over,
}

impl Awaited {
    pub(crate) fn new(scope: Scope) -> Awaited {
        Awaited { scope, state: State::Untouched, over: watch::Sender::new(false) }
    }

    /// Nothing is waited for from now on: somebody serves, and this process takes over from it.
    pub(crate) fn forgo(&mut self) {
        self.state = State::Over;
    }

    /// Tells when the answer of [`Awaited::lets`] may have changed.
    pub(crate) fn watch(&self) -> watch::Receiver<bool> {
        self.over.subscribe()
    }

    /// Whether the public listener may be opened now. The first question begins the wait.
    pub(crate) fn lets(&mut self, public: &Public) -> bool {
        if *self.over.borrow() || public.wait.is_zero() {
            self.state = State::Over;
        }
        let until = match &self.state {
            State::Over => return true,
            State::Waiting { app, .. } if *app == public.app => return false,
            State::Waiting { until, looking, .. } => {
                looking.stop();
                *until
            }
            State::Untouched => Instant::now() + public.wait,
        };
        let looking = self.scope.child("application");
        let (stop, app, limit, over) =
            (looking.stop_signal(), public.app.clone(), public.connect_timeout, self.over.clone());
        looking.spawn("application", async move { stop.or_stopped(look(app, limit, until, over)).await });
        self.state = State::Waiting { app: public.app.clone(), until, looking };
        false
    }

    /// What is waited for; `None` when nothing is.
    pub(crate) fn what(&self) -> Option<&Place> {
        match &self.state {
            State::Waiting { app, .. } => Some(app),
            State::Untouched | State::Over => None,
        }
    }
}

async fn look(app: Place, limit: Duration, until: Instant, over: watch::Sender<bool>) {
    let mut told = false;
    loop {
        match try_once(&app, limit).await {
            Ok(_) => break,
            Err(error) if Instant::now() >= until => {
                tracing::warn!("the application at {app} has not come in time, serving all the same: {error}");
                break;
            }
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::info!("waiting for the application at {app}: {error}");
                }
                tokio::time::sleep_until((Instant::now() + LOOK).min(until)).await;
            }
        }
    }
    over.send_replace(true);
}

#[cfg(test)]
mod tests {
    use lictor_tls::Reuse;
    use tokio::net::TcpListener;

    use super::*;

    fn public(port: u16, wait: Duration) -> Public {
        let place = |port| Place { host: "127.0.0.1".into(), port };
        Public {
            listen: place(1),
            app: place(port),
            handshake_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(1),
            wait,
            bind_timeout: None,
            reuse: Reuse::None,
        }
    }

    /// A port that is ours and where nobody listens.
    fn quiet() -> (socket2::Socket, u16) {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let any: std::net::SocketAddr = ([127, 0, 0, 1], 0).into();
        socket.bind(&any.into()).unwrap();
        let port = socket.local_addr().unwrap().as_socket().unwrap().port();
        (socket, port)
    }

    /// On a clock that moves when everybody waits: how long it takes is exact, however busy the machine is.
    #[tokio::test(start_paused = true)]
    async fn a_connection_waits_for_an_application_that_comes_back_and_not_for_longer_than_it_may() {
        let refuse = || std::future::ready(Err::<u8, _>(io::Error::from(io::ErrorKind::ConnectionRefused)));
        let (wait, begin) = (Duration::from_millis(220), Instant::now());
        let mut attempts = 0;
        let refused = patiently(wait, || {
            attempts += 1;
            refuse()
        });
        assert_eq!(refused.await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        // At 0, 50, 100, 150, 200 and 250 ms.
        assert_eq!((attempts, begin.elapsed()), (6, 5 * LOOK));

        let (mut left, begin) = (3, Instant::now());
        let came = patiently(Duration::from_secs(60), || {
            left -= 1;
            if left > 0 { refuse() } else { std::future::ready(Ok(7)) }
        });
        assert_eq!(came.await.unwrap(), 7);
        assert_eq!(begin.elapsed(), 2 * LOOK);

        let begin = Instant::now();
        let failed =
            patiently(Duration::from_secs(60), || std::future::ready(Err::<u8, _>(io::ErrorKind::TimedOut.into())));
        assert_eq!(failed.await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begin.elapsed().is_zero(), "only a refusal is worth another try");
    }

    #[tokio::test]
    async fn an_application_that_begins_to_listen_is_reached() {
        let (socket, port) = quiet();
        let settings = public(port, Duration::from_secs(60));
        let listen = async {
            // The other one goes first and is refused.
            tokio::task::yield_now().await;
            socket.listen(8).unwrap();
        };
        let (dialled, ()) = tokio::join!(dial(&settings), listen);
        dialled.unwrap();
    }

    #[tokio::test]
    async fn without_a_wait_a_refusal_is_final() {
        let (_socket, port) = quiet();
        let refused = dial(&public(port, Duration::ZERO)).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn a_listener_opens_when_the_application_does_or_when_its_time_is_over() {
        let mut awaited = Awaited::new(Scope::new("test"));
        assert!(awaited.lets(&public(1, Duration::ZERO)), "nothing to wait for");

        let (_socket, port) = quiet();
        let mut awaited = Awaited::new(Scope::new("test"));
        let mut over = awaited.watch();
        let settings = public(port, Duration::from_millis(100));
        assert!(!awaited.lets(&settings) && !awaited.lets(&settings));
        assert_eq!(awaited.what(), Some(&settings.app));
        over.changed().await.unwrap();
        assert!(awaited.lets(&settings), "its time is over");

        let mut awaited = Awaited::new(Scope::new("test"));
        let mut over = awaited.watch();
        assert!(!awaited.lets(&public(port, Duration::from_secs(600))));
        // The application turns out to be somewhere else, where it listens.
        let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let moved = public(elsewhere.local_addr().unwrap().port(), Duration::from_secs(600));
        assert!(!awaited.lets(&moved));
        over.changed().await.unwrap();
        assert!(awaited.lets(&moved));

        let mut awaited = Awaited::new(Scope::new("test"));
        awaited.forgo();
        assert!(awaited.lets(&public(port, Duration::from_secs(600))), "another process serves already");
    }
}
