//! Whichever program reads a path, and however: it finds the site that was checked. The
//! readers here do what programs are known to do, and know nothing of the template's
//! own code.

use hitkeep_auth::proxy_auth::route::{Need, RouteSettings};

type Bytes = Vec<u8>;

/// What a program does with a path, one step after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Leaves out a scheme and a host in front.
    CutHost,
    CutFragment,
    CutQuery,
    CutAtNul,
    /// Percent-decodes.
    Decode,
    /// Reads UTF-8 as those do who take it too long as well.
    DecodeOverlong,
    Backslashes,
    MergeSlashes,
    /// Leaves out what comes behind a semicolon in each segment.
    CutParameters,
    ResolveDots,
    CutLastSlash,
    /// Cuts off blanks at both ends.
    Trim,
    /// The same for each segment.
    TrimSegments,
}

use Step::{
    Backslashes, CutAtNul, CutFragment, CutHost, CutLastSlash, CutParameters, CutQuery, Decode,
    DecodeOverlong, MergeSlashes, ResolveDots, Trim, TrimSegments,
};

/// Programs, by what they do.
const READERS: [&[Step]; 15] = [
    &[CutQuery],
    &[CutQuery, Decode],
    &[CutQuery, Decode, TrimSegments, MergeSlashes, ResolveDots],
    &[CutQuery, Decode, Decode],
    &[Decode, CutQuery],
    &[CutFragment, CutQuery, Decode, MergeSlashes, ResolveDots],
    &[CutQuery, ResolveDots, Decode],
    &[CutQuery, Decode, ResolveDots, MergeSlashes],
    &[CutQuery, CutParameters, Decode, ResolveDots],
    &[CutQuery, Decode, CutParameters, ResolveDots],
    &[CutQuery, Decode, Backslashes, ResolveDots],
    &[CutQuery, Decode, CutAtNul, CutLastSlash],
    &[CutQuery, Decode, DecodeOverlong, ResolveDots],
    &[CutHost, CutFragment, CutQuery, Decode, Decode, ResolveDots],
    &[
        Trim,
        Decode,
        CutFragment,
        CutQuery,
        Trim,
        MergeSlashes,
        CutLastSlash,
    ],
];

/// Panics where the property does not hold.
pub fn hold(template: &str, target: &str) {
    let Ok(route) = RouteSettings::read([("site_path", template)]) else {
        return;
    };
    let found = match route.need(Some(target)) {
        Ok(Need::ActiveOn(site)) => Some(site.to_string()),
        Ok(need) => panic!("{need:?} for a route with a site"),
        Err(_) => None,
    };
    if let Some(site) = &found {
        for steps in READERS {
            let seen = seen(template, target, steps);
            assert_eq!(
                seen.as_ref(),
                Some(site),
                "{template:?} {target:?} {steps:?}"
            );
        }
    }
    // What is plain is not refused, so the property does not hold for nothing.
    if is_plain(target) {
        assert_eq!(
            found,
            seen(template, target, &[CutQuery]),
            "{template:?} {target:?}"
        );
    }
}

/// A path of letters, digits and hyphens, with an `x` for its query.
fn is_plain(target: &str) -> bool {
    let path = target.strip_suffix("?x").unwrap_or(target);
    let Some(path) = path.strip_prefix('/') else {
        return false;
    };
    let segment = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    path.strip_suffix('/')
        .unwrap_or(path)
        .split('/')
        .all(segment)
}

/// The site that a program sees which reads like that, and takes its routes from the
/// template.
fn seen(template: &str, target: &str, steps: &[Step]) -> Option<String> {
    let mut path = target.as_bytes().to_vec();
    for step in steps {
        path = step.apply(path);
    }
    let is_decoded = steps.contains(&Decode);
    let expected: Vec<Bytes> = split(template.as_bytes());
    let expected = expected.into_iter().map(|segment| {
        if is_decoded {
            Decode.apply(segment)
        } else {
            segment
        }
    });
    let mut given = split(&path).into_iter().peekable();
    let mut site = None;
    for step in expected {
        match &*step {
            b"**" => return site,
            b"*" => _ = given.next().filter(|segment| !segment.is_empty())?,
            b"{site_id}" => site = Some(uuid(&given.next()?)?),
            text => _ = given.next().filter(|segment| segment == text)?,
        }
    }
    given.peek().is_none().then_some(site)?
}

fn split(path: &[u8]) -> Vec<Bytes> {
    path.split(|byte| *byte == b'/')
        .map(<[u8]>::to_vec)
        .collect()
}

fn uuid(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?.to_ascii_lowercase();
    let groups: Vec<_> = text.split('-').map(str::len).collect();
    let is_hex = text.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit());
    (groups == [8, 4, 4, 4, 12] && is_hex).then_some(text)
}

impl Step {
    fn apply(self, path: Bytes) -> Bytes {
        let cut_at = |byte: u8| {
            path.split(|b| *b == byte)
                .next()
                .unwrap_or_default()
                .to_vec()
        };
        match self {
            Self::CutHost => {
                let host = path.windows(3).position(|three| three == b"://");
                match host.filter(|_| !path.starts_with(b"/")) {
                    Some(at) => {
                        let rest = &path[at + 3..];
                        let slash = rest.iter().position(|byte| *byte == b'/');
                        rest[slash.unwrap_or(rest.len())..].to_vec()
                    }
                    None => path,
                }
            }
            Self::CutFragment => cut_at(b'#'),
            Self::CutQuery => cut_at(b'?'),
            Self::CutAtNul => cut_at(0),
            Self::Decode => decoded(&path),
            Self::DecodeOverlong => overlong(&path),
            Self::Backslashes => replaced(&path, |b| if b == b'\\' { b'/' } else { b }),
            Self::MergeSlashes => {
                let mut merged = path;
                merged.dedup_by(|a, b| *a == b'/' && *b == b'/');
                merged
            }
            Self::CutParameters => {
                let segments = split(&path).into_iter();
                let cut =
                    segments.map(|s| s.split(|b| *b == b';').next().unwrap_or_default().to_vec());
                cut.collect::<Vec<_>>().join(&b'/')
            }
            Self::ResolveDots => resolved(&path),
            Self::CutLastSlash => path.strip_suffix(b"/").map_or(path.clone(), <[u8]>::to_vec),
            Self::Trim => path.trim_ascii().to_vec(),
            Self::TrimSegments => {
                let segments = split(&path).into_iter();
                let trimmed = segments.map(|segment| segment.trim_ascii().to_vec());
                trimmed.collect::<Vec<_>>().join(&b'/')
            }
        }
    }
}

fn replaced(path: &[u8], by: impl Fn(u8) -> u8) -> Bytes {
    path.iter().map(|byte| by(*byte)).collect()
}

/// What cannot be decoded stays as it is.
fn decoded(path: &[u8]) -> Bytes {
    let mut out = Vec::new();
    let mut at = 0;
    while at < path.len() {
        let pair = path.get(at + 1..at + 3);
        let pair = pair.and_then(|pair| std::str::from_utf8(pair).ok());
        let pair = pair.filter(|pair| pair.bytes().all(|b| b.is_ascii_hexdigit()));
        match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(byte) if path[at] == b'%' => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(path[at]);
                at += 1;
            }
        }
    }
    out
}

fn overlong(path: &[u8]) -> Bytes {
    let mut out = Vec::new();
    let mut at = 0;
    while at < path.len() {
        match path[at..] {
            [first @ 0xc0..=0xc1, second @ 0x80..=0xbf, ..] => {
                out.push((first & 1) << 6 | second & 0x3f);
                at += 2;
            }
            [byte, ..] => {
                out.push(byte);
                at += 1;
            }
            [] => break,
        }
    }
    out
}

fn resolved(path: &[u8]) -> Bytes {
    let mut segments: Vec<Bytes> = Vec::new();
    for segment in split(path) {
        match &*segment {
            b"." => {}
            b".." => segments.truncate(segments.len().saturating_sub(1).max(1)),
            _ => segments.push(segment),
        }
    }
    segments.join(&b'/')
}
