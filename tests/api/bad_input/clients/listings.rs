//! Lists of API clients.

use hitkeep_auth::pb;

use super::super::{no_ids, no_owners, refuses_each};
use crate::{fixtures::*, harness::TestApp};

/// A time that is none.
const NO_TIME: prost_types::Timestamp = prost_types::Timestamp {
    seconds: 0,
    nanos: -1,
};

#[tokio::test]
async fn a_listing_is_refused_for_each_field_that_is_wrong() {
    let (app, dashboard) = TestApp::with_dashboard().await;
    dashboard.created(personal(VERA)).await;
    let good = || list(VERA, of_user(VERA));
    let mut cases: Vec<(pb::ListApiClientsRequest, Vec<String>)> = Vec::new();
    for (owner, expected) in no_owners("owner") {
        // Left out altogether, it stands for everybody's.
        if owner.is_some() {
            cases.push((list(VERA, owner), expected));
        }
    }
    for page_size in [-1, -500, i32::MIN] {
        let request = pb::ListApiClientsRequest {
            page_size,
            ..good()
        };
        cases.push((request, vec!["page_size".to_owned()]));
    }
    for page_token in no_ids() {
        let request = pb::ListApiClientsRequest {
            page_token,
            ..good()
        };
        cases.push((request, vec!["page_token".to_owned()]));
    }
    for id in no_ids() {
        let request = pb::ListApiClientsRequest {
            created_by_user_id: id.clone(),
            ..good()
        };
        cases.push((request, vec!["created_by_user_id".to_owned()]));
        let request = pb::ListApiClientsRequest {
            site_id: id,
            ..good()
        };
        cases.push((request, vec!["site_id".to_owned()]));
    }
    for state in [0, 5, -1] {
        let request = pb::ListApiClientsRequest {
            state: Some(state),
            ..good()
        };
        cases.push((request, vec!["state".to_owned()]));
    }
    let all_wrong = pb::ListApiClientsRequest {
        actor: None,
        owner: of_user("x"),
        page_size: -1,
        page_token: "x".to_owned(),
        include_inactive: false,
        expire_before: Some(NO_TIME),
        unused_since: Some(NO_TIME),
        created_by_user_id: "x".to_owned(),
        state: Some(0),
        site_id: "x".to_owned(),
    };
    let everything = [
        "actor",
        "owner.user_id",
        "page_size",
        "expire_before",
        "unused_since",
        "created_by_user_id",
        "state",
        "site_id",
        "page_token",
    ];
    cases.push((all_wrong, everything.map(str::to_owned).to_vec()));
    refuses_each(&app, async |request| dashboard.list(request).await, cases).await;
    for page_size in [0, 1, 500, 501, i32::MAX] {
        let request = pb::ListApiClientsRequest {
            page_size,
            ..good()
        };
        assert_eq!(dashboard.list(request).await.unwrap().api_clients.len(), 1);
    }
}
