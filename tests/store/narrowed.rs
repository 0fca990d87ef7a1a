//! The query of docs/OPERATIONS.md that lists whose access the upgrade from an early
//! build narrows, run as it is on the page, on every user and site that makes a difference.

use std::{collections::BTreeMap, fmt::Write};

use diesel::{
    QueryableByName,
    sql_types::{BigInt, Uuid as SqlUuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use hitkeep_auth::domain::{
    access::{SiteStanding, UserStanding},
    id::TeamId,
    role::{InstanceRole, SiteRole, TeamRole},
};
use uuid::Uuid;

use crate::postgres;

const PAGE: &str = "docs/OPERATIONS.md";

/// The page's query.
fn query() -> String {
    let page = std::fs::read_to_string(PAGE).expect(PAGE);
    let (_, after) = page.split_once("**Whose access").expect("the passage");
    let (_, sql) = after.split_once("```sql\n").expect("a query");
    let (sql, _) = sql.split_once("```").expect("its end");
    sql.to_owned()
}

#[derive(Debug, QueryableByName)]
struct Narrowed {
    #[diesel(sql_type = SqlUuid)]
    user_id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    site_id: Uuid,
    #[diesel(sql_type = BigInt)]
    narrowed_api_clients: i64,
}

/// What a user held on a site in early builds: an explicit role counted instead of the team role.
fn former_role(user: UserStanding, site: &SiteStanding) -> Option<SiteRole> {
    match site.site_role {
        Some(explicit)
            if !user.disabled
                && !site.team_archived
                && user.instance_role != InstanceRole::Owner
                && site.team_role.is_some() =>
        {
            Some(explicit)
        }
        _ => user.site_role(site),
    }
}

fn options<T: Copy>(all: &[T]) -> impl Iterator<Item = Option<T>> + Clone {
    std::iter::once(None).chain(all.iter().copied().map(Some))
}

/// Every combination, each with a user, a team and a site of its own. All of them have the
/// same number, in the last digits of the id.
fn cases() -> Vec<(UserStanding, SiteStanding)> {
    let mut cases = Vec::new();
    for instance_role in InstanceRole::ALL.iter().copied() {
        for (disabled, team_archived) in
            [(false, false), (false, true), (true, false), (true, true)]
        {
            for team_role in options(TeamRole::ALL) {
                for site_role in options(SiteRole::ALL) {
                    let user = UserStanding {
                        instance_role,
                        disabled,
                    };
                    let site = SiteStanding {
                        team: TeamId::from_uuid(Uuid::nil()),
                        team_archived,
                        team_role,
                        site_role,
                    };
                    cases.push((user, site));
                }
            }
        }
    }
    cases
}

/// Rows for one case: also a client of the user with the role `owner`, one with less, and
/// one with `owner` on another site.
fn rows(number: usize, (user, site): &(UserStanding, SiteStanding), sql: &mut String) {
    let (role, disabled, archived) = (user.instance_role, user.disabled, site.team_archived);
    write!(
        sql,
        "INSERT INTO users VALUES (id({number}), '{role}', {disabled});
         INSERT INTO teams VALUES (id({number}), {archived});
         INSERT INTO sites VALUES (id({number}), id({number}));
         INSERT INTO api_clients
             (id, owner_user_id, name, description, instance_role, created_by_user_id,
              create_time, update_time)
             SELECT id(1000 * kind + {number}), id({number}), 'c', '', 'user', id({number}),
                    now(), now()
             FROM generate_series(1, 3) AS kind;
         INSERT INTO api_client_grants VALUES
             (id(1000 + {number}), id({number}), 'owner'),
             (id(2000 + {number}), id({number}), 'admin'),
             (id(3000 + {number}), id(0), 'owner');"
    )
    .unwrap();
    if let Some(role) = site.team_role {
        write!(
            sql,
            "INSERT INTO team_members VALUES (id({number}), id({number}), '{role}');"
        )
        .unwrap();
    }
    if let Some(role) = site.site_role {
        write!(
            sql,
            "INSERT INTO site_members VALUES (id({number}), id({number}), '{role}');"
        )
        .unwrap();
    }
}

#[tokio::test]
async fn the_query_lists_exactly_those_whose_role_becomes_weaker() {
    let url = postgres::migrated_database().await;
    let mut sql = "BEGIN;
        CREATE FUNCTION id(integer) RETURNS uuid IMMUTABLE LANGUAGE sql
            AS $$ SELECT lpad($1::text, 32, '0')::uuid $$;
        INSERT INTO teams VALUES (id(0));
        INSERT INTO sites VALUES (id(0), id(0));"
        .to_owned();
    let mut expected = BTreeMap::new();
    for (number, case) in (1..).zip(cases()) {
        rows(number, &case, &mut sql);
        let (user, site) = case;
        let (former, current) = (former_role(user, &site), user.site_role(&site));
        assert!(current <= former, "an upgrade gives nobody more: {case:?}");
        if current < former {
            let id = Uuid::parse_str(&format!("{number:032}")).unwrap();
            expected.insert((id, id), 1);
        }
    }
    sql.push_str("COMMIT;");
    postgres::execute(&url, &sql).await;
    assert_eq!(expected.len(), 2, "team admins of both kinds of users");

    let mut connection: AsyncPgConnection = postgres::connect(&url).await;
    let narrowed: Vec<Narrowed> = diesel::sql_query(query())
        .load(&mut connection)
        .await
        .unwrap();
    let listed = narrowed.iter().map(|row| {
        let pair = (row.user_id, row.site_id);
        (pair, row.narrowed_api_clients)
    });
    assert_eq!(listed.collect::<BTreeMap<_, _>>(), expected);
    assert_eq!(narrowed.len(), expected.len(), "each pair once");
}
