//! `grpc.health.v1.Health`: who serves, for whoever asks or watches, with no token.
//!
//! What there is to report is one small value, from which the status of every name
//! follows. A name that does not exist is `NOT_FOUND` where it is checked, and
//! `SERVICE_UNKNOWN` on a stream that stays open where it is watched, as the protocol
//! asks: a client that got an error instead would open the stream again for ever.

use tokio::sync::watch;
use tokio_stream::{Stream, StreamExt, wrappers::WatchStream};
use tonic::{Request, Response, Status, server::NamedService};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};

use crate::{
    grpc::Services,
    pb::{
        api_client_service_server::ApiClientServiceServer,
        audit_service_server::AuditServiceServer, directory_service_server::DirectoryServiceServer,
        envoy::service::auth::v3::authorization_server::AuthorizationServer,
        introspection_service_server::IntrospectionServiceServer,
    },
};

/// The name whose status is `SERVING` for as long as the process answers at all: for
/// whoever restarts a process that does not, and must not restart one whose database
/// cannot be reached.
pub const LIVENESS: &str = "liveness";

/// What the server can do right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ability {
    /// Whether introspection can answer.
    pub(super) introspects: bool,
    /// Whether the database answers.
    pub(super) manages: bool,
}

impl Ability {
    /// Nothing: before the first report, and at the end.
    pub(super) const NONE: Self = Self {
        introspects: false,
        manages: false,
    };
}

/// What the status of a name depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    /// Whether the index can answer: introspection, Envoy's check, and the server as a
    /// whole, since that is what most ask it for.
    Index,
    /// Whether the database answers.
    Database,
    /// Whether the process answers.
    Process,
}

impl Subject {
    fn of(name: &str) -> Option<Self> {
        match name {
            ""
            | IntrospectionServiceServer::<Services>::NAME
            | AuthorizationServer::<Services>::NAME => Some(Self::Index),
            ApiClientServiceServer::<Services>::NAME
            | DirectoryServiceServer::<Services>::NAME
            | AuditServiceServer::<Services>::NAME => Some(Self::Database),
            LIVENESS => Some(Self::Process),
            _ => None,
        }
    }

    const fn status(self, ability: Ability) -> ServingStatus {
        let serves = match self {
            Self::Index => ability.introspects,
            Self::Database => ability.manages,
            Self::Process => true,
        };
        if serves {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        }
    }
}

/// Tells the service what the server can do. Dropped, it ends the streams of those who
/// watch, each after the last report: a drain would wait for them otherwise.
#[derive(Debug)]
pub(super) struct Reporter(watch::Sender<Ability>);

impl Reporter {
    /// Reports what the server can do from now on. Watchers hear of it where the status
    /// of what they watch changes.
    pub(super) fn report(&self, ability: Ability) {
        self.0.send_if_modified(|last| {
            let is_new = *last != ability;
            *last = ability;
            is_new
        });
    }
}

/// The service and what it is told by. Until the first report nothing serves but
/// [`LIVENESS`].
pub(super) fn service() -> (Reporter, HealthServer<impl Health>) {
    let (sender, abilities) = watch::channel(Ability::NONE);
    (Reporter(sender), HealthServer::new(Reported(abilities)))
}

/// What was reported last. It stays when the reporter is gone.
struct Reported(watch::Receiver<Ability>);

#[tonic::async_trait]
impl Health for Reported {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let subject = Subject::of(&request.get_ref().service);
        let subject =
            subject.ok_or_else(|| Status::not_found("there is no service of that name"))?;
        let ability = *self.0.borrow();
        Ok(Response::new(to_response(subject.status(ability))))
    }

    type WatchStream =
        std::pin::Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let subject = Subject::of(&request.get_ref().service);
        let abilities = WatchStream::new(self.0.clone());
        let mut last = None;
        let changes = abilities.filter_map(move |ability| {
            let status = subject.map_or(ServingStatus::ServiceUnknown, |subject| {
                subject.status(ability)
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

    const ALL: Ability = Ability {
        introspects: true,
        manages: true,
    };
    const FROM_MEMORY: Ability = Ability {
        introspects: true,
        manages: false,
    };

    fn named(service: &str) -> Request<HealthCheckRequest> {
        Request::new(HealthCheckRequest {
            service: service.to_owned(),
        })
    }

    fn start() -> (Reporter, Reported) {
        let (sender, abilities) = watch::channel(Ability::NONE);
        (Reporter(sender), Reported(abilities))
    }

    async fn checked(health: &Reported, service: &str) -> Result<ServingStatus, Code> {
        let answer = health.check(named(service)).await;
        answer
            .map(|answer| answer.into_inner().status())
            .map_err(|status| status.code())
    }

    #[derive(Debug, PartialEq, Eq)]
    enum Told {
        /// Nothing that it was not told before.
        Nothing,
        Status(ServingStatus),
        End,
    }

    /// Whoever watches a name.
    struct Watcher(<Reported as Health>::WatchStream);

    impl Watcher {
        async fn of(health: &Reported, service: &str) -> Self {
            Self(health.watch(named(service)).await.unwrap().into_inner())
        }

        fn told(&mut self) -> Told {
            match self.0.next().now_or_never() {
                None => Told::Nothing,
                Some(Some(answer)) => Told::Status(answer.unwrap().status()),
                Some(None) => Told::End,
            }
        }
    }

    #[tokio::test]
    async fn each_name_follows_what_it_depends_on() {
        let (reporter, health) = start();
        let (yes, no) = (ServingStatus::Serving, ServingStatus::NotServing);
        for (ability, index, database) in [
            (Ability::NONE, no, no),
            (ALL, yes, yes),
            (FROM_MEMORY, yes, no),
        ] {
            reporter.report(ability);
            for (name, expected) in [
                ("", index),
                ("hitkeep.auth.v1.IntrospectionService", index),
                ("envoy.service.auth.v3.Authorization", index),
                ("hitkeep.auth.v1.ApiClientService", database),
                ("hitkeep.auth.v1.DirectoryService", database),
                ("hitkeep.auth.v1.AuditService", database),
                (LIVENESS, yes),
            ] {
                assert_eq!(checked(&health, name).await, Ok(expected), "{name}");
                let told = Watcher::of(&health, name).await.told();
                assert_eq!(told, Told::Status(expected), "{name}");
            }
            for unknown in ["nope", "Liveness", "hitkeep.auth.v1", " "] {
                assert_eq!(checked(&health, unknown).await, Err(Code::NotFound));
                let told = Watcher::of(&health, unknown).await.told();
                assert_eq!(told, Told::Status(ServingStatus::ServiceUnknown));
            }
        }
    }

    #[tokio::test]
    async fn watchers_are_told_of_changes_and_of_nothing_else() {
        let (reporter, health) = start();
        reporter.report(ALL);
        let mut whole = Watcher::of(&health, "").await;
        let mut management = Watcher::of(&health, "hitkeep.auth.v1.ApiClientService").await;
        let mut alive = Watcher::of(&health, LIVENESS).await;
        let mut unknown = Watcher::of(&health, "nope").await;
        for watcher in [&mut whole, &mut management, &mut alive, &mut unknown] {
            assert_ne!(watcher.told(), Told::Nothing);
            assert_eq!(watcher.told(), Told::Nothing);
        }
        reporter.report(ALL);
        for watcher in [&mut whole, &mut management, &mut alive, &mut unknown] {
            assert_eq!(watcher.told(), Told::Nothing);
        }
        reporter.report(FROM_MEMORY);
        assert_eq!(management.told(), Told::Status(ServingStatus::NotServing));
        for watcher in [&mut whole, &mut alive, &mut unknown] {
            assert_eq!(watcher.told(), Told::Nothing);
        }
        // Away and back before anybody looked: nothing has changed for them.
        reporter.report(Ability::NONE);
        reporter.report(FROM_MEMORY);
        for watcher in [&mut whole, &mut management, &mut alive, &mut unknown] {
            assert_eq!(watcher.told(), Told::Nothing);
        }
    }

    #[tokio::test]
    async fn the_last_report_stands_and_ends_the_streams() {
        let (reporter, health) = start();
        reporter.report(ALL);
        let mut whole = Watcher::of(&health, "").await;
        let mut unknown = Watcher::of(&health, "nope").await;
        assert_ne!(
            (whole.told(), unknown.told()),
            (Told::Nothing, Told::Nothing)
        );
        reporter.report(Ability::NONE);
        drop(reporter);
        assert_eq!(whole.told(), Told::Status(ServingStatus::NotServing));
        for watcher in [&mut whole, &mut unknown] {
            assert_eq!(watcher.told(), Told::End);
        }
        assert_eq!(checked(&health, "").await, Ok(ServingStatus::NotServing));
        assert_eq!(checked(&health, LIVENESS).await, Ok(ServingStatus::Serving));
        let mut late = Watcher::of(&health, "").await;
        assert_eq!(late.told(), Told::Status(ServingStatus::NotServing));
        assert_eq!(late.told(), Told::End);
    }
}
