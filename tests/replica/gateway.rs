//! A way from a replica to the server that it follows: a socket in front of a server that
//! takes its connections from memory. It can be cut, stalled in one direction or both, broken
//! off after so many bytes, and led to another server; and it can hold back the frames of a
//! stream while those of others pass.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use hitkeep_auth::upstream::Target;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, UnixListener, UnixStream},
    sync::watch,
    task::JoinSet,
};

use crate::{frames::Frames, harness::Connections, support::folder::Folder};

/// How much a connection holds before its writer waits: little, so that what is stalled here
/// is felt there.
const BUFFER: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Open,
    /// Nothing goes to the replica.
    Deaf,
    /// Nothing goes either way.
    Stalled,
    /// Of this kind of stream, nothing goes to the replica.
    Holding(Streams),
    /// Connections are refused.
    Cut,
}

/// Streams of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streams {
    /// The replication, which is the first call on a connection.
    Replication,
    /// All others: reports of uses.
    Others,
}

impl Streams {
    /// The first stream of a client is number 1; number 0 is the connection itself.
    fn has(self, stream: u32) -> bool {
        match self {
            Self::Replication => stream == 1,
            Self::Others => stream > 1,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct State {
    gate: Gate,
    /// Connections of an earlier one are broken.
    generation: u64,
    /// How many frames may go to the replica of those that are held back.
    released: usize,
}

struct Shared {
    server: Mutex<Connections>,
    state: watch::Sender<State>,
    /// How many bytes may still go to the replica before everything is broken.
    left: Mutex<Option<usize>>,
    /// Connections that were made.
    made: AtomicU64,
    /// Frames that are held back, on all connections.
    held: AtomicUsize,
}

/// A way to a server.
pub struct Gateway {
    folder: Folder,
    target: Target,
    shared: Arc<Shared>,
    accepting: JoinSet<()>,
}

impl Gateway {
    /// A way to the server that takes its connections from there.
    pub fn to(server: &Connections) -> Self {
        let folder = Folder::new();
        let listener = UnixListener::bind(folder.join("socket")).unwrap();
        let shared = Arc::new(Shared {
            server: Mutex::new(server.clone()),
            state: watch::Sender::new(State {
                gate: Gate::Open,
                generation: 0,
                released: 0,
            }),
            left: Mutex::new(None),
            made: AtomicU64::new(0),
            held: AtomicUsize::new(0),
        });
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, Arc::clone(&shared)));
        Self {
            target: Target::Unix(folder.join("socket")),
            folder,
            shared,
            accepting,
        }
    }

    /// The same over TCP: as far as a replica knows, each connection may lead to another server.
    pub async fn over_tcp(server: &Connections) -> Self {
        let mut gateway = Self::to(server);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        gateway.target = Target::Tcp {
            host: "127.0.0.1".to_owned(),
            port: listener.local_addr().unwrap().port(),
            encrypted: false,
        };
        let socket = gateway.folder.join("socket");
        gateway.accepting.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((mut replica, _)) = listener.accept().await {
                let socket = socket.clone();
                open.spawn(async move {
                    let Ok(mut on) = UnixStream::connect(socket).await else {
                        return;
                    };
                    // However it ends, both ends are closed.
                    copy_bidirectional(&mut replica, &mut on).await.ok();
                });
            }
        });
        gateway
    }

    pub fn target(&self) -> Target {
        self.target.clone()
    }

    /// Leads new connections to another server.
    pub fn lead_to(&self, server: &Connections) {
        *self.shared.server.lock().unwrap() = server.clone();
    }

    /// Breaks every connection, and refuses new ones.
    pub fn cut(&self) {
        self.set(Gate::Cut, true);
    }

    /// Breaks every connection; new ones are made.
    pub fn sever(&self) {
        let gate = self.shared.state.borrow().gate;
        self.set(gate, true);
    }

    /// Lets nothing through any more, and closes nothing.
    pub fn stall(&self) {
        self.set(Gate::Stalled, false);
    }

    /// The same, for what goes to the replica.
    pub fn deafen(&self) {
        self.set(Gate::Deaf, false);
    }

    /// Holds back what the server says on such streams, from one border of frames to another.
    /// All else passes.
    pub fn hold(&self, streams: Streams) {
        self.set(Gate::Holding(streams), false);
    }

    /// How many frames are held back.
    pub fn held(&self) -> usize {
        self.shared.held.load(Ordering::SeqCst)
    }

    /// Lets the first of them through, as many as that, and no others. How many are left.
    pub fn release(&self, frames: usize) -> usize {
        let left = self.held().saturating_sub(frames);
        self.shared
            .state
            .send_modify(|state| state.released += frames);
        left
    }

    /// Lets everything through again.
    pub fn mend(&self) {
        self.shared.left.lock().unwrap().take();
        self.set(Gate::Open, false);
    }

    /// Lets so many bytes through to the replica, and is cut then.
    pub fn open_for(&self, bytes: usize) {
        *self.shared.left.lock().unwrap() = Some(bytes);
        self.set(Gate::Open, false);
    }

    /// Whether that has happened.
    pub fn is_cut(&self) -> bool {
        self.shared.state.borrow().gate == Gate::Cut
    }

    /// How many connections were made so far.
    pub fn made(&self) -> u64 {
        self.shared.made.load(Ordering::Relaxed)
    }

    fn set(&self, gate: Gate, breaks: bool) {
        self.shared.set(gate, breaks);
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.cut();
    }
}

impl Shared {
    fn set(&self, gate: Gate, breaks: bool) {
        self.state.send_modify(|state| {
            state.gate = gate;
            state.released = 0;
            state.generation += u64::from(breaks);
        });
    }

    /// How many of these bytes may go to the replica.
    fn allowed(&self, bytes: usize) -> usize {
        let mut left = self.left.lock().unwrap();
        let Some(some) = left.as_mut() else {
            return bytes;
        };
        let allowed = bytes.min(*some);
        *some -= allowed;
        if *some == 0 {
            *left = None;
            drop(left);
            self.set(Gate::Cut, true);
        }
        allowed
    }
}

async fn accept(listener: UnixListener, shared: Arc<Shared>) {
    let mut open = JoinSet::new();
    while let Ok((replica, _)) = listener.accept().await {
        let state = *shared.state.borrow();
        if state.gate == Gate::Cut {
            continue;
        }
        let (ours, theirs) = tokio::io::duplex(BUFFER);
        if shared.server.lock().unwrap().send(Ok(theirs)).is_err() {
            // The server is gone.
            continue;
        }
        shared.made.fetch_add(1, Ordering::Relaxed);
        open.spawn(forward(
            replica,
            ours,
            state.generation,
            Arc::clone(&shared),
        ));
    }
}

async fn forward(
    replica: UnixStream,
    server: tokio::io::DuplexStream,
    generation: u64,
    shared: Arc<Shared>,
) {
    let (replica_read, replica_write) = tokio::io::split(replica);
    let (server_read, server_write) = tokio::io::split(server);
    let mut state = shared.state.subscribe();
    tokio::select! {
        () = questions(replica_read, server_write, &shared) => {}
        () = Answers::new(&shared).pass(server_read, replica_write) => {}
        _ = state.wait_for(|state| state.generation != generation) => {}
    }
}

/// Passes on what the replica says.
async fn questions(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    shared: &Shared,
) {
    let mut state = shared.state.subscribe();
    let mut buffer = vec![0; BUFFER];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let passes = |state: &State| state.gate != Gate::Stalled;
        if state.wait_for(passes).await.is_err() || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// What the server says.
struct Answers<'s> {
    shared: &'s Shared,
    state: watch::Receiver<State>,
    frames: Frames,
    /// How many of them were counted as held back.
    counted: usize,
}

impl<'s> Answers<'s> {
    fn new(shared: &'s Shared) -> Self {
        Self {
            shared,
            state: shared.state.subscribe(),
            frames: Frames::default(),
            counted: 0,
        }
    }

    /// Passes it on.
    async fn pass(mut self, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
        let mut buffer = vec![0; BUFFER];
        loop {
            let gate = self.state.borrow_and_update().gate;
            let passing = self.passing();
            let allowed = self.shared.allowed(passing.len());
            if to.write_all(&passing[..allowed]).await.is_err() || allowed < passing.len() {
                return;
            }
            // What was read, a stalled connection may not have: it is felt at the other end.
            let is_open = !matches!(gate, Gate::Deaf | Gate::Stalled);
            tokio::select! {
                read = from.read(&mut buffer), if is_open => match read {
                    Ok(read @ 1..) => self.frames.add(&buffer[..read]),
                    _ => return,
                },
                changed = self.state.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }

    /// What may go on to the replica now.
    fn passing(&mut self) -> Vec<u8> {
        let mut passing = Vec::new();
        self.shared.state.send_if_modified(|state| {
            passing = match state.gate {
                Gate::Open | Gate::Cut => self.frames.take(|_| false),
                Gate::Deaf | Gate::Stalled => Vec::new(),
                Gate::Holding(streams) => {
                    let waiting = self.frames.waiting();
                    let mut passing = self.frames.take_first(state.released.min(waiting));
                    state.released -= waiting - self.frames.waiting();
                    passing.extend(self.frames.take(|stream| streams.has(stream)));
                    passing
                }
            };
            false
        });
        self.count(self.frames.waiting());
        passing
    }

    fn count(&mut self, held: usize) {
        self.shared.held.fetch_add(held, Ordering::SeqCst);
        self.shared.held.fetch_sub(self.counted, Ordering::SeqCst);
        self.counted = held;
    }
}

impl Drop for Answers<'_> {
    fn drop(&mut self) {
        self.count(0);
    }
}
