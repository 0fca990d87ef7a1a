//! A request's path, and the template that finds the site in it.
//!
//! The program behind the proxy reads the path once more, and may read it in its own
//! way: it may decode it, resolve `..`, merge slashes, cut at a `;`. If that gave
//! another site than the template saw, the check would have been of the wrong one. So
//! only a path in its normal form is looked at, which every program reads alike.

/// The segment of a template that is the site.
const SITE: &str = "{site_id}";

/// What is wrong with a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PathMistake {
    /// It is no path.
    #[error("does not begin with a slash")]
    NoSlash,
    /// Nothing would ever match it.
    #[error("is not a path in its normal form, and so matches nothing")]
    NotNormal,
    /// A request may end with a slash; what that means is up to `/**`.
    #[error("ends with a slash: leave it out, or end with /**")]
    EndsWithSlash,
    /// The site is nowhere.
    #[error("has no {{site_id}}")]
    NoSite,
    /// The site is in two places.
    #[error("has {{site_id}} twice")]
    TwoSites,
    /// `**` with something behind it.
    #[error("has ** in another place than at its end")]
    RestNotLast,
    /// A segment that is neither text nor a placeholder.
    #[error("has a segment with * or {{ }} in it that is none of *, ** and {{site_id}}")]
    PartOfSegment,
}

/// A path in its normal form: whoever reads it finds the same segments.
///
/// It begins with a slash; no segment is empty, but the last one may be; no segment
/// is `.` or `..`; and it is made of what RFC 3986 allows in a path, but for the `;`,
/// behind which some programs cut. What is percent-encoded is neither of that (or
/// else a program that decodes sees another path than one that does not) nor a
/// control character, and decodes to UTF-8 without a blank at either end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NormalPath<'p>(&'p [u8]);

impl<'p> NormalPath<'p> {
    /// Reads a request's target: its path, and maybe a query, which does not matter.
    /// `None` where the path is in no normal form, or there is none.
    ///
    /// A `#` is not the beginning of a fragment here. There is none in a request, so
    /// some programs end the path there, and others go on.
    pub fn read(target: &'p str) -> Option<Self> {
        let target = target.as_bytes();
        let end = target.iter().position(|byte| *byte == b'?');
        let path = &target[..end.unwrap_or(target.len())];
        let segments = split(path.strip_prefix(b"/")?);
        // The last one may be empty, and is so where it begins at the end.
        let mut at = 1;
        for segment in segments {
            let is_normal = if segment.is_empty() {
                at == path.len()
            } else {
                is_normal_segment(segment)
            };
            if !is_normal {
                return None;
            }
            at += segment.len() + 1;
        }
        Some(Self(path))
    }

    /// Its segments. The last one is empty where it ends with a slash.
    fn segments(self) -> impl Iterator<Item = &'p [u8]> {
        split(self.0).skip(1)
    }
}

/// The target of a request that an absolute URL is about, such as ingress-nginx tells
/// it; any other text is left as it is, so that one that is no URL is no path either.
///
/// The host is the client's to choose. One with anything in it that a host does not
/// have could move the beginning of the path, and so is none.
pub fn origin_form(url: &str) -> &str {
    let is_of_host = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    for scheme in ["https://", "http://"] {
        let Some((start, rest)) = url.split_at_checked(scheme.len()) else {
            continue;
        };
        if start.eq_ignore_ascii_case(scheme)
            && let Some(end) = rest.find('/')
            && end > 0
            && rest[..end].chars().all(is_of_host)
        {
            return &rest[end..];
        }
    }
    url
}

/// What is between slashes.
fn split(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
}

/// Whether everybody reads a segment, which is not empty, alike.
fn is_normal_segment(segment: &[u8]) -> bool {
    if matches!(segment, b"." | b"..") {
        return false;
    }
    if segment.iter().copied().all(is_plain) {
        return true;
    }
    let mut decoded = Vec::with_capacity(segment.len());
    let mut rest = segment.iter().copied();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => match (rest.next().and_then(hex), rest.next().and_then(hex)) {
                (Some(high), Some(low)) if is_encodable(high << 4 | low) => {
                    decoded.push(high << 4 | low);
                }
                _ => return false,
            },
            plain if is_plain(plain) => decoded.push(plain),
            _ => return false,
        }
    }
    // Blanks at either end are cut off by some.
    std::str::from_utf8(&decoded).is_ok_and(|text| text.trim() == text)
}

/// What stands for itself.
const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':' | b'@')
        || is_sub_delimiter(byte)
}

/// RFC 3986's `sub-delims`, but for the `;`.
const fn is_sub_delimiter(byte: u8) -> bool {
    matches!(
        byte,
        b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'='
    )
}

/// What may be percent-encoded. Browsers and libraries encode `:`, `@` and what
/// delimits as they like; none of them ever ends a segment, encoded or not.
const fn is_encodable(byte: u8) -> bool {
    let is_unreserved = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    !(is_unreserved
        || byte.is_ascii_control()
        || matches!(byte, b'%' | b'/' | b'\\' | b'?' | b'#' | b';'))
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

/// Finds the site in a path, such as `/api/sites/{site_id}/**`.
///
/// Segments are compared as they are. `*` is any one segment that is not empty, and
/// `**`, at the end, any number of them: none, and also the empty one that a slash at
/// the end makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SitePath<'s> {
    text: &'s str,
    /// The segments before the site, and those after it, with a slash between them.
    before: &'s str,
    after: &'s str,
    /// Whether more may follow.
    is_open: bool,
}

impl<'s> SitePath<'s> {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(text: &'s str) -> Result<Self, PathMistake> {
        let segments = text.strip_prefix('/').ok_or(PathMistake::NoSlash)?;
        let (closed, is_open) = match segments.strip_suffix("/**") {
            Some(closed) => (closed, true),
            None => (segments, false),
        };
        let mut site = None;
        let mut at = 0;
        for segment in closed.split('/') {
            match segment {
                SITE if site.is_some() => return Err(PathMistake::TwoSites),
                SITE => site = Some(at),
                "*" => {}
                "**" => return Err(PathMistake::RestNotLast),
                "" if at == closed.len() && !is_open => return Err(PathMistake::EndsWithSlash),
                "" => return Err(PathMistake::NotNormal),
                text if text.contains(['*', '{', '}']) => return Err(PathMistake::PartOfSegment),
                text if !is_normal_segment(text.as_bytes()) => return Err(PathMistake::NotNormal),
                _ => {}
            }
            at += segment.len() + 1;
        }
        let site = site.ok_or(PathMistake::NoSite)?;
        Ok(Self {
            text,
            before: &closed[..site],
            after: &closed[site + SITE.len()..],
            is_open,
        })
    }

    /// The template as it was written.
    pub const fn as_str(&self) -> &'s str {
        self.text
    }

    /// The segment of the path that is the site, where the path is such a one.
    pub fn find<'p>(&self, path: NormalPath<'p>) -> Option<&'p [u8]> {
        let mut segments = path.segments();
        for step in steps(self.before) {
            segments.next().filter(|segment| fits(step, segment))?;
        }
        let site = segments.next().filter(|segment| !segment.is_empty())?;
        for step in steps(self.after) {
            segments.next().filter(|segment| fits(step, segment))?;
        }
        (self.is_open || segments.next().is_none()).then_some(site)
    }
}

/// The segments of a part of a template, none of which is empty.
fn steps(part: &str) -> impl Iterator<Item = &[u8]> {
    split(part.as_bytes()).filter(|step| !step.is_empty())
}

fn fits(step: &[u8], segment: &[u8]) -> bool {
    match step {
        b"*" => !segment.is_empty(),
        text => text == segment,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_of_a_url_begins_behind_its_host() {
        for (url, target) in [
            ("https://h/a?b", "/a?b"),
            ("HTTP://h.example:8443/a//b", "/a//b"),
            ("https://[::1]:80/", "/"),
            ("/a", "/a"),
            ("/https://h/a", "/https://h/a"),
        ] {
            assert_eq!(origin_form(url), target);
        }
        for none in [
            "",
            "h",
            "https://",
            "https://h",
            "https:///a",
            "https://h?x/a",
            "https://h#/a",
            "https://u@h/a",
            "https://h\\/a",
            "https://h h/a",
            "ftp://h/a",
            "https://ü/a",
        ] {
            assert_eq!(origin_form(none), none);
            assert_eq!(NormalPath::read(none), None, "{none}");
        }
    }

    #[test]
    fn normal_paths_are_those_that_everybody_reads_alike() {
        for normal in [
            "/",
            "/a",
            "/a/",
            "/a/b?c=//..",
            "/a.b/...",
            "/a:b@c!$&'()*+,=-_~",
            "/caf%C3%A9",
            "/caf%c3%a9",
            "/a%20b",
            "/a%40b%3A%2B",
            "/?",
            "/a?#",
        ] {
            assert!(NormalPath::read(normal).is_some(), "{normal:?}");
        }
        for unclear in [
            "",
            "a",
            "*",
            "?",
            "//",
            "//a",
            "/a//b",
            "/a//",
            "/.",
            "/..",
            "/a/./b",
            "/a/../b",
            "/a/..",
            "/a/%2e%2e/b",
            "/a/.%2E/b",
            "/a%2fb",
            "/a%2Fb",
            "/a\\b",
            "/a%5Cb",
            "/a;b",
            "/a;/b",
            "/..;/b",
            "/a%3Bb",
            "/a%00",
            "/a\0",
            "/a%0d%0a",
            "/a\r\n",
            "/a\t",
            "/a b",
            "/a%20",
            "/%20a/b",
            "/a%C2%A0/b",
            "/a%7F",
            "/%61",
            "/a%25%32%66b",
            "/a%252fb",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a%u002f",
            "/a%+2",
            "/a%3Fb",
            "/a%23b",
            "/a#b",
            "/a#?b",
            "/é",
            "/%C0%AF",
            "/%C3",
            "/%ED%A0%80",
            "/a|b",
            "/{site_id}",
            "/a\"b",
            "http://host/a",
            "https:/a",
        ] {
            assert_eq!(NormalPath::read(unclear), None, "{unclear:?}");
        }
    }

    #[test]
    fn templates_are_read_strictly() {
        for good in [
            "/{site_id}",
            "/{site_id}/**",
            "/api/sites/{site_id}",
            "/*/{site_id}/*/x/**",
            "/caf%C3%A9/{site_id}",
        ] {
            assert_eq!(SitePath::read(good).map(|path| path.as_str()), Ok(good));
        }
        for (bad, mistake) in [
            ("", PathMistake::NoSlash),
            ("api/{site_id}", PathMistake::NoSlash),
            ("{site_id}", PathMistake::NoSlash),
            ("/", PathMistake::EndsWithSlash),
            ("/api", PathMistake::NoSite),
            ("/**", PathMistake::RestNotLast),
            ("/a/**", PathMistake::NoSite),
            ("/{site_id}/{site_id}", PathMistake::TwoSites),
            ("/{site_id}/", PathMistake::EndsWithSlash),
            ("/{site_id}//**", PathMistake::NotNormal),
            ("//{site_id}", PathMistake::NotNormal),
            ("/**/{site_id}", PathMistake::RestNotLast),
            ("/{site_id}/**/**", PathMistake::RestNotLast),
            ("/{site_id}/**/", PathMistake::RestNotLast),
            ("/{site_id}/***", PathMistake::PartOfSegment),
            ("/a*/{site_id}", PathMistake::PartOfSegment),
            ("/{site}", PathMistake::PartOfSegment),
            ("/s{site_id}", PathMistake::PartOfSegment),
            ("/{site_id}.json", PathMistake::PartOfSegment),
            ("/{SITE_ID}", PathMistake::PartOfSegment),
            ("/../{site_id}", PathMistake::NotNormal),
            ("/%61/{site_id}", PathMistake::NotNormal),
            ("/{site_id}/a?b", PathMistake::NotNormal),
            ("/{site_id}/a b", PathMistake::NotNormal),
            ("/é/{site_id}", PathMistake::NotNormal),
        ] {
            assert_eq!(SitePath::read(bad), Err(mistake), "{bad:?}");
        }
    }

    #[test]
    fn the_site_is_found_where_the_template_says() {
        for (template, path, site) in [
            ("/s/{site_id}", "/s/1", Some("1")),
            ("/s/{site_id}", "/s/1?x", Some("1")),
            ("/s/{site_id}", "/s/1/", None),
            ("/s/{site_id}", "/s/1/x", None),
            ("/s/{site_id}", "/s/", None),
            ("/s/{site_id}", "/s", None),
            ("/s/{site_id}", "/S/1", None),
            ("/s/{site_id}", "/", None),
            ("/s/{site_id}/**", "/s/1", Some("1")),
            ("/s/{site_id}/**", "/s/1/", Some("1")),
            ("/s/{site_id}/**", "/s/1/x/y/", Some("1")),
            ("/s/{site_id}/**", "/s/", None),
            ("/{site_id}/**", "/1", Some("1")),
            ("/{site_id}", "/", None),
            ("/*/{site_id}/*", "/a/1/b", Some("1")),
            ("/*/{site_id}/*", "/a/1/", None),
            ("/*/{site_id}/*/**", "/a/1/b/", Some("1")),
            ("/{site_id}/a%40b", "/1/a@b", None),
        ] {
            let template = SitePath::read(template).unwrap();
            let found = template.find(NormalPath::read(path).unwrap());
            assert_eq!(found, site.map(str::as_bytes), "{template:?} {path}");
        }
    }
}
