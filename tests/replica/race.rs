//! A relay in front of two servers that decides which of them answers a survey last.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

use crate::{
    nodes::{DATABASE, Node},
    support::{folder::Folder, paths::encoded},
};

/// What only the statement of a survey reads.
const SURVEY: &[u8] = b"pg_stat_replication";
/// The type of a message that prepares a statement. What sets a session up prepares none.
const PARSE: u8 = b'P';
/// How the message begins with which a connection is there for notifications, and for no
/// survey. It prepares none either.
const LISTEN: &[u8] = b"LISTEN ";
/// The type of a message with a row.
const ROW: u8 = b'D';
/// What asks a server for encryption, in place of a version of the protocol.
const ENCRYPTION: [u8; 4] = 80_877_103_u32.to_be_bytes();

/// Two servers, each behind a socket of its own.
///
/// The row with which the last one answers a survey is held back until the surveys that have
/// begun have the other one's. So the order is not a matter of time, and what is left to do when
/// the row is let through is little.
pub struct Race {
    folders: [Folder; 2],
    state: watch::Sender<State>,
    _accepting: JoinSet<()>,
}

#[derive(Default)]
struct State {
    /// Which of the two answers last. `None`: whichever it happens to be.
    last: Option<usize>,
    /// How much longer than the other one's an answer of one of the two takes.
    distance: Option<(usize, Duration)>,
    /// The connections that may still be a survey's without an answer.
    waiting: HashMap<Connection, Progress>,
}

/// The number of the server, and a number among all connections.
type Connection = (usize, u32);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// It has prepared no statement yet.
    Begun,
    /// It is a survey's, which has no answer yet.
    Surveying,
}

impl Race {
    /// Starts the relay, which holds nothing back at first.
    pub fn start(pair: &[Node; 2]) -> Self {
        let state = watch::Sender::default();
        let mut accepting = JoinSet::new();
        let folders = [0, 1].map(|server| {
            let folder = Folder::new();
            let listener = UnixListener::bind(socket(&folder)).unwrap();
            accepting.spawn(accept(
                listener,
                server,
                pair[server].socket(),
                state.clone(),
            ));
            folder
        });
        Self {
            folders,
            state,
            _accepting: accepting,
        }
    }

    /// From here on, this one of the two servers is the last to answer a survey.
    pub fn answers_last(&self, server: usize) {
        self.state.send_modify(|state| state.last = Some(server));
    }

    /// From here on, the answers of this one of the two servers take so much longer, as those
    /// of a server that is far away.
    pub fn is_far(&self, server: usize, distance: Duration) {
        self.state
            .send_modify(|state| state.distance = Some((server, distance)));
    }

    /// The host of one of the two servers in a URL.
    pub fn host(&self, server: usize) -> String {
        encoded(&self.folders[server])
    }

    /// Where to connect to the service's database on one of the two servers.
    pub fn database(&self, server: usize) -> String {
        format!("postgres://postgres@{}/{DATABASE}", self.host(server))
    }

    pub fn socket(&self, server: usize) -> PathBuf {
        socket(&self.folders[server])
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join(".s.PGSQL.5432")
}

async fn accept(
    listener: UnixListener,
    server: usize,
    target: PathBuf,
    state: watch::Sender<State>,
) {
    let mut open = JoinSet::new();
    let mut number = 0;
    while let Ok((client, _)) = listener.accept().await {
        number += 1;
        let surveyor = Surveyor::begin((server, number), state.clone());
        open.spawn(relay(client, target.clone(), surveyor));
    }
}

/// Without a server, the connection is closed.
async fn relay(mut client: UnixStream, target: PathBuf, surveyor: Surveyor) {
    let Ok(mut server) = UnixStream::connect(target).await else {
        return;
    };
    if start_up(&mut client, &mut server).await.is_err() {
        return;
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        _ = statements(from_client, to_server, &surveyor) => {}
        _ = answers(from_server, to_client, &surveyor) => {}
    }
}

/// One connection, as far as it may be a survey's. Dropped with it.
struct Surveyor {
    connection: Connection,
    state: watch::Sender<State>,
}

impl Surveyor {
    fn begin(connection: Connection, state: watch::Sender<State>) -> Self {
        state.send_modify(|state| {
            state.waiting.insert(connection, Progress::Begun);
        });
        Self { connection, state }
    }

    fn progress(&self) -> Option<Progress> {
        let state = self.state.borrow();
        state.waiting.get(&self.connection).copied()
    }

    fn prepares(&self, statement: &[u8]) {
        if self.progress() != Some(Progress::Begun) {
            return;
        }
        let is_survey = statement.windows(SURVEY.len()).any(|part| part == SURVEY);
        self.state.send_modify(|state| {
            if is_survey {
                state.waiting.insert(self.connection, Progress::Surveying);
            } else {
                state.waiting.remove(&self.connection);
            }
        });
    }

    /// Waits until its answer may be let through: after those of the surveys that have begun.
    /// Surveys that begin later are not waited for. There may always be one, and it would never
    /// answer.
    async fn may_answer(&self) {
        let (server, _) = self.connection;
        let mut state = self.state.subscribe();
        let mut earlier: Vec<Connection> = state.borrow().waiting.keys().copied().collect();
        earlier.retain(|(other, _)| *other != server);
        let in_turn = |state: &State| {
            let is_last = state.last == Some(server);
            !is_last
                || earlier
                    .iter()
                    .all(|other| !state.waiting.contains_key(other))
        };
        let distance = state
            .wait_for(in_turn)
            .await
            .expect("self has a sender")
            .distance;
        if let Some((far, distance)) = distance
            && far == server
        {
            tokio::time::sleep(distance).await;
        }
    }

    fn answered(&self) {
        self.state.send_modify(|state| {
            state.waiting.remove(&self.connection);
        });
    }
}

impl Drop for Surveyor {
    fn drop(&mut self) {
        self.answered();
    }
}

/// Passes on the first message, which has no type; and before it a request for encryption,
/// which the server declines with a byte that has no length.
async fn start_up(client: &mut UnixStream, server: &mut UnixStream) -> std::io::Result<()> {
    loop {
        let message = read_message(client, 0).await?;
        server.write_all(&message).await?;
        if message[4..] != ENCRYPTION {
            return Ok(());
        }
        let declined = server.read_u8().await?;
        client.write_u8(declined).await?;
    }
}

/// Passes on what the client says.
async fn statements(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    surveyor: &Surveyor,
) -> std::io::Result<()> {
    loop {
        let message = read_message(&mut from, 1).await?;
        if message[0] == PARSE || message[5..].starts_with(LISTEN) {
            surveyor.prepares(&message);
        }
        to.write_all(&message).await?;
    }
}

/// Passes on what the server says.
async fn answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    surveyor: &Surveyor,
) -> std::io::Result<()> {
    loop {
        let message = read_message(&mut from, 1).await?;
        let is_answer = message[0] == ROW && surveyor.progress() == Some(Progress::Surveying);
        if is_answer {
            surveyor.may_answer().await;
        }
        to.write_all(&message).await?;
        if is_answer {
            surveyor.answered();
        }
    }
}

/// Reads a message whose length, which counts itself, comes after so many bytes.
async fn read_message(
    from: &mut (impl AsyncRead + Unpin),
    before: usize,
) -> std::io::Result<Vec<u8>> {
    let mut message = vec![0; before + 4];
    from.read_exact(&mut message).await?;
    let length = message[before..].try_into().expect("four bytes");
    let length = usize::try_from(u32::from_be_bytes(length)).expect("64 bits");
    message.resize(before + length, 0);
    from.read_exact(&mut message[before + 4..]).await?;
    Ok(message)
}
