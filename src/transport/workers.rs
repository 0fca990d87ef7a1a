//! I/O threads that serve gRPC connections, each with a single-threaded runtime.
//!
//! Such a runtime needs no locks and no wake-ups across threads: a call costs half of what
//! it costs on a work-stealing runtime. gRPC connections are few and long-lived, so each
//! goes to the thread with the fewest connections, which balances better than the kernel
//! does between listeners that share a port.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream},
    net::TcpStream,
    runtime::{Builder, Handle},
    sync::oneshot,
};

use super::tls::Tls;

/// A connection that is not registered with a runtime yet.
pub trait Unregistered: Send + 'static {
    /// The registered connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Registers it with the current runtime.
    ///
    /// # Errors
    /// If the system cannot watch the socket.
    fn register(self) -> io::Result<Self::Io>;

    /// The TLS of its listener, if it uses TLS.
    fn tls(&self) -> Option<&Tls> {
        None
    }
}

impl Unregistered for std::net::TcpStream {
    type Io = TcpStream;

    fn register(self) -> io::Result<TcpStream> {
        TcpStream::from_std(self)
    }
}

impl Unregistered for DuplexStream {
    type Io = Self;

    fn register(self) -> io::Result<Self> {
        Ok(self)
    }
}

/// The I/O threads. Dropping it stops them, with all their tasks: calls that are cut off
/// are logged before the process ends.
pub(crate) struct Workers(Vec<Worker>);

struct Worker {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
    /// None if the worker is the current runtime.
    thread: Option<WorkerThread>,
}

struct WorkerThread {
    /// Dropping it stops the thread.
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl WorkerThread {
    fn end(self) -> JoinHandle<()> {
        drop(self.end);
        self.thread
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // All threads are stopped before any is joined.
        let threads = self.0.iter_mut().filter_map(|worker| worker.thread.take());
        let threads: Vec<_> = threads.map(WorkerThread::end).collect();
        for thread in threads {
            // The thread stops without waiting for its tasks. A panic was logged already.
            thread.join().ok();
        }
    }
}

/// A connection's slot on a worker, until it is dropped.
pub(crate) struct WorkerSlot {
    pub(crate) runtime: Handle,
    connections: Arc<AtomicUsize>,
}

impl Drop for WorkerSlot {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// Starts `threads` threads; for 0, the current runtime does the work.
    ///
    /// # Errors
    /// If the system cannot start a thread.
    pub(crate) fn start(threads: usize) -> io::Result<Self> {
        if threads == 0 {
            return Ok(Self::current());
        }
        (0..threads)
            .map(Worker::start)
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// No threads: the current runtime does the work.
    pub(crate) fn current() -> Self {
        Self(vec![Worker {
            runtime: Handle::current(),
            connections: Arc::default(),
            thread: None,
        }])
    }

    /// A slot on the worker with the fewest connections.
    pub(crate) fn least_loaded(&self) -> WorkerSlot {
        let fewest = self
            .0
            .iter()
            .min_by_key(|worker| worker.connections.load(Ordering::Relaxed));
        let worker = fewest.expect("there is at least one");
        worker.connections.fetch_add(1, Ordering::Relaxed);
        WorkerSlot {
            runtime: worker.runtime.clone(),
            connections: Arc::clone(&worker.connections),
        }
    }
}

impl Worker {
    fn start(number: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name(format!("callers-{number}"))
            .spawn(move || {
                // Nothing is ever sent: the other end is dropped.
                runtime.block_on(ended).ok();
            })?;
        Ok(Self {
            runtime: handle,
            connections: Arc::default(),
            thread: Some(WorkerThread { end, thread }),
        })
    }
}
