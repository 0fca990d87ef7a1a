//! The typed calls: addresses, deadlines, credentials, and what is repeated.

use std::{collections::BTreeSet, time::Duration};

use hitkeep_auth::pb;
use hitkeep_auth_client::{CallerToken, Client, reason};
use prost_reflect::DescriptorPool;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};
use tonic::{Code, Request};

use crate::{
    service::{Service, VERA},
    support::{
        certificates::Authority,
        folder::{Folder, text},
        postgres,
        process::{Process, binary},
    },
};

/// A client of a service on this machine.
pub fn client_of(address: &str, token: &str) -> Client {
    let token = CallerToken::new(token).unwrap();
    let client = Client::builder(&format!("http://{address}")).caller_token(token);
    client.allow_plaintext().build().unwrap()
}

/// A creation of one client of the user's.
fn creation(request_id: &str) -> pb::CreateApiClientRequest {
    pb::CreateApiClientRequest {
        actor: Some(pb::Actor {
            user_id: VERA.to_owned(),
            ..pb::Actor::default()
        }),
        api_client: Some(pb::ApiClient {
            owner: Some(pb::Owner {
                owner: Some(pb::owner::Owner::UserId(VERA.to_owned())),
            }),
            name: "a client".to_owned(),
            ..pb::ApiClient::default()
        }),
        request_id: request_id.to_owned(),
    }
}

/// Calls that are streams, and those of replicas, which are not made by hand.
const NOT_TYPED: [&str; 3] = ["introspect_stream", "replicate", "report_usage"];

#[test]
fn every_method_is_there() {
    let pool = DescriptorPool::decode(pb::FILE_DESCRIPTOR_SET).unwrap();
    let own = pool
        .services()
        .filter(|service| service.package_name() == "hitkeep.auth.v1");
    let methods = own.flat_map(|service| {
        let names = service.methods().map(|method| snake_case(method.name()));
        names.collect::<Vec<_>>()
    });
    let methods: BTreeSet<String> = methods.collect();
    let typed = Client::METHODS.iter().chain(&NOT_TYPED);
    let known: BTreeSet<String> = typed.map(|name| (*name).to_owned()).collect();
    let missing: Vec<_> = methods
        .difference(&known)
        .filter(|name| *name != "replace_directory")
        .collect();
    assert!(
        missing.is_empty(),
        "add {missing:?} to the table in crates/client/src/client/methods.rs"
    );
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

#[tokio::test]
async fn calls_are_made_and_refused_with_a_reason() {
    let service = Service::start(&[]).await;
    let dashboard = client_of(&service.address, &service.dashboard);
    let id = "00000000-0000-4000-8000-000000000001";
    let first = dashboard.create_api_client(creation(id)).await.unwrap();
    let again = dashboard.create_api_client(creation(id)).await.unwrap();
    assert_eq!(first.token, again.token);

    let introspector = client_of(&service.address, &service.caller);
    let request = pb::IntrospectRequest {
        token: first.token.clone(),
        ..pb::IntrospectRequest::default()
    };
    assert!(
        introspector
            .introspect(request.clone())
            .await
            .unwrap()
            .active
    );
    let batch = pb::BatchIntrospectRequest {
        requests: vec![pb::BatchIntrospectItem {
            token: first.token,
            check: None,
            ..pb::BatchIntrospectItem::default()
        }],
        at_least_revision: Some(first.revision),
    };
    let answers = introspector.batch_introspect(batch).await.unwrap();
    assert!(answers.responses[0].active);

    // The metadata of another program is not passed on.
    let mut foreign = Request::new(request.clone());
    let bearer = "Bearer hkp_nobodys".parse().unwrap();
    foreign.metadata_mut().insert("authorization", bearer);
    assert!(introspector.introspect(foreign).await.unwrap().active);

    let refused = dashboard.introspect(request.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(reason(&refused), Some(pb::ErrorReason::CallerNotPermitted));
    let nobody = client_of(&service.address, "hks_nobodys");
    let refused = nobody.introspect(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert_eq!(reason(&refused), Some(pb::ErrorReason::CallerUnknown));

    let parts = tokio_stream::iter([pb::ReplaceDirectoryRequest::default()]);
    let refused = introspector.replace_directory(parts).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

/// Writes as well: a call that found no connection certainly did not reach a server.
#[tokio::test]
async fn a_server_that_is_not_there_is_passed_over() {
    let service = Service::start(&[]).await;
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let token = CallerToken::new(&service.dashboard).unwrap();
    let client = Client::builder(&format!("http://{closed}"))
        .address(&format!("http://{}", service.address))
        .caller_token(token)
        .allow_plaintext()
        .build()
        .unwrap();
    for _ in 0..10 {
        let created = client.create_api_client(creation("")).await;
        created.unwrap();
    }
    let gone = client_of(&closed.to_string(), &service.dashboard);
    let failed = gone.create_api_client(creation("")).await.unwrap_err();
    assert_eq!(failed.code(), Code::Unavailable);
}

/// A server that reads the head of one request, and answers with these frames before it closes
/// the connection.
async fn cutting_off(frames: &'static [u8]) -> (String, JoinHandle<TcpListener>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let served = tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut preface = [0; 24];
        connection.read_exact(&mut preface).await.unwrap();
        connection
            .write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])
            .await
            .unwrap();
        let mut head = [0; 9];
        while head[3] != 1 {
            connection.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut rest = vec![0; usize::try_from(length).unwrap()];
            connection.read_exact(&mut rest).await.unwrap();
        }
        connection.write_all(frames).await.unwrap();
        listener
    });
    (address, served)
}

/// A write that may have been made is not repeated.
#[tokio::test]
async fn a_read_whose_connection_ends_is_repeated() {
    let service = Service::start(&[]).await;
    for frames in [
        &b""[..],
        // GOAWAY, with no stream that was taken.
        &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        // Stream 1 is reset, as REFUSED_STREAM, INTERNAL_ERROR and CANCEL.
        &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 7],
        &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 2],
        &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8],
    ] {
        let client = |first: &str| {
            let client = Client::builder(first).address(&format!("http://{}", service.address));
            let token = CallerToken::new(&service.dashboard).unwrap();
            client.caller_token(token).allow_plaintext().build()
        };
        let (first, served) = cutting_off(frames).await;
        let read = client(&first).unwrap();
        let status = read.list_api_clients(pb::ListApiClientsRequest {
            actor: creation("").actor,
            owner: creation("").api_client.unwrap().owner,
            ..pb::ListApiClientsRequest::default()
        });
        status
            .await
            .unwrap_or_else(|failed| panic!("{frames:?}: {failed:?}"));
        served.await.unwrap();

        let (first, served) = cutting_off(frames).await;
        let write = client(&first).unwrap();
        let failed = write.create_api_client(creation("")).await.unwrap_err();
        assert_eq!(reason(&failed), None, "{failed:?}");
        served.await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_a_deadline() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let client = client_of(&address, "hks_x");
    let mut request = Request::new(pb::GetIndexStatusRequest {});
    request.set_timeout(Duration::from_millis(50));
    let failed = client.get_index_status(request).await.unwrap_err();
    assert_eq!(failed.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_unix_socket_is_an_address() {
    let folder = Folder::new();
    let socket = format!("unix:{}", text(&folder.path("auth.sock")));
    let service = Service::start(&["--listen", &socket]).await;
    let token = CallerToken::new(&service.caller).unwrap();
    let client = Client::builder(&socket)
        .caller_token(token)
        .build()
        .unwrap();
    let status = client.get_index_status(pb::GetIndexStatusRequest {});
    assert!(status.await.unwrap().database_reachable);
}

/// Both ways: the server by its authority, and this program by its certificate.
#[tokio::test]
async fn certificates_are_verified_and_shown() {
    let folder = Folder::new();
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let ca = folder.write("servers.pem", &servers.pem());
    let client_ca = folder.write("clients.pem", &clients.pem());
    let (certificate, key) = folder.write_identity("server", &servers.sign(&["localhost"]));
    let (own, own_key) = folder.write_identity("own", &clients.sign(&["program.internal"]));

    let url = postgres::migrated_database().await;
    let account = [
        "service-account",
        "create",
        "program",
        "--allow",
        "introspect",
    ];
    let more = [
        "--certificate-name",
        "dns:program.internal",
        "--database-url",
        &url,
    ];
    let made = Process::start(binary(account.iter().chain(&more)))
        .ended()
        .await;
    assert_eq!(made.code, Some(0), "{made:?}");
    let arguments = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--database-url",
        &url,
        "--tls-cert",
        text(&certificate),
        "--tls-key",
        text(&key),
        "--tls-client-ca",
        text(&client_ca),
    ];
    let mut server = Process::start(binary(arguments));
    let address = server.address().await;
    server.stderr.line("introspection serves").await;
    let port = address.rsplit(':').next().unwrap();
    let builder = || Client::builder(&format!("https://localhost:{port}"));
    let ask = async |client: Client| client.get_index_status(pb::GetIndexStatusRequest {}).await;

    let known = builder().authorities(&ca).identity(&own, &own_key);
    ask(known.build().unwrap()).await.unwrap();
    // Another authority's server.
    let distrusting = builder().authorities(&client_ca).identity(&own, &own_key);
    let failed = ask(distrusting.build().unwrap()).await.unwrap_err();
    assert_eq!(failed.code(), Code::Unavailable);
    // A file that is not there is no reason to go on without it.
    let missing = builder().authorities(folder.path("missing.pem"));
    let missing = missing.caller_token(CallerToken::new("hks_x").unwrap());
    let failed = ask(missing.build().unwrap()).await.unwrap_err();
    assert_eq!(failed.code(), Code::Unavailable);
}
