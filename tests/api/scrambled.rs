//! Calls whose frames come in any order that HTTP/2 allows, cut anywhere, with windows of a few
//! bytes and resets in between: each gets its own answer. And bytes that no client would
//! write: they end their connection at most.
//!
//! With `FUZZ_SECONDS` in the environment, each of them goes on for that long.

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{Reason, client::SendRequest};
use hitkeep_auth::{domain::caller::CallerPermission::Introspect, pb::SiteRole};
use http::{HeaderMap, Request};
use tokio::{
    task::{JoinSet, yield_now},
    time::timeout,
};

use crate::{
    both_ways::shown,
    dice::Dice,
    fixtures::*,
    frames::STREAM,
    harness::TestApp,
    layers::framed,
    sidecars::envoy::{Sending, asking},
    support::waiting::within,
};

mod wire;

use wire::{Cut, mangle};

const INTROSPECT: &str = "/hitkeep.auth.v1.IntrospectionService/Introspect";
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
/// Connections of each kind, where nothing else is asked for.
const ROUNDS: u64 = 60;
/// Concurrent calls on a connection.
const MAX_CALLS: usize = 12;
/// More than all answers of a connection. h2 at both ends reads nothing while it has a frame to
/// write and no room for it, so that two of them can wait for each other.
const DUPLEX_BYTES: usize = 64 * 1024;

/// A call, and all that is sent in it.
#[derive(Clone)]
struct Call {
    path: &'static str,
    content_type: &'static str,
    bearer: String,
    body: Vec<u8>,
}

/// What comes back: headers, messages and trailers.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    head: String,
    body: Vec<u8>,
    trailers: String,
}

/// The seeds of the rounds.
fn seeds() -> impl Iterator<Item = u64> {
    let time = std::env::var_os("FUZZ_SECONDS").map(|seconds| {
        let seconds = seconds.to_str().and_then(|seconds| seconds.parse().ok());
        Duration::from_secs(seconds.expect("FUZZ_SECONDS is a number"))
    });
    let begun = Instant::now();
    (0..).take_while(move |seed| time.map_or(*seed < ROUNDS, |time| begun.elapsed() < time))
}

/// Another source of chance, whose numbers do not depend on how many this one still gives.
fn fork(dice: &mut Dice) -> Dice {
    Dice::new(dice.below(usize::MAX).try_into().expect("it has 64 bits"))
}

/// Calls of both paths, with good and bad ends.
async fn calls(app: &TestApp) -> Vec<Call> {
    let request = personal(VERA).granted(SITE, SiteRole::Viewer);
    let token = app.dashboard().await.created(request).await.token;
    let call = |path, body: Vec<u8>| Call {
        path,
        content_type: "application/grpc",
        bearer: format!("Bearer {}", app.token(Introspect)),
        body,
    };
    let good = framed(&introspect(&token));
    let bad = framed(&introspect("x"));
    let several = [&good[..], &bad, &good].concat();
    let settings = [
        ("permission", "site.view"),
        ("site_path", "/s/{site_id}/**"),
    ];
    let check = asking(&settings, &format!("/s/{SITE}/hits")).bearing(&token);
    let mut not_grpc = call(INTROSPECT, good.clone());
    not_grpc.content_type = "text/html";
    let mut unknown = call(INTROSPECT, good.clone());
    "Bearer x".clone_into(&mut unknown.bearer);
    vec![
        call(INTROSPECT, bad),
        call(INTROSPECT, good[..good.len() - 1].to_vec()),
        call(INTROSPECT, several.clone()),
        call(INTROSPECT, framed(&introspect(&"x".repeat(70_000)))),
        call(INTROSPECT, Vec::new()),
        call(STREAM, several),
        call(CHECK, framed(&check)),
        call("/hitkeep.auth.v1.IntrospectionService/None", good.clone()),
        not_grpc,
        unknown,
        call(INTROSPECT, good),
    ]
}

/// How calls are made.
#[derive(Clone, Copy)]
struct Manner {
    /// In pieces of any size, with pauses.
    in_pieces: bool,
    /// Some are reset before their ends.
    resets: bool,
}

impl Manner {
    const PLAIN: Self = Self {
        in_pieces: false,
        resets: false,
    };

    fn any(dice: &mut Dice) -> Self {
        Self {
            in_pieces: dice.percent(70),
            resets: dice.percent(70),
        }
    }

    /// Lets others go first, a few times or not at all.
    async fn pause(self, dice: &mut Dice) {
        if self.in_pieces {
            for _ in 0..dice.below(4) {
                yield_now().await;
            }
        }
    }
}

/// Makes a call. `None` if it resets the call before its end.
async fn make(
    call: Call,
    mut sender: SendRequest<Bytes>,
    mut dice: Dice,
    manner: Manner,
) -> Result<Option<Answer>, h2::Error> {
    let request = Request::post(format!("http://test{}", call.path))
        .header("content-type", call.content_type)
        .header("te", "trailers")
        .header("authorization", &call.bearer)
        // It is in the details of errors.
        .header("x-request-id", "scrambled")
        .body(())
        .unwrap();
    manner.pause(&mut dice).await;
    let is_empty = call.body.is_empty() && dice.percent(50);
    let (response, mut stream) = sender.send_request(request, is_empty)?;
    let reset_after = (manner.resets && dice.percent(30)).then(|| dice.below(6));
    let mut rest = Bytes::from(call.body);
    let mut piece = 0;
    let mut is_open = !is_empty;
    while is_open {
        manner.pause(&mut dice).await;
        if reset_after == Some(piece) {
            stream.send_reset(*dice.one_of(&[Reason::CANCEL, Reason::NO_ERROR]));
            return Ok(None);
        }
        piece += 1;
        let most = *dice.one_of(&[1, 10, 100, 100_000]);
        let size = if manner.in_pieces {
            dice.below(most + 1).min(rest.len())
        } else {
            rest.len()
        };
        let data = rest.split_to(size);
        let is_last = rest.is_empty() && (!manner.in_pieces || dice.percent(50));
        let has_trailers = rest.is_empty() && !is_last && dice.percent(30);
        let mut sent = stream.send_data(data, is_last);
        if has_trailers {
            sent = sent.and_then(|()| stream.send_trailers(HeaderMap::new()));
        }
        // An error: it is answered already, and the rest is unwanted.
        is_open = sent.is_ok() && !is_last && !has_trailers;
    }
    let response = response.await?;
    let head = format!("{}\n{}", response.status(), shown(response.headers()));
    let mut received = response.into_body();
    let mut body = Vec::new();
    while let Some(data) = received.data().await {
        let data = data?;
        manner.pause(&mut dice).await;
        body.extend_from_slice(&data);
        received.flow_control().release_capacity(data.len())?;
    }
    let trailers = received.trailers().await?;
    let trailers = trailers.as_ref().map(shown).unwrap_or_default();
    Ok(Some(Answer {
        head,
        body,
        trailers,
    }))
}

/// A client over those bytes, with windows of any size.
async fn client<C>(io: C, dice: &mut Dice) -> Result<SendRequest<Bytes>, h2::Error>
where
    C: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(*dice.one_of(&[1, 10, 1000, 65_535]))
        .header_table_size(*dice.one_of(&[0, 100, 4096]))
        .handshake(io)
        .await?;
    tokio::spawn(connection);
    Ok(sender)
}

#[tokio::test]
async fn each_call_gets_its_own_answer() {
    let app = TestApp::with_world().await;
    let calls = calls(&app).await;
    let mut expected = Vec::new();
    let (io, theirs) = tokio::io::duplex(DUPLEX_BYTES);
    app.connect(theirs);
    // Of calls that are made one after the other.
    let alone = client(io, &mut Dice::new(0)).await.unwrap();
    for call in &calls {
        let made = make(call.clone(), alone.clone(), Dice::new(0), Manner::PLAIN);
        expected.push(made.await.unwrap().expect("it is not reset"));
    }
    for seed in seeds() {
        let mut dice = Dice::new(seed);
        let (io, theirs) = tokio::io::duplex(DUPLEX_BYTES);
        app.connect(theirs);
        let io = Cut::new(io, fork(&mut dice));
        let client = client(io, &mut dice).await.unwrap();
        let manner = Manner::any(&mut dice);
        let mut making = JoinSet::new();
        for _ in 0..=dice.below(MAX_CALLS) {
            let which = dice.below(calls.len());
            let made = make(
                calls[which].clone(),
                client.clone(),
                fork(&mut dice),
                manner,
            );
            making.spawn(async move { (which, made.await) });
        }
        let made = within("all are answered", making.join_all()).await;
        for (which, answer) in made {
            if let Some(answer) = answer.unwrap_or_else(|error| panic!("{seed}: {error}")) {
                assert_eq!(answer, expected[which], "seed {seed}, call {which}");
            }
        }
    }
}

/// Panics outside of the tests.
static PANICS: AtomicUsize = AtomicUsize::new(0);
/// h2 asserts there, in builds with debug assertions alone, that a connection that has ended
/// counts no stream any more. A peer that breaks the protocol can make it count one too many,
/// whatever drives h2.
const COUNTS_OF_H2: &str = "src/proto/streams/counts.rs";

fn count_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let is_counted = |file: &str| !file.starts_with("tests/") && !file.ends_with(COUNTS_OF_H2);
        if panic.location().is_none_or(|at| is_counted(at.file())) {
            PANICS.fetch_add(1, Relaxed);
        }
        usual(panic);
    }));
}

#[tokio::test]
async fn bytes_that_no_client_writes_end_their_connection_at_most() {
    count_panics();
    let app = TestApp::with_world().await;
    let calls = calls(&app).await;
    let (witness, theirs) = tokio::io::duplex(DUPLEX_BYTES);
    app.connect(theirs);
    let witness = client(witness, &mut Dice::new(0)).await.unwrap();
    let good = calls.last().expect("there are some");
    let ask = || make(good.clone(), witness.clone(), Dice::new(0), Manner::PLAIN);
    let expected = ask().await.unwrap();
    for seed in seeds() {
        let mut dice = Dice::new(seed);
        let (ours, relayed) = tokio::io::duplex(DUPLEX_BYTES);
        let (server, theirs) = tokio::io::duplex(DUPLEX_BYTES);
        app.connect(theirs);
        let relay = tokio::spawn(mangle(relayed, server, fork(&mut dice)));
        if let Ok(client) = client(Cut::new(ours, fork(&mut dice)), &mut dice).await {
            let manner = Manner::any(&mut dice);
            let mut making = JoinSet::new();
            for _ in 0..=dice.below(MAX_CALLS) {
                let call = dice.one_of(&calls).clone();
                making.spawn(make(call, client.clone(), fork(&mut dice), manner));
            }
            // Some are never answered: their ends were lost.
            let some = timeout(Duration::ZERO, making.join_all());
            let (_, answer) = tokio::join!(some, ask());
            assert_eq!(answer.unwrap(), expected, "seed {seed}");
        }
        within("the server closes", relay).await.unwrap();
        assert_eq!(PANICS.load(Relaxed), 0, "seed {seed}");
    }
}
