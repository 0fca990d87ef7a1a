//! Messages of a check that are unusual, or not of the form that Envoy writes.

use hitkeep_auth::pb::envoy::{
    config::core::v3::{
        Address, Metadata, Pipe, SocketAddress, address::Address as At,
        socket_address::PortSpecifier,
    },
    service::auth::v3::{
        CheckRequest,
        attribute_context::{HttpRequest, Peer, TlsSession},
    },
};
use prost_types::{ListValue, Struct, Timestamp, Value, value::Kind};

use crate::{
    fixtures::*,
    sidecars::envoy::{Sending, asking},
};

/// A request with everything in it that Envoy can be set to send.
pub fn full(settings: &[(&str, &str)], path: &str, token: &str) -> CheckRequest {
    let mut request = asking(settings, path).bearing(token);
    let http = request.http();
    for (name, value) in [
        (":authority", "hitkeep.example"),
        (":method", "GET"),
        ("accept", "*/*"),
        ("user-agent", "a browser, ünïcode"),
        ("cookie", ""),
        ("", "without a name"),
    ] {
        http.headers.insert(name.to_owned(), value.to_owned());
    }
    *http = HttpRequest {
        id: "17".to_owned(),
        host: "hitkeep.example".to_owned(),
        scheme: "https".to_owned(),
        query: "q".to_owned(),
        fragment: "f".to_owned(),
        size: -1,
        protocol: "HTTP/2".to_owned(),
        body: "body".to_owned(),
        raw_body: vec![0xff; 200],
        ..std::mem::take(http)
    };
    let text = |text: &str| Some(Kind::StringValue(text.to_owned()));
    let value = |kind| Value { kind };
    let inner = Struct {
        fields: [("a".to_owned(), value(text("b")))].into(),
    };
    let list = ListValue {
        values: vec![value(Some(Kind::NumberValue(1.5))), value(None)],
    };
    let fields = [
        ("list", Some(Kind::ListValue(list))),
        ("null", Some(Kind::NullValue(0))),
        ("struct", Some(Kind::StructValue(inner))),
        ("true", Some(Kind::BoolValue(true))),
    ];
    let fields = fields.map(|(name, kind)| (name.to_owned(), value(kind)));
    let all = Struct {
        fields: fields.into(),
    };
    let socket = SocketAddress {
        protocol: 0,
        address: "192.0.2.7".to_owned(),
        port_specifier: Some(PortSpecifier::PortValue(50_000)),
    };
    let pipe = Pipe {
        path: "/run/envoy".to_owned(),
    };
    let peer = |address| Peer {
        address: Some(Address {
            address: Some(address),
        }),
        service: "service".to_owned(),
        labels: [("a".to_owned(), "b".to_owned())].into(),
        principal: "spiffe://a/b".to_owned(),
        certificate: "PEM".to_owned(),
    };
    let attributes = request.attributes.as_mut().unwrap();
    attributes.source = Some(peer(At::SocketAddress(socket)));
    attributes.destination = Some(peer(At::Pipe(pipe)));
    attributes.request.as_mut().unwrap().time = Some(Timestamp {
        seconds: -1,
        nanos: 5,
    });
    attributes.metadata_context = Some(Metadata {
        filter_metadata: [("filter".to_owned(), all)].into(),
    });
    attributes.route_metadata_context = Some(Metadata::default());
    attributes.tls_session = Some(TlsSession {
        sni: "hitkeep.example".to_owned(),
    });
    request
}

/// A field that is a message, around what is in it.
fn nested(field: u8, content: &[u8]) -> Vec<u8> {
    let mut message = vec![field << 3 | 2];
    prost::encoding::encode_varint(content.len() as u64, &mut message);
    message.extend(content);
    message
}

/// A request of HTTP, by its fields, in a message of its own.
fn http(fields: &[&[u8]]) -> Vec<u8> {
    nested(1, &nested(4, &nested(2, &fields.concat())))
}

/// An entry of a map of texts.
fn entry(field: u8, name: &str, value: &str) -> Vec<u8> {
    let pair = [nested(1, name.as_bytes()), nested(2, value.as_bytes())];
    nested(field, &pair.concat())
}

/// What prost never writes, and may have to read.
pub fn strange(token: &str) -> Vec<(&'static str, Vec<u8>)> {
    let bearer = format!("Bearer {token}");
    let good = entry(3, "authorization", &bearer);
    let bad = entry(3, "authorization", "Bearer x");
    let key = entry(3, "x-api-key", token);
    let setting = |name, value| nested(1, &entry(10, name, value));
    let view = || setting("permission", "site.view");
    let (here, there) = (setting("site_id", SITE), setting("site_id", OTHER_SITE));
    let path = |path: &str| nested(4, path.as_bytes());
    let by_path = || [view(), setting("site_path", "/{site_id}")].concat();
    let (on, off) = (path(&format!("/{SITE}")), path(&format!("/{OTHER_SITE}")));
    let deep = (0..40).fold(vec![], |inner, _| {
        // A list in a value in a list.
        nested(6, &nested(1, &inner))
    });
    let metadata = nested(1, &[nested(1, b"f"), nested(2, &entry(1, "", ""))].concat());
    let deep_metadata = {
        let value = [nested(1, b"k"), nested(2, &deep)].concat();
        nested(
            1,
            &[nested(1, b"f"), nested(2, &nested(1, &value))].concat(),
        )
    };
    vec![
        ("one name twice", http(&[&good, &bad])),
        ("one name twice, the other way", http(&[&bad, &good])),
        ("the other name twice", http(&[&key, &key])),
        ("both names", http(&[&key, &good])),
        (
            "two requests",
            [http(&[&good]), http(&[&path("/")])].concat(),
        ),
        (
            "a header of its own beside",
            http(&[
                &good,
                &nested(
                    13,
                    &nested(1, &[nested(1, b"x-api-key"), nested(3, b"x")].concat()),
                ),
            ]),
        ),
        (
            "value and raw value",
            http(&[&nested(
                13,
                &nested(
                    1,
                    &[
                        nested(1, b"x-api-key"),
                        nested(3, b"x"),
                        nested(3, b""),
                        nested(2, token.as_bytes()),
                    ]
                    .concat(),
                ),
            )]),
        ),
        (
            "a header without a name",
            http(&[&good, &nested(3, &nested(2, b"x"))]),
        ),
        (
            "a header with two values",
            http(&[&nested(
                3,
                &[
                    nested(1, b"x-api-key"),
                    nested(2, b"x"),
                    nested(2, token.as_bytes()),
                ]
                .concat(),
            )]),
        ),
        (
            "a header with more",
            http(&[&good, &nested(3, &nested(9, b"x"))]),
        ),
        (
            "one setting twice",
            [view(), there.clone(), here.clone(), http(&[&good])].concat(),
        ),
        (
            "one setting twice, the other way",
            [view(), here.clone(), there, http(&[&good])].concat(),
        ),
        (
            "six settings",
            [
                view(),
                here.clone(),
                view(),
                view(),
                here.clone(),
                view(),
                http(&[&good]),
            ]
            .concat(),
        ),
        (
            "for people alone, and a header of the check's",
            [
                setting("human_only", "true"),
                http(&[&good, &entry(3, "x-hitkeep-owner", "user:root")]),
            ]
            .concat(),
        ),
        (
            "for people alone, or not",
            [setting("human_only", "maybe"), http(&[&good])].concat(),
        ),
        (
            "for people alone, at last",
            [
                setting("human_only", "false"),
                setting("human_only", "true"),
                http(&[&good]),
            ]
            .concat(),
        ),
        (
            "a setting twice and wrong",
            [view(), setting("permission", "x"), here, http(&[&good])].concat(),
        ),
        ("two paths", [by_path(), http(&[&good, &off, &on])].concat()),
        (
            "two paths, the other way",
            [by_path(), http(&[&good, &on, &off])].concat(),
        ),
        ("no path", [by_path(), http(&[&good])].concat()),
        ("no request", [by_path(), nested(1, &[])].concat()),
        ("an empty request", nested(1, &nested(4, &[]))),
        (
            "a path that is no text",
            http(&[&good, &nested(4, b"/\xff")]),
        ),
        (
            "a name that is no text",
            http(&[&good, &nested(3, &nested(1, b"\xff"))]),
        ),
        (
            "a value that is no text",
            http(&[&good, &nested(3, &nested(2, b"\xff"))]),
        ),
        (
            "a raw value that is no text",
            http(&[&nested(
                13,
                &nested(1, &[nested(1, b"x-api-key"), nested(3, b"\xff")].concat()),
            )]),
        ),
        (
            "a body that is no text",
            http(&[&good, &nested(11, b"\xff")]),
        ),
        (
            "a service that is no text",
            [nested(1, &nested(1, &nested(2, b"\xff"))), http(&[&good])].concat(),
        ),
        (
            "a label that is no text",
            [
                nested(1, &nested(1, &nested(3, &nested(1, b"\xff")))),
                http(&[&good]),
            ]
            .concat(),
        ),
        (
            "a size of ten bytes",
            http(&[&good, &[&[0x48][..], &[0xff; 9], &[1]].concat()]),
        ),
        (
            "a size that is too large",
            http(&[&good, &[&[0x48][..], &[0xff; 9], &[2]].concat()]),
        ),
        (
            "a size of eleven bytes",
            http(&[&good, &[&[0x48][..], &[0x80; 10], &[0]].concat()]),
        ),
        ("a size that is none", http(&[&good, &nested(9, b"x")])),
        ("a path that is a number", http(&[&good, &[0x20, 1]])),
        ("an unknown field", http(&[&good, &[0x78, 1]])),
        (
            "an unknown field that is large",
            http(&[&good, &[0xf8, 1, 1]]),
        ),
        ("a group", http(&[&good, &[0x7b, 0x7c]])),
        ("the end of a group", http(&[&good, &[0x7c]])),
        ("four bytes", http(&[&good, &[0x7d, 0, 0, 0, 0]])),
        ("a field of number 0", http(&[&good, &[0x02, 0]])),
        (
            "a key that is too long",
            http(&[&good, &[0xa2, 0, 1, b'/']]),
        ),
        (
            "metadata",
            [nested(1, &nested(11, &metadata)), http(&[&good])].concat(),
        ),
        (
            "deep metadata",
            [nested(1, &nested(11, &deep_metadata)), http(&[&good])].concat(),
        ),
        (
            "a port that is text",
            [
                nested(1, &nested(1, &nested(1, &nested(1, &nested(3, b"x"))))),
                http(&[&good]),
            ]
            .concat(),
        ),
    ]
}

/// Where a request comes from, as Envoy writes it and as no program should.
pub fn sources(token: &str) -> Vec<(&'static str, Vec<u8>)> {
    let bearer = entry(3, "authorization", &format!("Bearer {token}"));
    let (inside, outside) = ("192.0.2.7", "198.51.100.7");
    let socket = |address: &str| nested(1, &nested(2, address.as_bytes()));
    let pipe = || nested(2, &nested(1, b"/run/a"));
    let from = |addresses: &[Vec<u8>]| {
        let peers = addresses.iter().map(|address| nested(1, address));
        nested(1, &nested(1, &peers.collect::<Vec<_>>().concat()))
    };
    let forwarded = |value: &str| entry(3, "X-Forwarded-For", value);
    let single = |value: &str| {
        let pair = [nested(1, b"x-forwarded-for"), nested(3, value.as_bytes())];
        nested(13, &nested(1, &pair.concat()))
    };
    let twice_in_one = nested(1, &[nested(2, inside.as_bytes()), nested(2, b"x")].concat());
    let asked = |source: Vec<u8>, headers: &[&[u8]]| {
        let fields: Vec<&[u8]> = [&[&*bearer][..], headers].concat();
        [source, http(&fields)].concat()
    };
    let both = "198.51.100.7, 192.0.2.7";
    vec![
        ("inside", asked(from(&[socket(inside)]), &[])),
        ("outside", asked(from(&[socket(outside)]), &[])),
        ("mapped", asked(from(&[socket("::ffff:192.0.2.7")]), &[])),
        ("no address", asked(from(&[socket("")]), &[])),
        ("a port", asked(from(&[socket("192.0.2.7:1")]), &[])),
        (
            "not UTF-8",
            asked(from(&[nested(1, &nested(2, b"\xff"))]), &[]),
        ),
        ("a pipe", asked(from(&[pipe()]), &[])),
        ("an empty peer", asked(nested(1, &nested(1, b"")), &[])),
        ("a text twice", asked(from(&[twice_in_one]), &[])),
        (
            "two addresses",
            asked(from(&[socket(inside), socket(outside)]), &[]),
        ),
        (
            "a pipe after a socket",
            asked(from(&[[socket(inside), pipe()].concat()]), &[]),
        ),
        (
            "a socket after a pipe",
            asked(from(&[[pipe(), socket(inside)].concat()]), &[]),
        ),
        (
            "two sockets",
            asked(from(&[[socket(inside), socket(outside)].concat()]), &[]),
        ),
        (
            "two sources",
            asked(
                [from(&[socket(inside)]), from(&[socket(outside)])].concat(),
                &[],
            ),
        ),
        (
            "the destination",
            asked(nested(1, &nested(2, &nested(1, &socket(inside)))), &[]),
        ),
        (
            "forwarded",
            asked(from(&[socket(outside)]), &[&forwarded(inside)]),
        ),
        (
            "forwarded by two",
            asked(from(&[socket(outside)]), &[&forwarded(both)]),
        ),
        (
            "forwarded from outside",
            asked(from(&[socket(inside)]), &[&forwarded(outside)]),
        ),
        (
            "forwarded and appended",
            asked(from(&[socket(inside)]), &[&forwarded(both)]),
        ),
        (
            "forwarded in single headers",
            asked(
                from(&[socket(outside)]),
                &[&single(outside), &single(inside)],
            ),
        ),
        (
            "forwarded in one single header",
            asked(from(&[socket(outside)]), &[&single(inside)]),
        ),
    ]
}
