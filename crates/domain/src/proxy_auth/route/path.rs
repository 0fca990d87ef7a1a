//! A request's path, and the template that finds the site in it.
//!
//! The program behind the proxy parses the path again, perhaps differently: it may decode
//! it, resolve `..`, merge slashes or cut it at a `;`. If it arrived at another site than
//! the template, the check would have been for the wrong one. So only a path in normal
//! form is accepted, which all programs parse alike.

/// The placeholder of the site in a template.
const SITE: &str = "{site_id}";

/// What is wrong with a path template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PathError {
    /// It is not an absolute path.
    #[error("does not begin with a slash")]
    NoSlash,
    /// No path in normal form would match it.
    #[error("is not a path in its normal form, and so matches nothing")]
    NotNormal,
    /// Whether a trailing slash matches is for `/**` to say.
    #[error("ends with a slash: leave it out, or end with /**")]
    EndsWithSlash,
    /// It has no placeholder for the site.
    #[error("has no {{site_id}}")]
    NoSite,
    /// It has two placeholders for the site.
    #[error("has {{site_id}} twice")]
    TwoSites,
    /// `**` is not the last segment.
    #[error("has ** in another place than at its end")]
    RestNotLast,
    /// A segment mixes text with a placeholder.
    #[error("has a segment with * or {{ }} in it that is none of *, ** and {{site_id}}")]
    PartOfSegment,
}

/// A path in normal form, in which all programs find the same segments.
///
/// It begins with a slash. No segment is empty, except perhaps the last, and none is `.` or
/// `..`. It has the characters that RFC 3986 allows in a path, except `;`, at which some
/// programs cut. Percent-encoding is allowed only for other characters than these (or a
/// program that decodes would see another path than one that does not), not for control
/// characters, and must decode to UTF-8 without white space at either end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NormalPath<'p>(&'p [u8]);

impl<'p> NormalPath<'p> {
    /// Parses a request target: a path, perhaps with a query, which is ignored. `None` if the
    /// path is missing or not in normal form.
    ///
    /// A `#` does not begin a fragment here. Requests have no fragment, so some programs end
    /// the path there, and others continue.
    pub fn read(target: &'p str) -> Option<Self> {
        let target = target.as_bytes();
        let end = target.iter().position(|byte| *byte == b'?');
        let path = &target[..end.unwrap_or(target.len())];
        let segments = split(path.strip_prefix(b"/")?);
        // The last segment may be empty: then the path ends with a slash.
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

    /// The segments. The last one is empty if the path ends with a slash.
    fn segments(self) -> impl Iterator<Item = &'p [u8]> {
        split(self.0).skip(1)
    }
}

/// The request target in an absolute URL, as ingress-nginx sends it. Any other text is
/// returned as it is, and so fails to parse as a path if it is none.
///
/// The client chooses the host. If it has a character that hosts do not have, the path
/// could begin elsewhere for other programs, so such a URL is not accepted.
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

/// The text between slashes.
fn split(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
}

/// Whether all programs read a non-empty segment alike.
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
    // Some programs trim white space at either end.
    std::str::from_utf8(&decoded).is_ok_and(|text| text.trim() == text)
}

/// Characters that stand for themselves.
const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':' | b'@')
        || is_sub_delimiter(byte)
}

/// RFC 3986's `sub-delims`, except `;`.
const fn is_sub_delimiter(byte: u8) -> bool {
    matches!(
        byte,
        b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'='
    )
}

/// Characters that may be percent-encoded. Browsers and libraries encode `:`, `@` and the
/// delimiters as they like, and none of these ends a segment, encoded or not.
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
/// Segments are compared byte by byte. `*` matches one non-empty segment. `**`, at the end,
/// matches any number of segments, none included, and also the empty one after a trailing
/// slash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SitePath<'s> {
    text: &'s str,
    /// The segments before the site, with a slash between them; those after it likewise.
    before: &'s str,
    after: &'s str,
    /// Whether the template ends with `**`.
    is_open: bool,
}

impl<'s> SitePath<'s> {
    /// Parses a template.
    ///
    /// # Errors
    /// The first defect of the template.
    pub fn read(text: &'s str) -> Result<Self, PathError> {
        let segments = text.strip_prefix('/').ok_or(PathError::NoSlash)?;
        let (closed, is_open) = match segments.strip_suffix("/**") {
            Some(closed) => (closed, true),
            None => (segments, false),
        };
        let mut site = None;
        let mut at = 0;
        for segment in closed.split('/') {
            match segment {
                SITE if site.is_some() => return Err(PathError::TwoSites),
                SITE => site = Some(at),
                "*" => {}
                "**" => return Err(PathError::RestNotLast),
                "" if at == closed.len() && !is_open => return Err(PathError::EndsWithSlash),
                "" => return Err(PathError::NotNormal),
                text if text.contains(['*', '{', '}']) => return Err(PathError::PartOfSegment),
                text if !is_normal_segment(text.as_bytes()) => return Err(PathError::NotNormal),
                _ => {}
            }
            at += segment.len() + 1;
        }
        let site = site.ok_or(PathError::NoSite)?;
        Ok(Self {
            text,
            before: &closed[..site],
            after: &closed[site + SITE.len()..],
            is_open,
        })
    }

    /// The template's original text.
    pub const fn as_str(&self) -> &'s str {
        self.text
    }

    /// The segment of the site, if the path matches.
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

/// The segments of a part of a template; none is empty.
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
    fn the_target_of_a_url_begins_after_its_host() {
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
    fn only_normal_paths_parse() {
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
    fn templates_parse_strictly() {
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
            ("", PathError::NoSlash),
            ("api/{site_id}", PathError::NoSlash),
            ("{site_id}", PathError::NoSlash),
            ("/", PathError::EndsWithSlash),
            ("/api", PathError::NoSite),
            ("/**", PathError::RestNotLast),
            ("/a/**", PathError::NoSite),
            ("/{site_id}/{site_id}", PathError::TwoSites),
            ("/{site_id}/", PathError::EndsWithSlash),
            ("/{site_id}//**", PathError::NotNormal),
            ("//{site_id}", PathError::NotNormal),
            ("/**/{site_id}", PathError::RestNotLast),
            ("/{site_id}/**/**", PathError::RestNotLast),
            ("/{site_id}/**/", PathError::RestNotLast),
            ("/{site_id}/***", PathError::PartOfSegment),
            ("/a*/{site_id}", PathError::PartOfSegment),
            ("/{site}", PathError::PartOfSegment),
            ("/s{site_id}", PathError::PartOfSegment),
            ("/{site_id}.json", PathError::PartOfSegment),
            ("/{SITE_ID}", PathError::PartOfSegment),
            ("/../{site_id}", PathError::NotNormal),
            ("/%61/{site_id}", PathError::NotNormal),
            ("/{site_id}/a?b", PathError::NotNormal),
            ("/{site_id}/a b", PathError::NotNormal),
            ("/é/{site_id}", PathError::NotNormal),
        ] {
            assert_eq!(SitePath::read(bad), Err(mistake), "{bad:?}");
        }
    }

    #[test]
    fn the_template_finds_the_site() {
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
