//! Delegation and effective access over random sequences of calls: users, teams and sites
//! are added, changed and removed, also by replacing the directory, time passes, and actors
//! create, update, rotate, revoke,
//! reactivate and delete. After every step, the domain is compared with a small model that
//! is written directly from `docs/access-rules.md`.
//!
//! Everything is seeded: a run is the same each time. `PROPTEST_CASES` makes it
//! longer, never shorter.

mod call;
mod coverage;
mod model;
mod resolve;
mod rules;
mod run;
mod script;
mod tables;
#[path = "../../../../tests/support/verdict.rs"]
mod verdict;
mod world;

use std::cell::RefCell;

use coverage::Coverage;
use hitkeep_auth_domain::{self as domain, Timestamp, id::SiteId};
use model::{
    Model,
    permissions::{on_instance, on_site},
};
use proptest::{
    prop_assert_eq,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner},
};
use run::run;
use script::{SITES, USERS, directories, scripts, site, user};
use tables::Tables;

/// How many scripts are run.
const SCRIPTS: u32 = 700;
/// How many steps a script has at most.
const STEPS: usize = 60;

/// Gives the same scripts in every run. `XorShift` is good enough to draw them,
/// and much cheaper than what is the default.
fn runner() -> TestRunner {
    let config = Config {
        cases: Config::default().cases.max(SCRIPTS),
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::XorShift))
}

#[test]
fn every_rule_holds_after_every_step() {
    let coverage = RefCell::new(Coverage::default());
    let outcome = runner().run(&scripts(STEPS), |script| {
        let violations = run(&script, &mut coverage.borrow_mut());
        if violations.is_empty() {
            Ok(())
        } else {
            Err(TestCaseError::fail(format!("{violations:#?}")))
        }
    });
    if let Err(counterexample) = outcome {
        panic!("{counterexample}");
    }
    let missing = coverage.borrow().missing();
    assert!(
        missing.is_empty(),
        "too rare to have been put to the test: {missing:#?}"
    );
}

/// Roles by themselves: each user holds on every site what the directory gives.
#[test]
fn everybody_holds_what_the_directory_gives() {
    let sites: Vec<SiteId> = (0..=SITES).map(site).collect();
    let outcome = runner().run(&directories(), |changes| {
        let mut tables = Tables::default();
        let mut model = Model::new(Timestamp::default());
        for change in &changes {
            prop_assert_eq!(tables.apply(change), model.apply(change));
        }
        for user in (0..=USERS).map(user) {
            let holder = tables.holder(user, &sites);
            let mut held = holder.instance_role().map(on_instance).unwrap_or_default();
            for site in &sites {
                held.extend(
                    holder
                        .site_role(*site)
                        .into_iter()
                        .flat_map(|role| on_site(*site, role)),
                );
            }
            prop_assert_eq!(held, model.holds(user));
        }
        Ok(())
    });
    if let Err(counterexample) = outcome {
        panic!("{counterexample}");
    }
}
