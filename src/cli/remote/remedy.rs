//! What a person can do about an error of the service: one line for each reason.

use crate::pb::ErrorReason;

/// What to do about a reason, by its name; None if only a newer server knows it.
pub(super) fn remedy(reason: &str) -> Option<&'static str> {
    let remedy = match ErrorReason::from_str_name(&format!("ERROR_REASON_{reason}"))? {
        // It is never sent.
        ErrorReason::Unspecified => return None,
        ErrorReason::InvalidField => "correct what is named; `--help` says what each option may be",
        ErrorReason::ApiClientNotFound => {
            "check the id and --actor: a client that the actor may not see is not found either"
        }
        ErrorReason::OwnerNotManaged => {
            "act on behalf of a user who manages the owner's API clients, or of an owner of the \
             instance"
        }
        ErrorReason::DelegationExceedsActor => {
            "grant less, or act on behalf of a user who holds as much"
        }
        ErrorReason::SiteNotDelegable => {
            "check the id of the site: it must be in the directory, and in the team if the client \
             is a team's"
        }
        ErrorReason::ApiClientInactive => {
            "`hitkeep-auth client get` shows the state; `hitkeep-auth client update` changes the \
             expiry, and `hitkeep-auth client reactivate` ends a revocation: the token works \
             again, so if it has leaked, create another client instead"
        }
        ErrorReason::EtagMismatch => "`hitkeep-auth client get` shows the current state and etag",
        ErrorReason::MassRemoval => {
            "check that the source was read to its end; allow_mass_removal is for what is meant"
        }
        ErrorReason::ApiClientQuota => "delete clients that are no longer needed",
        ErrorReason::CallerUnknown => {
            "the token of HITKEEP_AUTH_TOKEN or --token-file belongs to no service account, or to \
             a revoked one: `hitkeep-auth service-account list` shows them"
        }
        ErrorReason::CallerNotPermitted => {
            "`hitkeep-auth service-account list` shows what each account may do; create one with \
             the permission that is missing"
        }
        ErrorReason::DeadlineExceeded => {
            "give it more time with --timeout; a change may have been made all the same, so look \
             before you repeat it"
        }
        ErrorReason::Overloaded => "try again in a moment",
        ErrorReason::Internal => "it is a defect of the service: the server's log has the cause",
        ErrorReason::StaleIndex | ErrorReason::DatabaseUnavailable => {
            "`hitkeep-auth status` shows the state of the server"
        }
        ErrorReason::RevisionNotReached => {
            "check that the revision is one of the same database, or wait longer with --timeout"
        }
        ErrorReason::MethodUnknown => {
            "the server is a replica, or older than this program: name another one with --server"
        }
        ErrorReason::ShuttingDown => {
            "try again: another server answers, or this one once it is back"
        }
        ErrorReason::DirectoryChanged => "read the source again, and send what it is now",
        ErrorReason::ReplyGone => {
            "give another --request-id, or none; `hitkeep-auth client rotate` gives a client that \
             is there a new token"
        }
        ErrorReason::ServiceAccountToken => {
            "run the command where the database can be reached; a revocation ends the token at once"
        }
        ErrorReason::SelectionTooLarge => {
            "name an owner as well, with --user or --team, and revoke for one after the other"
        }
    };
    Some(remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_says_what_to_do() {
        let reasons = (1..).map_while(|number| ErrorReason::try_from(number).ok());
        let names: Vec<_> = reasons.map(|reason| reason.as_str_name()).collect();
        assert!(names.contains(&"ERROR_REASON_SELECTION_TOO_LARGE"));
        for name in names {
            let word = name.strip_prefix("ERROR_REASON_").unwrap();
            let line = remedy(word).expect(name);
            assert!(!line.is_empty() && !line.contains('\n'), "{name}: {line}");
        }
    }

    #[test]
    fn what_only_a_newer_server_knows_has_no_remedy() {
        assert_eq!(remedy("OF_A_NEWER_SERVER"), None);
        assert_eq!(remedy("UNSPECIFIED"), None);
    }
}
