//! What a replica is sent, and what it has to answer then.

use std::{net::IpAddr, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use chrono::TimeDelta;
use prost::Message as _;
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;

use super::{Fixed, LEGACY, OTHER_SITE, SITE, client_id, hex, needed, site, token, uuid};
use crate::{
    client::follow::wire::Features,
    domain::{
        Position, Revision, Timestamp,
        access::{Decision, EffectiveAccess, Owner, PermissionCheck},
        client::{Activation, Expiry},
        clock::Clock,
        id::{TeamId, UserId},
        index::{Index, Judged, Known, Writer},
        introspection::{BaseState, InactiveReason, ResolvedClient, Restrictions, TokenStanding},
        role::{InstancePermission, InstanceRole, SitePermission, SiteRole},
        source::{AllowedSources, Source},
        token::{LegacyToken, PresentedToken, StoredHash, Token, TokenKind},
    },
    grpc::{
        convert::{introspection::to_reason, replication::Audience},
        replication::{
            parts::{Content, Parts, Version},
            turn::SnapshotTurn,
        },
    },
    proxy_auth::route::Need,
};

fn now() -> Timestamp {
    "2030-06-01T12:00:00Z".parse().unwrap()
}

fn position(revision: u64, nonce: u128) -> Position {
    Position {
        database: uuid(0xdb),
        revision: Revision(revision),
        nonce: uuid(nonce),
    }
}

/// A client that works everywhere and forever, and may view a site.
fn resolved(number: u128) -> ResolvedClient {
    let access = EffectiveAccess {
        instance_role: InstanceRole::User,
        grants: [(site(SITE), SiteRole::Viewer)].into_iter().collect(),
    };
    ResolvedClient {
        client: client_id(number),
        owner: Owner::User(UserId::from_uuid(uuid(0xa11ce))),
        base_state: BaseState::Active,
        access,
        expiry: Expiry::Never,
        name: format!("client {number}").into(),
        restrictions: None,
    }
}

/// A client with one token, which has its number.
fn put(writer: &mut Writer, number: u8, change: impl FnOnce(&mut ResolvedClient)) {
    let mut client = resolved(number.into());
    change(&mut client);
    writer.put(
        Known::Resolved(client),
        &[(own(number), TokenStanding::Current)],
    );
}

fn own(number: u8) -> StoredHash {
    StoredHash::from(Token::mint(TokenKind::Personal, &Fixed(number)).hash())
}

fn restricted(ranges: &[&str], activation: Activation) -> Option<Box<Restrictions>> {
    let ranges = ranges.iter().map(|range| range.parse().unwrap());
    Restrictions::of(AllowedSources::new(ranges.collect()).unwrap(), activation)
}

/// The questions that are asked after each step: the number of a token or a text, a permission
/// and a site, and an address.
struct Asked {
    token: String,
    check: Option<PermissionCheck>,
    source: &'static str,
}

fn questions() -> Vec<Asked> {
    let on = |site_id, permission| {
        Some(PermissionCheck::Site {
            site: site(site_id),
            permission,
        })
    };
    let audit = Some(PermissionCheck::Instance(InstancePermission::ViewAudit));
    let mut asked = Vec::new();
    let mut ask = |token: String, check, source| {
        asked.push(Asked {
            token,
            check,
            source,
        });
    };
    for number in 1..=14 {
        ask(token(TokenKind::Personal, number), None, "");
    }
    let [first, second] = [1, 11].map(|number| token(TokenKind::Personal, number));
    ask(first.clone(), on(SITE, SitePermission::View), "");
    ask(first.clone(), on(SITE, SitePermission::ManageGoals), "");
    ask(first.clone(), on(OTHER_SITE, SitePermission::View), "");
    ask(first, audit, "");
    ask(second.clone(), audit, "");
    ask(second, on(SITE, SitePermission::View), "");
    for source in [
        "192.0.2.7",
        "::ffff:192.0.2.7",
        "2001:db8::1",
        "198.51.100.1",
    ] {
        ask(token(TokenKind::Personal, 6), None, source);
    }
    ask(LEGACY.to_owned(), None, "");
    ask(LEGACY.replace('0', "1"), None, "");
    ask("no token".to_owned(), None, "");
    ask(token(TokenKind::ServiceAccount, 1), None, "");
    asked
}

/// What is known of a token by a version of the index.
fn decided(index: &Index, asked: &Asked) -> Value {
    let address: Option<IpAddr> = asked.source.parse().ok();
    let source = address.map_or(Source::Unknown, Source::Address);
    let presented = PresentedToken::read(&asked.token);
    let mut vector = json!({ "token": asked.token });
    if !asked.source.is_empty() {
        vector["source_ip"] = asked.source.into();
    }
    if let Some(check) = asked.check {
        vector["needs"] = needed(Need::Permission(check));
    }
    let judged = match index.judge(&presented, source, Expiry::Never, now()) {
        Judged::Malformed | Judged::NotFound | Judged::LegacyNotFound => {
            Err(InactiveReason::UnknownToken)
        }
        Judged::Inactive(_, reason) => Err(reason),
        Judged::Active { resolved, .. } => Ok(resolved),
        Judged::Unreadable => {
            vector["verdict"] = "cannot_tell".into();
            return vector;
        }
    };
    let client = match judged {
        Ok(client) => client,
        Err(reason) => {
            let name = to_reason(reason).as_str_name();
            vector["verdict"] = "inactive".into();
            vector["reason"] = name.trim_start_matches("INACTIVE_REASON_").into();
            return vector;
        }
    };
    let decision = asked.check.map(|check| client.access.decide(&check));
    if decision.is_some_and(|decision| decision != Decision::Allowed) {
        vector["verdict"] = "forbidden".into();
        return vector;
    }
    vector["verdict"] = "allowed".into();
    vector["client_id"] = client.client.to_string().into();
    vector["client_name"] = client.name.to_string().into();
    vector["owner"] = client.owner.to_string().into();
    vector["instance_role"] = client.access.instance_role.as_str().into();
    let grants = client.access.grants.iter();
    let grants = grants.map(|(site, role)| (site.to_string(), role.as_str().into()));
    vector["site_roles"] = grants.collect::<Map<_, _>>().into();
    if let Expiry::At(end) = client.expiry {
        vector["expire_time"] = end.to_rfc3339().into();
    }
    vector
}

/// The first version of an index, with a client of each kind.
fn first_version() -> Writer {
    let mut writer = Writer::default();
    let hour = TimeDelta::hours(1);
    put(&mut writer, 1, |_| {});
    put(&mut writer, 2, |client| {
        client.base_state = BaseState::Revoked;
    });
    put(&mut writer, 3, |client| {
        client.base_state = BaseState::OwnerInactive;
    });
    put(&mut writer, 4, |client| {
        client.expiry = Expiry::At(now() - hour);
    });
    put(&mut writer, 5, |client| {
        client.expiry = Expiry::At(now() + hour);
    });
    put(&mut writer, 6, |client| {
        client.restrictions = restricted(&["192.0.2.0/24", "2001:db8::/32"], Activation::AtOnce);
    });
    put(&mut writer, 7, |client| {
        client.restrictions = restricted(&[], Activation::from(Some(now() + hour)));
    });
    put(&mut writer, 8, |client| {
        client.restrictions = restricted(&[], Activation::from(Some(now() - hour)));
    });
    let unreadable = Known::Unreadable(client_id(9));
    writer.put(unreadable, &[(own(9), TokenStanding::Current)]);
    // Its newest token is a legacy one; of those before, one still works.
    let newest = LegacyToken::parse(LEGACY).expect("it is one").hash();
    let tokens = [
        (newest.into(), TokenStanding::Current),
        (own(10), TokenStanding::ReplacedUntil(now() + hour)),
        (own(12), TokenStanding::ReplacedUntil(now() - hour)),
    ];
    writer.put(Known::Resolved(resolved(10)), &tokens);
    put(&mut writer, 11, |client| {
        client.owner = Owner::Team(TeamId::from_uuid(uuid(0x7ea)));
        client.access.instance_role = InstanceRole::Admin;
        client.access.grants = [(site(OTHER_SITE), SiteRole::Owner)].into_iter().collect();
    });
    writer
}

struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        now()
    }

    fn adopt(&self, database: Timestamp) -> Timestamp {
        database
    }

    fn calibrate(&self, _: Timestamp, _: Duration) {}

    fn elapsed(&self) -> Duration {
        Duration::from_mins(1)
    }
}

/// What is sent of a version, and what is known then.
fn step(what: &str, index: &Index, content: Content) -> Value {
    let version = Version {
        index: Arc::new(index.clone()),
        staleness: Duration::from_millis(10),
        seen_at: Still.elapsed(),
    };
    let audience = Audience {
        enforces: Features::ENFORCED,
        without_names: false,
    };
    let mut parts = Parts::new(version, audience, content, Vec::new());
    let mut frames = Vec::new();
    while let Ok(Some(frame)) = parts.next(&Still) {
        frames.push(BASE64.encode(frame.encode_to_vec()));
    }
    let decisions: Vec<_> = questions()
        .iter()
        .map(|asked| decided(index, asked))
        .collect();
    let Position {
        database,
        revision,
        nonce,
    } = index.position;
    json!({
        "what": what,
        "frames": frames,
        "position": {
            "database_id": hex(database.as_bytes()),
            "revision": revision.0,
            "nonce": hex(nonce.as_bytes()),
        },
        "decisions": decisions,
    })
}

/// What a replica is sent, and what it has to answer then. Frames are `ReplicateResponse` messages in
/// base64; after those of a step come the answers to its questions, which are not here.
pub(super) fn replication() -> Value {
    let snapshot = || {
        let turns = Arc::new(Semaphore::new(1));
        Content::SnapshotBegin(SnapshotTurn::take(&turns).expect("there is a turn"))
    };
    let mut writer = first_version();
    let whole = step("a snapshot", &writer.version(position(7, 0x71)), snapshot());
    put(&mut writer, 1, |client| {
        client.base_state = BaseState::Revoked;
    });
    put(&mut writer, 2, |_| {});
    writer.remove(client_id(5));
    put(&mut writer, 11, |client| {
        client.access.grants = [(site(SITE), SiteRole::Editor)].into_iter().collect();
    });
    put(&mut writer, 13, |_| {});
    let changed = [1, 2, 5, 11, 13].map(client_id).to_vec();
    let content = Content::Changes {
        clients: changed.into_iter(),
        with_accounts: false,
    };
    let changes = step("changes", &writer.version(position(9, 0x91)), content);
    let mut restored = first_version();
    restored.remove(client_id(1));
    put(&mut restored, 14, |_| {});
    let version = restored.version(position(8, 0x82));
    let other = step(
        "the snapshot of a database that was restored",
        &version,
        snapshot(),
    );
    json!({
        "now": now().to_rfc3339(),
        "steps": [whole, changes, other],
    })
}
