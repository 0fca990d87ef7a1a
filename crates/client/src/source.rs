//! Where answers come from: a call each time, or a stream; and how they are read.

use std::{net::IpAddr, sync::Arc, time::Duration};

use hitkeep_auth_domain::{
    Revision, Timestamp,
    access::{EffectiveAccess, EffectiveGrants, Owner, PermissionCheck},
    client::Expiry,
    clock::Clock,
    id::SiteId,
    role::{InstanceRole, SiteRole},
};
use hitkeep_auth_proto as pb;

use crate::{
    client::Client,
    error::{InactiveReason, Unavailable},
    principal::Identity,
};

mod stream;

pub(crate) use stream::StreamSource;

/// What is asked.
#[derive(Clone)]
pub(crate) struct Asked {
    pub(crate) token: Box<str>,
    /// A permission to decide on.
    pub(crate) check: Option<PermissionCheck>,
    pub(crate) at_least: Option<Revision>,
    /// Where the request comes from, in canonical form.
    pub(crate) source: Option<IpAddr>,
}

/// What the service says about a token. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// Whose token it is, or why it does not work.
    pub(crate) verdict: Result<Arc<Identity>, InactiveReason>,
    /// Whether the permission is carried that was asked for.
    pub(crate) is_allowed: bool,
    pub(crate) revision: Revision,
    /// When the question was sent, by the clock's `elapsed`: the answer ages from then on.
    pub(crate) sent_at: Duration,
    /// How old the answer may become.
    pub(crate) max_age: Duration,
}

impl Answer {
    /// How long the answer may still be used.
    pub(crate) fn time_left(&self, clock: &dyn Clock) -> Option<Duration> {
        let age = clock.elapsed().saturating_sub(self.sent_at);
        self.max_age.checked_sub(age).filter(|left| !left.is_zero())
    }
}

/// Answers questions. Each question may be given up at any time.
pub(crate) trait Source: Send + Sync + 'static {
    fn ask(&self, asked: Asked) -> impl Future<Output = Result<Answer, Unavailable>> + Send;
}

/// Makes a call for each question.
#[derive(Clone)]
pub(crate) struct CallSource {
    client: Client,
    clock: Arc<dyn Clock>,
}

impl CallSource {
    pub(crate) fn new(client: Client, clock: Arc<dyn Clock>) -> Self {
        Self { client, clock }
    }
}

impl Source for CallSource {
    async fn ask(&self, asked: Asked) -> Result<Answer, Unavailable> {
        // If the call is repeated, the answer may be to the last one, and seems older.
        let sent_at = self.clock.elapsed();
        let response = self.client.introspect(to_request(&asked)).await?;
        read(response, &asked, sent_at)
    }
}

fn to_request(asked: &Asked) -> pb::IntrospectRequest {
    let check = asked.check.map(|check| pb::PermissionCheck {
        site_id: match check {
            PermissionCheck::Site { site, .. } => site.to_string(),
            PermissionCheck::Instance(_) => String::new(),
        },
        permission: check.permission().to_owned(),
    });
    pb::IntrospectRequest {
        token: asked.token.to_string(),
        check,
        at_least_revision: asked.at_least.map(|revision| revision.0),
        source_ip: asked
            .source
            .map(|address| address.to_string())
            .unwrap_or_default(),
    }
}

/// Understands an answer, or fails: what is not understood says nothing about the token.
fn read(
    sent: pb::IntrospectResponse,
    asked: &Asked,
    sent_at: Duration,
) -> Result<Answer, Unavailable> {
    let odd = |what| Err(Unavailable::NotUnderstood(what));
    if asked.check.is_some() && sent.decision.is_none() {
        return odd("no decision on the permission");
    }
    let max_age = sent.max_cache_age.map(Duration::try_from);
    let answer = Answer {
        verdict: Err(InactiveReason::of(sent.inactive_reason)),
        is_allowed: sent.decision.is_some_and(|decision| decision.allowed),
        revision: Revision(sent.revision),
        sent_at,
        max_age: max_age.and_then(Result::ok).unwrap_or_default(),
    };
    if !sent.active {
        return Ok(answer);
    }
    let Ok(client) = sent.client_id.parse() else {
        return odd("a client without an id");
    };
    let Some(owner) = sent.owner.and_then(read_owner) else {
        return odd("a client without an owner");
    };
    let instance_role = match pb::InstanceRole::try_from(sent.instance_role) {
        Ok(pb::InstanceRole::User) => InstanceRole::User,
        Ok(pb::InstanceRole::Admin) => InstanceRole::Admin,
        Ok(pb::InstanceRole::Owner) => InstanceRole::Owner,
        Ok(pb::InstanceRole::Unspecified) | Err(_) => return odd("an unknown instance role"),
    };
    let grants = sent.site_grants.iter().map(read_grant);
    let Some(grants) = grants.collect::<Option<EffectiveGrants>>() else {
        return odd("an unknown site role, or one without a site");
    };
    let expiry = match sent.expire_time.as_ref().map(read_time) {
        None => Expiry::Never,
        Some(Some(time)) => Expiry::At(time),
        Some(None) => return odd("a time that is none"),
    };
    let identity = Identity {
        client,
        name: sent.client_name.into_boxed_str(),
        owner,
        access: EffectiveAccess {
            instance_role,
            grants,
        },
        expiry,
    };
    Ok(Answer {
        verdict: Ok(Arc::new(identity)),
        ..answer
    })
}

fn read_owner(sent: pb::Owner) -> Option<Owner> {
    match sent.owner? {
        pb::owner::Owner::UserId(id) => id.parse().ok().map(Owner::User),
        pb::owner::Owner::TeamId(id) => id.parse().ok().map(Owner::Team),
    }
}

fn read_grant(sent: &pb::SiteGrant) -> Option<(SiteId, SiteRole)> {
    let role = match pb::SiteRole::try_from(sent.role) {
        Ok(pb::SiteRole::Viewer) => SiteRole::Viewer,
        Ok(pb::SiteRole::Editor) => SiteRole::Editor,
        Ok(pb::SiteRole::Admin) => SiteRole::Admin,
        Ok(pb::SiteRole::Owner) => SiteRole::Owner,
        Ok(pb::SiteRole::Unspecified) | Err(_) => return None,
    };
    Some((sent.site_id.parse().ok()?, role))
}

fn read_time(sent: &prost_types::Timestamp) -> Option<Timestamp> {
    Timestamp::from_timestamp(sent.seconds, u32::try_from(sent.nanos).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "01930000-0000-7000-8000-0000000000ab";

    fn asked(check: Option<PermissionCheck>) -> Asked {
        Asked {
            token: "token".into(),
            check,
            at_least: None,
            source: None,
        }
    }

    fn good() -> pb::IntrospectResponse {
        pb::IntrospectResponse {
            active: true,
            client_id: ID.to_owned(),
            owner: Some(pb::Owner {
                owner: Some(pb::owner::Owner::TeamId(ID.to_owned())),
            }),
            instance_role: pb::InstanceRole::User.into(),
            site_grants: vec![pb::SiteGrant {
                site_id: ID.to_owned(),
                role: pb::SiteRole::Editor.into(),
            }],
            revision: 7,
            max_cache_age: Some(prost_types::Duration {
                seconds: 5,
                nanos: 0,
            }),
            ..pb::IntrospectResponse::default()
        }
    }

    #[test]
    fn good_answers_are_read() {
        let answer = read(good(), &asked(None), Duration::from_secs(1)).unwrap();
        let identity = answer.verdict.unwrap();
        assert_eq!(identity.owner.to_string(), format!("team:{ID}"));
        let site = ID.parse().unwrap();
        assert_eq!(identity.access.grants.get(site), Some(SiteRole::Editor));
        assert_eq!(answer.revision, Revision(7));
        assert_eq!(answer.max_age, Duration::from_secs(5));
        let inactive = pb::IntrospectResponse {
            inactive_reason: pb::InactiveReason::Revoked.into(),
            ..pb::IntrospectResponse::default()
        };
        let answer = read(inactive, &asked(None), Duration::ZERO).unwrap();
        assert_eq!(answer.verdict, Err(InactiveReason::Revoked));
        assert_eq!(answer.max_age, Duration::ZERO);
    }

    /// Neither active nor inactive: unknown.
    #[test]
    fn what_is_not_understood_says_nothing_about_the_token() {
        type Change = fn(&mut pb::IntrospectResponse);
        let changes: [Change; 7] = [
            |answer| answer.client_id.clear(),
            |answer| answer.owner = None,
            |answer| answer.owner = Some(pb::Owner::default()),
            |answer| answer.instance_role = 9,
            |answer| answer.site_grants[0].role = 9,
            |answer| answer.site_grants[0].site_id.clear(),
            |answer| {
                answer.expire_time = Some(prost_types::Timestamp {
                    seconds: i64::MAX,
                    nanos: 0,
                });
            },
        ];
        for change in changes {
            let mut answer = good();
            change(&mut answer);
            let read = read(answer, &asked(None), Duration::ZERO);
            assert!(matches!(read, Err(Unavailable::NotUnderstood(_))));
        }
        let check =
            PermissionCheck::Instance(hitkeep_auth_domain::role::InstancePermission::ViewAudit);
        let undecided = read(good(), &asked(Some(check)), Duration::ZERO);
        assert!(matches!(undecided, Err(Unavailable::NotUnderstood(_))));
    }
}
