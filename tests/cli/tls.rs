//! `serve` with certificates and sockets, as an operator runs it.

use std::sync::Arc;

use chrono::{Datelike, TimeDelta};
use hitkeep_auth::{domain::clock::Clock, system::SystemClock};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::{
    certificates::Authority,
    folder::{Folder, text},
    postgres::migrated_database,
    process::{Process, binary},
    run::{http_get, run, run_on},
};

const NAME: &str = "auth.example";
const HTTP1: Option<&[u8]> = Some(b"http/1.1");

/// A new connection over TLS, with whatever certificate is shown now.
async fn connect(address: &str, authority: &Authority) -> Channel {
    let config = ClientTlsConfig::new()
        .domain_name(NAME)
        .ca_certificate(Certificate::from_pem(authority.pem()));
    let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
    let channel = endpoint.tls_config(config).unwrap().connect().await;
    channel.expect("a handshake")
}

#[tokio::test]
async fn certificates_are_replaced_while_it_serves() {
    let (folder, authority) = (Folder::new(), Authority::new("first"));
    let (certificate, key) = folder.write_identity("tls", &authority.sign(&[NAME]));
    let database = migrated_database().await;
    let arguments = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--database-url",
        &database,
    ];
    let often = ["--tls-cert", text(&certificate), "--tls-key", text(&key)];
    for every in ["10ms", "1day"] {
        let interval = ["--tls-poll-interval", every];
        let all = arguments.iter().chain(&often).chain(&interval);
        let mut server = Process::start(binary(all));
        let address = server.address().await;
        server.stderr.line("introspection serves").await;
        connect(&address, &authority).await;
        let ask = [
            "healthcheck",
            "--listen",
            &address,
            "--tls-cert",
            text(&certificate),
        ];
        assert_eq!(run(ask).await.given(), "SERVING\n");
        let said = run(&ask[..3]).await.refused(1);
        assert!(said.contains(&address), "{said}");

        // Another authority's: who connects now must see the new one.
        let next = Authority::new("next");
        let identity = next.sign_until(&[NAME], 2100);
        folder.replace("tls.key", &identity.key.serialize_pem());
        if every == "10ms" {
            let said = server.stderr.line("cannot be used").await;
            assert!(said.contains("tls.key"), "{said}");
        }
        folder.replace("tls.pem", &identity.certificate.pem());
        if every == "1day" {
            server.signal("HUP").await;
        }
        let said = server.stderr.line("the certificates were replaced").await;
        assert!(said.contains("2100-01-01"), "{said}");
        connect(&address, &next).await;
        server.signal("TERM").await;
        assert_eq!(server.ended().await.code, Some(0));
        folder.write_identity("tls", &authority.sign(&[NAME]));
    }
}

/// While there is time left to replace it, and when there is none.
#[tokio::test]
async fn a_certificate_that_ends_is_spoken_of() {
    let (folder, authority) = (Folder::new(), Authority::new("ca"));
    let day = (SystemClock::default().now() + TimeDelta::days(3)).date_naive();
    let part = |number: u32| u8::try_from(number).unwrap();
    let in_three_days = (day.year(), part(day.month()), part(day.day()));
    for (end, level, told) in [
        (in_three_days, "WARN", "certificate expires soon"),
        ((2020, 1, 1), "ERROR", "certificate has expired"),
    ] {
        let identity = authority.sign_until_day(&[NAME], end);
        let (certificate, key) = folder.write_identity("tls", &identity);
        let mut command = binary(["serve", "--listen", "127.0.0.1:0"]);
        command.args(["--database-url", "postgres://nobody@127.0.0.1:1/x"]);
        command.args(["--tls-cert", text(&certificate), "--tls-key", text(&key)]);
        let mut server = Process::start(command);
        let said = server.stderr.line(told).await;
        assert!(said.contains(level), "{said}");
    }
}

/// What a path answers over TLS, to a client that speaks HTTP/1.1 and perhaps
/// says so in the handshake.
async fn https_get(
    address: &str,
    authority: &Authority,
    path: &str,
    offered: Option<&[u8]>,
) -> String {
    let mut roots = RootCertStore::empty();
    let own = CertificateDer::from_pem_slice(authority.pem().as_bytes());
    roots.add(own.unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = offered.map(Vec::from).into_iter().collect();
    let socket = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(NAME).unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(name, socket).await.expect("a handshake");
    assert_eq!(stream.get_ref().1.alpn_protocol(), offered);
    let request = format!("GET {path} HTTP/1.1\r\nhost: {NAME}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn the_http_listener_is_encrypted_where_it_is_to_be() {
    let (folder, authority) = (Folder::new(), Authority::new("first"));
    let (certificate, key) = folder.write_identity("tls", &authority.sign(&[NAME]));
    let database = migrated_database().await;
    let mut command = binary(["serve", "--database-url", &database]);
    command.args(["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]);
    command.args(["--tls-cert", text(&certificate), "--tls-key", text(&key)]);
    command.args(["--tls-poll-interval", "10ms", "--http-tls"]);
    let mut server = Process::start(command);
    let http = server.http_address().await;
    server.stderr.line("introspection serves").await;
    for offered in [None, HTTP1] {
        let ready = https_get(&http, &authority, "/readyz", offered).await;
        assert!(ready.starts_with("HTTP/1.1 200 OK"), "{ready}");
    }
    // In clear text it is no handshake.
    let plain = http_get(&http, "/readyz").await;
    assert!(!plain.contains("200 OK"), "{plain}");

    let next = Authority::new("next");
    let identity = next.sign(&[NAME]);
    folder.replace("tls.key", &identity.key.serialize_pem());
    folder.replace("tls.pem", &identity.certificate.pem());
    server.stderr.line("the certificates were replaced").await;
    let alive = https_get(&http, &next, "/livez", HTTP1).await;
    assert!(alive.starts_with("HTTP/1.1 200 OK"), "{alive}");

    // One that never shakes hands holds up nothing.
    let _silent = TcpStream::connect(&http).await.unwrap();
    https_get(&http, &next, "/livez", HTTP1).await;
    server.signal("TERM").await;
    let ended = server.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("every call in flight was finished"));
}

#[tokio::test]
async fn encryption_without_a_certificate_is_refused() {
    let serve = ["serve", "--listen", "127.0.0.1:0", "--http-tls"];
    let said = run_on(&migrated_database().await, &serve).await.refused(2);
    assert!(said.contains("--http-tls needs --tls-cert"), "{said}");
}

#[tokio::test]
async fn certificates_of_no_use_are_refused_at_the_start() {
    let (folder, authority) = (Folder::new(), Authority::new("ca"));
    let (certificate, _) = folder.write_identity("one", &authority.sign(&[NAME]));
    let (_, key) = folder.write_identity("other", &authority.sign(&[NAME]));
    let files = ["--tls-cert", text(&certificate), "--tls-key", text(&key)];
    let serve = ["serve", "--listen", "127.0.0.1:0"];
    let arguments: Vec<_> = serve.iter().chain(&files).copied().collect();
    let said = run_on(&migrated_database().await, &arguments)
        .await
        .refused(1);
    assert!(
        said.contains(text(&certificate)) && said.contains(text(&key)),
        "{said}"
    );
    // What is set to nothing is not set.
    let mut command = binary(["serve", "--listen", "127.0.0.1:0", "--database-url"]);
    command.arg(migrated_database().await);
    for variable in [
        "HITKEEP_AUTH_TLS_CERT",
        "HITKEEP_AUTH_TLS_KEY",
        "HITKEEP_AUTH_TLS_CLIENT_CA",
    ] {
        command.env(variable, "");
    }
    let mut server = Process::start(command);
    server.stderr.line("introspection serves").await;
}

#[tokio::test]
async fn a_socket_comes_and_goes_with_the_server() {
    let folder = Folder::new();
    let path = folder.path("auth.sock");
    let unix = format!("unix:{}", text(&path));
    let database = migrated_database().await;
    let start = || {
        let mut command = binary(["serve", "--database-url", &database]);
        command.env("HITKEEP_AUTH_LISTEN", format!("{unix},127.0.0.1:0"));
        Process::start(command)
    };
    let mut killed = start();
    assert_eq!(killed.address().await, unix);
    killed.stderr.line("serving on 127.0.0.1:").await;
    killed.stderr.line("introspection serves").await;
    let said = run_on(&database, &["serve", "--listen", &unix])
        .await
        .refused(1);
    assert!(said.contains("another program listens there"), "{said}");
    killed.signal("KILL").await;
    assert_eq!(killed.ended().await.code, None);
    assert!(path.exists());

    let mut server = start();
    server.stderr.line("introspection serves").await;
    // The first of the addresses, as a container has them in its environment.
    let mut command = binary(["healthcheck"]);
    command.env("HITKEEP_AUTH_LISTEN", format!("{unix},127.0.0.1:1"));
    assert_eq!(Process::start(command).ended().await.given(), "SERVING\n");
    server.signal("TERM").await;
    assert_eq!(server.ended().await.code, Some(0));
    assert!(!path.exists());
}
