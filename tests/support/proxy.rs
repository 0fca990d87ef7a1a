//! A proxy between the service and its Postgres that can be cut and mended: an
//! outage that only one test's service sees. It can also stall, break off after
//! so many bytes, keep notifications to itself, and hold back one reply.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

use crate::support::{
    folder::Folder,
    paths::{decoded, encoded},
};

/// The type of a notification among Postgres' messages.
const NOTIFICATION: u8 = b'A';
/// The types of messages that carry a statement: a simple query, and a parse.
const STATEMENTS: [u8; 2] = [b'Q', b'P'];
/// Those that have one run: a simple query, and an execution.
const RUNS: [u8; 2] = [b'Q', b'E'];

/// A proxy on a Unix socket of its own.
pub struct Proxy {
    /// Goes when dropped.
    _folder: Folder,
    /// Where new connections lead.
    target: Arc<Mutex<PathBuf>>,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    ToServer,
    ToClient,
}

/// What happens to a proxy's connections at the end of a [`Limit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// All of them break; new ones are accepted.
    Sever,
    /// All of them stall until the proxy is mended.
    Stall,
}

/// So many bytes that way, over all connections, and not one more.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    pub direction: Direction,
    pub bytes: u64,
    pub then: Then,
}

/// What becomes of connections that said LISTEN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listeners {
    /// They are like all others.
    Heard,
    /// They are broken as soon as it is said.
    Refused,
    /// They stay open, and nothing goes through them, from that word on.
    Stalled,
    /// Everything goes through but notifications, which are lost.
    Mute,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Open,
    Cut,
    Stalled,
}

#[derive(Clone, Copy, Debug)]
struct State {
    gate: Gate,
    /// Connections that began under an earlier one are broken.
    generation: u64,
    listeners: Listeners,
    /// Whether the replies to a marked request wait.
    holding: bool,
}

struct Shared {
    state: watch::Sender<State>,
    limit: Mutex<Option<Limit>>,
    /// What marks a request whose replies are to be held back.
    mark: Mutex<Option<Vec<u8>>>,
    /// Whether the marked request came by.
    caught: watch::Sender<bool>,
    /// Bytes that went through, to the server and to the client.
    passed: [AtomicU64; 2],
    /// Statements that were to be run.
    run: AtomicU64,
    /// Connections that said LISTEN and are open.
    listening: AtomicU64,
}

/// One connection through the proxy.
struct Link {
    shared: Arc<Shared>,
    generation: u64,
    listens: AtomicBool,
    caught: AtomicBool,
}

impl Proxy {
    /// Starts one in front of the database of that URL. Gives its own URL too.
    pub fn start(url: &str) -> (Self, String) {
        let (_, database) = url.rsplit_once('/').expect("a database");
        let target = socket(url);
        let folder = Folder::new();
        let listener = UnixListener::bind(folder.path(".s.PGSQL.5432")).unwrap();
        let shared = Arc::new(Shared {
            state: watch::Sender::new(State {
                gate: Gate::Open,
                generation: 0,
                listeners: Listeners::Heard,
                holding: false,
            }),
            limit: Mutex::new(None),
            mark: Mutex::new(None),
            caught: watch::Sender::new(false),
            passed: [AtomicU64::new(0), AtomicU64::new(0)],
            run: AtomicU64::new(0),
            listening: AtomicU64::new(0),
        });
        let target = Arc::new(Mutex::new(target));
        let accepting = tokio::spawn(accept(listener, Arc::clone(&target), Arc::clone(&shared)));
        let host = encoded(&folder);
        let url = format!("postgres://postgres@{host}/{database}");
        (
            Self {
                _folder: folder,
                target,
                shared,
                accepting,
            },
            url,
        )
    }

    /// Leads new connections to the server of that URL. Those that are open stay where
    /// they are, as with a virtual address or a TCP proxy that is re-pointed.
    pub fn repoint(&self, url: &str) {
        *self.target.lock().unwrap() = socket(url);
    }

    /// Ends every connection, and accepts no more.
    pub fn cut(&self) {
        self.shared.set(|state| {
            state.gate = Gate::Cut;
            state.generation += 1;
        });
    }

    /// Accepts connections again, and lets bytes flow again.
    pub fn mend(&self) {
        self.shared.limit.lock().unwrap().take();
        self.shared.set(|state| state.gate = Gate::Open);
    }

    /// Ends every connection; new ones are accepted.
    pub fn sever(&self) {
        self.shared.set(|state| state.generation += 1);
    }

    /// Lets no byte through any more, and closes nothing: what a cable that was
    /// pulled out looks like from both of its ends.
    pub fn stall(&self) {
        self.shared.set(|state| state.gate = Gate::Stalled);
    }

    /// Sets a limit, counted from now on.
    pub fn limit(&self, limit: Limit) {
        *self.shared.limit.lock().unwrap() = Some(limit);
    }

    /// Whether there is a limit that was not come to yet.
    pub fn is_limited(&self) -> bool {
        self.shared.limit.lock().unwrap().is_some()
    }

    /// Whether it stalls, which is a moment after a limit was come to.
    pub fn is_stalled(&self) -> bool {
        self.shared.state.borrow().gate == Gate::Stalled
    }

    /// Says what becomes of connections that LISTEN, those there are included.
    pub fn listeners(&self, listeners: Listeners) {
        self.shared.set(|state| state.listeners = listeners);
    }

    /// Mends it where its limit was come to.
    pub fn mend_at_limit(&self) {
        if !self.is_limited() {
            self.mend();
        }
    }

    /// How many open connections said LISTEN.
    pub fn listening(&self) -> u64 {
        self.shared.listening.load(Ordering::Relaxed)
    }

    /// How many bytes went through that way so far.
    pub fn passed(&self, direction: Direction) -> u64 {
        self.shared.passed[direction as usize].load(Ordering::Relaxed)
    }

    /// How many statements it was asked to run so far.
    pub fn statements(&self) -> u64 {
        self.shared.run.load(Ordering::Relaxed)
    }

    /// Holds back all replies on the first connection on which a message with
    /// these bytes in it is sent, until they are released.
    pub fn hold_replies_to(&self, mark: &[u8]) {
        *self.shared.mark.lock().unwrap() = Some(mark.to_vec());
        self.shared.caught.send_replace(false);
        self.shared.set(|state| state.holding = true);
    }

    /// Waits until the marked message has come by.
    pub async fn caught(&self) {
        let mut caught = self.shared.caught.subscribe();
        caught.wait_for(|caught| *caught).await.unwrap();
    }

    /// Whether it has.
    pub fn has_caught(&self) -> bool {
        *self.shared.caught.borrow()
    }

    /// Lets go of the replies that were held back.
    pub fn release(&self) {
        self.shared.mark.lock().unwrap().take();
        self.shared.set(|state| state.holding = false);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

impl Shared {
    fn set(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(change);
    }

    /// How many of these bytes may go that way before something happens, and
    /// what then.
    fn allowance(&self, direction: Direction, bytes: usize) -> (usize, Option<Then>) {
        let mut limit = self.limit.lock().unwrap();
        match limit.as_mut() {
            Some(found) if found.direction == direction => {
                match usize::try_from(found.bytes).unwrap().checked_sub(bytes) {
                    Some(left) if left > 0 => {
                        found.bytes = left as u64;
                        (bytes, None)
                    }
                    _ => {
                        let allowed = usize::try_from(found.bytes).unwrap();
                        let then = found.then;
                        *limit = None;
                        (allowed, Some(then))
                    }
                }
            }
            _ => (bytes, None),
        }
    }
}

/// The socket of the private Postgres that a URL leads to.
fn socket(url: &str) -> PathBuf {
    let rest = url
        .strip_prefix("postgres://postgres@")
        .expect("a private Postgres' URL");
    let (folder, _) = rest.split_once('/').expect("a database");
    decoded(folder).join(".s.PGSQL.5432")
}

async fn accept(listener: UnixListener, target: Arc<Mutex<PathBuf>>, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let target = target.lock().unwrap().clone();
        tokio::spawn(forward(client, target, Arc::clone(&shared)));
    }
}

async fn forward(client: UnixStream, target: impl AsRef<Path>, shared: Arc<Shared>) {
    let mut state = shared.state.subscribe();
    let State {
        gate, generation, ..
    } = *state.borrow();
    if gate == Gate::Cut {
        return;
    }
    // A client that connects to a stalled proxy hears nothing, not even a refusal.
    let moved = state.wait_for(|state| state.gate != Gate::Stalled);
    if !moved
        .await
        .is_ok_and(|state| state.generation == generation)
    {
        return;
    }
    let Ok(server) = UnixStream::connect(target).await else {
        return;
    };
    let link = Link {
        shared,
        generation,
        listens: AtomicBool::new(false),
        caught: AtomicBool::new(false),
    };
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    tokio::select! {
        _ = link.pump(client_read, server_write, Direction::ToServer) => {}
        _ = link.pump(server_read, client_write, Direction::ToClient) => {}
        _ = state.wait_for(|state| link.is_broken(state)) => {}
    }
}

impl Link {
    async fn pump(
        &self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        direction: Direction,
    ) -> io::Result<()> {
        let mut messages = match direction {
            Direction::ToServer => Messages::untyped(),
            Direction::ToClient => Messages::default(),
        };
        loop {
            if from.read_buf(&mut messages.buffer).await? == 0 {
                return Ok(());
            }
            let mut bytes = Vec::new();
            while let Some(message) = messages.next() {
                if direction == Direction::ToServer {
                    self.look_at(&message);
                }
                if !self.is_lost(&message, direction) {
                    bytes.extend(message);
                }
            }
            self.pass(&bytes, &mut to, direction).await?;
        }
    }

    /// Takes note of what a client says.
    fn look_at(&self, message: &[u8]) {
        if RUNS.contains(&message[0]) {
            self.shared.run.fetch_add(1, Ordering::Relaxed);
        }
        if STATEMENTS.contains(&message[0])
            && says_listen(message)
            && !self.listens.swap(true, Ordering::Relaxed)
        {
            self.shared.listening.fetch_add(1, Ordering::Relaxed);
        }
        let mut mark = self.shared.mark.lock().unwrap();
        if let Some(wanted) = mark.as_deref()
            && message.windows(wanted.len()).any(|part| part == wanted)
        {
            *mark = None;
            self.caught.store(true, Ordering::Relaxed);
            self.shared.caught.send_replace(true);
        }
    }

    fn listens(&self) -> bool {
        self.listens.load(Ordering::Relaxed)
    }

    fn is_lost(&self, message: &[u8], direction: Direction) -> bool {
        direction == Direction::ToClient
            && message[0] == NOTIFICATION
            && self.shared.state.borrow().listeners == Listeners::Mute
    }

    fn is_broken(&self, state: &State) -> bool {
        let refused = self.listens() && state.listeners == Listeners::Refused;
        state.generation != self.generation || refused
    }

    fn is_stalled(&self, state: &State, direction: Direction) -> bool {
        let held = state.holding
            && direction == Direction::ToClient
            && self.caught.load(Ordering::Relaxed);
        let listener = self.listens() && state.listeners == Listeners::Stalled;
        state.gate == Gate::Stalled || held || listener
    }

    /// Writes bytes on once they may go, as far as they may.
    async fn pass(
        &self,
        bytes: &[u8],
        to: &mut OwnedWriteHalf,
        direction: Direction,
    ) -> io::Result<()> {
        let mut state = self.shared.state.subscribe();
        let mut rest = bytes;
        while !rest.is_empty() {
            let moved = state
                .wait_for(|state| self.is_broken(state) || !self.is_stalled(state, direction))
                .await;
            if !moved.is_ok_and(|state| !self.is_broken(&state)) {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            let (allowed, then) = self.shared.allowance(direction, rest.len());
            // Before they are written: what they bring about must not be lost to
            // whoever counts.
            self.shared.passed[direction as usize].fetch_add(allowed as u64, Ordering::Relaxed);
            let (now, later) = rest.split_at(allowed);
            let written = to.write_all(now).await;
            // Also where the bytes are no longer taken: the limit was come to.
            match then {
                None => {}
                Some(Then::Sever) => {
                    self.shared.set(|state| state.generation += 1);
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                Some(Then::Stall) => self.shared.set(|state| state.gate = Gate::Stalled),
            }
            written?;
            rest = later;
        }
        Ok(())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if self.listens() {
            self.shared.listening.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Bytes, cut into messages of Postgres' protocol. No client asks for encryption on
/// a Unix socket, so there is nothing else in them.
#[derive(Default)]
pub struct Messages {
    untyped: bool,
    pub buffer: Vec<u8>,
}

impl Messages {
    /// Those of a client, of which the first has no type.
    pub fn untyped() -> Self {
        Self {
            untyped: true,
            ..Self::default()
        }
    }

    /// The next whole message.
    pub fn next(&mut self) -> Option<Vec<u8>> {
        let typed = usize::from(!self.untyped);
        let length = self.buffer.get(typed..typed + 4)?;
        let length = u32::from_be_bytes(length.try_into().unwrap());
        let end = typed + usize::try_from(length).unwrap();
        if self.buffer.len() < end {
            return None;
        }
        self.untyped = false;
        Some(self.buffer.drain(..end).collect())
    }
}

/// Whether a statement has the word LISTEN in it, and not UNLISTEN.
fn says_listen(message: &[u8]) -> bool {
    let text = message.to_ascii_uppercase();
    let word = b"LISTEN ";
    let mut found = text.windows(word.len()).enumerate();
    found.any(|(at, part)| part == word && !text[at - 1].is_ascii_alphanumeric())
}
