//! Tokens in texts that people write: none of them gets into the audit trail.

use hitkeep_auth::pb;

use super::about_clients;
use crate::{fixtures::*, harness::TestApp};

#[tokio::test]
async fn the_user_agent_is_kept_without_the_tokens_in_it() {
    let app = TestApp::with_world().await;
    let dashboard = app.dashboard().await;
    let made = dashboard.created(personal(VERA)).await;
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
