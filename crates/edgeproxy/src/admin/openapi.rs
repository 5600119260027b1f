//! The API's description, for people and for tools that generate clients.

use axum::http::header;
use axum::response::IntoResponse;

const DOCUMENT: &str = include_str!("openapi.json");

pub(super) async fn document() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::super::endpoints;
    use super::DOCUMENT;

    #[test]
    fn describes_the_endpoints_there_are() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        let described: BTreeSet<(String, String)> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, methods)| {
                let methods = methods.as_object().unwrap().keys().filter(|key| *key != "parameters");
                methods.map(move |method| (method.to_ascii_uppercase(), path.clone()))
            })
            .collect();
        let endpoints = endpoints();
        let served: BTreeSet<(String, String)> =
            endpoints.list().iter().map(|&(method, path)| (method.to_owned(), path.to_owned())).collect();
        assert_eq!(described, served);
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }
}
