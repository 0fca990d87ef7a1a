//! What a server needs of its options and of the machine.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use chrono::TimeDelta;
use rustix::fs::{Access, access};

use super::{Failure, Finding, Report, in_time};
use crate::{
    cli::{
        counted,
        descriptors::{self, Descriptors},
    },
    config::{EventsArgs, ServeArgs, export_settings},
    domain::{Timestamp, clock::Clock},
    server,
    store::error::causes,
    system::SystemClock,
    transport::{
        listeners::{Address, Listeners},
        tls::{Files, Tls},
    },
};

/// How long before the end of a certificate the warning is due.
const CERTIFICATE_LEAD: TimeDelta = TimeDelta::days(30);
/// What to do about a certificate that callers reject.
const RENEWAL: &str =
    "put a current certificate and its key in the files of --tls-cert and --tls-key";
/// The bit of a file's mode that lets every user of the machine read it.
const READABLE_BY_ALL: u32 = 0o004;

pub(super) async fn check(args: &ServeArgs, report: &mut Report) -> Result<(), Failure> {
    report.add("configuration", configuration(args))?;
    report.add("telemetry", telemetry())?;
    let files = secret_files(args);
    report.add("secret files", on_disk(move || judge_files(&files)).await)?;
    let events = args.events.clone();
    if args.events.has_any() {
        report.add("webhook", on_disk(move || webhook(&events)).await)?;
    }
    // Contradicting options are an error of the configuration.
    if let Ok(Some(files)) = args.serving.tls.files() {
        report.add("certificate", on_disk(move || certificate(files)).await)?;
    }
    // Without valid options, the defaults tell the limit.
    let options = args.server().unwrap_or_else(|_| args.serving.limits());
    report.add("open files", open_files(args, &options))?;
    let (grpc, http) = (&args.serving.listen, &args.serving.http_listen);
    // Held while the others are tried, as a server holds them.
    let mut held = None;
    let judged = in_time(listen(grpc, "--listen", &[], &mut held)).await;
    report.add("listen", judged)?;
    if !http.is_empty() {
        let judged = in_time(listen(http, "--http-listen", grpc, &mut None)).await;
        report.add("http-listen", judged)?;
    }
    drop(held);
    Ok(())
}

/// Runs a check that may block on the file system, such as one over the network.
async fn on_disk(check: impl FnOnce() -> Finding + Send + 'static) -> Finding {
    in_time(async {
        let checked = tokio::task::spawn_blocking(check).await;
        checked.expect("it neither panics nor is aborted")
    })
    .await
}

fn configuration(args: &ServeArgs) -> Finding {
    let mut problems = Vec::new();
    problems.extend(args.server().err().map(|error| error.to_string()));
    problems.extend(
        args.serving
            .tls
            .files()
            .err()
            .map(|error| error.to_string()),
    );
    problems.extend(args.store().err().map(|error| error.to_string()));
    if problems.is_empty() {
        Finding::ok("the options fit together")
    } else {
        Finding::error(problems.join("; "), "correct these options or variables")
    }
}

fn telemetry() -> Finding {
    let settings = export_settings();
    if settings.problems.is_empty() {
        return Finding::ok("OpenTelemetry's variables can be used");
    }
    let problems: Vec<_> = settings.problems.iter().map(ToString::to_string).collect();
    Finding::warning(problems.join("; "), "correct these variables")
}

/// The files that contain secrets, each with what names it.
fn secret_files(args: &ServeArgs) -> Vec<(&'static str, PathBuf)> {
    let database = args.database.file();
    let database = database.map(|file| ("--database-url-file", file.path().to_owned()));
    let tls = args.serving.tls.files().ok().flatten();
    let key = tls.map(|files| ("--tls-key", files.key));
    let webhook = args.events.secret_files();
    let webhook = webhook.map(|(option, path)| (option, path.to_owned()));
    database.into_iter().chain(key).chain(webhook).collect()
}

/// Whether events could be delivered. The receiver is not asked: there is no event for it.
fn webhook(args: &EventsArgs) -> Finding {
    let advice = "correct the options and variables of the webhook";
    match args.webhook() {
        Ok(None) => Finding::ok("events are not delivered: no webhook is configured"),
        Ok(Some(webhook)) => match webhook.check() {
            Ok(()) => Finding::ok(format!("events can be delivered to {}", webhook.endpoint)),
            Err(error) => Finding::error(format!("{error}: {}", causes(&error)), advice),
        },
        Err(error) => Finding::error(error.to_string(), advice),
    }
}

fn judge_files(files: &[(&'static str, PathBuf)]) -> Finding {
    let (mut unreadable, mut exposed) = (Vec::new(), Vec::new());
    for (option, path) in files {
        let named = format!("{} ({option})", path.display());
        match fs::File::open(path).and_then(|file| file.metadata()) {
            Err(error) => unreadable.push(format!("{named} cannot be read ({error})")),
            Ok(metadata) if metadata.permissions().mode() & READABLE_BY_ALL != 0 => {
                exposed.push(named);
            }
            Ok(_) => {}
        }
    }
    if !unreadable.is_empty() {
        return Finding::error(
            unreadable.join("; "),
            "correct the path, or let the user that runs the server read it",
        );
    }
    if !exposed.is_empty() {
        let exposed = exposed.join(", ");
        return Finding::warning(
            format!("every user of this machine can read {exposed}"),
            "chmod o= the file, or in Kubernetes set defaultMode: 0440 with an fsGroup",
        );
    }
    if files.is_empty() {
        return Finding::ok("no secret is in a file");
    }
    Finding::ok("only the owner and the group can read the files with secrets")
}

fn certificate(files: Files) -> Finding {
    let tls = match Tls::load(files) {
        Ok((tls, _)) => tls,
        Err(error) => {
            return Finding::error(
                error.to_string(),
                "correct --tls-cert, --tls-key or --tls-client-ca, or what these files contain",
            );
        }
    };
    let now = SystemClock::default().now();
    match tls.validity_period() {
        Some(period) => judge_validity(period, now),
        None => Finding::warning("the validity of the certificate cannot be read", RENEWAL),
    }
}

fn judge_validity((from, until): (Timestamp, Timestamp), now: Timestamp) -> Finding {
    if now < from {
        return Finding::error(
            format!("the certificate is not valid before {from}"),
            "correct the clock of this machine, or wait, or use another certificate",
        );
    }
    if now >= until {
        return Finding::error(format!("the certificate expired at {until}"), RENEWAL);
    }
    if until - now < CERTIFICATE_LEAD {
        let days = counted((until - now).num_days(), "day");
        return Finding::warning(
            format!("the certificate expires in {days}, at {until}"),
            "see to it that it is renewed: a server takes the new one without a restart",
        );
    }
    Finding::ok(format!("the key fits, and it is valid until {until}"))
}

fn open_files(args: &ServeArgs, options: &server::Options) -> Finding {
    let listeners = 1 + usize::from(!args.serving.http_listen.is_empty());
    let connections = options.max_connections.saturating_mul(listeners);
    let pool_size = args.pool_size();
    let (limit, needed) = descriptors::limit_and_need(Descriptors {
        connections,
        pool_size,
        threads: options.threads,
    });
    match limit {
        None => Finding::ok("their number is not limited"),
        Some(limit) if limit >= needed => {
            Finding::ok(format!("{limit} are allowed, and at most {needed} needed"))
        }
        Some(limit) => Finding::warning(
            format!(
                "{limit} are allowed, and {connections} connections of callers with {pool_size} to \
                 Postgres need {needed}"
            ),
            "raise the hard limit (ulimit -Hn, LimitNOFILE=), or lower --max-connections",
        ),
    }
}

/// Opens the addresses as a server would, and keeps them open in `held`; Unix sockets are looked
/// at instead, since opening one replaces a file. The server has `others` open already.
async fn listen(
    addresses: &[Address],
    option: &str,
    others: &[Address],
    held: &mut Option<Listeners>,
) -> Finding {
    let is_tcp = |address: &&Address| matches!(address, Address::Tcp(_));
    let tcp: Vec<Address> = addresses.iter().filter(is_tcp).cloned().collect();
    let mut problems = Vec::new();
    match Listeners::open(&tcp, None).await {
        Ok(listeners) => *held = Some(listeners),
        Err(error) => {
            // One by one, for all that are taken.
            for address in &tcp {
                let opened = Listeners::open(std::slice::from_ref(address), None).await;
                problems.extend(opened.err().map(|error| error.to_string()));
            }
            if problems.is_empty() {
                problems.push(error.to_string());
            }
        }
    }
    for address in addresses {
        if let Address::Unix(path) = address {
            if others.contains(address) {
                problems.push(format!("{address} is an address of --listen as well"));
            }
            problems.extend(socket_problem(path));
        }
    }
    let all: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let all = all.join(", ");
    if problems.is_empty() {
        return Finding::ok(format!("{all} can be listened on"));
    }
    let advice = format!(
        "end what listens there, unless it is the server itself, or choose another address with \
         {option}"
    );
    Finding::error(problems.join("; "), advice)
}

/// Why a server could not listen on a socket of that path.
fn socket_problem(path: &Path) -> Option<String> {
    let what = |why: &str| Some(format!("cannot listen on unix:{} ({why})", path.display()));
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return what("there is a file of that name, which is no socket");
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            return what("another program listens there");
        }
        // One that a server left behind is replaced.
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return what(&error.to_string()),
    }
    let folder = path.parent().filter(|path| !path.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| Path::new("."));
    let written = access(folder, Access::WRITE_OK | Access::EXEC_OK);
    written
        .err()
        .and_then(|error| what(&format!("its folder: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_judged_by_its_period() {
        let at = |days: i64| Timestamp::default() + TimeDelta::days(days);
        let moment = TimeDelta::seconds(1);
        let judged = |now| format!("{:?}", judge_validity((at(0), at(90)), now));
        for (now, expected) in [
            (at(0) - moment, "Error"),
            (at(0), "Ok"),
            (at(60), "Ok"),
            (at(60) + moment, "Warning"),
            (at(90) - moment, "Warning"),
            (at(90), "Error"),
        ] {
            let judged = judged(now);
            assert!(judged.contains(expected), "{now}: {judged}");
        }
        assert!(judged(at(80)).contains("expires in 10 days"));
    }
}
