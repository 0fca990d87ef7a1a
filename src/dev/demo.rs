//! The demo data: a small directory, one personal and one team client, and one service
//! account for each permission.
//!
//! The database has only hashes of tokens, so the tokens that a second start prints again
//! are in a file beside the database that only its user can read. That is acceptable for a
//! demo on one machine, and done nowhere else.

use std::{
    fs, io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    domain::{
        access::{Delegated, SiteGrants},
        audit::{Actor, Provenance},
        caller::{CallerName, CallerPermission, ServiceAccount},
        client::{Activation, ApiClient, Description, Draft, Expiry, Name, Quota},
        directory::{DirectoryChange, Site, SiteMember, Team, TeamMember, User},
        id::{SiteId, TeamId, UserId},
        refusal::Refusal,
        role::{InstanceRole, SiteRole, TeamRole},
        source::{AllowedSources, Source},
        token::{Token, TokenHash},
    },
    store::{
        IsCollision, Store, Transaction, callers::InsertAccountError, directory::DirectoryError,
        error::StoreError,
    },
};

/// The owner of the team and of the personal client.
pub const ALICE: UserId = UserId::from_uuid(demo_id(0xa11ce));
/// A member of the team, with the role viewer on the first site.
pub const BOB: UserId = UserId::from_uuid(demo_id(0xb0b));
pub const TEAM: TeamId = TeamId::from_uuid(demo_id(0x7ea));
pub const SITES: [SiteId; 2] = [
    SiteId::from_uuid(demo_id(0x0051_7e01)),
    SiteId::from_uuid(demo_id(0x0051_7e02)),
];
/// The client limit of an owner, as in the service's default.
const QUOTA: u32 = 100;

/// A UUID of version 7 that is easy to recognise.
const fn demo_id(number: u128) -> Uuid {
    Uuid::from_u128(0x0193_0000_0000_7000_8000_0000_0000_0000 | number)
}

/// A demo client, as printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DemoClient {
    /// The client's UUID.
    pub id: String,
    /// The plaintext token.
    pub token: SecretText,
}

/// A service account's token, as printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DemoCaller {
    /// The account's name, which is that of its permission.
    pub name: String,
    /// The plaintext token.
    pub token: SecretText,
}

/// A token's text for printing. Its `Debug` hides it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretText(pub String);

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretText")
    }
}

/// The credentials that `dev` prints. All of them work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demo {
    /// One account for each permission, in the order of [`CallerPermission::ALL`].
    pub callers: Vec<DemoCaller>,
    /// Alice's personal client.
    pub personal: Option<DemoClient>,
    pub team: Option<DemoClient>,
}

/// Why the demo data could not be created.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The token file cannot be read or written.
    #[error("{path}: {source}")]
    File { path: String, source: io::Error },
    #[error("a demo client could not be made: {0}")]
    Refused(#[from] Refusal),
    #[error("the demo directory could not be written")]
    Directory(#[from] DirectoryError),
    #[error("a demo service account could not be made")]
    Account(#[from] InsertAccountError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl IsCollision for DemoError {
    fn is_collision(&self) -> bool {
        match self {
            Self::Store(error) => error.is_collision(),
            Self::Directory(error) => error.is_collision(),
            Self::Account(error) => error.is_collision(),
            Self::File { .. } | Self::Refused(_) => false,
        }
    }
}

/// Creates the demo data, or what is missing of it: a token that was rotated or revoked since
/// the last start is replaced, and everything else stays as it is.
pub async fn set_up(store: &Store, file: &Path) -> Result<Demo, DemoError> {
    let mut demo = read(file)?;
    for permission in CallerPermission::ALL {
        let known = demo
            .callers
            .iter()
            .find(|caller| caller.name == permission.as_str());
        let works = match known {
            Some(caller) => account_works(store, &caller.token).await?,
            None => false,
        };
        if !works {
            let caller = make_account(store, *permission).await?;
            demo.callers.retain(|other| other.name != caller.name);
            demo.callers.push(caller);
            write(file, &demo)?;
        }
    }
    if !client_works(store, demo.personal.as_ref()).await? {
        let viewer = (SITES[1], SiteRole::Viewer);
        let grants = SiteGrants::from([(SITES[0], SiteRole::Editor), viewer]);
        let instance_role = InstanceRole::User;
        let delegated = Delegated::Personal {
            user: ALICE,
            instance_role,
            grants,
        };
        demo.personal = Some(make_client(store, delegated, "Alice's notebook").await?);
        write(file, &demo)?;
    }
    if !client_works(store, demo.team.as_ref()).await? {
        let grants = SITES.map(|site| (site, SiteRole::Viewer)).into();
        let delegated = Delegated::Team { team: TEAM, grants };
        demo.team = Some(make_client(store, delegated, "Team dashboard").await?);
        write(file, &demo)?;
    }
    Ok(demo)
}

/// Creates a client. If Alice may not create it with the present directory, the demo's
/// directory is written first.
async fn make_client(
    store: &Store,
    delegated: Delegated,
    name: &str,
) -> Result<DemoClient, DemoError> {
    match try_make_client(store, &delegated, name).await {
        Err(DemoError::Refused(Refusal::Quota { limit })) => Err(Refusal::Quota { limit }.into()),
        Err(DemoError::Refused(_)) => {
            put_directory(store).await?;
            try_make_client(store, &delegated, name).await
        }
        done => done,
    }
}

async fn account_works(store: &Store, token: &SecretText) -> Result<bool, DemoError> {
    let Some(hash) = hash(token) else {
        return Ok(false);
    };
    Ok(store.find_caller(hash).await?.is_some())
}

async fn client_works(store: &Store, client: Option<&DemoClient>) -> Result<bool, DemoError> {
    let Some(hash) = client.and_then(|client| hash(&client.token)) else {
        return Ok(false);
    };
    let found = store.look_up(Some(hash.into())).await?;
    Ok(found.subject.is_some_and(|subject| {
        let (token, client) = subject.resolve();
        client.evaluate(token, Source::Unknown, found.now).is_ok()
    }))
}

fn hash(token: &SecretText) -> Option<TokenHash> {
    Token::parse(&token.0).ok().map(|token| token.hash())
}

async fn make_account(
    store: &Store,
    permission: CallerPermission,
) -> Result<DemoCaller, DemoError> {
    let name = CallerName::parse(permission.as_str()).expect("a permission is a good name");
    let body = async |tx: &mut Transaction| -> Result<Token, DemoError> {
        // Its token is lost, so no caller can use the account.
        if let Some(old) = tx.find_account(&name).await? {
            let (old, event) = old.revoke(tx.now);
            tx.revoke_account(&old).await?;
            tx.record(event).await?;
        }
        let made = ServiceAccount::create(name.clone(), &[permission], tx.now, &*tx.entropy());
        tx.insert_account(&made.account, &made.token.hash()).await?;
        tx.record(made.event).await?;
        Ok(made.token)
    };
    let made = store
        .transaction(&Arc::new(Provenance::default()), body)
        .await?;
    let token = SecretText(made.value.reveal());
    Ok(DemoCaller {
        name: permission.as_str().to_owned(),
        token,
    })
}

async fn put_directory(store: &Store) -> Result<(), DemoError> {
    let [first, second] = SITES;
    let user = |id| User {
        id,
        instance_role: InstanceRole::User,
        disabled: false,
    };
    let member = |user, role| TeamMember {
        team: TEAM,
        user,
        role,
    };
    let changes = [
        DirectoryChange::PutUser(user(ALICE)),
        DirectoryChange::PutUser(user(BOB)),
        DirectoryChange::PutTeam(Team {
            id: TEAM,
            archived: false,
        }),
        DirectoryChange::PutTeamMember(member(ALICE, TeamRole::Owner)),
        DirectoryChange::PutTeamMember(member(BOB, TeamRole::Member)),
        DirectoryChange::PutSite(Site {
            id: first,
            team: TEAM,
        }),
        DirectoryChange::PutSite(Site {
            id: second,
            team: TEAM,
        }),
        DirectoryChange::PutSiteMember(SiteMember {
            site: first,
            user: BOB,
            role: SiteRole::Viewer,
        }),
    ];
    let body = async |tx: &mut Transaction| -> Result<(), DemoError> {
        Ok(tx.apply_changes(&changes).await?)
    };
    store
        .transaction(&Arc::new(Provenance::default()), body)
        .await?;
    Ok(())
}

async fn try_make_client(
    store: &Store,
    delegated: &Delegated,
    name: &str,
) -> Result<DemoClient, DemoError> {
    let owner = delegated.owner();
    let sites: Vec<_> = delegated.grants().keys().copied().collect();
    let draft = Draft {
        delegated: delegated.clone(),
        name: Name::parse(name).expect("the demo's names are good"),
        description: Description::parse("Made by hitkeep-auth dev").expect("it is short"),
        expiry: Expiry::Never,
        sources: AllowedSources::default(),
        activation: Activation::AtOnce,
    };
    let actor = Actor {
        user: ALICE,
        ip_address: None,
        user_agent: String::new(),
    };
    let provenance = Provenance {
        actor: Some(actor),
        ..Provenance::default()
    };
    let body = async |tx: &mut Transaction| -> Result<DemoClient, DemoError> {
        let facts = tx.facts(ALICE, owner, &sites).await?;
        let quota = Quota {
            used: tx.count_clients(owner).await?,
            limit: QUOTA,
        };
        let issued = ApiClient::create(draft.clone(), &facts, quota, tx.now, &*tx.entropy())?;
        tx.insert_client(&issued.client, &issued.token.hash())
            .await?;
        tx.record(issued.event).await?;
        let token = SecretText(issued.token.reveal());
        Ok(DemoClient {
            id: issued.client.id.to_string(),
            token,
        })
    };
    Ok(store.transaction(&Arc::new(provenance), body).await?.value)
}

fn read(file: &Path) -> Result<Demo, DemoError> {
    match fs::read(file) {
        // An unreadable file is replaced.
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_default()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Demo::default()),
        Err(source) => Err(DemoError::File {
            path: file.display().to_string(),
            source,
        }),
    }
}

/// Writes the file atomically: to a temporary file, which is then renamed.
fn write(file: &Path, demo: &Demo) -> Result<(), DemoError> {
    let text = serde_json::to_vec_pretty(demo).expect("it has only text in it");
    let partial = file.with_extension("partial");
    let written = (|| {
        let mut options = fs::OpenOptions::new();
        let mut opened = options
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)?;
        opened.set_permissions(fs::Permissions::from_mode(0o600))?;
        io::Write::write_all(&mut opened, &text)?;
        fs::rename(&partial, file)
    })();
    written.map_err(|source| DemoError::File {
        path: file.display().to_string(),
        source,
    })
}
