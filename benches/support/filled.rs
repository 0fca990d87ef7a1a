//! A server on a database of its own that is full of clients.

use super::{
    build::Build,
    cores,
    load::{Style, Target},
    population::{self, Known},
    postgres::Postgres,
    service::{Caller, Service},
};

/// How full a database is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Its clients.
    pub clients: usize,
    /// Those of them whose tokens are known.
    pub known: usize,
}

/// A server that was seen to answer as it should for every known client.
pub struct Filled {
    /// The server.
    pub service: Service,
    /// A caller of it that may do everything.
    pub caller: Caller,
    /// The clients whose tokens are known.
    pub known: Vec<Known>,
}

impl Filled {
    /// Makes a database of that name with the build's own schema, and starts the build on it,
    /// on those cores.
    pub async fn start(
        build: &Build,
        postgres: &Postgres,
        name: &str,
        size: Size,
        cores: &[usize],
    ) -> Self {
        let database = postgres.make(name, "template0").await;
        build.migrate(&database);
        let known = population::fill(&database, size.clients, size.known).await;
        let caller = Caller::of_build(build, &database);
        let service = cores::on(cores, || Service::start_build(build, &database, &[]));
        service.serving().await;
        population::check(&service, &caller, &known).await;
        Self {
            service,
            caller,
            known,
        }
    }

    /// Starts this build, and another one where there is one at `beside`. Each has a
    /// database of its own: the schemas may differ.
    pub async fn each(beside: &str, postgres: &Postgres, size: Size, cores: &[usize]) -> Vec<Self> {
        let mut builds = vec![Build::this()];
        if !beside.is_empty() {
            builds.push(Build::at(beside));
        }
        let mut all = Vec::new();
        for (number, build) in builds.iter().enumerate() {
            let name = format!("bench_{number}");
            all.push(Self::start(build, postgres, &name, size, cores).await);
        }
        all
    }

    /// What a load generator has to know of it.
    pub async fn target(&self, style: Style) -> Target {
        Target::of(&self.service, &self.caller, style, &self.known).await
    }
}
