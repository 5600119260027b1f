//! Who may use the API.

use crate::pop::{Backend, Pop};

const LIST: &str = "/api/v1/backends";

#[test]
fn with_a_token_the_api_needs_it() {
    let pop = Pop::start_with(Some("s3cret"), &[]);
    assert_eq!(pop.get(LIST).status, 200);
    assert_eq!(pop.ask("GET", LIST, &["Authorization: bearer s3cret"], "").status, 200);
    for wrong in ["", "Bearer", "Bearer ", "Bearer wrong", "Bearer s3cret2", "Basic s3cret", "s3cret"] {
        for path in [LIST, "/api/v1/connections", "/api/v1/nothing", "/api/v1/explain?client=10.0.0.1"] {
            let reply = pop.ask("GET", path, &[&format!("Authorization: {wrong}")], "");
            assert_eq!(reply.status, 401, "{wrong:?} {path}");
            assert_eq!(reply.header("www-authenticate"), Some("Bearer realm=\"edgeproxy\""));
            assert_eq!(reply.header("content-type"), Some("application/problem+json"));
        }
    }
    for open in ["/healthz", "/health", "/metrics", "/api/v1/openapi.json", "/"] {
        assert_eq!(pop.ask("GET", open, &["Authorization: none"], "").status, 200, "{open}");
    }
    assert_eq!(pop.ask("GET", "/readyz", &["Authorization: none"], "").status, 503);
    // The token is proof enough: reverse proxies and names are fine.
    assert_eq!(pop.ask("GET", LIST, &["Host: edge.example", "Authorization: Bearer s3cret"], "").status, 200);
}

#[test]
fn the_commands_find_the_token_that_is_named_to_them() {
    let pop = Pop::start_with(Some("s3cret"), &[]);
    pop.add("b1", "fra", &Backend::start("b1"));
    let (admin, file) = (pop.admin.to_string(), pop.token_file());
    let drain = ["drain", "backend", "b1"];
    let explain = ["route", "explain", "203.0.113.7", "--admin", &admin];
    for command in [&drain[..], &explain] {
        let without = pop.command(command);
        assert_eq!(without.status.code(), Some(1), "{without:?}");
        assert!(
            String::from_utf8_lossy(&without.stderr).contains("the admin API refuses: Unauthorized"),
            "{without:?}"
        );
        let by_flag = pop.command(&[command, &["--token-file", &file]].concat());
        assert!(by_flag.status.success(), "{by_flag:?}");
        let by_variable = pop.command_with(command, &[("EDGEPROXY_ADMIN_TOKEN_FILE", &file)]);
        assert!(by_variable.status.success(), "{by_variable:?}");
    }
    // The configuration says both where and by which token; a variable that is set to nothing is not set.
    let file = pop.configuration("edgeproxy.toml");
    let by_configuration = pop.command_with(&drain, &[("EDGEPROXY_ADMIN_ADDR", ""), ("EDGEPROXY_CONFIG", &file)]);
    assert!(by_configuration.status.success(), "{by_configuration:?}");
}

#[test]
fn without_a_token_no_web_page_gets_in() {
    let pop = Pop::start();
    let status = |headers: &[&str], path: &str| pop.ask("GET", path, headers, "").status;
    assert_eq!(status(&[], LIST), 200);
    assert_eq!(status(&[&format!("Origin: http://{}", pop.admin)], LIST), 200);
    assert_eq!(status(&["Host: localhost:9090"], LIST), 200);
    for path in [LIST, "/metrics", "/api/v1/openapi.json", "/"] {
        assert_eq!(status(&["Origin: http://evil.example"], path), 403, "{path}");
        assert_eq!(status(&["Host: evil.example"], path), 403, "{path}");
        assert_eq!(status(&["Host: evil.example", "Origin: http://evil.example"], path), 403, "{path}");
    }
    assert_eq!(status(&["Host: edge-1.internal"], "/healthz"), 200, "balancers ask by any name");
    let reply = pop.ask("GET", LIST, &["Origin: null"], "");
    assert_eq!((reply.status, reply.header("content-type")), (403, Some("application/problem+json")));
}

#[test]
fn the_description_is_served() {
    let pop = Pop::start();
    let document = pop.get("/api/v1/openapi.json").expect(200);
    assert_eq!(document["openapi"], "3.1.0");
}
