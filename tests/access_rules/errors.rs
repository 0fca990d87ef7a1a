//! The table of errors: each with its code, and none missing.

use std::collections::BTreeMap;

use hitkeep_auth::{
    domain::{
        Revision,
        caller::{CallerName, CallerPermission},
        client::ClientState,
        directory::{Removal, order::DirectoryChanged},
        refusal::Refusal,
        role::{InstanceRole, SiteRole},
    },
    grpc::error::ApiError,
    live_index::Unanswerable,
    pb,
    store::error::StoreError,
};

use super::{SITE, names::spelt, page::table};

pub(super) fn word(error: &ApiError) -> String {
    let name = error.code_and_reason().1.as_str_name();
    name.strip_prefix("ERROR_REASON_").expect(name).to_owned()
}

/// An error for each reason. The compiler does not see one that is missing here; the
/// comparison with the proto's list does.
fn errors() -> Vec<ApiError> {
    let failure = || std::io::Error::other("no answer").into();
    let wrong_state = Refusal::WrongState {
        state: ClientState::Revoked,
    };
    let removal = Removal {
        kind: "users",
        known: 3,
        removed: 2,
    };
    vec![
        ApiError::InvalidFields(Vec::new()),
        Refusal::ExpiryPast.into(),
        Refusal::TeamInstanceRole.into(),
        Refusal::NotFound.into(),
        Refusal::OwnerNotManaged.into(),
        Refusal::ExceedsInstanceRole {
            wanted: InstanceRole::Owner,
        }
        .into(),
        Refusal::ExceedsSiteRole {
            site: SITE,
            wanted: SiteRole::Owner,
        }
        .into(),
        Refusal::SiteNotDelegable { site: SITE }.into(),
        wrong_state.into(),
        Refusal::EtagMismatch.into(),
        ApiError::MassRemoval(removal),
        Refusal::Quota { limit: 1 }.into(),
        ApiError::CallerUnknown,
        ApiError::CallerNotPermitted(CallerPermission::Audit),
        ApiError::DeadlineExceeded,
        ApiError::Overloaded,
        StoreError::Overloaded(failure()).into(),
        StoreError::Collision(failure()).into(),
        ApiError::Defect("a defect"),
        StoreError::Defect(failure()).into(),
        StoreError::Inconsistent("a role".to_owned()).into(),
        Unanswerable::Loading.into(),
        Unanswerable::Stale(std::time::Duration::ZERO).into(),
        Unanswerable::Behind.into(),
        Unanswerable::NoAnswer.into(),
        StoreError::Unavailable(failure()).into(),
        ApiError::RevisionNotReached {
            wanted: Revision(2),
            reached: Revision(1),
        },
        ApiError::MethodUnknown("no such method".to_owned()),
        ApiError::ShuttingDown,
        ApiError::DirectoryChanged(DirectoryChanged {
            applied_sequence: None,
        }),
        ApiError::ReplyGone,
        ApiError::ServiceAccountToken(CallerName::parse("sidecar").expect("a name")),
        Refusal::TooManyClients { limit: 1 }.into(),
    ]
}

#[test]
fn every_error_is_on_the_page_with_its_code() {
    let rows = table("| reason | code | when |");
    let known = (1..).map_while(|number| pb::ErrorReason::try_from(number).ok());
    let names = known.map(|reason| {
        let name = reason.as_str_name();
        name.strip_prefix("ERROR_REASON_").expect(name)
    });
    let documented: Vec<_> = rows.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(documented, names.collect::<Vec<_>>());
    let mut made = BTreeMap::new();
    for error in errors() {
        made.insert(word(&error), spelt(error.code_and_reason().0));
    }
    for row in &rows {
        assert_eq!(made.get(&row[0]), Some(&row[1]), "{}", row[0]);
        assert!(!row[2].is_empty(), "{}", row[0]);
    }
}
