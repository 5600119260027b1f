//! What one load makes of files in every state an operator can leave them in.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};

use edgeproxy_store::{EditError, Loaded, RoutingDb, RoutingEditor, StoreError};
use support::{Site, WITH_COUNTRY, WITHOUT_COUNTRY, insert};

fn load(site: &Site) -> Result<Loaded, StoreError> {
    RoutingDb::open(&site.db())?.load()
}

fn message(site: &Site) -> String {
    let message = load(site).unwrap_err().to_string();
    message.replace(&site.db().display().to_string(), "DB")
}

#[test]
fn rows_come_in_the_files_order_without_the_deleted_ones() {
    for mode in ["WAL", "DELETE", "TRUNCATE", "PERSIST"] {
        let site = Site::new(mode);
        site.sql(&(insert("a2", "gru", "NULL") + &insert("z", "gru", "NULL") + &insert("c", "iad", "'us'")));
        site.sql("UPDATE backends SET deleted = 1 WHERE id = 'z'; UPDATE backends SET deleted = NULL WHERE id = 'c';");
        let loaded = load(&site).unwrap();
        let ids: Vec<_> = loaded.backends.iter().map(|b| b.id.as_str()).collect();
        assert_eq!(ids, ["b1", "a2", "c"], "{mode}");
        assert!(loaded.has_country && loaded.rejected.is_empty());
        assert_eq!(loaded.backends[2].country.unwrap().as_str(), "US");
        assert!(!site.path("routing.db-wal").exists(), "closing tidies up");
    }
}

#[test]
fn optional_columns_may_be_missing() {
    let site = Site::empty();
    site.sql(WITHOUT_COUNTRY);
    site.sql("INSERT INTO backends VALUES ('b1', 'web', 'fra', '10.0.0.1', 80, 1, 1, 10, 20, 0)");
    let loaded = load(&site).unwrap();
    assert!(!loaded.has_country);
    assert_eq!((loaded.backends[0].country, loaded.backends[0].drained), (None, false));

    site.sql(
        "ALTER TABLE backends ADD COLUMN drained INTEGER; ALTER TABLE backends ADD COLUMN heartbeat_secs INTEGER;",
    );
    site.sql("UPDATE backends SET drained = 1, heartbeat_secs = 30");
    let backend = load(&site).unwrap().backends.remove(0);
    assert_eq!((backend.drained, backend.heartbeat_secs), (true, Some(30)));
}

#[test]
fn a_bad_row_is_named_and_the_others_serve() {
    let site = Site::empty();
    // No declared types: SQLite keeps what it is given.
    site.sql(
        "CREATE TABLE backends (id, app, region, country, wg_ip, port, healthy, weight, soft_limit, hard_limit, deleted);
         INSERT INTO backends VALUES
            ('good', 'web', 'fra', 'DE', '10.0.0.1', 80, 1, 1, 10, 20, 0),
            ('text', 'web', 'fra', 'DE', '10.0.0.1', '8080', '1', ' 2 ', 10.0, '20', '0'),
            (NULL,   'web', 'fra', 'DE', '10.0.0.1', 80, 1, 1, 10, 20, 0),
            ('',     'web', 'fra', 'DE', '10.0.0.1', 80, 1, 1, 10, 20, 0),
            ('port', 'web', 'fra', 'DE', '10.0.0.1', 'http', 1, 1, 10, 20, 0),
            ('half', 'web', 'fra', 'DE', '10.0.0.1', 80.5, 1, 1, 10, 20, 0),
            ('blob', 'web', x'0102', 'DE', '10.0.0.1', 80, 1, 1, 10, 20, 0),
            ('num',  'web', 7, 'DE', '10.0.0.1', 80, 1, 1, 10, 20, 0),
            ('del',  'web', 'fra', 'DE', '10.0.0.1', 80, 1, 1, 10, 20, 2),
            ('good', 'web', 'gru', 'BR', '10.0.0.1', 80, 1, 1, 10, 20, 0),
            (42,     'web', 'fra', 'DE', '10.0.0.1', 80, 1, 1, 10, 20, 0),
            ('ip',   'web', 'fra', 'DE', 'host', 80, 1, 1, 10, 20, 0),
            ('gone', 'web', 'fra', 'DE', 'host', 80, 1, 1, 10, 20, 1);",
    );
    let loaded = load(&site).unwrap();
    let ids: Vec<_> = loaded.backends.iter().map(|b| b.id.as_str()).collect();
    assert_eq!(ids, ["good", "text"]);
    assert_eq!(loaded.backends[1].addr.to_string(), "10.0.0.1:8080");
    let rejected: Vec<_> = loaded.rejected.iter().map(ToString::to_string).collect();
    assert_eq!(
        rejected,
        [
            "backend \"row 3\": id is NULL; it must be a name",
            "backend \"row 4\": id is empty; it must be a name",
            "backend \"port\": port is the text \"http\"; it must be a whole number",
            "backend \"half\": port is the number 80.5; it must be a whole number",
            "backend \"blob\": region is a blob of 2 bytes; it must be text",
            "backend \"num\": region is the number 7; it must be text",
            "backend \"del\": deleted 2 is not in 0 to 1",
            "backend \"good\": id is that of an earlier row",
            "backend \"row 11\": id is the number 42; it must be text",
            "backend \"ip\": wg_ip \"host\" is not an IP address (such as 10.50.1.1 or fd00::1)",
        ]
    );
}

#[test]
fn files_of_no_use_are_named_with_what_to_do() {
    let site = Site::empty();
    assert_eq!(
        message(&site),
        "DB: no such file; create it with `edgeproxy route add`, or name the right one with --db"
    );
    assert!(!site.db().exists());

    fs::create_dir(site.db()).unwrap();
    assert!(message(&site).starts_with("DB: cannot be read: it is not a regular file; "));
    fs::remove_dir(site.db()).unwrap();

    fs::write(site.db(), "").unwrap();
    let no_table =
        "DB: has no table `backends`; create it with `edgeproxy route add`, or name the right file with --db";
    assert_eq!(message(&site), no_table);
    site.sql("CREATE TABLE other (x)");
    assert_eq!(message(&site), no_table);

    site.sql("CREATE TABLE backends (id, region, wg_ip, port, weight, soft_limit, hard_limit)");
    assert_eq!(
        message(&site),
        "DB: table `backends` lacks the columns app, healthy, deleted; add with ALTER TABLE backends ADD COLUMN"
    );
    site.sql("ALTER TABLE backends ADD COLUMN app; ALTER TABLE backends ADD COLUMN HEALTHY;");
    assert_eq!(
        message(&site),
        "DB: table `backends` lacks the column deleted; add with ALTER TABLE backends ADD COLUMN"
    );

    fs::write(site.db(), "<html>not found</html>".repeat(100)).unwrap();
    assert_eq!(
        message(&site),
        "DB: not a sound SQLite database: file is not a database; put back a copy, or move it away and import the \
         backends"
    );
}

#[test]
fn a_cut_off_or_overwritten_file_is_an_error_and_not_half_a_table() {
    let site = Site::new("DELETE");
    for n in 0..200 {
        site.sql(&insert(&format!("n{n}"), "fra", "'DE'"));
    }
    assert_eq!(load(&site).unwrap().backends.len(), 201);
    let whole = fs::read(site.db()).unwrap();
    fs::write(site.db(), &whole[..whole.len() / 2]).unwrap();
    assert!(matches!(load(&site), Err(StoreError::Damaged { .. })), "{:?}", load(&site));

    let mut overwritten = whole;
    let middle = overwritten.len() / 2;
    overwritten[4096..middle].fill(0xa5);
    fs::write(site.db(), &overwritten).unwrap();
    assert!(matches!(load(&site), Err(StoreError::Damaged { .. })), "{:?}", load(&site));
}

#[test]
fn an_exclusive_lock_is_waited_for_and_then_named() {
    let site = Site::new("DELETE");
    let mut holder = site.shell();
    let mut stdin = holder.stdin.take().unwrap();
    writeln!(stdin, "BEGIN EXCLUSIVE;\n.shell echo held").unwrap();
    wait_for_line(&mut holder);
    let began = std::time::Instant::now();
    assert_eq!(message(&site), "DB: locked by another program for too long; end its transaction");
    let waited = began.elapsed().as_millis();
    assert!((900..3000).contains(&waited), "{waited} ms");
    drop(stdin);
    holder.wait().unwrap();
    assert!(load(&site).is_ok());
}

fn wait_for_line(child: &mut std::process::Child) {
    use std::io::{BufRead, BufReader};
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
}

#[test]
fn only_committed_rows_are_seen() {
    let site = Site::new("WAL");
    let mut writer = site.shell();
    let mut stdin = writer.stdin.take().unwrap();
    writeln!(stdin, "BEGIN IMMEDIATE;\n{}\n.shell echo written", insert("b2", "fra", "'DE'")).unwrap();
    wait_for_line(&mut writer);
    assert_eq!(load(&site).unwrap().backends.len(), 1);
    writeln!(stdin, "COMMIT;\n.shell echo done").unwrap();
    wait_for_line(&mut writer);
    assert_eq!(load(&site).unwrap().backends.len(), 2);
    drop(stdin);
    writer.wait().unwrap();
}

#[test]
fn what_a_crashed_writer_left_is_rolled_back() {
    let site = Site::new("DELETE");
    let mut writer = site.shell();
    let mut stdin = writer.stdin.take().unwrap();
    // A cache of one page makes the uncommitted rows reach the file.
    writeln!(stdin, "PRAGMA cache_size=1; BEGIN; UPDATE backends SET weight = 7;").unwrap();
    for n in 0..500 {
        writeln!(stdin, "{}", insert(&format!("n{n}"), "fra", "'DE'")).unwrap();
    }
    writeln!(stdin, ".shell echo written").unwrap();
    wait_for_line(&mut writer);
    writer.kill().unwrap();
    writer.wait().unwrap();
    assert!(site.path("routing.db-journal").exists());
    let loaded = load(&site).unwrap();
    assert_eq!((loaded.backends.len(), loaded.backends[0].limits.weight), (1, 1));
}

#[test]
fn views_links_and_odd_names_are_read_too() {
    let site = Site::empty();
    site.sql(&format!(
        "{} {}",
        WITH_COUNTRY.replace("TABLE backends", "TABLE mine"),
        "CREATE VIEW backends AS SELECT * FROM mine;"
    ));
    site.sql("INSERT INTO mine VALUES ('b1', 'web', 'fra', 'DE', '10.0.0.1', 80, 1, 1, 10, 20, 0), (NULL, 'web', 'fra', 'DE', '10.0.0.1', 80, 1, 1, 10, 20, 0)");
    let loaded = load(&site).unwrap();
    assert_eq!((loaded.backends.len(), loaded.rejected[0].id.as_str()), (1, "row 1"));

    let odd = site.path("a ?&%#é.db");
    fs::rename(site.db(), &odd).unwrap();
    symlink(&odd, site.db()).unwrap();
    assert_eq!(load(&site).unwrap(), loaded);
}

/// A table that others own, in a directory of theirs, is read without a word to it.
#[test]
fn reading_is_enough_to_read() {
    for mode in ["DELETE", "WAL"] {
        let site = Site::new(mode);
        let directory = site.db().parent().unwrap().to_owned();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o555)).unwrap();
        let db = site.db();
        let (loaded, edited) = as_nobody(move || {
            let edited = RoutingEditor::open(&db).unwrap().remove(&["b1"]);
            (RoutingDb::open(&db).and_then(|db| db.load()), edited)
        });
        assert_eq!(loaded.unwrap().backends.len(), 1, "{mode}");
        assert!(matches!(edited, Err(EditError::Store(StoreError::Unwritable { .. }))), "{edited:?}");

        fs::set_permissions(site.db(), fs::Permissions::from_mode(0o000)).unwrap();
        let db = site.db();
        let loaded = as_nobody(move || RoutingDb::open(&db).and_then(|db| db.load()));
        let message = loaded.unwrap_err().to_string();
        assert!(message.contains("routing.db: cannot be read: Permission denied"), "{message}");
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// Runs `work` in a thread without the rights of root, which no permission binds.
fn as_nobody<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(move || {
        if rustix::process::getuid().is_root() {
            rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65534)).unwrap();
        }
        work()
    });
    thread.join().unwrap()
}
