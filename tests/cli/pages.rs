//! Completions and manual pages, which are made of the command line itself.

use crate::{
    folder::{Folder, text},
    help,
    run::run,
};

#[tokio::test]
async fn completions_and_manual_pages_cover_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(["completions", shell]).await.given();
        for word in ["reactivate", "include-inactive", "healthcheck"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    // Neither of the two folders is there.
    let above = Folder::new();
    let folder = above.path("share/man1");
    let path = text(&folder);
    assert_eq!(run(["man", path]).await.given(), "");
    for help in help::all() {
        let name = [&["hitkeep-auth".to_owned()][..], &help.path]
            .concat()
            .join("-");
        let page = std::fs::read_to_string(folder.join(format!("{name}.1"))).expect(&name);
        for option in help.options.keys().filter(|option| *option != "--version") {
            let escaped = option.replace('-', "\\-");
            assert!(page.contains(&escaped), "{name}: {option}");
        }
    }
    // What is there is written again, and a file is no folder.
    assert_eq!(run(["man", path]).await.given(), "");
    let file = folder.join("hitkeep-auth.1");
    let path = text(&file);
    let said = run(["man", path]).await.refused(1);
    assert!(said.contains(path), "{said}");
}

/// What bash offers for the values of an option, once for each command that has it.
fn offered<'s>(script: &'s str, option: &str) -> Vec<&'s str> {
    let case = format!(" {option})\n");
    let cases = script.split(&*case).skip(1);
    let lines = cases.map(|case| case.lines().next().unwrap().trim());
    lines.collect()
}

#[tokio::test]
async fn completions_offer_words_and_files_where_they_fit() {
    let script = run(["completions", "bash"]).await.given();
    for (option, values) in [
        ("--allow", "introspect manage directory audit replicate"),
        ("--instance-role", "user admin owner"),
        ("--state", "active revoked expired owner-inactive"),
        ("--on-conflict", "refuse keep take"),
    ] {
        let offered = offered(&script, option);
        assert!(!offered.is_empty(), "{option}");
        for line in offered {
            let words = format!(r#"compgen -W "{values}" "#);
            assert!(line.contains(&words), "{option}: {line}");
        }
    }
    for (option, word) in [
        ("--permission", "site.view"),
        ("--action", "api_client.rotated"),
    ] {
        for line in offered(&script, option) {
            assert!(line.contains(word), "{option}: {line}");
        }
    }
    for option in ["--actor", "--name", "--overlap", "--server"] {
        assert!(!offered(&script, option).is_empty(), "{option}");
        for line in offered(&script, option) {
            assert!(!line.contains("compgen"), "{option}: {line}");
        }
    }
    for option in ["--token-file", "--tls-cert", "--database-url-file"] {
        assert!(!offered(&script, option).is_empty(), "{option}");
        for line in offered(&script, option) {
            assert!(line.contains("compgen -f"), "{option}: {line}");
        }
    }
}
