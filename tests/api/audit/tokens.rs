//! Tokens in texts that people write: none of them gets into the audit trail.

use hitkeep_auth::pb;

use super::{about_clients, changes};
use crate::{fixtures::*, harness::TestApp};

#[tokio::test]
async fn the_user_agent_is_kept_without_the_tokens_in_it() {
    let (app, dashboard, made) = TestApp::with_client().await;
    let legacy = legacy_for("a text");
    for (user_agent, kept) in [
        (made.token.clone(), "[token]"),
        (format!("curl/8 ({legacy}; é)"), "curl/8 ([token]; é)"),
        ("curl/8 hkp_".to_owned(), "curl/8 hkp_"),
    ] {
        app.clock.advance(chrono::TimeDelta::seconds(1));
        let actor = pb::Actor {
            user_id: VERA.to_owned(),
            user_agent,
            ..pb::Actor::default()
        };
        let request = pb::CreateApiClientRequest {
            actor: Some(actor),
            ..personal(VERA)
        };
        dashboard.created(request).await;
        let newest = about_clients(&app).await.remove(0);
        assert_eq!(newest.actor.unwrap().user_agent, kept);
    }
}

/// Such a name is refused now, but an import can have brought it.
#[tokio::test]
async fn a_stored_name_is_kept_without_the_token_in_it() {
    let (app, dashboard, made) = TestApp::with_client().await;
    app.psql(&format!(
        "UPDATE api_clients SET name = 'was {0}', description = '{0}' WHERE id = '{1}'",
        made.token, made.id
    ))
    .await;
    app.clock.advance(chrono::TimeDelta::seconds(1));
    dashboard.revoke(revoke(VERA, &made.id)).await.unwrap();
    let revoked = about_clients(&app).await.remove(0);
    assert_eq!(revoked.client_name, "was [token]");

    app.clock.advance(chrono::TimeDelta::seconds(1));
    let renamed = pb::ApiClient {
        id: made.id,
        name: "another".to_owned(),
        ..pb::ApiClient::default()
    };
    let request = update(VERA, renamed, &["name", "description"]);
    dashboard.update(request).await.unwrap();
    let updated = about_clients(&app).await.remove(0);
    let expected = ["name: was [token] -> another", "description: [token] -> "];
    assert_eq!(changes(&updated), expected);
    assert_eq!(updated.client_name, "another");
}
