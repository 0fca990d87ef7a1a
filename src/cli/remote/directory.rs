//! `directory`: shows and changes the directory.

use std::{
    io::{self, Read},
    path::Path,
};

use serde_json::{Value, json};

use super::{Server, from_json, print_response};
use crate::{
    cli::{Failure, counted, progress::Progress},
    config::remote::{ApplyDirectoryArgs, DirectoryCommand, ServerArgs},
    pb::{self, directory_service_client::DirectoryServiceClient},
};

/// The largest file of changes, in bytes: some ten times of what the server takes at once.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

pub(in crate::cli) async fn run(command: &DirectoryCommand) -> Result<(), Failure> {
    match command {
        DirectoryCommand::Status(args) => status(args).await,
        DirectoryCommand::Apply(args) => apply(args).await,
    }
}

async fn status(args: &ServerArgs) -> Result<(), Failure> {
    let server = Server::connect(args).await?;
    let request = server.request(pb::GetDirectoryStatusRequest {});
    let status = DirectoryServiceClient::new(server.channel())
        .get_directory_status(request)
        .await
        .map_err(|status| server.failure(&status))?
        .into_inner();
    print_response(args, "GetDirectoryStatusResponse", &status, || {
        describe(&status)
    })
}

/// The directory as one line for each figure.
pub(super) fn describe(status: &pb::GetDirectoryStatusResponse) -> String {
    format!(
        "users             {}\nteams             {}\nsites             {}\nmemberships       \
         {}\napplied sequence  {}\nrevision          {}",
        status.users,
        status.teams,
        status.sites,
        status.memberships,
        status.applied_sequence,
        status.revision
    )
}

async fn apply(args: &ApplyDirectoryArgs) -> Result<(), Failure> {
    let name = args.file.display().to_string();
    let mut request = read(&args.file)
        .and_then(|text| parse(&text))
        .map_err(|why| Failure::new(format_args!("{name}: {why}")))?;
    request.sequence = args.sequence.or(request.sequence);
    let (count, sequence) = (request.changes.len(), request.sequence);
    let progress = Progress::of(&format!("applying {}", counted(count, "change")));
    let server = Server::connect(&args.server).await?;
    let mut service = DirectoryServiceClient::new(server.channel());
    // The response to a batch that was skipped is the same as if it had been applied, if another
    // one had its number.
    let before = match sequence {
        Some(_) => {
            service
                .get_directory_status(server.request(pb::GetDirectoryStatusRequest {}))
                .await
                .map_err(|status| server.failure(&status))?
                .into_inner()
                .applied_sequence
        }
        None => 0,
    };
    let applied = service
        .apply_directory_changes(server.request(request))
        .await
        .map_err(|status| server.failure(&status))?
        .into_inner();
    drop(progress);
    print_response(
        &args.server,
        "ApplyDirectoryChangesResponse",
        &applied,
        || {
            let revision = applied.revision;
            match sequence {
                Some(sequence) if before >= sequence || applied.applied_sequence > sequence => {
                    format!(
                        "Skipped: sequence {} is applied already. The revision is {revision}.",
                        applied.applied_sequence
                    )
                }
                _ => {
                    let changes = counted(count, "change");
                    format!("Applied {changes}. The revision is {revision}.")
                }
            }
        },
    )
}

/// The content of a file, or of standard input.
fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin()
            .lock()
            .take(MAX_BYTES + 1)
            .read_to_string(&mut text)
    } else {
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text))
    };
    let length = read.map_err(|error| error.to_string())?;
    if length as u64 > MAX_BYTES {
        return Err(format!("more than {} MiB", MAX_BYTES / 1024 / 1024));
    }
    Ok(text)
}

/// A request, or the list of its changes alone.
fn parse(text: &str) -> Result<pb::ApplyDirectoryChangesRequest, String> {
    let json: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let json = if json.is_array() {
        json!({ "changes": json })
    } else {
        json
    };
    from_json("ApplyDirectoryChangesRequest", json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_a_request_or_its_changes() {
        let change = r#"{"put_user": {"id": "u", "instance_role": "INSTANCE_ROLE_USER"}}"#;
        let alone = parse(&format!("[{change}]")).unwrap();
        let whole = parse(&format!(r#"{{"changes": [{change}], "sequence": "7"}}"#)).unwrap();
        assert_eq!(alone.changes, whole.changes);
        assert_eq!((alone.sequence, whole.sequence), (None, Some(7)));
        for (text, said) in [
            ("", "EOF"),
            ("[", "EOF"),
            (r#"[{"put_usr": {}}]"#, "put_usr"),
            (r#"{"changes": 1}"#, "expected a list"),
        ] {
            let why = parse(text).unwrap_err();
            assert!(why.contains(said), "{text}: {why}");
        }
    }
}
