//! `explain`: what the service answers about a token, and why. It reads the database, so it
//! agrees with every server that has caught up.

mod words;

use std::io::{self, BufRead, IsTerminal};

use serde_json::{Value, json};

use super::{Failure, USAGE, accounts::ready, print, print_error};
use crate::{
    config::ExplainArgs,
    domain::{
        Revision, Timestamp,
        access::{CurrentOwner, Decision, PermissionCheck, UserStanding},
        client::{Activation, Expiry},
        explanation::{ExplainedGrant, Explanation},
        id::ClientId,
        introspection::{InactiveReason, TokenStanding},
        role::{SitePermission, SiteRole},
        site_rule::{DecisiveMembership as Decisive, SiteRule},
        source::Source,
        token::{LegacyToken, StoredHash, Token, TokenDefect, TokenKind, TokenScheme},
    },
    store::Store,
};
use words::{because, decision_word, end_of, moment, time, word};

/// The token to explain.
enum TokenInput {
    Token(StoredHash),
    /// A service account's token.
    Caller,
    /// A text that is not a token, with the reason.
    Malformed(TokenDefect),
}

/// The subject of the question.
enum Query {
    Client(ClientId),
    Presented(TokenInput),
}

struct Report {
    asked: TokenInput,
    explanation: Option<Explanation>,
    check: Option<PermissionCheck>,
    source: Source<'static>,
    revision: Revision,
    last_change: Option<Revision>,
    now: Timestamp,
}

pub(super) async fn run(args: &ExplainArgs) -> Result<(), Failure> {
    let check = check(args)?;
    // Before any slow work, because the program that pipes the token in may exit.
    let about = match args.client {
        Some(client) => Query::Client(client),
        None => Query::Presented(read_token(&presented()?)),
    };
    let store = ready(&args.database).await?;
    let answer = ask(&store, about, check, args).await?;
    print(&if args.output.json {
        answer.as_json().to_string()
    } else {
        answer.as_text()
    })
}

/// The permission to check, if one is given.
fn check(args: &ExplainArgs) -> Result<Option<PermissionCheck>, Failure> {
    let Some(permission) = &args.permission else {
        return Ok(None);
    };
    let wrong = |why: String| Failure { why, code: USAGE };
    let of_site: Option<SitePermission> = permission.parse().ok();
    let check = match (of_site, args.site) {
        (Some(permission), Some(site)) => PermissionCheck::Site { site, permission },
        (Some(permission), None) => {
            return Err(wrong(format!(
                "{permission} needs a site: give it with --site"
            )));
        }
        (None, site) => match (permission.parse(), site) {
            (Ok(permission), None) => PermissionCheck::Instance(permission),
            (Ok(permission), Some(_)) => {
                return Err(wrong(format!(
                    "{permission} is not about a site: leave --site out"
                )));
            }
            (Err(_), _) => return Err(wrong(format!("there is no permission {permission:?}"))),
        },
    };
    Ok(Some(check))
}

/// The token from standard input.
pub(super) fn presented() -> Result<String, Failure> {
    let mut input = io::stdin().lock();
    if io::stdin().is_terminal() {
        print_error("paste the token and press Enter");
    }
    let mut line = String::new();
    input.read_line(&mut line)?;
    Ok(line)
}

fn read_token(line: &str) -> TokenInput {
    let text = line.trim();
    match Token::parse(text) {
        Ok(token) if token.kind() == TokenKind::ServiceAccount => TokenInput::Caller,
        Ok(token) => TokenInput::Token(token.hash().into()),
        Err(_) => match LegacyToken::parse(text) {
            Ok(token) => TokenInput::Token(token.hash().into()),
            Err(_) => TokenInput::Malformed(Token::defect(text).unwrap_or(TokenDefect::Checksum)),
        },
    }
}

async fn ask(
    store: &Store,
    about: Query,
    check: Option<PermissionCheck>,
    args: &ExplainArgs,
) -> Result<Report, Failure> {
    let asked = match about {
        Query::Presented(asked) => asked,
        Query::Client(client) => match store.newest_token(client).await? {
            Some(hash) => TokenInput::Token(hash),
            None => return Err(nothing_to_explain(store, client).await?),
        },
    };
    let hash = match asked {
        TokenInput::Token(hash) => Some(hash),
        TokenInput::Caller | TokenInput::Malformed(_) => None,
    };
    let limit = match hash.map(|hash| hash.scheme()) {
        Some(TokenScheme::HitkeepSha256) => args.legacy_tokens.until(),
        Some(TokenScheme::Blake3) | None => Expiry::Never,
    };
    let found = store.look_up(hash).await?;
    let source = args.source_ip.map_or(Source::Unknown, Source::Address);
    let explain = |subject| Explanation::of(subject, limit, check.as_ref(), source, found.now);
    let explanation = found.subject.map(explain);
    let last_change = match &explanation {
        Some(explanation) => store.last_change(explanation.subject.client).await?,
        None => None,
    };
    Ok(Report {
        asked,
        explanation,
        check,
        source,
        revision: found.revision,
        last_change,
        now: found.now,
    })
}

/// Why a client has no newest token to explain. This is a failure and not an answer, because
/// there is no token to evaluate.
async fn nothing_to_explain(store: &Store, client: ClientId) -> Result<Failure, Failure> {
    Ok(Failure::new(if store.has_client(client).await? {
        format!(
            "API client {client} has no newest token: it was removed from the database by hand. \
             Rotate the client to give it one, or revoke or delete the client"
        )
    } else {
        format!("there is no API client {client}")
    }))
}

impl Report {
    fn as_text(&self) -> String {
        let mut lines = Vec::new();
        match &self.explanation {
            Some(explanation) => {
                lines.push(verdict(explanation, self.source, self.now));
                lines.push(String::new());
                describe(explanation, self.scheme(), self.now, &mut lines);
                if let (Some(check), Some(decision)) = (&self.check, explanation.decision) {
                    lines.push(String::new());
                    lines.push(decided(explanation, check, decision));
                }
            }
            None => lines.push(self.unknown()),
        }
        lines.push(String::new());
        lines.push(self.freshness());
        lines.join("\n")
    }

    /// The scheme of the token, if it is one.
    const fn scheme(&self) -> Option<TokenScheme> {
        match &self.asked {
            TokenInput::Token(hash) => Some(hash.scheme()),
            TokenInput::Caller | TokenInput::Malformed(_) => None,
        }
    }

    /// Why no client has the token.
    fn unknown(&self) -> String {
        let why = match &self.asked {
            TokenInput::Token(_) => {
                "no API client has this token. (Deleting a client also deletes its tokens.)"
                    .to_owned()
            }
            TokenInput::Caller => {
                "it belongs to a service account, which is a caller of this service and not an \
                 API client."
                    .to_owned()
            }
            TokenInput::Malformed(defect) => format!("it is not a token: {defect}."),
        };
        format!("The token does NOT work (UNKNOWN_TOKEN): {why}")
    }

    fn freshness(&self) -> String {
        let at = format!(
            "As of revision {} of the database, {}.",
            self.revision.0,
            moment(self.now)
        );
        match self.last_change {
            Some(change) => format!(
                "{at}\nRevision {} was the last to change the client, or something that it \
                 depends on: every server\nthat has reached it (see GetIndexStatus) gives the \
                 same answer.",
                change.0
            ),
            None => at,
        }
    }

    fn as_json(&self) -> Value {
        let mut json = json!({
            "active": self.explanation.as_ref().is_some_and(|explanation| explanation.verdict.is_ok()),
            "revision": self.revision.0,
            "time": self.now.to_rfc3339(),
        });
        let Some(explanation) = &self.explanation else {
            json["inactive_reason"] = word(InactiveReason::UnknownToken).into();
            json["because"] = self.unknown().into();
            return json;
        };
        if let Err(reason) = explanation.verdict {
            json["inactive_reason"] = word(reason).into();
        }
        json["token_scheme"] = self.scheme().map(TokenScheme::as_str).into();
        json["client_id"] = explanation.subject.client.to_string().into();
        json["client_name"] = explanation.subject.name.clone().into();
        json["owner"] = explanation.subject.delegated.owner().to_string().into();
        json["owner_can_act"] = explanation.subject.owner.current.can_act().into();
        json["revoked"] = explanation.subject.revoked.into();
        json["expire_time"] = time(explanation.subject.expiry);
        json["not_before_time"] = explanation
            .subject
            .activation
            .time()
            .map(|time| time.to_rfc3339())
            .into();
        json["allowed_cidrs"] = explanation
            .subject
            .sources
            .iter()
            .map(|range| range.to_string())
            .collect();
        json["token_end_time"] = time(explanation.subject.token.end());
        json["instance_role"] = json!({
            "delegated": explanation.subject.delegated.instance_role().as_str(),
            "owner_holds": explanation.instance_ceiling.as_str(),
            "effective": explanation.access.instance_role.as_str(),
        });
        let grants = explanation.grants.iter().map(|grant| {
            json!({
                "site_id": grant.site.to_string(),
                "granted": grant.granted.as_str(),
                "owner_holds": grant.rule.role().map(SiteRole::as_str),
                "owner_memberships": memberships_as_json(grant.rule),
                "because": because(grant.rule),
                "effective": grant.effective.map(SiteRole::as_str),
            })
        });
        json["site_grants"] = grants.collect();
        if let Some(decision) = explanation.decision {
            json["decision"] = json!({
                "allowed": decision == Decision::Allowed,
                "reason": decision_word(decision),
            });
        }
        json["last_change_revision"] = self.last_change.map(|change| change.0).into();
        json
    }
}

fn verdict(explanation: &Explanation, source: Source<'_>, now: Timestamp) -> String {
    match explanation.verdict {
        Ok(Expiry::Never) => "The token works.".to_owned(),
        Ok(Expiry::At(end)) => format!("The token works, until {}.", moment(end)),
        Err(reason) => {
            let why = match reason {
                InactiveReason::UnknownToken => "no API client has this token".to_owned(),
                InactiveReason::TokenRotated => format!(
                    "it was replaced by a newer token, and its overlap ended {}",
                    end_of(explanation.subject.token.end(), now)
                ),
                InactiveReason::Revoked => "its client was revoked (ListAuditEvents says when \
                                            and by whom)"
                    .to_owned(),
                InactiveReason::Expired if explanation.subject.expiry.has_come(now) => format!(
                    "its client expired {}",
                    end_of(explanation.subject.expiry, now)
                ),
                InactiveReason::Expired => format!(
                    "HitKeep itself issued it, and such tokens were accepted until {}",
                    end_of(explanation.limit, now)
                ),
                InactiveReason::OwnerInactive => match explanation.subject.owner.current {
                    CurrentOwner::User(..) => "the owning user is disabled".to_owned(),
                    CurrentOwner::Team { .. } => "the owning team is archived".to_owned(),
                },
                InactiveReason::NotYetActive => {
                    format!("its client works from {} on", starts(explanation))
                }
                InactiveReason::SourceNotAllowed => format!(
                    "its client works only from {}, and {}",
                    explanation.subject.sources,
                    match source.address() {
                        Some(address) => format!("not from {address}"),
                        None => "no address was stated (--source-ip)".to_owned(),
                    }
                ),
            };
            format!("The token does NOT work ({}): {why}.", word(reason))
        }
    }
}

/// When the client begins to work.
fn starts(explanation: &Explanation) -> String {
    let time = explanation.subject.activation.time();
    time.map_or_else(|| "its creation".to_owned(), moment)
}

fn describe(
    explanation: &Explanation,
    scheme: Option<TokenScheme>,
    now: Timestamp,
    lines: &mut Vec<String>,
) {
    let subject = &explanation.subject;
    let mut line = |title: &str, text: String| lines.push(format!("{title:<14} {text}"));
    line("client", format!("{} {:?}", subject.client, subject.name));
    line(
        "owner",
        format!(
            "{}: {}",
            subject.delegated.owner(),
            owner(subject.owner.current)
        ),
    );
    line(
        "token",
        match subject.token {
            TokenStanding::Current => "the client's newest token".to_owned(),
            TokenStanding::ReplacedUntil(end) => {
                format!("replaced by a newer one; overlap ends {}", moment(end))
            }
        },
    );
    if scheme == Some(TokenScheme::HitkeepSha256) {
        let accepted = match explanation.limit {
            Expiry::Never => "accepted until it is rotated".to_owned(),
            Expiry::At(end) => format!("such tokens are accepted until {}", moment(end)),
        };
        line("issued by", format!("HitKeep itself; {accepted}"));
    }
    let revoked = if subject.revoked { "yes" } else { "no" };
    line("revoked", revoked.to_owned());
    line(
        "expires",
        match subject.expiry {
            Expiry::Never => "never".to_owned(),
            Expiry::At(end) if subject.expiry.has_come(now) => {
                format!("{}, which has passed", moment(end))
            }
            Expiry::At(end) => moment(end),
        },
    );
    if explanation.subject.activation != Activation::AtOnce {
        line("not before", starts(explanation));
    }
    if !subject.sources.is_everywhere() {
        line("works from", subject.sources.to_string());
    }
    line(
        "instance role",
        format!(
            "{}: the client was given {}, and the owner holds {}",
            explanation.access.instance_role,
            subject.delegated.instance_role(),
            explanation.instance_ceiling,
        ),
    );
    lines.push(String::new());
    if explanation.grants.is_empty() {
        lines.push("It has no grants, and so no access to any site.".to_owned());
        return;
    }
    let row = |site: &str, may: &str, granted: &str, held: &str, why: &str| {
        format!("{site:<36}  {may:<8} {granted:<8} {held:<11}  {why}")
    };
    lines.push(row("SITE", "ROLE", "GRANTED", "OWNER HOLDS", "BECAUSE"));
    lines.extend(explanation.grants.iter().map(|grant| {
        row(
            &grant.site.to_string(),
            grant.effective.map_or("none", |role| role.as_str()),
            grant.granted.as_str(),
            grant.rule.role().map_or("none", |role| role.as_str()),
            &because(grant.rule),
        )
    }));
}

fn owner(owner: CurrentOwner) -> String {
    match owner {
        CurrentOwner::User(_, UserStanding { disabled: true, .. }) => "disabled".to_owned(),
        CurrentOwner::User(_, user) => format!("instance role {}", user.instance_role),
        CurrentOwner::Team { archived: true, .. } => "archived".to_owned(),
        CurrentOwner::Team { .. } => "not archived".to_owned(),
    }
}

fn decided(explanation: &Explanation, check: &PermissionCheck, decision: Decision) -> String {
    let (asked, rule) = match check {
        PermissionCheck::Site { site, permission } => {
            let of_site = |grant: &&ExplainedGrant| grant.site == *site;
            let has = match explanation.grants.iter().find(of_site) {
                None => "it has no grant on that site".to_owned(),
                Some(grant) => match grant.effective {
                    None => format!("its grant there is dormant: {}", because(grant.rule)),
                    Some(role) => format!("its role there is {role}"),
                },
            };
            let needs = permission.needs();
            (
                format!("{permission} on {site}"),
                format!("{has}, and {permission} needs {needs}"),
            )
        }
        PermissionCheck::Instance(permission) => {
            let role = explanation.access.instance_role;
            let needs = permission.needs();
            (
                permission.to_string(),
                format!("its instance role is {role}, and {permission} needs {needs}"),
            )
        }
    };
    let reason = decision_word(decision);
    match decision {
        Decision::Allowed => format!("{asked}: allowed. {}.", capital(&rule)),
        Decision::Inactive => format!("{asked}: NOT allowed ({reason}): the token does not work."),
        Decision::NoSiteGrant | Decision::RoleTooLow => {
            format!("{asked}: NOT allowed ({reason}): {rule}.")
        }
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

/// The memberships behind the owner's role, if these decide.
fn memberships_as_json(rule: SiteRule) -> Value {
    let SiteRule::InTeam(memberships) = rule else {
        return Value::Null;
    };
    json!({
        "on_site": memberships.on_site.map(SiteRole::as_str),
        "in_team": memberships.in_team.as_str(),
        "team_role_gives": memberships.in_team.derived_site_role().map(SiteRole::as_str),
        "decided_by": memberships.decide().map(|(_, decisive)| match decisive {
            Decisive::OnSite => "on_site",
            Decisive::InTeam => "in_team",
            Decisive::Both => "both",
        }),
    })
}
