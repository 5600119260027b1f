use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use serde_json::{Value, json};

use super::*;

/// Answers one request with these bytes; gives what was asked.
fn served(answer: &'static str, token: Option<&Path>, body: Option<&Value>) -> (Result<Value, AdminError>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let client = AdminClient::new(&format!("http://{address}/"), token).unwrap();
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                let read = stream.read(&mut buffer).unwrap();
                request.extend(&buffer[..read]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(request).unwrap()
        });
        let outcome = client.send("POST", "/api/v1/drain?x=1", body);
        (outcome, server.join().unwrap())
    })
}

fn answered(answer: &'static str) -> Result<Value, AdminError> {
    served(answer, None, None).0
}

fn message(answer: &'static str) -> String {
    let error = answered(answer).unwrap_err().to_string();
    error.split_once(": ").unwrap().1.to_owned()
}

#[test]
fn a_request_says_all_there_is_to_say() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    fs::write(&token, " s3cret \nsecond line\n").unwrap();
    let body = json!({"scope": "self"});
    let (outcome, request) = served("HTTP/1.1 204 No Content\r\n\r\n", Some(&token), Some(&body));
    assert_eq!(outcome, Ok(Value::Null));
    assert!(request.starts_with("POST /api/v1/drain?x=1 HTTP/1.1\r\nHost: 127.0.0.1:"), "{request}");
    assert!(request.contains("\r\nAuthorization: Bearer s3cret\r\n"), "{request}");
    assert!(request.contains("\r\nContent-Length: 16\r\n"), "{request}");
}

#[test]
fn bodies_of_all_three_framings_are_read() {
    let body = Ok(json!({"a": [1, 2]}));
    assert_eq!(answered("HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"a\":[1,2]}trailing"), body);
    assert_eq!(
        answered(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
             4;x=y\r\n{\"a\"\r\n7\r\n:[1,2]}\r\n0\r\n\r\n"
        ),
        body
    );
    assert_eq!(answered("HTTP/1.0 200 OK\r\n\r\n{\"a\":[1,2]}"), body);
}

#[test]
fn a_refusal_is_told_in_the_problems_words() {
    assert_eq!(
        message(
            "HTTP/1.1 404 Not Found\r\nContent-Length: 43\r\n\r\n{\"title\":\"Not found\",\"detail\":\"no backend\"}\n"
        ),
        "the admin API answers 404: Not found: no backend"
    );
    assert_eq!(
        message("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"),
        "the admin API refuses: Unauthorized; name the file that admin.token_file names with --token-file"
    );
    assert_eq!(message("HTTP/1.1 500 Oh dear\r\n\r\n<html>"), "the admin API answers 500: Oh dear");
}

#[test]
fn another_service_is_told_apart() {
    for (answer, reason) in [
        ("SSH-2.0-OpenSSH_9.2\r\n", "it is not HTTP"),
        ("\u{fffd}\0\r\n", "it is not HTTP"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<htm", "its answer is cut off"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", "its answer is too long"),
        ("HTTP/1.1 200 OK\r\nContent-Length: no\r\n\r\n", "its length is not a number"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", "a chunk has no size"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}}\r\n", "a chunk is longer than its size"),
        ("HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", "a header is malformed"),
    ] {
        let expected = format!("this is no admin API of edgeproxy: {reason}; its address is admin.listen");
        assert_eq!(message(answer), expected, "{answer}");
    }
    assert!(message("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>").contains("its answer is not JSON"));
    assert!(message("").starts_with("no answer from the admin API: unexpected end of file; is `edgeproxy proxy`"));
}

#[test]
fn nobody_there_says_where_to_look() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let error = AdminClient::new(&closed, None).unwrap().send("GET", "/", None).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{closed}: no answer from the admin API: Connection refused")), "{error}");
    assert!(
        error.ends_with("is `edgeproxy proxy` or `gateway` running there? Its address is the setting admin.listen"),
        "{error}"
    );
    let error = AdminClient::new("nonsense", None).unwrap().send("GET", "/", None).unwrap_err();
    assert!(matches!(error, AdminError::Unreachable { .. }), "{error}");
}

#[test]
fn a_token_file_of_no_use_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    let error = |path: &Path| AdminClient::new("x:1", Some(path)).unwrap_err().to_string();
    assert!(error(&token).contains("token: cannot be read: No such file"), "{}", error(&token));
    fs::write(&token, "\n").unwrap();
    assert!(error(&token).ends_with("token: is empty; its first line must be the token"));
    fs::write(&token, "a b").unwrap();
    assert!(error(&token).contains("holds characters that no token has"));
}

#[test]
fn all_addresses_are_reached_by_loopback() {
    assert_eq!(reachable("0.0.0.0:9090".parse().unwrap()).to_string(), "127.0.0.1:9090");
    assert_eq!(reachable("[::]:9090".parse().unwrap()).to_string(), "[::1]:9090");
    assert_eq!(encoded("a b/ü&c"), "a%20b%2F%C3%BC%26c");
}
