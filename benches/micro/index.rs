//! The index alone: from a token's text to the verdict, on one thread, with nothing
//! around it. Tokens come in random order, so that with a million of them nearly
//! every one is fetched from main memory.
//!
//! What a machine takes for that differs by far, so there is a reference beside it:
//! the token is read and hashed, and one line of a table is looked at, as long as one
//! with a client's hash in each line would be. No index can do with less.

#![expect(clippy::print_stdout, reason = "it prints what it measured")]
#![expect(unreachable_pub, reason = "a benchmark has no outside")]

use std::{
    hint::black_box,
    process::ExitCode,
    time::{Duration, Instant},
};

use hitkeep_auth::domain::{
    Position, Revision, Timestamp,
    access::{EffectiveAccess, Owner},
    client::Expiry,
    id::{ClientId, SiteId, UserId},
    index::{Index, Judged, Known, Writer},
    introspection::{BaseState, ResolvedClient, TokenStanding},
    role::{InstanceRole, SiteRole},
    source::Source,
    token::{PresentedToken, TOKEN_LENGTH, Token, TokenKind},
};
use uuid::Uuid;

#[path = "../support.rs"]
mod support;

use support::{
    arguments::Arguments,
    dice::Dice,
    figures::{Samples, Table, met},
    population::Seeded,
};

/// The service's own, which lays the index in huge pages.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Look-ups in one round.
const LOOK_UPS: u32 = 1_000_000;
/// What a hit may take, with a million clients.
const HIT_BOUND: Duration = Duration::from_nanos(250);

fn main() -> ExitCode {
    let mut arguments = Arguments::read();
    let clients: usize = arguments.value("--clients", 1_000_000);
    let rounds: usize = arguments.value("--rounds", 5);
    arguments.done();
    let titles = [
        "clients",
        "hit",
        "miss",
        "malformed",
        "one look",
        "hit to one look",
    ];
    let mut table = Table::new(&titles);
    let mut largest = Duration::ZERO;
    for size in [1000, 100_000, 1_000_000] {
        let size = size.min(clients);
        let entropy = Seeded::default();
        let mint = || Token::mint(TokenKind::Personal, &entropy);
        let tokens: Vec<Token> = (0..size).map(|_| mint()).collect();
        let index = index_of(&tokens);
        let hits: Vec<String> = tokens.iter().map(Token::reveal).collect();
        let misses: Vec<String> = tokens.iter().map(|_| mint().reveal()).collect();
        let malformed: Vec<String> = hits.iter().map(|text| text.replace("hkp", "hkt")).collect();
        let kinds = [(&hits, true), (&misses, false), (&malformed, false)];
        let measured = kinds.map(|(texts, works)| {
            let texts = shuffled(texts);
            let rounds = (0..rounds.max(1)).map(|_| look_up(&index, &texts, works));
            Samples::of(rounds.collect()).median()
        });
        let lines: Vec<Line> = (0..size).map(|_| Line([0xff; 64])).collect();
        let texts = shuffled(&hits);
        let looks = (0..rounds.max(1)).map(|_| look_once(&lines, &texts));
        let look = Samples::of(looks.collect()).median();
        let ratio = measured[0].as_secs_f64() / look.as_secs_f64();
        largest = measured[0];
        let nanoseconds = |time: Duration| format!("{} ns", time.as_nanos());
        let [hit, miss, malformed] = measured.map(nanoseconds);
        let (look, ratio) = (nanoseconds(look), format!("{ratio:.2}"));
        table.row([size.to_string(), hit, miss, malformed, look, ratio]);
    }
    table.print();
    println!("medians of {rounds} rounds of {LOOK_UPS} look-ups in random order");
    let is_met = met(largest <= HIT_BOUND);
    println!("a hit in at most {} ns: {is_met}", HIT_BOUND.as_nanos());
    ExitCode::SUCCESS
}

/// An index with a client for each token, with three grants.
fn index_of(tokens: &[Token]) -> Index {
    let client = |(number, token): (usize, &Token)| {
        let id = |kind: u128| Uuid::from_u128((kind << 96) + number as u128);
        let grant = |site: u128| (SiteId::from_uuid(id(10 + site)), SiteRole::Editor);
        let client = ResolvedClient {
            client: ClientId::from_uuid(id(1)),
            owner: Owner::User(UserId::from_uuid(id(2))),
            base_state: BaseState::Active,
            access: EffectiveAccess {
                instance_role: InstanceRole::User,
                grants: (0..3).map(grant).collect(),
            },
            expiry: Expiry::Never,
            name: "a client".into(),
            restrictions: None,
        };
        let tokens = vec![(token.hash().into(), TokenStanding::Current)];
        (Known::Resolved(client), tokens)
    };
    Writer::of(tokens.iter().enumerate().map(client)).version(Position {
        revision: Revision(1),
        ..Position::UNKNOWN
    })
}

/// Texts in random order, but one after the other in memory: a request brings its
/// token along, so fetching that is not the index' work.
fn shuffled(texts: &[String]) -> Vec<u8> {
    let mut order: Vec<&String> = texts.iter().collect();
    Dice::new(1).shuffle(&mut order);
    order.iter().flat_map(|text| text.bytes()).collect()
}

/// How long one look-up takes on average; each has to come to what is given.
fn look_up(index: &Index, texts: &[u8], works: bool) -> Duration {
    let now = Timestamp::UNIX_EPOCH;
    let texts = texts.chunks(TOKEN_LENGTH).cycle();
    let begun = Instant::now();
    for text in texts.take(LOOK_UPS as usize) {
        let text = std::str::from_utf8(black_box(text)).expect("tokens are ASCII");
        assert_eq!(is_active(index, text, now), works, "a wrong verdict");
    }
    begun.elapsed() / LOOK_UPS
}

/// What a processor fetches from memory at once.
#[derive(Clone)]
#[repr(align(64))]
struct Line([u8; 64]);

/// How long it takes to read and hash a token and to look at one line.
fn look_once(lines: &[Line], texts: &[u8]) -> Duration {
    let texts = texts.chunks(TOKEN_LENGTH).cycle();
    let begun = Instant::now();
    for text in texts.take(LOOK_UPS as usize) {
        let text = std::str::from_utf8(black_box(text)).expect("tokens are ASCII");
        let hash = Token::parse(text).expect("they are tokens").hash().0;
        let place = u64::from_be_bytes(*hash.first_chunk().expect("it is longer"));
        let line = (u128::from(place) * lines.len() as u128) >> u64::BITS;
        let line = &lines[usize::try_from(line).expect("it is one of them")];
        assert_ne!(line.0[..32], hash, "nothing is in there");
    }
    begun.elapsed() / LOOK_UPS
}

fn is_active(index: &Index, text: &str, now: Timestamp) -> bool {
    let presented = PresentedToken::read(text);
    let judged = index.judge(&presented, Source::Unknown, Expiry::Never, now);
    matches!(judged, Judged::Active { .. })
}
