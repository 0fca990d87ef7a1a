//! The protocol, as a replica speaks it.

use std::collections::BTreeMap;

use hitkeep_auth::pb::{
    self, replicate_request::Message as Asked, replicate_response::Message as Sent,
    replication_service_client::ReplicationServiceClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Status, Streaming, transport::Channel};

pub const REPLICA: &str = "0190163d-8694-739b-aea5-966c26f8ad91";

/// A replication that a test has with a server.
pub struct Spoken {
    requests: mpsc::UnboundedSender<pb::ReplicateRequest>,
    responses: Streaming<pb::ReplicateResponse>,
    last: u64,
    /// What it has by now.
    pub copy: Copy,
    /// The parts that it was sent.
    pub parts: usize,
    /// The snapshots that began.
    pub snapshots: usize,
}

/// A copy of the index, as it is sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Copy {
    pub position: Option<pb::Position>,
    pub clients: BTreeMap<Vec<u8>, pb::ReplicatedClient>,
    pub accounts: Vec<String>,
}

impl Copy {
    /// The settled client of an id.
    pub fn client(&self, id: &str) -> Option<&pb::SettledClient> {
        let id: uuid::Uuid = id.parse().unwrap();
        let content = self.clients.get(&id.as_bytes()[..])?.content.as_ref();
        match content {
            Some(pb::replicated_client::Content::Settled(client)) => Some(client),
            other => panic!("{other:?}"),
        }
    }
}

/// A start from a position.
pub fn start(position: Option<pb::Position>) -> pb::ReplicationStart {
    pb::ReplicationStart {
        replica_id: REPLICA.to_owned(),
        position,
        ..pb::ReplicationStart::default()
    }
}

pub fn asked(message: Asked) -> pb::ReplicateRequest {
    pb::ReplicateRequest {
        message: Some(message),
    }
}

/// Opens a stream with these requests.
pub async fn open(
    channel: &Channel,
    token: &str,
    requests: impl tokio_stream::Stream<Item = pb::ReplicateRequest> + Send + 'static,
) -> Result<Streaming<pb::ReplicateResponse>, Status> {
    let mut request = Request::new(requests);
    let value = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    let mut client = ReplicationServiceClient::new(channel.clone());
    client
        .replicate(request)
        .await
        .map(tonic::Response::into_inner)
}

impl Spoken {
    pub async fn begin(
        channel: &Channel,
        token: &str,
        start: pb::ReplicationStart,
    ) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::unbounded_channel();
        requests.send(asked(Asked::Start(start))).unwrap();
        let responses = open(channel, token, UnboundedReceiverStream::new(receiver)).await?;
        Ok(Self {
            requests,
            responses,
            last: 0,
            copy: Copy::default(),
            parts: 0,
            snapshots: 0,
        })
    }

    /// The same, for one that has something already.
    pub async fn resume(channel: &Channel, token: &str, copy: Copy) -> Result<Self, Status> {
        let start = start(copy.position.clone());
        let mut spoken = Self::begin(channel, token, start).await?;
        spoken.copy = copy;
        Ok(spoken)
    }

    /// Asks a question, and gives its number.
    pub fn ask(&mut self, ask_database: bool) -> u64 {
        self.last += 1;
        let number = self.last;
        let question = pb::ReplicationQuestion {
            number,
            ask_database,
        };
        self.send(Asked::Question(question));
        number
    }

    pub fn send(&self, message: Asked) {
        // The stream may be over, which its end tells.
        drop(self.requests.send(asked(message)));
    }

    pub async fn next(&mut self) -> Result<Option<Sent>, Status> {
        let next = self.responses.message().await?;
        Ok(next.map(|next| next.message.expect("a message that is known")))
    }

    /// Takes everything up to the answer to a question.
    pub async fn until_answered(&mut self, number: u64) -> Result<pb::ReplicationAnswer, Status> {
        let mut pending = Copy::default();
        let mut removed = Vec::new();
        let mut is_snapshot = false;
        loop {
            let sent = self.next().await?;
            match sent.ok_or_else(|| Status::ok("the end"))? {
                Sent::SnapshotBegin(begin) => {
                    assert!(!is_snapshot && pending == Copy::default());
                    is_snapshot = true;
                    self.snapshots += 1;
                    pending.position = begin.position;
                }
                Sent::Changes(changes) => {
                    self.parts += 1;
                    let put = changes.put.into_iter();
                    pending
                        .clients
                        .extend(put.map(|client| (client.id.clone(), client)));
                    removed.extend(changes.removed);
                    if let Some(accounts) = changes.accounts {
                        let names = accounts.accounts.into_iter().map(|account| account.name);
                        pending.accounts = names.collect();
                        pending.accounts.sort();
                    }
                    if let Some(position) = changes.position {
                        assert!(!is_snapshot);
                        self.copy.position = Some(position);
                        self.copy.clients.append(&mut pending.clients);
                        for id in removed.drain(..) {
                            self.copy.clients.remove(&id);
                        }
                        if !pending.accounts.is_empty() {
                            self.copy.accounts = std::mem::take(&mut pending.accounts);
                        }
                    }
                }
                Sent::SnapshotEnd(pb::SnapshotEnd {}) => {
                    assert!(std::mem::take(&mut is_snapshot) && removed.is_empty());
                    self.copy = std::mem::take(&mut pending);
                }
                Sent::Answer(answer) => {
                    assert!(!is_snapshot && pending == Copy::default());
                    if answer.error.is_none() {
                        assert_eq!(answer.position, self.copy.position, "what was sent");
                    }
                    if answer.number == number {
                        return Ok(answer);
                    }
                }
            }
        }
    }

    /// Takes everything that was committed by now.
    pub async fn refresh(&mut self) -> Result<pb::ReplicationAnswer, Status> {
        let number = self.ask(true);
        self.until_answered(number).await
    }
}
