//! The calls that benchmarks make, put together from few arguments.

use hitkeep_auth::pb::{
    ApiClient, CreateApiClientRequest, IntrospectRequest, RevokeApiClientRequest, SiteGrant,
    SiteRole,
};

use prost::Message;

use super::population::Known;

/// Introspects a token, without a check.
pub fn introspect(token: &str) -> IntrospectRequest {
    IntrospectRequest {
        token: token.to_owned(),
        ..IntrospectRequest::default()
    }
}

/// A message with gRPC's head in front.
pub fn framed(message: &impl Message) -> Vec<u8> {
    let length = u32::try_from(message.encoded_len()).expect("a short message");
    let mut bytes = vec![0];
    bytes.extend_from_slice(&length.to_be_bytes());
    message.encode(&mut bytes).expect("there is room");
    bytes
}

/// Revokes a client.
pub fn revoke(client: &Known) -> RevokeApiClientRequest {
    RevokeApiClientRequest {
        actor: Some(client.actor.clone()),
        id: client.id.clone(),
    }
}

/// Makes a client like another one: with the same owner and sites, as a viewer.
pub fn create_like(client: &Known) -> CreateApiClientRequest {
    let viewer = |site: &String| SiteGrant {
        site_id: site.clone(),
        role: SiteRole::Viewer.into(),
    };
    CreateApiClientRequest {
        actor: Some(client.actor.clone()),
        api_client: Some(ApiClient {
            owner: Some(client.owner.clone()),
            name: "Made by a benchmark".to_owned(),
            site_grants: client.sites.iter().map(viewer).collect(),
            ..ApiClient::default()
        }),
        ..CreateApiClientRequest::default()
    }
}
