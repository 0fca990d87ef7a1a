//! Routes that are for people alone. HitKeep refuses every API client there, whatever its
//! role: a token that leaks must not be able to create others, for example.

use super::error::{QuotedValue, RouteError};

/// Who can pass a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Admits {
    /// A token that is sufficient.
    #[default]
    Tokens,
    /// No token, whatever its role: the route is for people, who have a session.
    HumansOnly,
}

impl Admits {
    /// Parses the value of `human_only`.
    pub(super) fn read(value: &str) -> Result<Self, RouteError> {
        match value {
            "true" => Ok(Self::HumansOnly),
            "false" => Ok(Self::Tokens),
            other => Err(RouteError::HumanOnlyUnknown(QuotedValue::new(other))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        access::{Decision, EffectiveAccess},
        proxy_auth::route::{Need, NeedError, RouteSettings},
        role::{InstanceRole, SitePermission, SiteRole},
    };

    const SITE: &str = "01930000-0000-7000-8000-0000000000ab";

    #[test]
    fn no_token_is_enough_where_only_people_pass() {
        let access = EffectiveAccess {
            instance_role: InstanceRole::Owner,
            grants: [(SITE.parse().unwrap(), SiteRole::Owner)]
                .into_iter()
                .collect(),
        };
        let path = format!("/s/{SITE}");
        let template = ("site_path", "/s/{site_id}");
        for rest in [
            &[][..],
            &[("site_id", SITE)],
            &[("permission", "instance.view_audit")],
            &[("permission", "site.view"), ("site_id", SITE)],
            &[("permission", "site.view"), template],
        ] {
            let with = |value| {
                let settings = rest.iter().copied().chain([("human_only", value)]);
                RouteSettings::read_without_method(settings)
            };
            let need = with("true").unwrap().need(Some(&path)).unwrap();
            assert_eq!((need, need.site()), (Need::Human, None));
            assert_eq!(need.decide(&access), Some(Decision::RoleTooLow));
            let absent = RouteSettings::read(rest.iter().copied()).unwrap();
            assert_eq!(with("false"), Ok(absent));
            let need = absent.need(Some(&path)).unwrap();
            assert!(matches!(
                need.decide(&access),
                None | Some(Decision::Allowed)
            ));
            for other in ["True", "1", "yes", "true ", "pass"] {
                let unknown = RouteError::HumanOnlyUnknown(QuotedValue::new(other));
                assert_eq!(with(other), Err(unknown));
            }
            assert_eq!(with(""), Err(RouteError::Empty("human_only")));
        }
        // The rest must be right all the same.
        let with = |rest| RouteSettings::read([("human_only", "true"), rest]);
        assert_eq!(
            with(("permission", "site.view")),
            Err(RouteError::SiteMissing(SitePermission::View))
        );
        assert_eq!(
            with(("human_only", "false")),
            Err(RouteError::SetTwice("human_only"))
        );
        let settings = with(template).unwrap();
        assert!(matches!(
            settings.need(Some("/t")),
            Err(NeedError::Route(_))
        ));
        assert!(matches!(
            settings.need(Some("//")),
            Err(NeedError::Client(_))
        ));
    }
}
