//! What proxies ask: each in its own way, and all of them get the answer that
//! Introspect gives. The table of tokens and routes is in `table`, and the door that answers
//! is a column of it.

pub mod envoy;
mod http;
mod odd;
mod real_envoy;
pub mod table;

use crate::harness::TestApp;
use table::{Asker, Said};

#[tokio::test]
async fn whoever_is_asked_gives_the_same_verdict() {
    let app = TestApp::start().await;
    let cases = table::cases(&app).await;
    assert!(cases.len() > 150, "{}", cases.len());
    let sidecar = app.sidecar().await;
    let mut verdicts = [0; 5];
    let mut expected_verdicts = Vec::new();
    for case in &cases {
        let expected = Asker::Introspect.ask(&sidecar, case).await;
        verdicts[match expected {
            Said::Allowed { .. } => 0,
            Said::NoToken => 1,
            Said::Inactive => 2,
            Said::NotEnough(_) => 3,
            Said::HumanOnly => 4,
        }] += 1;
        for asker in Asker::OTHERS {
            let said = asker.ask(&sidecar, case).await;
            assert_eq!(said, expected, "{asker:?}: {}", case.what);
        }
        expected_verdicts.push(expected);
    }
    // A legacy token is worth what the other one was.
    let cases = table::with_legacy_tokens(&app, cases).await;
    for (case, expected) in cases.iter().zip(expected_verdicts) {
        for asker in [Asker::Introspect].into_iter().chain(Asker::OTHERS) {
            let said = asker.ask(&sidecar, case).await;
            assert_eq!(said, expected, "{asker:?}: {}", case.what);
        }
    }
    // The table has something of everything.
    assert!(verdicts.iter().all(|count| *count > 8), "{verdicts:?}");
}
