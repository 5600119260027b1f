//! `edgeproxy route` as an operator types it, looked at with the `sqlite3` tool.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use tempfile::TempDir;

/// Held by the PTB in Braunschweig for decades.
const GERMAN_CLIENT: &str = "192.53.103.108";

struct Site {
    dir: TempDir,
}

/// What a command left: exit code, standard output, standard error.
struct Done {
    code: i32,
    out: String,
    err: String,
}

impl Site {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edgeproxy"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("EDGEPROXY_") {
                command.env_remove(name);
            }
        }
        command.current_dir(self.dir.path()).arg("route").args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Done {
        Done::of(&mut self.command(args))
    }

    /// Runs what must succeed.
    fn ok(&self, args: &[&str]) -> String {
        let done = self.run(args);
        assert_eq!(done.code, 0, "{args:?}: {}{}", done.out, done.err);
        done.out
    }

    fn sql(&self, sql: &str) -> String {
        let output = Command::new("sqlite3").arg(self.path("routing.db")).arg(sql).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn with_three() -> Self {
        let site = Self::new();
        site.ok(&["add", "fra-1", "--region", "fra", "--addr", "10.50.1.1:8080", "--weight", "2"]);
        site.ok(&["add", "iad-1", "--region", "iad", "--addr", "10.50.2.1:8080", "--app", "web", "--soft", "1000"]);
        site.ok(&["add", "nrt-1", "--region", "nrt", "--addr", "[fd00::1]:80", "--healthy", "false"]);
        site
    }
}

impl Done {
    fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }

    fn failed(&self, code: i32, words: &str) {
        assert_eq!((self.code, self.out.as_str()), (code, ""), "{}", self.err);
        assert!(self.err.contains(words), "{:?} is not in: {}", words, self.err);
    }
}

#[test]
fn a_backend_is_added_changed_and_removed() {
    let site = Site::new();
    let done = site.run(&["add", "b1", "--region", "fra", "--addr", "10.50.1.1:8080"]);
    assert_eq!(
        done.out,
        "added b1: 10.50.1.1:8080 in fra (Frankfurt, DE), country DE, app default, weight 1, soft 100, hard 150\n"
    );
    assert_eq!((done.code, done.err.as_str()), (0, "note: routing.db is new\n"));
    assert_eq!(site.sql("SELECT * FROM backends"), "b1|default|fra|DE|10.50.1.1|8080|1|1|100|150|0|0|");

    site.run(&["add", "b1", "--region", "gru", "--addr", "10.0.0.1:1"])
        .failed(1, "error: backend \"b1\" exists in routing.db; change it with `edgeproxy route set`\n");
    assert_eq!(
        site.ok(&["set", "b1", "--weight", "0", "--country", "", "--drained", "true", "--addr", "[fd00::1]:9"]),
        "set b1: [fd00::1]:9 in fra (Frankfurt, DE), no country, app default, weight 0, soft 100, hard 150\n"
    );
    assert_eq!(site.sql("SELECT * FROM backends"), "b1|default|fra||fd00::1|9|1|0|100|150|0|1|");

    site.run(&["rm", "b1", "b2"]).failed(1, "no backend \"b2\" in routing.db; `edgeproxy route list` shows");
    assert_eq!(site.ok(&["rm", "b1"]), "removed b1\n");
    assert_eq!(site.sql("SELECT id, deleted FROM backends"), "b1|1");
    site.run(&["set", "b1", "--weight", "1"]).failed(1, "no backend \"b1\"");
}

#[test]
fn mistakes_are_told_before_anything_is_written() {
    let site = Site::with_three();
    let before = site.sql(".dump");
    site.run(&["add", "x", "--region", "fra", "--addr", "host:80"]).failed(2, "--addr <IP:PORT>");
    site.run(&["add", "x", "--region", "fra"]).failed(2, "--addr");
    site.run(&["add", "", "--region", "fra", "--addr", "10.0.0.1:80"]).failed(2, "must not be empty");
    site.run(&["set", "fra-1", "--country", "Germany"]).failed(2, "is not an ISO 3166-1 alpha-2 country code");
    site.run(&["set", "fra-1", "--healthy", "yes"]).failed(2, "[possible values: true, false]");
    site.run(&["set", "fra-1"]).failed(2, "error: nothing to set; name what to change, such as --weight 2");
    site.run(&["set", "fra-1", "--weight", "-1"]).failed(1, "backend \"fra-1\": weight -1 is not in 0 to 1000");
    site.run(&["set", "fra-1", "--addr", "0.0.0.0:80"]).failed(1, "wg_ip 0.0.0.0 cannot be dialled");
    site.run(&["add", "x", "--region", "fra", "--addr", "10.0.0.1:0"]).failed(1, "port 0 is not in 1 to 65535");
    site.run(&["rm"]).failed(2, "<ID>");
    assert_eq!(site.sql(".dump"), before);
}

#[test]
fn the_table_is_named_by_flag_or_environment_or_configuration() {
    let site = Site::new();
    site.ok(&["add", "b1", "--region", "fra", "--addr", "10.0.0.1:80", "--db", "other.db"]);
    site.run(&["list"]).failed(1, "routing.db: no such file; create it with `edgeproxy route add`");
    let by_variable = Done::of(site.command(&["list"]).env("EDGEPROXY_DB_PATH", "other.db"));
    assert!(by_variable.out.contains("b1"), "{}", by_variable.err);

    site.file(
        "edgeproxy.toml",
        "region = \"fra\"\n[routing]\ndb = \"other.db\"\n[[routing.region]]\ncode = \"bcn\"\nlatitude = 41.39\n\
         longitude = 2.17\ncountry = \"ES\"\n",
    );
    let add = ["add", "b2", "--region", "bcn", "--addr", "10.0.0.2:80"];
    let done = site.run(&[&add[..], &["-c", "edgeproxy.toml"]].concat());
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    assert!(done.out.contains("in bcn (ES), country ES"), "{}", done.out);
    site.ok(&["rm", "b2", "--db", "other.db"]);
    let done = site.run(&[&add[..], &["--db", "other.db"]].concat());
    assert_eq!(done.code, 0);
    assert!(done.err.starts_with("note: nothing is known of region \"bcn\""), "{}", done.err);

    site.file("edgeproxy.toml", "strange = 7\nnonsense = 1\n");
    let done = site.run(&["list", "-c", "edgeproxy.toml"]);
    assert_eq!((done.code, done.err.lines().count()), (2, 3), "{}", done.err);
}

#[test]
fn the_list_is_aligned_and_filtered() {
    let site = Site::with_three();
    site.ok(&["set", "fra-1", "--drained", "true"]);
    assert_eq!(
        site.ok(&["list"]),
        "\
id     app      region  country  address         state       weight  soft  hard
fra-1  default  fra     DE       10.50.1.1:8080  drained          2   100   150
iad-1  web      iad     US       10.50.2.1:8080  in service       1  1000   150
nrt-1  default  nrt     JP       [fd00::1]:80    unhealthy        1   100   150
"
    );
    assert_eq!(site.ok(&["list", "--app", "web"]).lines().count(), 2);
    assert_eq!(site.ok(&["list", "--region", "fra", "--app", "default"]).lines().count(), 2);
    let none = site.run(&["list", "--region", "gru"]);
    assert_eq!((none.code, none.out.as_str(), none.err.as_str()), (0, "", "note: routing.db holds no such backends\n"));

    site.sql("UPDATE backends SET port = 'http' WHERE id = 'iad-1'");
    let done = site.run(&["list"]);
    assert_eq!((done.code, done.out.lines().count()), (0, 3));
    assert_eq!(done.err, "routing.db: backend \"iad-1\": port is the text \"http\"; it must be a whole number\n");

    let json: serde_json::Value = serde_json::from_str(&site.ok(&["list", "--json"])).unwrap();
    assert_eq!(
        json["items"][0],
        serde_json::json!({"id": "fra-1", "app": "default", "region": "fra", "country": "DE", "wg_ip": "10.50.1.1",
            "port": 8080, "healthy": true, "drained": true, "weight": 2, "soft_limit": 100, "hard_limit": 150,
            "heartbeat_secs": null, "state": "drained"})
    );
    assert_eq!(json["rejected"][0]["field"], "port");
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let site = Site::with_three();
    let mut child = site.command(&["list"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn an_answer_that_cannot_be_written_is_a_failure() {
    let site = Site::with_three();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = site.command(&["list", "--json"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write: No space left"), "{output:?}");
}

const CSV: &str =
    "id,region,wg_ip,port,weight,deleted\nb1,fra,10.0.0.1,80,,0\nb2,gru,10.0.0.2,81,3,0\nb3,gru,x,1,1,1\n";

#[test]
fn an_import_of_csv_adds_and_changes() {
    let site = Site::new();
    site.file("in.csv", CSV);
    assert_eq!(
        site.ok(&["import", "in.csv"]),
        "routing.db: 2 added, 0 changed, 0 as before; 1 marked as deleted, left out\n"
    );
    assert_eq!(
        site.sql("SELECT * FROM backends"),
        "b1|default|fra|DE|10.0.0.1|80|1|1|100|150|0|0|\nb2|default|gru|BR|10.0.0.2|81|1|3|100|150|0|0|"
    );
    site.file("in.csv", &CSV.replace("81", "82"));
    let again = site.ok(&["import", "in.csv"]);
    assert!(again.starts_with("routing.db: 0 added, 1 changed, 1 as before"), "{again}");
}

#[test]
fn an_import_with_bad_rows_is_refused_whole() {
    let site = Site::new();
    site.file(
        "in.csv",
        &format!("{CSV}b4,\"two\nlines\",10.0.0.4,80,1,0\nb5,fra,10.0.0.5,0,1,0\nb6,fra\nb1,fra,10.0.0.1,1,1,0\n"),
    );
    let done = site.run(&["import", "in.csv"]);
    assert_eq!((done.code, done.out.as_str()), (1, ""));
    assert_eq!(
        done.err.lines().collect::<Vec<_>>(),
        [
            "in.csv:5: backend \"b4\": region \"two\\nlines\" holds a control character",
            "in.csv:7: backend \"b5\": port 0 is not in 1 to 65535",
            "in.csv:8: backend \"b6\": row has 2 values, the header has 6",
            "in.csv:9: backend \"b1\": id is that of an earlier row of the import",
            "error: in.csv: nothing was imported, as 4 of 6 rows are bad; mend them, or leave them out with --skip-bad",
        ]
    );
    assert_eq!(site.sql("SELECT count(*) FROM backends"), "0");
    assert!(site.ok(&["import", "in.csv", "--skip-bad"]).starts_with("routing.db: 2 added"));
}

#[test]
fn json_and_other_tables_are_imported() {
    let site = Site::with_three();
    // Nothing of it may come back as something: no country is not that of the region.
    site.ok(&["set", "fra-1", "--country", "", "--heartbeat", "30"]);
    let list = site.ok(&["list", "--json"]);
    site.file("list.json", &list);
    assert_eq!(site.ok(&["import", "list.json", "--db", "copy.db"]), "copy.db: 3 added, 0 changed, 0 as before\n");
    assert_eq!(site.ok(&["list", "--json", "--db", "copy.db"]), list);
    assert_eq!(site.ok(&["import", "routing.db", "--db", "other.db"]), "other.db: 3 added, 0 changed, 0 as before\n");
    assert_eq!(site.ok(&["list", "--json", "--db", "other.db"]), list);
    site.ok(&["rm", "nrt-1"]);
    assert_eq!(site.ok(&["import", "routing.db", "--db", "copy.db"]), "copy.db: 0 added, 0 changed, 2 as before\n");
    // What the copy says otherwise is taken back, also where it was empty.
    let other = ["set", "iad-1", "--country", "DE", "--heartbeat", "9", "--db"];
    for (file, copy) in [("routing.db", "copy.db"), ("list.json", "other.db")] {
        site.ok(&[&other[..], &[copy]].concat());
        let done = site.ok(&["import", file, "--db", copy]);
        assert!(done.contains(" 0 added, 1 changed,"), "{done}");
    }
    assert_eq!(site.sql("SELECT count(*) FROM backends WHERE heartbeat_secs IS NOT NULL"), "1");

    site.file("bad.json", "[\n{\"id\": \"a\", \"region\": \"fra\", \"wg_ip\": \"10.0.0.1\"},\n[]]");
    let done = site.run(&["import", "bad.json"]);
    assert!(
        done.err.starts_with(
            "bad.json:2: backend \"a\": port is NULL; it must be a number from 1 to 65535\n\
         bad.json:3: backend \"line 3\": row is not an object of column names and values\n"
        ),
        "{}",
        done.err
    );

    let mut child = site.command(&["import", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(CSV.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().starts_with("routing.db: 2 added"));
}

#[test]
fn a_file_that_cannot_be_imported_is_named() {
    let site = Site::new();
    site.run(&["import", "none.csv"]).failed(1, "error: none.csv: cannot be read: No such file or directory");
    site.file("in", "");
    site.run(&["import", "in"]).failed(1, "error: in: is empty; give CSV with a header of column names");
    site.file("in", "id,prot\n");
    site.run(&["import", "in"]).failed(1, "in: line 1: there is no column \"prot\"; rename or remove it (the columns");
    site.file("in", "id\n\"b");
    site.run(&["import", "in"]).failed(1, "in: line 2: a quote is opened and never closed");
    fs::write(site.path("in"), [0xff, 0xfe, 0]).unwrap();
    site.run(&["import", "in"]).failed(1, "neither text in UTF-8 nor an SQLite database");
    site.file("in", "SQLite format 3\0 and then nothing more");
    site.run(&["import", "in"]).failed(1, "error: in: not a sound SQLite database");
    assert!(!site.path("routing.db").exists());
}

#[test]
fn explain_tells_where_a_client_goes_and_why() {
    let site = Site::with_three();
    let done = site.run(&["explain", GERMAN_CLIENT, "--pop", "iad"]);
    assert_eq!(done.code, 0);
    assert!(done.err.starts_with("note: from the table alone, without connections"), "{}", done.err);
    let lines: Vec<&str> = done.out.lines().collect();
    assert_eq!(
        lines[0],
        format!("client {GERMAN_CLIENT}: Germany (DE), part of the world eu, no finer than the country")
    );
    assert_eq!(lines[1], "reached iad, policy geo");
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(lines[3])[..8], [">", "fra-1", "default", "fra", "DE", "same", "country", &words(lines[3])[7]]);
    assert!(lines[3].ends_with("chosen") && lines[4].ends_with("eligible") && lines[5].ends_with("unhealthy"));
    assert!(lines[4].contains("region of this POP"), "{}", lines[4]);

    let score = site.ok(&["explain", GERMAN_CLIENT, "--pop", "iad", "--policy", "score", "--app", "web", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&score).unwrap();
    assert_eq!(
        (&json["policy"], &json["pop"], &json["client"]["country"]),
        (&"score".into(), &"iad".into(), &"DE".into())
    );
    assert_eq!((&json["candidates"][0]["id"], &json["candidates"][0]["standing"]), (&"iad-1".into(), &"chosen".into()));
    assert_eq!(json["candidates"][1]["standing"], "other_app");

    let private = site.ok(&["explain", "::ffff:10.0.0.1", "--pop", "iad"]);
    assert!(private.starts_with("client 10.0.0.1: nothing is known of where it is\n"), "{private}");
    let nobody = site.ok(&["explain", GERMAN_CLIENT, "--pop", "iad", "--app", "mail"]);
    assert!(nobody.ends_with("refused: no backend can take this client\n"), "{nobody}");
}

#[test]
fn explain_needs_to_know_where_it_stands() {
    let site = Site::with_three();
    site.run(&["explain", GERMAN_CLIENT]).failed(2, "which machine has the client reached? Give its region by --pop");
    let by_variable = Done::of(site.command(&["explain", GERMAN_CLIENT]).env("EDGEPROXY_REGION", "nrt"));
    assert!(by_variable.out.contains("reached nrt,"), "{}", by_variable.err);
    site.run(&["explain", "nobody", "--pop", "fra"]).failed(2, "<CLIENT_IP>");
    site.run(&["explain", GERMAN_CLIENT, "--pop", "fra", "--policy", "fast"]).failed(2, "geo, score, latency");
    site.file("edgeproxy.toml", "region = \"fra\"\n[[listener]]\npolicy = \"score\"\napp = \"web\"\n");
    let json = site.ok(&["explain", GERMAN_CLIENT, "-c", "edgeproxy.toml", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["policy"], &json["candidates"][0]["id"]), (&"score".into(), &"iad-1".into()));
    assert_eq!(json["candidates"][1]["standing"], "other_app", "as the first listener has it");
    site.run(&["explain", GERMAN_CLIENT, "--pop", "fra", "--admin", "x:1"]).failed(2, "cannot be used with");
    site.file("asn.mmdb", "no geo table");
    let geoip = ["explain", GERMAN_CLIENT, "--pop", "fra", "--geoip", "asn.mmdb"];
    site.run(&geoip).failed(1, "asn.mmdb: not a usable MaxMind DB file");
}

#[test]
fn explain_asks_a_running_proxy() {
    let site = Site::with_three();
    site.file("token", "s3cret\n");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let ask = ["explain", GERMAN_CLIENT, "--app", "a b", "--policy", "latency", "--admin", &address];
    // The offline answer's own shape, with what only a running proxy knows.
    let offline = site.ok(&["explain", GERMAN_CLIENT, "--pop", "fra", "--policy", "latency", "--json"]);
    let mut answer: serde_json::Value = serde_json::from_str(&offline).unwrap();
    answer["candidates"][0]["connections"] = 42.into();
    answer["candidates"][0]["round_trip_ms"] = 7.25.into();
    let body = answer.to_string();
    let server = thread::spawn(move || {
        let mut requests = Vec::new();
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 4096];
            let read = stream.read(&mut buffer).unwrap();
            requests.push(String::from_utf8_lossy(&buffer[..read]).into_owned());
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes()).unwrap();
        }
        requests
    });
    let done = site.run(&[&ask[..], &["--token-file", "token"]].concat());
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    assert!(done.out.contains(" 42 ") && done.out.contains(" 7.2"), "{}", done.out);
    let json = site.ok(&[&ask[..], &["--json"]].concat());
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap(), answer);
    let requests = server.join().unwrap();
    let path = format!("GET /api/v1/explain?client={GERMAN_CLIENT}&policy=latency&app=a%20b HTTP/1.1\r\n");
    assert!(requests[0].starts_with(&path), "{}", requests[0]);
    assert!(requests[0].contains("Authorization: Bearer s3cret\r\n"));
    assert!(!requests[1].contains("Authorization"));
    site.run(&ask).failed(1, "no answer from the admin API: Connection refused");
}
