//! Workers: one event loop per thread, each with listening sockets of its own.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use lictor_task::Scope;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{mpsc, oneshot};

use crate::bulk::Bulk;
use crate::calm::Calm;
use crate::direct::lane::Lanes;
use crate::direct::receive::{self, Arrival};
use crate::pool::Pool;
use crate::shared::Shared;
use crate::socket;

/// What a worker has for the connections that came to it.
pub(crate) struct Desk {
    /// Their tasks.
    pub(crate) scope: Scope,
    /// Sessions that can be used again.
    pub(crate) pool: Pool,
    /// Lanes to other proxies of our agent that can be used again.
    pub(crate) lanes: Lanes,
    /// The worker's event loop.
    pub(crate) home: Handle,
    /// Where connections go that move much.
    pub(crate) bulk: Arc<Bulk>,
}

/// What is done with a connection.
pub(crate) trait Serve: Send + Sync {
    /// Works on one connection until it is carried or has ended. Longer work goes to the desk's scope.
    fn serve(
        self: Arc<Self>,
        desk: Arc<Desk>,
        stream: TcpStream,
        from: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// All workers of one proxy. Dropping them ends their threads and what still runs there.
pub(crate) struct Workers {
    workers: Vec<Worker>,
}

/// Where lanes are given to the workers, each in turn. Keeps none of them from ending.
pub(crate) struct Posts {
    workers: Vec<mpsc::WeakUnboundedSender<Command>>,
    next: usize,
}

impl Posts {
    /// Gives a lane to the next worker.
    pub(crate) fn give(&mut self, arrival: Arrival) {
        self.next = (self.next + 1) % self.workers.len().max(1);
        if let Some(worker) = self.workers.get(self.next).and_then(mpsc::WeakUnboundedSender::upgrade) {
            // A worker that is gone has panicked, which was reported.
            let _ = worker.send(Command::Lane(arrival));
        }
    }
}

struct Worker {
    commands: mpsc::UnboundedSender<Command>,
    thread: Option<JoinHandle<()>>,
}

/// What workers are told. There are as many of these as there are changes of configuration and lanes of processes that
/// the agent vouches for, which is why their queue has no bound.
enum Command {
    Open(Opening),
    /// Told back when no more connections are accepted there.
    Close(SocketAddr, oneshot::Sender<()>),
    /// Another proxy of our agent wants to hand connections over.
    Lane(Arrival),
}

struct Opening {
    address: SocketAddr,
    listener: StdListener,
    serve: Arc<dyn Serve>,
}

/// How long accepting rests when the system has no more file descriptors or memory.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// How long the end of accepting may take; it waits for nothing.
const CLOSING: Duration = Duration::from_secs(1);

impl Workers {
    /// Starts this many threads.
    pub(crate) fn start(count: usize, shared: &Arc<Shared>) -> io::Result<Workers> {
        let workers =
            (0..count.max(1)).map(|index| Worker::start(index, Arc::clone(shared))).collect::<io::Result<_>>()?;
        Ok(Workers { workers })
    }

    /// Lets all workers accept at an address: with the sockets that were inherited for it, or else with new ones. Returns
    /// the address with its real port, and a duplicate of each socket.
    pub(crate) fn open(
        &self,
        address: SocketAddr,
        serve: &Arc<dyn Serve>,
        inherited: Vec<StdListener>,
    ) -> io::Result<(SocketAddr, Vec<OwnedFd>)> {
        let mut listeners = if inherited.is_empty() { socket::listen(address, self.workers.len())? } else { inherited };
        let address = listeners.first().map_or(Ok(address), StdListener::local_addr)?;
        let duplicates =
            listeners.iter().map(|listener| Ok(listener.try_clone()?.into())).collect::<io::Result<Vec<OwnedFd>>>()?;
        // An earlier process may have had fewer workers. Where it had more, some accept at several sockets: closing one
        // would lose what waits in it.
        for position in listeners.len()..self.workers.len() {
            let shared = position % duplicates.len();
            listeners.push(listeners[shared].try_clone()?);
        }
        for (worker, listener) in self.workers.iter().cycle().zip(listeners) {
            worker.tell(Command::Open(Opening { address, listener, serve: Arc::clone(serve) }));
        }
        Ok((address, duplicates))
    }

    /// Where lanes are given to them.
    pub(crate) fn posts(&self) -> Posts {
        Posts { workers: self.workers.iter().map(|worker| worker.commands.downgrade()).collect(), next: 0 }
    }

    /// Stops accepting at an address; its connections go on. The future is done when no worker accepts any more.
    pub(crate) fn close(&self, address: SocketAddr) -> impl Future<Output = ()> + use<> {
        let closed: Vec<oneshot::Receiver<()>> = self
            .workers
            .iter()
            .map(|worker| {
                let (tell, told) = oneshot::channel();
                worker.tell(Command::Close(address, tell));
                told
            })
            .collect();
        async move {
            for told in closed {
                // A worker that is gone accepts nothing.
                let _ = told.await;
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            let (nobody, _) = mpsc::unbounded_channel();
            // With its last sender gone the thread ends.
            worker.commands = nobody;
        }
        for thread in self.workers.iter_mut().filter_map(|worker| worker.thread.take()) {
            if thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    }
}

impl Worker {
    fn start(index: usize, shared: Arc<Shared>) -> io::Result<Worker> {
        let (commands, received) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || drive(runtime, work(index, received, shared)))?;
        Ok(Worker { commands, thread: Some(thread) })
    }

    fn tell(&self, command: Command) {
        // A worker that is gone has panicked, which was reported.
        let _ = self.commands.send(command);
    }
}

/// Drives the event loop for as long as there is work, and waits for nothing then: a name that is still being looked up
/// must not hold up the end.
fn drive(runtime: Runtime, work: impl Future<Output = ()>) {
    runtime.block_on(work);
    runtime.shutdown_background();
}

async fn work(index: usize, mut commands: mpsc::UnboundedReceiver<Command>, shared: Arc<Shared>) {
    let desk = Arc::new(Desk {
        scope: Scope::new("worker"),
        pool: Pool::new(Arc::clone(&shared)),
        lanes: Lanes::default(),
        home: Handle::current(),
        bulk: Bulk::beside(index),
    });
    let mut open: Vec<(SocketAddr, Scope)> = Vec::new();
    // Goes on across the turns of the loop: begun anew in each, whoever looks more seldom would never get to it.
    let mut tending = pin!(async { tokio::join!(desk.pool.tend(), desk.lanes.tend()) });
    loop {
        let command = tokio::select! {
            command = commands.recv() => command,
            // Never ends.
            _ = &mut tending => continue,
        };
        match command {
            Some(Command::Open(opening)) => {
                let listening = desk.scope.child("listener");
                open.push((opening.address, listening.clone()));
                match TcpListener::from_std(opening.listener) {
                    Ok(listener) => {
                        let stop = listening.stop_signal();
                        let desk = Arc::clone(&desk);
                        let calm = Arc::clone(&shared.calm);
                        // What it accepts has its options.
                        let stays_here = socket::stays_here(opening.address);
                        listening.spawn("accept", async move {
                            stop.or_stopped(accept(listener, stays_here, desk, opening.serve, &calm)).await;
                        });
                    }
                    Err(error) => tracing::error!("cannot listen on {}: {error}", opening.address),
                }
            }
            Some(Command::Close(address, tell)) => {
                for (_, listening) in open.extract_if(.., |(known, _)| *known == address) {
                    listening.join(CLOSING).await;
                }
                // Nobody may care.
                let _ = tell.send(());
            }
            Some(Command::Lane(arrival)) => {
                drop(desk.scope.spawn("lane", receive::serve(Arc::clone(&shared), Arc::clone(&desk), arrival)));
            }
            None => break,
        }
    }
    desk.bulk.end();
}

async fn accept(listener: TcpListener, stays_here: bool, desk: Arc<Desk>, serve: Arc<dyn Serve>, calm: &Calm) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                if !stays_here {
                    socket::accepted(&stream, from);
                }
                // Also of one that will not count, as a health check's.
                calm.disturb();
                desk.scope.spawn("handshake", Arc::clone(&serve).serve(Arc::clone(&desk), stream, from));
                // Of many that come at once the first shall be through before the last begins: handshakes side by side
                // would all take as long as the last of them.
                tokio::task::yield_now().await;
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!("cannot accept connections: {error}");
                tokio::time::sleep(EXHAUSTED).await;
            }
        }
    }
}

/// Whether an error of `accept` says something about the connection that was to be accepted only.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_worker_waits_for_no_look_up() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (answer, answered) = std::sync::mpsc::channel();
        drive(runtime, async {
            let (begin, begun) = oneshot::channel();
            drop(tokio::task::spawn_blocking(move || {
                begin.send(()).unwrap();
                let _ = answered.recv_timeout(Duration::from_secs(5));
            }));
            begun.await.unwrap();
        });
        answer.send(()).expect("the look-up was waited for");
    }
}
