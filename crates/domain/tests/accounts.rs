//! Service accounts: their names, and what their creation, rotation and revocation write.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use chrono::TimeDelta;
use hitkeep_auth_domain::{
    Timestamp,
    audit::{Action, FieldChange},
    caller::{CallerName, CallerPermission, IssuedAccount, ReplacedToken, ServiceAccount},
    certificate::CertificateName,
    client::Overlap,
    clock::Entropy,
    token::{TokenHash, TokenHint, TokenKind},
};

/// `now` in the audit trail.
const NOW: &str = "1970-01-02T00:00:00.000000Z";
const OLD: TokenHash = TokenHash([9; 32]);

struct Sevens;

impl Entropy for Sevens {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(7);
    }
}

fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH + TimeDelta::days(1)
}

fn created(names: &[CertificateName]) -> IssuedAccount {
    let permissions = [CallerPermission::Manage, CallerPermission::Introspect];
    let twice = [permissions, permissions].concat();
    let name = CallerName::parse("sidecar").unwrap();
    ServiceAccount::create(name, &twice, now(), &Sevens).with_certificate_names(names)
}

fn change(field: &str, before: &str, after: &str) -> FieldChange {
    FieldChange::new(field, before, after)
}

#[test]
fn a_name_is_lower_case_and_short() {
    let longest = "x".repeat(63);
    for good in ["a", "0", "side-car.eu_1", "9-", &longest] {
        let name = CallerName::parse(good).unwrap();
        assert_eq!(name.as_str(), good);
        assert_eq!(good.parse(), Ok(name));
    }
    let over = "x".repeat(64);
    for bad in ["", "-a", ".a", "_a", "A", "aB", "a b", "é", "aé", &over] {
        assert!(CallerName::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn an_account_is_created_with_its_permissions_once() {
    let issued = created(&[]);
    assert_eq!(issued.token.kind(), TokenKind::ServiceAccount);
    assert_eq!(issued.event.action, Action::ServiceAccountCreated);
    assert_eq!(issued.event.subject, issued.account.id.uuid());
    assert!(!issued.event.subject.is_nil());
    assert_eq!(issued.event.subject_name, "sidecar");
    let account = issued.account;
    assert_eq!(account.token_hint, issued.token.hint());
    assert_eq!(account.create_time, now());
    assert_eq!((account.revoke_time, account.replaced_token), (None, None));
    for permission in CallerPermission::ALL.iter().copied() {
        let granted = [CallerPermission::Manage, CallerPermission::Introspect];
        assert_eq!(account.may(permission), granted.contains(&permission));
    }
    assert_eq!(account.permissions.len(), 2);
    let [permissions] = &issued.event.changes[..] else {
        panic!("{:?}", issued.event)
    };
    assert_eq!(permissions.field, "permissions");
    assert!(permissions.after.contains("introspect") && permissions.after.contains("manage"));
}

#[test]
fn certificate_names_are_kept_once_and_released_at_the_end() {
    let [a, b] = ["a.example", "b.example"].map(|host| CertificateName::dns(host).unwrap());
    let issued = created(&[b.clone(), a.clone(), b.clone()]);
    assert_eq!(issued.account.certificate_names, [a.clone(), b.clone()]);
    let names = "dns:a.example,dns:b.example";
    let last = issued.event.changes.last();
    assert_eq!(last, Some(&change("certificate_names", "", names)));

    let (revoked, event) = issued.account.revoke(now());
    assert_eq!(revoked.revoke_time, Some(now()));
    assert_eq!(revoked.certificate_names, []);
    assert_eq!(event.action, Action::ServiceAccountRevoked);
    let expected = [
        change("revoke_time", "", NOW),
        change("certificate_names", names, ""),
    ];
    assert_eq!(event.changes, expected);
    let (_, event) = created(&[]).account.revoke(now());
    assert_eq!(event.changes, [change("revoke_time", "", NOW)]);
}

#[test]
fn a_replaced_token_works_until_the_end_of_the_overlap() {
    let hour = TimeDelta::hours(1);
    let before = ServiceAccount {
        token_hint: TokenHint("an old hint".to_owned()),
        ..created(&[]).account
    };
    let overlap = Overlap::new(hour).unwrap();
    let issued = before.rotate(OLD, overlap, now(), &Sevens);
    let replaced = ReplacedToken {
        hash: OLD,
        ends: now() + hour,
    };
    assert_eq!(issued.account.replaced_token, Some(replaced));
    assert_eq!(issued.account.token_hint, issued.token.hint());
    assert_eq!(issued.event.action, Action::ServiceAccountRotated);
    let expected = [
        change("token_hint", "an old hint", &issued.token.hint().0),
        change("overlap_end_time", "", "1970-01-02T01:00:00.000000Z"),
    ];
    assert_eq!(issued.event.changes, expected);
    let moment = TimeDelta::microseconds(1);
    assert!(replaced.works(now() + hour - moment));
    assert!(!replaced.works(now() + hour));
    assert!(!replaced.works(now() + hour + moment));
}
