//! Why a token is inactive: the first reason that applies.

use chrono::TimeDelta;
use hitkeep_auth::{
    domain::{
        access::{EffectiveAccess, Owner},
        client::Expiry,
        id::ClientId,
        introspection::{BaseState, ResolvedClient, Restrictions, TokenStanding},
        role::InstanceRole,
        source::{AllowedSources, Source},
    },
    pb,
};

use super::{Sevens, TEAM, managing::range, names::to_reason, now, page::table};

#[test]
fn inactive_tokens_have_the_first_reason_that_applies() {
    let rows = table("| reason | if |");
    // That no client has it is for the index to find.
    assert_eq!(rows[0][0], "UNKNOWN_TOKEN");
    let past = now() - TimeDelta::seconds(1);
    for bits in 1_u8..128 {
        let [
            rotated,
            revoked,
            expired,
            owner_inactive,
            cut_off,
            early,
            elsewhere,
        ] = [1, 2, 4, 8, 16, 32, 64].map(|bit| bits & bit != 0);
        let ranges = elsewhere.then(|| range("192.0.2.0/24"));
        let sources = AllowedSources::new(ranges.into_iter().collect()).expect("one range");
        let starts = early.then(|| now() + TimeDelta::seconds(1));
        let limit = if cut_off {
            Expiry::At(past)
        } else {
            Expiry::Never
        };
        let token = if rotated {
            TokenStanding::ReplacedUntil(past)
        } else {
            TokenStanding::Current
        };
        let client = ResolvedClient {
            client: ClientId::mint(now(), &Sevens),
            owner: Owner::Team(TEAM),
            base_state: BaseState::of(revoked, !owner_inactive),
            access: EffectiveAccess {
                instance_role: InstanceRole::User,
                grants: std::iter::empty().collect(),
            },
            expiry: if expired {
                Expiry::At(past)
            } else {
                Expiry::Never
            },
            name: "a client".into(),
            restrictions: Restrictions::of(sources, starts.into()),
        };
        let row = rows[1..].iter().find(|row| match row[1].as_str() {
            "a rotation replaced the token, and its overlap has ended" => rotated,
            "the client is revoked" => revoked,
            "the client's expire_time has come, or the token is a legacy one and these are no \
             longer accepted" => expired || cut_off,
            "the owning user is disabled, or the owning team is archived" => owner_inactive,
            "the client's not_before_time has not come" => early,
            "the client has allowed_cidrs, and the address that the caller states is in none of \
             them, or it states none" => elsewhere,
            other => panic!("what is {other:?}?"),
        });
        let source = if bits & 1 == 0 {
            Source::Unknown
        } else {
            Source::Text("198.51.100.1")
        };
        let judged = client.evaluate_until(token, limit, source, now());
        let reason = to_reason(judged.expect_err("it is inactive"));
        let promised = format!("INACTIVE_REASON_{}", row.expect("a row applies")[0]);
        assert_eq!(reason.as_str_name(), promised);
    }
    let known = (1..).map_while(|number| pb::InactiveReason::try_from(number).ok());
    assert_eq!(rows.len(), known.count());
}
