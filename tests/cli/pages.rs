//! Completions and manual pages, which are made of the command line itself.

use crate::{help, run::run};

#[tokio::test]
async fn completions_and_manual_pages_cover_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(["completions", shell]).await.given();
        for word in ["reactivate", "include-inactive", "healthcheck"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    // Neither of the two folders is there.
    let above = std::env::temp_dir().join(format!("hka-man-{}", std::process::id()));
    let folder = above.join("man1");
    let path = folder.to_str().unwrap();
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
    let path = file.to_str().unwrap();
    let said = run(["man", path]).await.refused(1);
    assert!(said.contains(path), "{said}");
    std::fs::remove_dir_all(&above).unwrap();
}
