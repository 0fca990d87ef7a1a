//! Values of options with a form of their own: grants, and points in time.

use std::str::FromStr;

use chrono::TimeDelta;

use super::values;
use crate::domain::{Timestamp, id::SiteId, role::SiteRole};

/// A role on one site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    pub site: SiteId,
    pub role: SiteRole,
}

impl FromStr for Grant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (site, role) = text
            .split_once('=')
            .ok_or("must be the id of a site and a role, as SITE=viewer")?;
        let site = site.parse().map_err(|error| format!("the site {error}"))?;
        let known = || {
            let names: Vec<_> = SiteRole::ALL.iter().map(|role| role.as_str()).collect();
            format!("the role must be one of {}", names.join(", "))
        };
        let role = role.parse().ok().ok_or_else(known)?;
        Ok(Self { site, role })
    }
}

/// A point in time, given by itself or by its distance from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// A point in time.
    At(Timestamp),
    /// That long from now.
    FromNow(TimeDelta),
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(time) = values::moment(text) {
            return Ok(Self::At(time));
        }
        let wrong = "must be a time, such as 2027-01-31T12:00:00Z, or a duration, such as 30d";
        let duration = humantime::parse_duration(text).ok().ok_or(wrong)?;
        let duration = TimeDelta::from_std(duration).ok().ok_or(wrong)?;
        Ok(Self::FromNow(duration))
    }
}

impl Moment {
    /// The time, with a duration counted forwards; None if there is no such time.
    pub fn after(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::At(time) => Some(time),
            Self::FromNow(duration) => now.checked_add_signed(duration),
        }
    }

    /// The time, with a duration counted backwards; None if there is no such time.
    pub fn before(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::At(time) => Some(time),
            Self::FromNow(duration) => now.checked_sub_signed(duration),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_given_by_itself_or_from_now() {
        let now: Timestamp = "2026-11-29T12:00:00Z".parse().unwrap();
        let after = |text: &str| {
            text.parse::<Moment>()
                .map(|moment| moment.after(now).unwrap())
        };
        let expected: Timestamp = "2026-12-29T12:00:00Z".parse().unwrap();
        assert_eq!(after("30d"), Ok(expected));
        assert_eq!(after("2026-12-29T13:00:00+01:00"), Ok(expected));
        assert_eq!(
            after("2026-12-29").ok(),
            "2026-12-29T00:00:00Z".parse().ok()
        );
        let before: Moment = "2h".parse().unwrap();
        assert_eq!(before.before(now), "2026-11-29T10:00:00Z".parse().ok());
        for wrong in ["", "tomorrow", "2026-12-32", "-1d", "999999999999y"] {
            assert!(after(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_grant_names_what_is_wrong_with_it() {
        let site = "00000000-0000-7000-8000-0000000000c1";
        let grant: Grant = format!("{site}=editor").parse().unwrap();
        assert_eq!(
            (grant.site.to_string().as_str(), grant.role),
            (site, SiteRole::Editor)
        );
        for (wrong, said) in [
            (site.to_owned(), "SITE=viewer"),
            ("x=viewer".to_owned(), "the site must be a UUID"),
            (format!("{site}=reader"), "viewer, editor, admin, owner"),
        ] {
            let error = wrong.parse::<Grant>().unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
