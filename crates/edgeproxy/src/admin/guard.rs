//! Who may use the API: whoever has the token, or one for peers; without a token, programs on this machine, but no page
//! in a browser.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Api;
use super::acceptor::From;
use super::caller::{self, Caller, Known};
use super::problem::Problem;
use crate::config::{Role, Scope};

/// What tools generate clients from; it tells nothing about this machine.
const DESCRIPTION: &str = "/api/v1/openapi.json";
/// Asked by balancers and supervisors under whatever name they know this machine by.
const HEALTH: [&str; 3] = ["/healthz", "/health", "/readyz"];

/// What works on a routing table.
const OF_ROUTING: [&str; 4] = ["/api/v1/backends", "/api/v1/register", "/api/v1/heartbeat", "/api/v1/explain"];

/// What tokens for peers open.
const OF_PEERS: &str = "/api/v1/peers";

/// Lets the request in, or says why not.
pub(super) async fn admit(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let is_gateway = api.running.config.role == Role::Gateway;
    let path = request.uri().path();
    let of_peers = path.starts_with(OF_PEERS);
    let of_routing = OF_ROUTING.iter().any(|of_routing| path.starts_with(of_routing));
    let is_create = path == OF_PEERS && request.method() == Method::POST;
    let response = match check(&api, &request) {
        Ok(_) if is_gateway && of_routing => {
            Problem::unknown("a gateway has no routing table; ask a proxy".to_owned()).into_response()
        }
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    };
    if of_peers {
        api.running.peer_metrics.answered(is_create, response.status(), began.elapsed());
    }
    response
}

fn check(api: &Api, request: &Request) -> Result<Caller, Problem> {
    let (path, headers) = (request.uri().path(), request.headers());
    let from = request.extensions().get().map(|From(from)| *from);
    let is_open = !path.starts_with("/api/") || path == DESCRIPTION;
    let of_peers = path.starts_with(OF_PEERS);
    let has_token = api.running.config.admin.token.is_some();
    if is_open || !(has_token || (of_peers && !api.tokens.is_empty())) {
        if !has_token && !HEALTH.contains(&path) {
            check_origin(headers)?;
        }
        return Ok(Caller::anybody(from));
    }
    match caller::look_up(&api.running.config, &api.tokens, headers) {
        Known::Admin => Ok(Caller::admin(from)),
        Known::Token(token) if of_peers => {
            let caller = Caller::holder(token, from);
            // The least that any request of this kind needs; the endpoints say what else.
            let reads = [Method::GET, Method::HEAD].contains(request.method());
            caller.needs(if reads { Scope::Read } else { Scope::Create })?;
            Ok(caller)
        }
        Known::Token(_) => {
            Err(Problem::forbidden("this is a token for /api/v1/peers; the rest needs the one of admin.token_file"))
        }
        Known::Nothing => Err(Problem::token_needed(match (of_peers && !api.tokens.is_empty(), has_token) {
            (true, true) => "a gateway.token or of admin.token_file",
            (true, false) => "a gateway.token",
            (false, _) => "admin.token_file",
        })),
    }
}

/// A page from elsewhere can make a browser send requests to a loopback address. It cannot hide that it did: the
/// browser adds the page's origin, and where the page's own name was made to point at loopback (DNS rebinding), that
/// name is the `Host`.
fn check_origin(headers: &HeaderMap) -> Result<(), Problem> {
    let refused = |what: &str| {
        let hint = "this API has no token, so it serves programs on this machine only; set admin.token_file";
        Err(Problem::new(StatusCode::FORBIDDEN, format!("{what}: {hint}")))
    };
    let Some(host) = headers.get(header::HOST) else {
        return if headers.contains_key(header::ORIGIN) {
            refused("a browser's request without a Host")
        } else {
            Ok(())
        };
    };
    let host = host.to_str().unwrap_or_default();
    if !is_local_name(host) {
        return refused("the Host header is neither an IP address nor localhost");
    }
    match headers.get(header::ORIGIN).map(|origin| origin.to_str().unwrap_or_default()) {
        Some(origin) if origin.split_once("://").is_none_or(|(_, of)| !of.eq_ignore_ascii_case(host)) => {
            refused("the request comes from a web page of another origin")
        }
        _ => Ok(()),
    }
}

/// A name that no DNS server has a say in.
fn is_local_name(host: &str) -> bool {
    let without_port = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        _ => host,
    };
    let in_brackets = without_port.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    without_port.eq_ignore_ascii_case("localhost")
        || without_port.parse::<IpAddr>().is_ok()
        || in_brackets.is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_local_names() {
        for host in ["127.0.0.1:9090", "127.0.0.1", "localhost", "LocalHost:80", "[::1]:9090", "[::1]", "10.0.0.1"] {
            assert!(is_local_name(host), "{host}");
        }
        let others =
            ["", ":80", "evil.example", "evil.example:9090", "localhost.evil.example", "127.0.0.1.evil.example", "[x]"];
        for host in others {
            assert!(!is_local_name(host), "{host}");
        }
    }

    #[test]
    fn a_page_of_another_origin_is_refused() {
        let passes = |host: &'static str, origin: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static(host));
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            }
            check_origin(&headers).is_ok()
        };
        assert!(passes("127.0.0.1:9090", None));
        assert!(passes("127.0.0.1:9090", Some("http://127.0.0.1:9090")));
        for origin in ["http://evil.example", "null", "http://127.0.0.1:8080", "http://localhost:9090", ""] {
            assert!(!passes("127.0.0.1:9090", Some(origin)), "{origin}");
        }
        assert!(!passes("evil.example:9090", Some("http://evil.example:9090")), "rebound name");
    }
}
