//! `grpc.health.v1.Health`, without authentication.
//!
//! One small value is reported, and the status of every name follows from it. For an
//! unknown name, Check answers `NOT_FOUND`, and Watch sends `SERVICE_UNKNOWN` on a stream
//! that stays open, as the protocol demands: after an error, a client would open the stream
//! again without end.

use tokio::sync::watch;
use tokio_stream::{Stream, StreamExt, wrappers::WatchStream};
use tonic::{Request, Response, Status, server::NamedService};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};

use crate::{
    grpc::{Management, Origin, Services, replication::Replication},
    pb::{
        api_client_service_server::ApiClientServiceServer,
        audit_service_server::AuditServiceServer, directory_service_server::DirectoryServiceServer,
        envoy::service::auth::v3::authorization_server::AuthorizationServer,
        introspection_service_server::IntrospectionServiceServer,
        replication_service_server::ReplicationServiceServer,
    },
};

/// The name whose status is `SERVING` for as long as the process answers at all. It is for
/// liveness probes, which must not restart a process because its database is unreachable.
pub const LIVENESS: &str = "liveness";

/// What the server is ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Readiness {
    /// Whether introspection can answer.
    pub(super) introspects: bool,
    /// Whether the database answers.
    pub(super) manages: bool,
}

impl Readiness {
    /// Nothing: before the first report, and at the end.
    pub(super) const NONE: Self = Self {
        introspects: false,
        manages: false,
    };
}

/// Which services there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    Everything,
    /// Those that answer from the index: there is no database.
    Index,
}

impl Scope {
    pub(super) const fn of(origin: &Origin) -> Self {
        match origin {
            Origin::Database(_) => Self::Everything,
            Origin::Upstream { .. } => Self::Index,
        }
    }

    /// What the status of a name depends on; `None` if there is no such service.
    fn subject(self, name: &str) -> Option<Subject> {
        let subject = Subject::of(name)?;
        let is_there = subject != Subject::Database || self == Self::Everything;
        is_there.then_some(subject)
    }
}

/// What the status of a name depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    /// The index: introspection, Envoy's check, and the server as a whole, since most
    /// callers need it for that.
    Index,
    Database,
    Process,
}

impl Subject {
    fn of(name: &str) -> Option<Self> {
        match name {
            ""
            | IntrospectionServiceServer::<Services>::NAME
            | AuthorizationServer::<Services>::NAME
            | ReplicationServiceServer::<Replication>::NAME => Some(Self::Index),
            ApiClientServiceServer::<Management>::NAME
            | DirectoryServiceServer::<Management>::NAME
            | AuditServiceServer::<Management>::NAME => Some(Self::Database),
            LIVENESS => Some(Self::Process),
            _ => None,
        }
    }

    const fn status(self, readiness: Readiness) -> ServingStatus {
        let serves = match self {
            Self::Index => readiness.introspects,
            Self::Database => readiness.manages,
            Self::Process => true,
        };
        if serves {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        }
    }
}

/// Sends reports to the health service. Dropping it ends the streams of watchers, each
/// after the last report; otherwise a drain would wait for them.
#[derive(Debug)]
pub(super) struct Reporter(watch::Sender<Readiness>);

impl Reporter {
    /// Reports a new readiness. Watchers get a message if the status of their name changes.
    pub(super) fn report(&self, readiness: Readiness) {
        self.0.send_if_modified(|last| {
            let is_new = *last != readiness;
            *last = readiness;
            is_new
        });
    }
}

/// The service and its reporter. Until the first report, only [`LIVENESS`] is `SERVING`.
pub(super) fn service(scope: Scope) -> (Reporter, HealthServer<impl Health>) {
    let (sender, reports) = watch::channel(Readiness::NONE);
    let reported = Reported { scope, reports };
    (Reporter(sender), HealthServer::new(reported))
}

/// The last report, which outlives the reporter.
struct Reported {
    scope: Scope,
    reports: watch::Receiver<Readiness>,
}

#[tonic::async_trait]
impl Health for Reported {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let subject = self.scope.subject(&request.get_ref().service);
        let subject =
            subject.ok_or_else(|| Status::not_found("there is no service of that name"))?;
        let readiness = *self.reports.borrow();
        Ok(Response::new(to_response(subject.status(readiness))))
    }

    type WatchStream =
        std::pin::Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let subject = self.scope.subject(&request.get_ref().service);
        let reports = WatchStream::new(self.reports.clone());
        let mut last = None;
        let changes = reports.filter_map(move |readiness| {
            let status = subject.map_or(ServingStatus::ServiceUnknown, |subject| {
                subject.status(readiness)
            });
            (last.replace(status) != Some(status)).then(|| Ok(to_response(status)))
        });
        Ok(Response::new(Box::pin(changes)))
    }
}

fn to_response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tonic::Code;

    use super::*;

    const ALL: Readiness = Readiness {
        introspects: true,
        manages: true,
    };
    const FROM_MEMORY: Readiness = Readiness {
        introspects: true,
        manages: false,
    };

    fn named(service: &str) -> Request<HealthCheckRequest> {
        Request::new(HealthCheckRequest {
            service: service.to_owned(),
        })
    }

    fn start() -> (Reporter, Reported) {
        let (sender, reports) = watch::channel(Readiness::NONE);
        let scope = Scope::Everything;
        (Reporter(sender), Reported { scope, reports })
    }

    async fn checked(health: &Reported, service: &str) -> Result<ServingStatus, Code> {
        let answer = health.check(named(service)).await;
        answer
            .map(|answer| answer.into_inner().status())
            .map_err(|status| status.code())
    }

    #[derive(Debug, PartialEq, Eq)]
    enum WatchEvent {
        /// No new message.
        None,
        Status(ServingStatus),
        End,
    }

    /// A client that watches a name.
    struct Watcher(<Reported as Health>::WatchStream);

    impl Watcher {
        async fn of(health: &Reported, service: &str) -> Self {
            Self(health.watch(named(service)).await.unwrap().into_inner())
        }

        fn next_event(&mut self) -> WatchEvent {
            match self.0.next().now_or_never() {
                None => WatchEvent::None,
                Some(Some(answer)) => WatchEvent::Status(answer.unwrap().status()),
                Some(None) => WatchEvent::End,
            }
        }
    }

    #[tokio::test]
    async fn each_name_has_the_status_of_its_subject() {
        let (reporter, health) = start();
        let (yes, no) = (ServingStatus::Serving, ServingStatus::NotServing);
        for (readiness, index, database) in [
            (Readiness::NONE, no, no),
            (ALL, yes, yes),
            (FROM_MEMORY, yes, no),
        ] {
            reporter.report(readiness);
            for (name, expected) in [
                ("", index),
                ("hitkeep.auth.v1.IntrospectionService", index),
                ("envoy.service.auth.v3.Authorization", index),
                ("hitkeep.auth.v1.ReplicationService", index),
                ("hitkeep.auth.v1.ApiClientService", database),
                ("hitkeep.auth.v1.DirectoryService", database),
                ("hitkeep.auth.v1.AuditService", database),
                (LIVENESS, yes),
            ] {
                assert_eq!(checked(&health, name).await, Ok(expected), "{name}");
                let event = Watcher::of(&health, name).await.next_event();
                assert_eq!(event, WatchEvent::Status(expected), "{name}");
            }
            for unknown in ["nope", "Liveness", "hitkeep.auth.v1", " "] {
                assert_eq!(checked(&health, unknown).await, Err(Code::NotFound));
                let event = Watcher::of(&health, unknown).await.next_event();
                assert_eq!(event, WatchEvent::Status(ServingStatus::ServiceUnknown));
            }
        }
    }

    #[tokio::test]
    async fn a_server_without_a_database_has_no_management() {
        let (reporter, mut health) = start();
        health.scope = Scope::Index;
        reporter.report(ALL);
        let management = "hitkeep.auth.v1.ApiClientService";
        assert_eq!(checked(&health, management).await, Err(Code::NotFound));
        let event = Watcher::of(&health, management).await.next_event();
        assert_eq!(event, WatchEvent::Status(ServingStatus::ServiceUnknown));
        assert_eq!(checked(&health, "").await, Ok(ServingStatus::Serving));
    }

    #[tokio::test]
    async fn watchers_get_a_message_for_each_change_only() {
        let (reporter, health) = start();
        reporter.report(ALL);
        let mut server = Watcher::of(&health, "").await;
        let mut management = Watcher::of(&health, "hitkeep.auth.v1.ApiClientService").await;
        let mut alive = Watcher::of(&health, LIVENESS).await;
        let mut unknown = Watcher::of(&health, "nope").await;
        for watcher in [&mut server, &mut management, &mut alive, &mut unknown] {
            assert_ne!(watcher.next_event(), WatchEvent::None);
            assert_eq!(watcher.next_event(), WatchEvent::None);
        }
        reporter.report(ALL);
        for watcher in [&mut server, &mut management, &mut alive, &mut unknown] {
            assert_eq!(watcher.next_event(), WatchEvent::None);
        }
        reporter.report(FROM_MEMORY);
        assert_eq!(
            management.next_event(),
            WatchEvent::Status(ServingStatus::NotServing)
        );
        for watcher in [&mut server, &mut alive, &mut unknown] {
            assert_eq!(watcher.next_event(), WatchEvent::None);
        }
        // The status changed back before the stream was polled, so the watcher gets no
        // message.
        reporter.report(Readiness::NONE);
        reporter.report(FROM_MEMORY);
        for watcher in [&mut server, &mut management, &mut alive, &mut unknown] {
            assert_eq!(watcher.next_event(), WatchEvent::None);
        }
    }

    #[tokio::test]
    async fn dropping_the_reporter_ends_the_streams_after_the_last_report() {
        let (reporter, health) = start();
        reporter.report(ALL);
        let mut server = Watcher::of(&health, "").await;
        let mut unknown = Watcher::of(&health, "nope").await;
        assert_ne!(
            (server.next_event(), unknown.next_event()),
            (WatchEvent::None, WatchEvent::None)
        );
        reporter.report(Readiness::NONE);
        drop(reporter);
        assert_eq!(
            server.next_event(),
            WatchEvent::Status(ServingStatus::NotServing)
        );
        for watcher in [&mut server, &mut unknown] {
            assert_eq!(watcher.next_event(), WatchEvent::End);
        }
        assert_eq!(checked(&health, "").await, Ok(ServingStatus::NotServing));
        assert_eq!(checked(&health, LIVENESS).await, Ok(ServingStatus::Serving));
        let mut late = Watcher::of(&health, "").await;
        assert_eq!(
            late.next_event(),
            WatchEvent::Status(ServingStatus::NotServing)
        );
        assert_eq!(late.next_event(), WatchEvent::End);
    }
}
