//! One connection to the agent, driven by whoever uses it.
//!
//! A connection usually has a task of its own. Here the exchange that uses it also drives it, and between exchanges
//! nobody does: no task is left over when a client is dropped, dropping a request half-way ends its connection, and an
//! idle connection costs nothing but its buffers. The price is that a connection closed while idle is only noticed
//! when it is taken up again, which [`Link::revive`] does.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use lictor_task::descriptors::{self, BytesOnly};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixSocket};

use super::Error;
use super::address::{Address, Scheme};
use super::config::Config;

/// A byte stream, encrypted or not.
pub trait Stream: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Stream for T {}

/// The future of an encrypted stream.
pub type Encrypting<'a> = Pin<Box<dyn Future<Output = io::Result<Pin<Box<dyn Stream>>>> + Send + 'a>>;

/// Makes a plain connection an encrypted one. Whoever has certificates provides it, so that a client without them
/// carries no TLS.
pub trait Encrypt: Send + Sync {
    /// Shakes hands as a client; `host` is what the address names.
    fn encrypt<'a>(&'a self, stream: TcpStream, host: &'a str) -> Encrypting<'a>;
}

/// The longest it may take to be connected, name lookup and TLS included.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Idle connections older than this are not used again: middleboxes and servers drop them without a word.
const MAX_IDLE: Duration = Duration::from_secs(60);

/// Read buffer of a connection. Larger bodies arrive in several pieces.
const BUFFER: usize = 64 << 10;

/// One connection.
pub(super) struct Link {
    sender: http1::SendRequest<Full<Bytes>>,
    /// The connection's own work; gone when the connection has ended.
    driver: Option<Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>>,
    idle_since: Instant,
}

impl Link {
    /// Connects.
    pub(super) async fn open(config: &Config) -> Result<Link, Error> {
        let failed = |source| Error::Connect { address: config.address.to_string(), source };
        let opening = async {
            let stream = dial(config).await.map_err(failed)?;
            let (sender, connection) = http1::Builder::new()
                .max_buf_size(BUFFER)
                .handshake::<_, Full<Bytes>>(TokioIo::new(stream))
                .await
                .map_err(Error::Transport)?;
            Ok(Link { sender, driver: Some(Box::pin(connection)), idle_since: Instant::now() })
        };
        match tokio::time::timeout(CONNECT_LIMIT, opening).await {
            Ok(link) => link,
            Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
        }
    }

    /// Takes up an idle connection again, if it is still of use.
    pub(super) async fn revive(mut self) -> Option<Link> {
        if self.idle_since.elapsed() > MAX_IDLE {
            return None;
        }
        // Lets the runtime look at its sockets, so that an end that has already arrived is seen below.
        tokio::task::yield_now().await;
        self.is_ready().await.then_some(self)
    }

    /// Puts a connection aside after an exchange, if it can take another one.
    pub(super) async fn rest(mut self) -> Option<Link> {
        self.idle_since = Instant::now();
        self.is_ready().await.then_some(self)
    }

    /// Lets the connection do what it can do without waiting, and says whether it takes a request then.
    async fn is_ready(&mut self) -> bool {
        poll_fn(|cx| {
            if let Some(driver) = &mut self.driver
                && driver.as_mut().poll(cx).is_ready()
            {
                self.driver = None;
            }
            let ready = self.driver.is_some() && matches!(self.sender.poll_ready(cx), Poll::Ready(Ok(())));
            Poll::Ready(ready)
        })
        .await
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn exchange(
        &mut self,
        request: http::Request<Full<Bytes>>,
    ) -> Result<http::Response<Incoming>, hyper::Error> {
        let answering = self.sender.send_request(request);
        drive(&mut self.driver, answering).await
    }

    /// The next piece of a body; nothing at its end.
    pub(super) async fn piece(&mut self, body: &mut Incoming) -> Result<Option<Bytes>, hyper::Error> {
        loop {
            let frame = drive(&mut self.driver, poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx))).await;
            match frame.transpose()?.map(hyper::body::Frame::into_data) {
                None => return Ok(None),
                Some(Ok(data)) => return Ok(Some(data)),
                Some(Err(_trailers)) => {}
            }
        }
    }
}

/// Runs a part of an exchange and the connection that carries it until that part is done.
async fn drive<F: Future>(
    driver: &mut Option<Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>>,
    part: F,
) -> F::Output {
    let mut part = pin!(part);
    poll_fn(|cx| {
        if let Poll::Ready(done) = part.as_mut().poll(cx) {
            return Poll::Ready(done);
        }
        let Some(running) = driver else { return Poll::Pending };
        if running.as_mut().poll(cx).is_ready() {
            // The end of the connection, good or bad, reaches the part by itself.
            *driver = None;
        }
        part.as_mut().poll(cx)
    })
    .await
}

async fn dial(config: &Config) -> io::Result<Pin<Box<dyn Stream>>> {
    match &config.address {
        Address::Unix(path) => {
            let socket = UnixSocket::new_stream()?;
            // Before it is connected: whoever listens there, it has only bytes for us.
            let refused = descriptors::refuse(&socket)?;
            Ok(Box::pin(BytesOnly::new(socket.connect(path).await?, refused)))
        }
        Address::Tcp { scheme, host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            match (scheme, &config.encrypt) {
                (Scheme::Http, _) => Ok(Box::pin(stream)),
                (Scheme::Https, Some(encrypt)) => encrypt.encrypt(stream, host).await,
                (Scheme::Https, None) => Err(io::Error::new(io::ErrorKind::Unsupported, "no TLS configured")),
            }
        }
    }
}
