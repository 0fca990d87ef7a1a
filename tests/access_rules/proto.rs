//! The texts that list permissions and that no program is generated from: they must follow
//! the table in `crates/domain/src/role.rs`. The tables of `docs/access-rules.md` are compared in
//! `main.rs`, the `scope` of RFC 7662 in `tests/api/http/introspect.rs`, and the
//! model has a list of its own, so that the code is compared with something.

use hitkeep_auth::domain::role::{InstancePermission, InstanceRole, SitePermission, SiteRole};

const PROTO: &str = "proto/hitkeep/auth/v1/common.proto";

/// The permissions in the comment above an enum value of the proto.
fn named_above(value: &str) -> Vec<String> {
    let proto = std::fs::read_to_string(PROTO).expect(PROTO);
    let lines: Vec<_> = proto.lines().map(str::trim).collect();
    let is_value = |line: &&str| line.starts_with(&format!("{value} = "));
    let at = lines.iter().position(is_value).expect(value);
    let comment = lines[..at].iter().rev();
    let mut comment: Vec<_> = comment.map_while(|line| line.strip_prefix("//")).collect();
    comment.reverse();
    let words = comment.into_iter().flat_map(str::split_whitespace);
    let words = words.map(|word| word.trim_end_matches(['.', ',', ';']));
    let is_permission = |word: &&str| word.starts_with("site.") || word.starts_with("instance.");
    words.filter(is_permission).map(str::to_owned).collect()
}

#[test]
fn the_proto_names_what_each_role_adds() {
    for role in SiteRole::ALL {
        let value = format!("SITE_ROLE_{}", role.as_str().to_uppercase());
        let added = SitePermission::ALL.iter().filter(|p| p.needs() == *role);
        let added: Vec<_> = added.map(|permission| permission.as_str()).collect();
        assert_eq!(
            named_above(&value),
            added,
            "the comment of {value} in {PROTO}"
        );
    }
    for role in InstanceRole::ALL {
        let value = format!("INSTANCE_ROLE_{}", role.as_str().to_uppercase());
        let added = InstancePermission::ALL
            .iter()
            .filter(|p| p.needs() == *role);
        let added: Vec<_> = added.map(|permission| permission.as_str()).collect();
        assert_eq!(
            named_above(&value),
            added,
            "the comment of {value} in {PROTO}"
        );
    }
}
