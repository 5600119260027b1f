//! The list of endpoints, kept while the router is made of them.

use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::routing::{self, MethodRouter};

use super::Api;

/// Endpoints and the router that serves them.
#[derive(Default)]
pub(super) struct Endpoints {
    router: Router<Arc<Api>>,
    list: Vec<(&'static str, &'static str)>,
}

impl Endpoints {
    pub(super) fn get<T: 'static>(self, path: &'static str, handler: impl Handler<T, Arc<Api>>) -> Self {
        self.with("GET", path, routing::get(handler))
    }

    pub(super) fn post<T: 'static>(self, path: &'static str, handler: impl Handler<T, Arc<Api>>) -> Self {
        self.with("POST", path, routing::post(handler))
    }

    pub(super) fn patch<T: 'static>(self, path: &'static str, handler: impl Handler<T, Arc<Api>>) -> Self {
        self.with("PATCH", path, routing::patch(handler))
    }

    pub(super) fn delete<T: 'static>(self, path: &'static str, handler: impl Handler<T, Arc<Api>>) -> Self {
        self.with("DELETE", path, routing::delete(handler))
    }

    fn with(mut self, method: &'static str, path: &'static str, handler: MethodRouter<Arc<Api>>) -> Self {
        self.list.push((method, path));
        Self { router: self.router.route(path, handler), list: self.list }
    }

    /// Method and path of each.
    #[cfg(test)]
    pub(super) fn list(&self) -> &[(&'static str, &'static str)] {
        &self.list
    }

    /// The router; at `/` it tells what there is.
    pub(super) fn into_router(self) -> Router<Arc<Api>> {
        let lines = self.list.iter().map(|(method, path)| format!("{method:<6} {path}\n"));
        let contents = format!("edgeproxy {}\n\n{}", env!("CARGO_PKG_VERSION"), lines.collect::<String>());
        self.router.route("/", routing::get(|| async { contents }))
    }
}
