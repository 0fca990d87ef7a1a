//! The frames of HTTP/2 that the load generator sends and reads (RFC 9113), and
//! how a real gRPC client writes its headers.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use hitkeep_auth::pb::{IntrospectRequest, IntrospectResponse};
use tonic::{Request, client::Grpc, codegen::http::uri::PathAndQuery, transport::Endpoint};
use tonic_prost::ProstCodec;

use crate::support::service::Caller;

/// What a client says first of all.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The length of what stands in front of a frame's payload.
pub const HEAD: usize = 9;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const SETTING_MAX_CONCURRENT_STREAMS: u16 = 3;
pub const SETTING_INITIAL_WINDOW_SIZE: u16 = 4;

/// The largest window there is.
pub const WHOLE_WINDOW: u32 = (1 << 31) - 1;
/// The window that there is at first.
pub const FIRST_WINDOW: u32 = 65_535;

/// The head of a frame.
#[derive(Clone, Copy)]
pub struct Head {
    pub length: usize,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

impl Head {
    /// Reads one from the first bytes of a frame.
    pub fn read(bytes: &[u8]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = bytes else {
            panic!("the head of a frame has {HEAD} bytes");
        };
        Self {
            length: usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c),
            kind: *kind,
            flags: *flags,
            stream: number(stream) & WHOLE_WINDOW,
        }
    }
}

/// The number in the first four bytes.
pub fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().expect("four bytes"))
}

/// Puts a frame at the end of what is to be sent.
pub fn put(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("a short frame");
    out.extend_from_slice(&length.to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// The header blocks of a connection's requests. They are tonic's own: the first
/// one puts into the table what the others then only name.
#[derive(Clone)]
pub struct Blocks {
    pub first: Vec<u8>,
    pub later: Vec<u8>,
}

impl Blocks {
    /// Listens to a tonic client that makes three such calls.
    pub async fn of(caller: &Caller, path: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
        let address = listener.local_addr().expect("it is bound");
        let heard = tokio::task::spawn_blocking(move || listen(&listener));
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        let channel = endpoint.connect_lazy();
        let calls = (0..3).map(|_| {
            let mut client = Grpc::new(channel.clone());
            let request: Request<IntrospectRequest> = caller.says(IntrospectRequest::default());
            tokio::spawn(async move {
                client.ready().await.map_err(drop)?;
                let codec = ProstCodec::<IntrospectRequest, IntrospectResponse>::default();
                let path = PathAndQuery::from_static(path);
                // Nobody answers.
                client.unary(request, path, codec).await.map_err(drop)
            })
        });
        let calls: Vec<_> = calls.collect();
        let heard = heard.await.expect("it does not panic");
        let [first, later, last] = heard.expect("a client speaks");
        for call in calls {
            call.abort();
        }
        assert_eq!(later, last, "after the first call all are written alike");
        Self { first, later }
    }
}

/// The header blocks of the first three calls that come in.
fn listen(listener: &TcpListener) -> io::Result<[Vec<u8>; 3]> {
    let (mut connection, _) = listener.accept()?;
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut preface = [0; PREFACE.len()];
    connection.read_exact(&mut preface)?;
    let mut settings = Vec::new();
    put(&mut settings, SETTINGS, 0, 0, &[]);
    connection.write_all(&settings)?;
    let mut next = || loop {
        let (head, payload) = read(&mut connection)?;
        if head.kind == HEADERS {
            assert_eq!(
                head.flags, END_HEADERS,
                "nothing but the block in one frame"
            );
            return io::Result::Ok(payload);
        }
    };
    Ok([next()?, next()?, next()?])
}

fn read(connection: &mut TcpStream) -> io::Result<(Head, Vec<u8>)> {
    let mut head = [0; HEAD];
    connection.read_exact(&mut head)?;
    let head = Head::read(&head);
    let mut payload = vec![0; head.length];
    connection.read_exact(&mut payload)?;
    Ok((head, payload))
}
