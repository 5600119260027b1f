//! Who asks, what their token opens, and how much of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header;
use axum::http::request::Parts;

use super::allowance::Allowance;
use super::problem::Problem;
use crate::config::{Config, Digest, Scope, TokenSettings};

/// As the audit lines call whoever has the token that opens everything. No other token can be called so.
const ADMIN: &str = "admin.token_file";

/// Whoever sent a request.
#[derive(Clone)]
pub(super) struct Caller {
    credential: Credential,
    /// Where it came from.
    pub(super) from: SocketAddr,
}

#[derive(Clone)]
enum Credential {
    /// None is needed.
    None,
    Admin,
    Token(Arc<Token>),
}

/// A token for peers, and what was done with it.
pub(super) struct Token {
    settings: TokenSettings,
    allowance: Allowance,
}

impl Token {
    /// Those of the configuration.
    pub(super) fn all(config: &Config) -> Vec<Arc<Self>> {
        let token = |settings: &TokenSettings| {
            let allowance = Allowance::new(settings.rate, Instant::now());
            Arc::new(Self { settings: settings.clone(), allowance })
        };
        config.gateway.iter().flat_map(|gateway| &gateway.tokens).map(token).collect()
    }
}

/// What a request has in its header, as far as it is known.
pub(super) enum Known {
    Admin,
    Token(Arc<Token>),
    Nothing,
}

/// Looks the request's token up: in all of them, so that the time this takes says nothing.
pub(super) fn look_up(config: &Config, tokens: &[Arc<Token>], headers: &HeaderMap) -> Known {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer =
        given.and_then(|given| given.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let Some((_, candidate)) = bearer else { return Known::Nothing };
    let digest = Digest::of(candidate.trim());
    let mut known = Known::Nothing;
    for token in tokens {
        if token.settings.secret.is(&digest) {
            known = Known::Token(Arc::clone(token));
        }
    }
    match &config.admin.token {
        Some(token) if token.is(&digest) => Known::Admin,
        _ => known,
    }
}

impl Caller {
    /// Without a token, as none is needed.
    pub(super) fn anybody(from: Option<SocketAddr>) -> Self {
        Self::with(Credential::None, from)
    }

    /// With the token that opens everything.
    pub(super) fn admin(from: Option<SocketAddr>) -> Self {
        Self::with(Credential::Admin, from)
    }

    /// With a token for peers.
    pub(super) fn holder(token: Arc<Token>, from: Option<SocketAddr>) -> Self {
        Self::with(Credential::Token(token), from)
    }

    fn with(credential: Credential, from: Option<SocketAddr>) -> Self {
        Self { credential, from: from.unwrap_or_else(|| (Ipv4Addr::UNSPECIFIED, 0).into()) }
    }

    fn token(&self) -> Option<&Token> {
        match &self.credential {
            Credential::Token(token) => Some(token),
            Credential::None | Credential::Admin => None,
        }
    }

    /// The name of its token, as audit lines have it.
    pub(super) fn name(&self) -> Option<&str> {
        match &self.credential {
            Credential::None => None,
            Credential::Admin => Some(ADMIN),
            Credential::Token(token) => Some(&token.settings.name),
        }
    }

    /// Whose a peer is that is created now.
    pub(super) fn as_owner(&self) -> Option<String> {
        self.token().map(|token| token.settings.name.clone())
    }

    /// # Errors
    /// 403: its token does not open this.
    pub(super) fn needs(&self, scope: Scope) -> Result<(), Problem> {
        let Some(token) = self.token().filter(|token| token.settings.scope < scope) else { return Ok(()) };
        let TokenSettings { name, scope: has, .. } = &token.settings;
        let (has, needed) = (has.word(), scope.word());
        tracing::info!(target: "audit", token = name, from = %self.from, scope = has, needed, "refused");
        Err(Problem::forbidden(format!("the token {name:?} has scope {has}; this needs scope {needed}")))
    }

    /// Whether peers of others are as open to it as its own.
    pub(super) fn manages(&self) -> bool {
        self.token().is_none_or(|token| token.settings.scope >= Scope::Manage)
    }

    /// Whether it may change a peer of this owner.
    pub(super) fn may_change(&self, owner: Option<&str>) -> bool {
        self.manages() || (owner.is_some() && owner == self.name())
    }

    /// Counts changes against what its token may do.
    ///
    /// # Errors
    /// 429: that is used up for now.
    pub(super) fn take(&self, changes: usize) -> Result<(), Problem> {
        let Some(token) = self.token() else { return Ok(()) };
        let changes = u32::try_from(changes.max(1)).unwrap_or(u32::MAX);
        token.allowance.take(changes, Instant::now()).map_err(|wait| {
            let TokenSettings { name, rate, .. } = &token.settings;
            Problem::too_many(
                format!("the token {name:?} may change {rate} peers a second; wait as Retry-After says"),
                wait,
            )
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get().cloned().ok_or_else(|| Problem::internal(&"nobody has said who asks"))
    }
}
