//! How soon a change is noticed, and that nothing else is.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use edgeproxy_store::{FileWatch, Loaded, RoutingWatch, StoreError};
use support::{Site, WITHOUT_COUNTRY, insert, sqlite3};
use tokio::time::timeout;

/// Far more than the 100 ms that are promised: the machine that tests may be busy.
const SOON: Duration = Duration::from_secs(1);
/// Longer than any test: what is seen was not seen by the poll.
const NO_POLL: Duration = Duration::from_secs(600);

async fn next(watch: &mut RoutingWatch) -> Result<Loaded, StoreError> {
    timeout(SOON, watch.next()).await.expect("noticed within a second")
}

async fn nothing(watch: &mut RoutingWatch, during: Duration) {
    let outcome = timeout(during, watch.next()).await;
    assert!(outcome.is_err(), "{outcome:?}");
}

fn ids(loaded: &Loaded) -> String {
    loaded.backends.iter().map(|b| b.id.as_str()).collect::<Vec<_>>().join(" ")
}

async fn watching(site: &Site) -> RoutingWatch {
    let mut watch = RoutingWatch::new(&site.db(), NO_POLL);
    assert!(!watch.is_poll_only());
    next(&mut watch).await.unwrap();
    // What the first load itself stirred up.
    nothing(&mut watch, Duration::from_millis(50)).await;
    watch
}

#[tokio::test]
async fn a_change_by_the_tool_is_seen_within_100_ms() {
    for mode in ["WAL", "DELETE", "TRUNCATE", "PERSIST", "MEMORY"] {
        let site = Site::new(mode);
        // MEMORY is of the connection, not of the file.
        let pragma = if mode == "MEMORY" { "PRAGMA journal_mode=MEMORY;" } else { "" };
        let mut watch = watching(&site).await;
        let mut delays = Vec::new();
        for port in 2000..2020 {
            // In a thread, so that the watch runs while the tool does.
            let (db, sql) = (site.db(), format!("{pragma} UPDATE backends SET port = {port}"));
            let tool = tokio::task::spawn_blocking(move || {
                sqlite3(&db, &sql);
                Instant::now()
            });
            let loaded = next(&mut watch).await.unwrap();
            let seen = Instant::now();
            assert_eq!(loaded.backends[0].addr.0.port(), port);
            delays.push(seen.saturating_duration_since(tool.await.unwrap()));
        }
        delays.sort();
        println!("{mode}: seen after the tool's exit: median {:?}, most {:?}", delays[10], delays[19]);
        assert!(delays[10] < Duration::from_millis(100), "{delays:?}");
    }
}

/// Writers that stay connected neither close the file nor remove the `-wal`.
#[tokio::test]
async fn a_commit_of_a_program_that_stays_is_seen() {
    for mode in ["WAL", "DELETE"] {
        let site = Site::new(mode);
        let mut shell = site.shell();
        let (mut stdin, mut stdout) = (shell.stdin.take().unwrap(), BufReader::new(shell.stdout.take().unwrap()));
        let mut watch = watching(&site).await;
        let mut delays = Vec::new();
        for port in 3000..3020 {
            writeln!(stdin, "UPDATE backends SET port = {port};\n.shell echo done").unwrap();
            stdout.read_line(&mut String::new()).unwrap();
            let committed = Instant::now();
            let loaded = next(&mut watch).await.unwrap();
            assert_eq!(loaded.backends[0].addr.0.port(), port);
            delays.push(committed.elapsed());
        }
        delays.sort();
        println!("{mode}: seen after the commit: median {:?}, most {:?}", delays[10], delays[19]);
        assert!(delays[10] < Duration::from_millis(100), "{delays:?}");
        drop(stdin);
        shell.wait().unwrap();
    }
}

#[tokio::test]
async fn nothing_runs_while_nothing_happens() {
    for mode in ["WAL", "DELETE"] {
        let site = Site::new(mode);
        let mut watch = watching(&site).await;
        let loads = watch.loads();
        fs::write(site.path("other.log"), "grows").unwrap();
        // Opens and closes the file in the way of all readers.
        site.sql("SELECT * FROM backends");
        nothing(&mut watch, Duration::from_millis(300)).await;
        assert_eq!(watch.loads(), loads, "{mode}");
    }
}

#[tokio::test]
async fn a_commit_that_leaves_the_rows_alone_is_not_reported() {
    let site = Site::new("WAL");
    let mut watch = watching(&site).await;
    site.sql("CREATE TABLE notes (x); INSERT INTO notes VALUES (1); UPDATE backends SET weight = weight;");
    nothing(&mut watch, Duration::from_millis(200)).await;
    site.sql("UPDATE backends SET healthy = 0");
    assert!(!next(&mut watch).await.unwrap().backends[0].healthy);
    // A rejected row is news as well.
    site.sql("UPDATE backends SET port = 0");
    assert_eq!(next(&mut watch).await.unwrap().rejected.len(), 1);
}

#[tokio::test]
async fn a_burst_is_few_loads_and_the_last_word_counts() {
    for mode in ["WAL", "DELETE"] {
        let site = Site::new(mode);
        let mut watch = watching(&site).await;
        let loads = watch.loads();
        let mut shell = site.shell();
        let mut stdin = shell.stdin.take().unwrap();
        writeln!(stdin, "PRAGMA synchronous=OFF;").unwrap();
        let began = Instant::now();
        let writer = tokio::task::spawn_blocking(move || {
            for weight in 0..1000 {
                writeln!(stdin, "UPDATE backends SET weight = {weight};").unwrap();
            }
            drop(stdin);
            shell.wait().unwrap();
        });
        while next(&mut watch).await.unwrap().backends[0].limits.weight != 999 {}
        writer.await.unwrap();
        let (loads, millis) = (watch.loads() - loads, began.elapsed().as_millis());
        println!("{mode}: {loads} loads for 1000 commits in {millis} ms");
        assert!(u128::from(loads) < 20 + millis / 10, "{loads} loads in {millis} ms");
    }
}

#[tokio::test]
async fn a_long_transaction_does_not_make_the_watch_spin() {
    for mode in ["WAL", "DELETE"] {
        let site = Site::new(mode);
        let mut watch = watching(&site).await;
        let mut shell = site.shell();
        let (mut stdin, mut stdout) = (shell.stdin.take().unwrap(), BufReader::new(shell.stdout.take().unwrap()));
        // Small enough to stay in the writer's memory: readers are not kept out.
        writeln!(stdin, "BEGIN IMMEDIATE;\n{}\n.shell echo written", insert("b2", "fra", "'DE'")).unwrap();
        stdout.read_line(&mut String::new()).unwrap();
        let loads = watch.loads();
        nothing(&mut watch, Duration::from_millis(300)).await;
        assert!(watch.loads() <= loads + 1, "{mode}: {} loads", watch.loads() - loads);
        writeln!(stdin, "COMMIT;").unwrap();
        assert_eq!(ids(&next(&mut watch).await.unwrap()), "b1 b2");

        // Far more than the cache holds: in rollback-journal mode readers are kept out.
        writeln!(stdin, "PRAGMA cache_size=1;\nBEGIN IMMEDIATE;").unwrap();
        for n in 0..500 {
            writeln!(stdin, "{}", insert(&format!("n{n}"), "fra", "'DE'")).unwrap();
        }
        writeln!(stdin, ".shell echo written").unwrap();
        stdout.read_line(&mut String::new()).unwrap();
        let loads = watch.loads();
        nothing(&mut watch, Duration::from_millis(500)).await;
        assert!(watch.loads() < loads + 30, "{mode}: {} loads", watch.loads() - loads);
        writeln!(stdin, "COMMIT;").unwrap();
        assert_eq!(next(&mut watch).await.unwrap().backends.len(), 502);

        writeln!(stdin, "BEGIN; DELETE FROM backends; ROLLBACK;").unwrap();
        drop(stdin);
        shell.wait().unwrap();
        nothing(&mut watch, Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_lock_that_stays_is_reported_once_and_ends_with_it() {
    let site = Site::new("DELETE");
    let mut watch = watching(&site).await;
    let mut shell = site.shell();
    let (mut stdin, mut stdout) = (shell.stdin.take().unwrap(), BufReader::new(shell.stdout.take().unwrap()));
    writeln!(stdin, "PRAGMA cache_size=1;\nBEGIN IMMEDIATE;").unwrap();
    for n in 0..500 {
        writeln!(stdin, "{}", insert(&format!("n{n}"), "fra", "'DE'")).unwrap();
    }
    writeln!(stdin, ".shell echo written").unwrap();
    stdout.read_line(&mut String::new()).unwrap();
    let error = timeout(SOON * 3, watch.next()).await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }));
    let loads = watch.loads();
    nothing(&mut watch, Duration::from_millis(300)).await;
    assert!(watch.loads() < loads + 10, "{} loads", watch.loads() - loads);
    writeln!(stdin, "COMMIT;").unwrap();
    assert_eq!(next(&mut watch).await.unwrap().backends.len(), 501);
    drop(stdin);
    shell.wait().unwrap();
}

#[tokio::test]
async fn a_file_moved_into_place_is_read_alone() {
    for (old, new) in [("WAL", "WAL"), ("WAL", "DELETE"), ("DELETE", "WAL"), ("DELETE", "DELETE")] {
        let site = Site::new(old);
        let mut watch = watching(&site).await;
        site.sql("UPDATE backends SET region = 'gru'");
        next(&mut watch).await.unwrap();
        let replacement = Site::new(new);
        replacement.sql(&insert("new", "iad", "'US'"));
        // To the same directory first, so that the rename is one.
        fs::copy(replacement.db(), site.path("new.db")).unwrap();
        nothing(&mut watch, Duration::from_millis(50)).await;
        assert!(!site.path("routing.db-wal").exists(), "it would be laid over the new file");
        fs::rename(site.path("new.db"), site.db()).unwrap();
        let loaded = next(&mut watch).await.unwrap();
        assert_eq!((ids(&loaded), loaded.backends[0].region.as_str()), ("b1 new".to_owned(), "fra"), "{old} {new}");
        site.sql(&insert("newer", "iad", "'US'"));
        assert_eq!(ids(&next(&mut watch).await.unwrap()), "b1 new newer");
    }
}

#[tokio::test]
async fn deleted_and_made_again() {
    let site = Site::new("WAL");
    let mut watch = watching(&site).await;
    fs::remove_file(site.db()).unwrap();
    assert!(matches!(next(&mut watch).await, Err(StoreError::Missing { .. })));
    nothing(&mut watch, Duration::from_millis(100)).await;
    assert!(!site.db().exists(), "a watch makes no file");

    fs::write(site.db(), "not a database, not at all").unwrap();
    assert!(matches!(next(&mut watch).await, Err(StoreError::Damaged { .. })));
    fs::remove_file(site.db()).unwrap();
    assert!(matches!(next(&mut watch).await, Err(StoreError::Missing { .. })));

    site.sql(&format!("BEGIN; {WITHOUT_COUNTRY} INSERT INTO backends VALUES ('b9', 'web', 'fra', '10.0.0.1', 80, 1, 1, 10, 20, 0); COMMIT;"));
    // The tool makes the file empty, and fills it later: a table without `backends` may be seen in between.
    let loaded = loop {
        match next(&mut watch).await {
            Ok(loaded) => break loaded,
            Err(error) => assert!(matches!(error, StoreError::NoTable { .. }), "{error}"),
        }
    };
    assert_eq!((ids(&loaded).as_str(), loaded.has_country), ("b9", false));
}

/// The same rows as before the failure: still news, for whoever was told of the failure.
#[tokio::test]
async fn an_end_of_failure_is_reported() {
    let site = Site::new("DELETE");
    let mut watch = watching(&site).await;
    fs::rename(site.db(), site.path("away.db")).unwrap();
    assert!(next(&mut watch).await.is_err());
    fs::rename(site.path("away.db"), site.db()).unwrap();
    assert_eq!(ids(&next(&mut watch).await.unwrap()), "b1");
    nothing(&mut watch, Duration::from_millis(100)).await;
}

#[tokio::test]
async fn the_directory_may_come_later() {
    let site = Site::empty();
    let path = site.path("later/routing.db");
    let mut watch = RoutingWatch::new(&path, Duration::from_millis(50));
    assert!(watch.is_poll_only());
    assert!(next(&mut watch).await.is_err());
    fs::create_dir(site.path("later")).unwrap();
    let made = Site::new("DELETE");
    fs::copy(made.db(), &path).unwrap();
    assert_eq!(ids(&next(&mut watch).await.unwrap()), "b1");
    nothing(&mut watch, Duration::from_millis(150)).await;
    assert!(!watch.is_poll_only(), "the poll asks for notices again");
}

#[tokio::test]
async fn the_target_of_a_link_is_watched() {
    let site = Site::empty();
    let real = Site::new("WAL");
    symlink(real.db(), site.db()).unwrap();
    let mut watch = watching(&site).await;
    real.sql("UPDATE backends SET port = 4000");
    assert_eq!(next(&mut watch).await.unwrap().backends[0].addr.0.port(), 4000);

    let other = Site::new("DELETE");
    other.sql("UPDATE backends SET port = 5000");
    symlink(other.db(), site.path("new.db")).unwrap();
    fs::rename(site.path("new.db"), site.db()).unwrap();
    assert_eq!(next(&mut watch).await.unwrap().backends[0].addr.0.port(), 5000);
    other.sql("UPDATE backends SET port = 5001");
    assert_eq!(next(&mut watch).await.unwrap().backends[0].addr.0.port(), 5001);
}

/// As in a `select!` whose other branches are busy.
#[tokio::test]
async fn a_future_dropped_again_and_again_loses_nothing() {
    let site = Site::new("WAL");
    let mut watch = watching(&site).await;
    for port in 6000..6010 {
        site.sql(&format!("UPDATE backends SET port = {port}"));
        let loaded = timeout(SOON, async {
            loop {
                if let Ok(outcome) = timeout(Duration::from_millis(1), watch.next()).await {
                    break outcome;
                }
            }
        });
        assert_eq!(loaded.await.unwrap().unwrap().backends[0].addr.0.port(), port);
    }
}

#[tokio::test]
async fn a_poll_sees_what_no_notice_tells() {
    let site = Site::new("WAL");
    // A link in the middle of the path: no notice tells when it points elsewhere.
    let other = Site::new("WAL");
    other.sql("UPDATE backends SET port = 5000");
    let (one, two) = (site.db().parent().unwrap().to_owned(), other.db().parent().unwrap().to_owned());
    let outer = Site::empty();
    symlink(one, outer.path("current")).unwrap();
    let mut watch = RoutingWatch::new(&outer.path("current/routing.db"), Duration::from_millis(100));
    next(&mut watch).await.unwrap();
    symlink(two, outer.path("next")).unwrap();
    fs::rename(outer.path("next"), outer.path("current")).unwrap();
    assert_eq!(next(&mut watch).await.unwrap().backends[0].addr.0.port(), 5000);
}

async fn changed(watch: &mut FileWatch) -> Duration {
    let began = Instant::now();
    timeout(SOON, watch.changed()).await.expect("noticed within a second");
    began.elapsed()
}

async fn unchanged(watch: &mut FileWatch) {
    assert!(timeout(Duration::from_millis(100), watch.changed()).await.is_err());
}

#[tokio::test]
async fn a_replaced_file_is_noticed_when_whole() {
    let site = Site::empty();
    let path = site.path("city.mmdb");
    fs::write(&path, "one").unwrap();
    let mut watch = FileWatch::new(&path, NO_POLL);
    unchanged(&mut watch).await;

    fs::write(site.path("new"), "two").unwrap();
    unchanged(&mut watch).await;
    fs::rename(site.path("new"), &path).unwrap();
    println!("a rename is noticed after {:?}", changed(&mut watch).await);
    unchanged(&mut watch).await;

    let mut half = fs::File::create(&path).unwrap();
    half.write_all(b"thr").unwrap();
    unchanged(&mut watch).await;
    half.write_all(b"ee").unwrap();
    drop(half);
    changed(&mut watch).await;

    fs::remove_file(&path).unwrap();
    unchanged(&mut watch).await;
    fs::write(site.path("target"), "four").unwrap();
    symlink(site.path("target"), &path).unwrap();
    changed(&mut watch).await;
    fs::write(site.path("target"), "five!").unwrap();
    changed(&mut watch).await;
}

#[tokio::test]
async fn a_poll_reports_a_version_that_has_settled() {
    let site = Site::empty();
    let path = site.path("later/city.mmdb");
    let mut watch = FileWatch::new(&path, Duration::from_millis(30));
    unchanged(&mut watch).await;
    fs::create_dir(site.path("later")).unwrap();
    fs::write(&path, "one").unwrap();
    changed(&mut watch).await;
    unchanged(&mut watch).await;
}
