//! Threads that do nothing but speak to callers, each with a runtime of its own.
//!
//! On one thread there is nothing to lock and nobody to wake: the same call costs
//! half of what it costs on a runtime whose threads share their work. Connections of
//! gRPC are few and live long, so each goes to the thread that has the fewest,
//! which shares them better than the kernel does between listeners of one port.

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

/// A connection that is not yet of any runtime.
pub trait Unregistered: Send + 'static {
    /// What it is on the runtime that it goes to.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Makes it one of the runtime that this is called on.
    ///
    /// # Errors
    /// Where the system cannot watch it.
    fn here(self) -> io::Result<Self::Io>;

    /// What it is encrypted with, where it is to be.
    fn tls(&self) -> Option<&Tls> {
        None
    }
}

impl Unregistered for std::net::TcpStream {
    type Io = TcpStream;

    fn here(self) -> io::Result<TcpStream> {
        TcpStream::from_std(self)
    }
}

impl Unregistered for DuplexStream {
    type Io = Self;

    fn here(self) -> io::Result<Self> {
        Ok(self)
    }
}

/// The threads. Dropped, they end, with all that runs on them: a call that is cut off has
/// its line in the log before the process ends.
pub(crate) struct Workers(Vec<Worker>);

struct Worker {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
    /// None where the thread is not ours.
    life: Option<Life>,
}

struct Life {
    /// The thread ends with this.
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Life {
    fn end(self) -> JoinHandle<()> {
        drop(self.end);
        self.thread
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // First all of them are told.
        let lives = self.0.iter_mut().filter_map(|worker| worker.life.take());
        let threads: Vec<_> = lives.map(Life::end).collect();
        for thread in threads {
            // Nothing there waits for anything. A panic is in the log already.
            thread.join().ok();
        }
    }
}

/// A connection's place on a thread, until it is dropped.
pub(crate) struct Place {
    pub(crate) runtime: Handle,
    connections: Arc<AtomicUsize>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// Starts that many threads; for none, this runtime does the work.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub(crate) fn start(threads: usize) -> io::Result<Self> {
        if threads == 0 {
            return Ok(Self::here());
        }
        (0..threads)
            .map(Worker::start)
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// No threads: this runtime does the work.
    pub(crate) fn here() -> Self {
        Self(vec![Worker {
            runtime: Handle::current(),
            connections: Arc::default(),
            life: None,
        }])
    }

    /// A place on the thread that has the fewest connections.
    pub(crate) fn place(&self) -> Place {
        let fewest = self
            .0
            .iter()
            .min_by_key(|worker| worker.connections.load(Ordering::Relaxed));
        let worker = fewest.expect("there is at least one");
        worker.connections.fetch_add(1, Ordering::Relaxed);
        Place {
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
            life: Some(Life { end, thread }),
        })
    }
}
