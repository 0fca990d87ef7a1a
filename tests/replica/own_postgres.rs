//! A Postgres of one test's own, that can be killed and started again on the
//! same data.

use std::{
    path::PathBuf,
    process::Command,
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use hitkeep_auth_dev::{
    postgres::{Durability, Options, PostgresError, PrivatePostgres},
    user_folders::cache_folder,
};
use tokio::sync::oneshot;

/// How long what is left of a killed server may be in the way of the next.
const PATIENCE: Duration = Duration::from_secs(30);

/// The server, and the thread that it must not outlive.
pub struct OwnPostgres {
    /// Where to connect to one of its databases, without the name.
    pub url: String,
    folder: PathBuf,
    steps: Option<mpsc::Sender<(Step, oneshot::Sender<()>)>>,
    thread: Option<JoinHandle<()>>,
}

/// What is done with it next.
enum Step {
    Kill,
    Start,
}

impl OwnPostgres {
    /// Starts one whose data is kept as in production.
    pub async fn start() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("hka-own-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let options = Options {
            folder: folder.clone(),
            durability: Durability::Kept,
            programs: None,
            cache: cache_folder(),
        };
        let (started, url) = oneshot::channel();
        let (steps, asked) = mpsc::channel();
        let thread = std::thread::spawn(move || serve(&options, started, &asked));
        Self {
            url: url.await.expect("a private Postgres starts"),
            folder,
            steps: Some(steps),
            thread: Some(thread),
        }
    }

    /// Kills it, which it cannot do anything about, and starts it again.
    pub async fn kill_and_restart(&self) {
        self.kill().await;
        self.start_again().await;
    }

    /// Kills it. What its sessions are at they may still finish.
    pub async fn kill(&self) {
        self.take(Step::Kill).await;
    }

    /// Starts it again, once it was killed.
    pub async fn start_again(&self) {
        self.take(Step::Start).await;
    }

    async fn take(&self, step: Step) {
        let (sender, done) = oneshot::channel();
        let thread = self.steps.as_ref().expect("it runs");
        thread.send((step, sender)).expect("it runs");
        done.await.expect("it is done");
    }
}

impl Drop for OwnPostgres {
    fn drop(&mut self) {
        drop(self.steps.take());
        let thread = self.thread.take().expect("taken out only here");
        drop(thread.join());
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

fn serve(
    options: &Options,
    started: oneshot::Sender<String>,
    steps: &mpsc::Receiver<(Step, oneshot::Sender<()>)>,
) {
    let start = || PrivatePostgres::start(options, &|_| ());
    let first = start().unwrap_or_else(|why| panic!("{why}"));
    let url = first.url("");
    started.send(url.clone()).expect("the test waits for it");
    let mut server = Some(first);
    while let Ok((step, done)) = steps.recv() {
        match step {
            Step::Kill => {
                let server = server.take().expect("it runs");
                let killed = Command::new("/bin/sh")
                    .args(["-c", "kill -KILL \"$1\"", "sh", &server.pid().to_string()])
                    .status();
                assert!(killed.expect("there is a shell").success());
            }
            Step::Start => {
                let begun = Instant::now();
                let again = loop {
                    match start() {
                        Ok(server) => break server,
                        // Its backends see only when they look up that it is gone.
                        Err(PostgresError::NotReady { .. }) if begun.elapsed() < PATIENCE => {}
                        Err(why) => panic!("{why}"),
                    }
                };
                assert_eq!(again.url(""), url);
                server = Some(again);
            }
        }
        done.send(()).expect("the test waits for it");
    }
}
