//! Callers that show a certificate.

use std::time::Duration;

use hitkeep_auth::{
    domain::{
        audit::Provenance,
        caller::{
            CallerName,
            CallerPermission::{self, Audit, Introspect, Manage},
            ServiceAccount,
        },
        certificate::CertificateName,
    },
    pb,
    server::Options,
    store::{Store, Transaction, callers::InsertAccountError},
    transport::tls::{Files, Reload, Tls, Watcher},
};
use rustls::DEFAULT_VERSIONS;

use super::{Listening, tls::NAME};
use crate::{
    fixtures::*,
    harness::{Caller, told, violations},
    support::{
        certificates::{Authority, Identity},
        folder::Folder,
    },
};

const UNKNOWN: &str = "Unauthenticated CALLER_UNKNOWN";
const NOT_PERMITTED: &str = "PermissionDenied CALLER_NOT_PERMITTED";
const SPIFFE: &str = "spiffe://example.org/ns/hitkeep/sa/sidecar";

/// A server that asks for certificates of its own authority.
struct World {
    folder: Folder,
    authority: Authority,
    server: Listening,
    watcher: Watcher,
}

impl World {
    async fn new() -> Self {
        Self::set_to(Options::default()).await
    }

    async fn set_to(options: Options) -> Self {
        let (folder, authority) = (Folder::new(), Authority::new("ca"));
        let (certificate, key) = folder.write_identity("server", &authority.sign(&[NAME]));
        let client_authorities = Some(folder.write("clients.pem", &authority.pem()));
        let files = Files {
            certificate,
            key,
            client_authorities,
        };
        let (tls, watcher) = Tls::load(files).unwrap();
        let server = Listening::set_to(options, &["127.0.0.1:0"], Some(&tls)).await;
        Self {
            folder,
            authority,
            server,
            watcher,
        }
    }

    /// A caller with a certificate of those names, and nothing else.
    async fn showing(&self, names: &[&str]) -> Caller {
        self.identified(&self.authority.sign(names)).await
    }

    async fn identified(&self, identity: &Identity) -> Caller {
        let config = self.authority.client(DEFAULT_VERSIONS, Some(identity));
        let channel = self.server.channel(config).await.expect("a handshake");
        Caller {
            metadata: Vec::new(),
            ..self.server.caller(channel)
        }
    }

    /// Makes an account that is known by those names.
    async fn account(&self, name: &str, allow: &[CallerPermission], names: &[&str]) -> String {
        make(&self.server.app.store, name, allow, names)
            .await
            .unwrap()
    }

    /// Waits until the server knows what was done in the database by hand.
    async fn settle(&self) {
        let revision = self.server.app.number("SELECT index_stamp()").await;
        let config = self.authority.client(DEFAULT_VERSIONS, None);
        let sidecar = self
            .server
            .caller(self.server.channel(config).await.unwrap());
        let request = pb::IntrospectRequest {
            at_least_revision: Some(revision.try_into().unwrap()),
            ..introspect("x")
        };
        sidecar.introspect(request).await.expect("it catches up");
    }

    /// Sees that nothing is answered to who shows that.
    async fn lets_nobody_in(&self, identity: &Identity) {
        let config = self.authority.client(DEFAULT_VERSIONS, Some(identity));
        // In TLS 1.3 a client may talk before the server has looked at its certificate.
        let Ok(channel) = self.server.channel(config).await else {
            return;
        };
        let refused = self
            .server
            .caller(channel)
            .introspect(introspect("x"))
            .await;
        let status = refused.expect_err("its certificate is of no use");
        // The connection's end, and no answer.
        assert!(std::error::Error::source(&status).is_some(), "{status:?}");
    }
}

async fn make(
    store: &Store,
    name: &str,
    allow: &[CallerPermission],
    names: &[&str],
) -> Result<String, InsertAccountError> {
    let name = CallerName::parse(name).unwrap();
    let names: Vec<CertificateName> = names.iter().map(|name| name.parse().unwrap()).collect();
    let body = async |tx: &mut Transaction| -> Result<String, InsertAccountError> {
        let made = ServiceAccount::create(name.clone(), allow, tx.now, &*tx.entropy());
        let made = made.with_certificate_names(&names);
        tx.insert_account(&made.account, &made.token.hash()).await?;
        tx.record(made.event).await?;
        Ok(made.token.reveal())
    };
    let made = store
        .transaction(&std::sync::Arc::new(Provenance::default()), body)
        .await;
    made.map(|made| made.value)
}

/// What is kept of a reply is encrypted with what comes of the caller's token.
#[tokio::test]
async fn a_request_id_needs_a_token() {
    let world = World::new().await;
    let token = world
        .account("dashboard", &[Manage], &["dns:d.example"])
        .await;
    let dashboard = world.showing(&["d.example"]).await;
    world.server.app.change(crate::fixtures::world()).await;
    let request = pb::CreateApiClientRequest {
        request_id: "7a1c3f0e-9b2d-4e5f-8a6b-1c2d3e4f5a6b".to_owned(),
        ..personal(VERA)
    };
    let before = world.server.app.everything().await;
    let refused = dashboard.create(request.clone()).await;
    assert_eq!(violations(&refused), ["request_id"]);
    let nameless = request.clone().named("");
    let refused = dashboard.create(nameless).await;
    assert_eq!(violations(&refused), ["api_client.name", "request_id"]);
    assert_eq!(world.server.app.everything().await, before);
    let made = dashboard.created(personal(VERA)).await;
    let rotation = pb::RotateApiClientRequest {
        request_id: request.request_id.clone(),
        ..rotate(VERA, &made.id)
    };
    assert_eq!(
        violations(&dashboard.rotate(rotation).await),
        ["request_id"]
    );
    // Who shows a token besides is known by that.
    let both = Caller {
        metadata: vec![("authorization", format!("Bearer {token}"))],
        ..dashboard
    };
    let first = both.create(request.clone()).await.unwrap();
    assert_eq!(both.create(request).await.unwrap(), first);
}

#[tokio::test]
async fn a_name_that_is_bound_to_an_account_makes_a_caller() {
    let world = World::new().await;
    world.account("sidecar", &[Introspect], &[SPIFFE]).await;
    world
        .account("dashboard", &[Manage, Audit], &["dns:dashboard.example"])
        .await;
    // Case does not matter in DNS, and other names beside are no obstacle.
    let dashboard = world
        .showing(&["other.example", "Dashboard.Example", "10.0.0.1"])
        .await;
    let sidecar = world.showing(&[SPIFFE, "anything.example"]).await;
    for _ in 0..2 {
        assert!(!sidecar.introspect(introspect("x")).await.unwrap().active);
        assert_eq!(told(&sidecar.get(get(VERA, VERA)).await), NOT_PERMITTED);
        assert_eq!(
            told(&dashboard.introspect(introspect("x")).await),
            NOT_PERMITTED
        );
    }
    let mut stream = sidecar.stream().await;
    assert!(!stream.ask(introspect("x")).await.unwrap().active);

    // What it does is on the record under the account's name.
    world.server.app.change(crate::fixtures::world()).await;
    dashboard.created(personal(VERA)).await;
    let events = dashboard
        .events(pb::ListAuditEventsRequest::default())
        .await
        .unwrap()
        .events;
    // All of them happened in the same moment, so nothing says which is the newest.
    let created = events.iter().find(|it| it.action == "api_client.created");
    assert_eq!(created.expect("it was noted").caller, "dashboard");
}

#[tokio::test]
async fn a_certificate_that_nobody_is_known_by_is_none() {
    let world = World::new().await;
    world
        .account("sidecar", &[Introspect], &[SPIFFE, "dns:sidecar.example"])
        .await;
    for names in [
        &[][..],
        &["other.example"],
        &["sub.sidecar.example"],
        &["*.example"],
        // Names that look like another kind's.
        &["https://sidecar.example/"],
        // Of several URIs none counts.
        &[SPIFFE, "spiffe://example.org/other"],
    ] {
        let stranger = world.showing(names).await;
        assert_eq!(
            told(&stranger.introspect(introspect("x")).await),
            UNKNOWN,
            "{names:?}"
        );
        // It may still show a token.
        let caller = world.server.caller(stranger.channel);
        assert!(!caller.introspect(introspect("x")).await.unwrap().active);
    }
    // The name in the subject is no alternative name, and no caller has to show one.
    let channel = world
        .server
        .channel(world.authority.client(DEFAULT_VERSIONS, None))
        .await;
    let mut caller = world.server.caller(channel.unwrap());
    assert!(!caller.introspect(introspect("x")).await.unwrap().active);
    caller.metadata.clear();
    assert_eq!(told(&caller.introspect(introspect("x")).await), UNKNOWN);
}

#[tokio::test]
async fn who_sends_a_token_is_whom_the_token_says() {
    let world = World::new().await;
    world.account("sidecar", &[Introspect], &[SPIFFE]).await;
    let auditor = world.account("auditor", &[Audit], &[]).await;
    let with = async |authorization: &str| {
        let mut caller = world.showing(&[SPIFFE]).await;
        caller.metadata = vec![("authorization", authorization.to_owned())];
        caller
    };
    let auditor = with(&format!("Bearer {auditor}")).await;
    assert_eq!(
        told(&auditor.introspect(introspect("x")).await),
        NOT_PERMITTED
    );
    auditor
        .events(pb::ListAuditEventsRequest::default())
        .await
        .expect("it may");
    // A token that is none is not made good by the certificate.
    for bad in ["", "Bearer", "Bearer x", "Basic x"] {
        let caller = with(bad).await;
        assert_eq!(
            told(&caller.introspect(introspect("x")).await),
            UNKNOWN,
            "{bad:?}"
        );
    }
}

#[tokio::test]
async fn names_of_several_accounts_are_nobodys() {
    let world = World::new().await;
    world
        .account(
            "one",
            &[Introspect],
            &["dns:one.example", "dns:uno.example"],
        )
        .await;
    world
        .account("two", &[Introspect], &["dns:two.example"])
        .await;
    // Until the second one is known, they are the first one's alone.
    world.settle().await;
    let one = world.showing(&["one.example", "uno.example"]).await;
    assert!(!one.introspect(introspect("x")).await.unwrap().active);
    let both = world.showing(&["one.example", "two.example"]).await;
    assert_eq!(told(&both.introspect(introspect("x")).await), UNKNOWN);
    assert_eq!(told(&both.get(get(VERA, VERA)).await), UNKNOWN);
}

#[tokio::test]
async fn a_name_is_one_accounts_until_that_is_revoked() {
    let world = World::new().await;
    let store = &world.server.app.store;
    world.account("first", &[Introspect], &[SPIFFE]).await;
    let caller = world.showing(&[SPIFFE]).await;
    let mut stream = caller.stream().await;
    assert!(!stream.ask(introspect("x")).await.unwrap().active);
    let taken = make(store, "second", &[Audit], &["dns:new.example", SPIFFE]).await;
    assert!(
        matches!(taken, Err(InsertAccountError::CertificateNameTaken)),
        "{taken:?}"
    );

    let revoke = "UPDATE service_accounts SET revoke_time = now() WHERE name = 'first'";
    world.server.app.psql(revoke).await;
    world.settle().await;
    // On the very same connection, and on a stream that was begun before.
    assert_eq!(told(&caller.introspect(introspect("x")).await), UNKNOWN);
    assert_eq!(told(&stream.ask(introspect("x")).await), UNKNOWN);
    world
        .account("second", &[Audit], &["dns:new.example", SPIFFE])
        .await;
    caller
        .events(pb::ListAuditEventsRequest::default())
        .await
        .expect("it is the second's");
}

/// A stream is its account's, also where the name in the certificate becomes another one's
/// between two requests, so that there is always an account that it names.
#[tokio::test]
async fn a_stream_does_not_go_on_under_another_account() {
    let world = World::new().await;
    world.account("first", &[Introspect], &[SPIFFE]).await;
    let other = ["dns:second.example"];
    world.account("second", &[Introspect], &other).await;
    // Only an account in the index takes the fast path.
    world.settle().await;
    let mut caller = world.showing(&[SPIFFE]).await;
    // With a deadline, a stream takes the slow path.
    for (timeout, next) in [(None, "second"), (Some(Duration::from_mins(1)), "first")] {
        caller.timeout = timeout;
        let mut stream = caller.stream().await;
        assert!(!stream.ask(introspect("x")).await.unwrap().active);
        let sql = format!(
            "UPDATE service_account_certificates SET service_account_id = \
             (SELECT id FROM service_accounts WHERE name = '{next}') WHERE name = '{SPIFFE}'"
        );
        world.server.app.psql(&sql).await;
        world.settle().await;
        let end = stream.ask(introspect("x")).await;
        assert_eq!(told(&end), UNKNOWN, "{next}");
        // The other one may well introspect, on this connection too.
        let mut stream = caller.stream().await;
        assert!(!stream.ask(introspect("x")).await.unwrap().active);
    }
}

/// That a caller with a certificate takes the fast path too: on the slow one there is no
/// place left.
#[tokio::test]
async fn they_are_answered_at_once_as_well() {
    let world = World::set_to(Options {
        max_introspections: 1,
        ..Options::default()
    })
    .await;
    world.account("sidecar", &[Introspect], &[SPIFFE]).await;
    world.settle().await;
    let caller = world.showing(&[SPIFFE]).await;
    let usual = Caller {
        metadata: vec![("grpc-encoding", "identity".to_owned())],
        ..caller.clone()
    };
    // It waits for what is done last.
    let revision = world.server.app.number("SELECT index_stamp()").await;
    let first = usual.introspect(pb::IntrospectRequest {
        at_least_revision: Some(u64::try_from(revision).unwrap() + 1),
        ..introspect("x")
    });
    let others = async {
        let shed = usual.introspect(introspect("x")).await;
        assert_eq!(told(&shed), "Unavailable OVERLOADED");
        for _ in 0..2 {
            assert!(!caller.introspect(introspect("x")).await.unwrap().active);
        }
        world.server.app.change(crate::fixtures::world()).await;
    };
    let (first, ()) = tokio::join!(first, others);
    assert!(!first.expect("it was let in").active);
}

/// Then the index proves nothing, and the database is asked who calls.
#[tokio::test]
async fn callers_are_known_without_an_index() {
    let world = World::new().await;
    world
        .account("auditor", &[Audit], &[SPIFFE, "dns:auditor.example"])
        .await;
    world
        .account("other", &[Audit], &["dns:other.example"])
        .await;
    let names = |names: &[&str]| -> Vec<CertificateName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    };
    let store = &world.server.app.store;
    let find = async |of: &[&str]| store.find_named_caller(&names(of)).await.unwrap();
    let found = find(&["dns:nobody.example", SPIFFE, "dns:auditor.example"])
        .await
        .unwrap();
    assert_eq!(found.name.as_str(), "auditor");
    assert_eq!(
        found.certificate_names,
        names(&["dns:auditor.example", SPIFFE])
    );
    assert_eq!(find(&[SPIFFE, "dns:other.example"]).await, None);
    assert_eq!(find(&["dns:nobody.example"]).await, None);
    assert_eq!(find(&[]).await, None);
}

#[tokio::test]
async fn certificates_of_others_and_of_long_ago_are_not_let_in() {
    let mut world = World::new().await;
    world.account("sidecar", &[Introspect], &[SPIFFE]).await;
    world
        .lets_nobody_in(&Authority::new("ca").sign(&[SPIFFE]))
        .await;
    world
        .lets_nobody_in(&world.authority.sign_until(&[SPIFFE], 2020))
        .await;
    let good = world.authority.sign(&[SPIFFE]);
    let before = world.identified(&good).await;
    assert!(!before.introspect(introspect("x")).await.unwrap().active);

    // Another authority in the file is another one for those who come next.
    let next = Authority::new("next");
    world.folder.replace("clients.pem", &next.pem());
    assert!(matches!(world.watcher.reload(), Reload::Replaced));
    world.lets_nobody_in(&good).await;
    let caller = world.identified(&next.sign(&[SPIFFE])).await;
    assert!(!caller.introspect(introspect("x")).await.unwrap().active);
    assert!(!before.introspect(introspect("x")).await.unwrap().active);
}
