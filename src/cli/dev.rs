//! `dev`: the service with a private Postgres and demo data, without any setup.

use std::{future::ready, path::Path};

use hitkeep_auth_dev::postgres::PrivatePostgres;
use serde_json::json;
use tokio::runtime::Runtime;

use super::{
    Failure,
    descriptors::{self, Descriptors},
    end, open, print, print_error, serve,
};
use crate::{
    config::DevArgs,
    dev::demo::{self, ALICE, BOB, Demo, DemoClient, SITES, TEAM},
    domain::caller::CallerPermission,
    server::{self, Ended, signals},
    store::{
        self,
        migrations::{self, MigrationError},
    },
    telemetry::Telemetry,
};

/// The database that initdb creates.
const DATABASE: &str = "postgres";
/// The file with the demo tokens, in the data folder.
const TOKENS: &str = "demo-tokens.json";

/// Runs until a stop signal. Must be called on the main thread, which the private Postgres
/// does not outlive.
pub(super) fn run(
    args: &DevArgs,
    runtime: Runtime,
    telemetry: Telemetry,
) -> Result<Ended, Failure> {
    // First, because it fails most often, and fast.
    let http = args.http_listen();
    let http: Vec<_> = http.iter().map(std::slice::from_ref).collect();
    let grpc = std::slice::from_ref(&args.listen);
    let listeners = runtime.block_on(serve::ServeListeners::open(grpc, &http, [None, None]))?;
    let options = args.postgres()?;
    let postgres = PrivatePostgres::start(&options, &print_error)?;
    let url = postgres.url(DATABASE);
    let served = runtime.block_on(async {
        let applied = migrations::apply(&url).await;
        applied.map_err(|error| match error {
            MigrationError::Unreleased(_) => {
                let folder = postgres.folder().display();
                Failure::new(format_args!(
                    "{error}. Remove {folder}, and what is in it is lost"
                ))
            }
            error => error.into(),
        })?;
        let mut options = server::Options::default();
        options.grpc.hitkeep_rest = true;
        options.grpc_web = Some(server::GrpcWebOptions::default());
        let database = store::StoreOptions::new(&url);
        // Only after Postgres has started, which would inherit the raised limit. There are two
        // listeners.
        descriptors::ensure_limit(Descriptors {
            connections: 2 * options.max_connections,
            pool_size: database.pool_size,
            threads: options.threads,
        });
        let store = open(&database);
        let demo = demo::set_up(&store, &postgres.folder().join(TOKENS)).await?;
        let address = listeners.grpc.addresses()?[0].to_string();
        let http = match &listeners.http {
            Some(listeners) => Some(listeners.addresses()?[0].to_string()),
            None => None,
        };
        let summary = Summary {
            address: &address,
            http: http.as_deref(),
            folder: postgres.folder(),
            url: &url,
            demo: &demo,
        };
        print(&if args.output.json {
            summary.as_json()
        } else {
            summary.as_text()
        })?;
        let mut stop = signals::termination()?;
        serve::serve(ready(()), store, listeners, options, telemetry, &mut stop).await
    });
    // In this order, so that nothing is connected to the database when it stops.
    end(runtime);
    drop(postgres);
    served
}

/// What `dev` prints.
struct Summary<'a> {
    address: &'a str,
    /// The address for HTTP, if it is served.
    http: Option<&'a str>,
    folder: &'a Path,
    url: &'a str,
    demo: &'a Demo,
}

impl Summary<'_> {
    fn caller(&self, permission: CallerPermission) -> &str {
        let mut callers = self.demo.callers.iter();
        let caller = callers.find(|caller| caller.name == permission.as_str());
        caller.map_or("", |caller| &caller.token.0)
    }

    fn as_json(&self) -> String {
        let callers: serde_json::Map<_, _> = CallerPermission::ALL
            .iter()
            .map(|permission| (permission.to_string(), self.caller(*permission).into()))
            .collect();
        let client = |client: Option<&DemoClient>, owner: serde_json::Value| {
            client.map(|client| json!({ "id": client.id, "token": client.token, "owner": owner }))
        };
        let sites = SITES.map(|site| site.to_string());
        json!({
            "listen": self.address,
            "http_listen": self.http,
            "database_url": self.url,
            "callers": callers,
            "personal_client":
                client(self.demo.personal.as_ref(), json!({ "user_id": ALICE.to_string() })),
            "team_client":
                client(self.demo.team.as_ref(), json!({ "team_id": TEAM.to_string() })),
            "directory": {
                "users": { "alice": ALICE.to_string(), "bob": BOB.to_string() },
                "team": TEAM.to_string(),
                "sites": sites,
            },
        })
        .to_string()
    }

    fn as_text(&self) -> String {
        let Self {
            address,
            http,
            folder,
            url,
            demo,
        } = self;
        let nothing = DemoClient {
            id: String::new(),
            token: demo::SecretText(String::new()),
        };
        let personal = demo.personal.as_ref().unwrap_or(&nothing);
        let team = demo.team.as_ref().unwrap_or(&nothing);
        let introspect = self.caller(CallerPermission::Introspect);
        let manage = self.caller(CallerPermission::Manage);
        let [first, second] = SITES;
        let call = |caller: &str, data: &serde_json::Value, method: &str| {
            format!(
                "grpcurl -plaintext -H 'authorization: Bearer {caller}' \\\n  -d '{data}' \\\n  \
                 {address} hitkeep.auth.v1.{method}"
            )
        };
        let actor = json!({ "user_id": ALICE.to_string() });
        let on = json!({ "actor": actor, "id": personal.id });
        let check = json!({
            "token": personal.token,
            "check": { "site_id": first.to_string(), "permission": "site.view" },
        });
        let create = json!({
            "actor": actor,
            "api_client": {
                "owner": { "user_id": ALICE.to_string() },
                "name": "Weekly report",
                "site_grants": [{ "site_id": second.to_string(), "role": "SITE_ROLE_VIEWER" }],
            },
        });
        let list = json!({ "actor": actor, "owner": { "user_id": ALICE.to_string() } });
        let rotate = json!({ "actor": actor, "id": personal.id, "overlap": "60s" });
        let commands = [
            (
                "Is this token valid, and may it view the first site?",
                introspect,
                check,
                "IntrospectionService/Introspect",
            ),
            (
                "Create a client; its token is shown only once.",
                manage,
                create,
                "ApiClientService/CreateApiClient",
            ),
            (
                "List Alice's clients.",
                manage,
                list,
                "ApiClientService/ListApiClients",
            ),
            (
                "Rotate: get a new token; the old one works for another minute.",
                manage,
                rotate,
                "ApiClientService/RotateApiClient",
            ),
            (
                "Revoke: introspect again, and the token is inactive.",
                manage,
                on,
                "ApiClientService/RevokeApiClient",
            ),
        ]
        .map(|(what, caller, data, method)| format!("# {what}\n{}", call(caller, &data, method)))
        .join("\n\n");
        let shell_commands = self.shell_commands(introspect, manage);
        let over_http = http.map_or_else(String::new, |http| {
            over_http(http, introspect, &team.token.0)
        });
        let callers = CallerPermission::ALL
            .iter()
            .map(|permission| format!("  {permission:<11}{}", self.caller(*permission)))
            .collect::<Vec<_>>()
            .join("\n");
        format!(
            "hitkeep-auth listens on {address}{and_http}. Ctrl-C stops the service and its Postgres.\n\n\
             Callers, one for each permission (authorization: Bearer …)\n{callers}\n\n\
             API clients (what an end user presents)\n\
             \x20 personal   {}  Alice: editor of the first site, viewer of the second\n\
             \x20 team       {}  the team: viewer of both\n\n\
             Directory\n\
             \x20 alice      {ALICE}  owner of the team\n\
             \x20 bob        {BOB}  member of the team, viewer of the first site\n\
             \x20 team       {TEAM}\n\
             \x20 sites      {first}  {second}\n\n\
             Data         {}, kept for the next start\n\
             Postgres     {url}\n\n\
             Try it: paste these into another terminal, in this order.\n\n{commands}\n\n{shell_commands}\n{over_http}",
            personal.token.0,
            team.token.0,
            folder.display(),
            and_http = http.map_or_else(String::new, |http| format!(", and for HTTP on {http}")),
        )
    }

    /// Example commands of this program itself, which use what those before them gave. Tokens
    /// stay out of the process list.
    fn shell_commands(&self, introspect: &str, manage: &str) -> String {
        let [first, _] = SITES;
        let program = std::env::current_exe().unwrap_or_else(|_| "hitkeep-auth".into());
        // In single quotes, the shell changes nothing but these.
        let program = program.display().to_string().replace('\'', "'\\''");
        let check = format!(
            "printf %s \"$token\" | HITKEEP_AUTH_TOKEN={introspect} \\\n  '{program}' introspect"
        );
        format!(
            "# The same with hitkeep-auth itself, here as Alice; `client --help` lists the rest.\n\
             export HITKEEP_AUTH_SERVER={} HITKEEP_AUTH_ACTOR={ALICE}\n\
             export HITKEEP_AUTH_TOKEN={manage}\n\n\
             # Create a client, and keep its token.\n\
             token=$('{program}' client create --user {ALICE} \\\n  \
             --name 'Daily report' --grant {first}=viewer)\n\n\
             # May it view the first site? And which client is it?\n\
             {check} --permission site.view --site {first}\n\
             id=$({check} | awk '/^client / {{ print $2 }}')\n\n\
             # Rotate it, and list Alice's clients.\n\
             token=$('{program}' client rotate \"$id\" --overlap 60s)\n\
             '{program}' client list --include-inactive\n\n\
             # Revoke it, and its token is inactive.\n\
             '{program}' client revoke \"$id\"\n\
             {check}\n",
            self.address
        )
    }
}

/// Example commands for the HTTP listener. No earlier command revokes the token.
fn over_http(http: &str, caller: &str, token: &str) -> String {
    let [first, _] = SITES;
    let route = "permission=site.view&site_path=/api/sites/%7Bsite_id%7D/**";
    format!(
        "\n\
         # Introspect over HTTP (RFC 7662).\n\
         curl --write-out '\\n' --user sidecar:{caller} --data token={token} \\\n  \
         http://{http}/oauth2/introspect\n\n\
         # What nginx, Caddy and Traefik ask about each request: may it pass?\n\
         curl --include --header 'x-hitkeep-caller: {caller}' \\\n  \
         --header 'x-forwarded-uri: /api/sites/{first}/stats' \\\n  \
         --header 'authorization: Bearer {token}' \\\n  \
         'http://{http}/forward-auth?{route}'\n\n\
         # Readiness and metrics.\n\
         curl http://{http}/readyz http://{http}/metrics\n"
    )
}
