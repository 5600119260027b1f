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
    use std::sync::Arc;

    use edgeproxy_gateway::Shown;
    use edgeproxy_route::{Exclusions, Moment, Place, Policy, RawBackend, Regions, Request, TableBuilder, Wanted};
    use edgeproxy_store::peers::{PeerId, PeerRecord, PeerRow};
    use edgeproxy_tunnel::{PresharedKey, PublicKey, Tai64N};
    use serde::Serialize;
    use serde::de::DeserializeOwned;
    use serde_json::Value;

    use super::super::backend_fields::BackendFields;
    use super::super::backends::Item;
    use super::super::drain::Order;
    use super::super::endpoints;
    use super::super::peer_fields::PeerFields;
    use super::super::peers::{Collection, Item as PeerItem, Rotation};
    use super::super::registration::Registration;
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

    fn described(schema: &str) -> BTreeSet<String> {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        document["components"]["schemas"][schema]["properties"].as_object().unwrap().keys().cloned().collect()
    }

    fn shown(answer: &impl Serialize) -> BTreeSet<String> {
        serde_json::to_value(answer).unwrap().as_object().unwrap().keys().cloned().collect()
    }

    /// The fields that a strict request knows, from its complaint about a stranger.
    fn taken<T: DeserializeOwned>() -> BTreeSet<String> {
        let complaint = serde_json::from_str::<T>("{\"stranger\": 1}").err().unwrap().to_string();
        let (_, fields) = complaint.split_once("expected ").unwrap();
        fields.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn describes_the_fields_there_are() {
        let row = RawBackend {
            id: Some("b1".to_owned()),
            app: Some("web".to_owned()),
            region: Some("fra".to_owned()),
            wg_ip: Some("10.0.0.1".to_owned()),
            port: Some(80),
            healthy: Some(1),
            weight: Some(1),
            soft_limit: Some(1),
            hard_limit: Some(1),
            ..RawBackend::default()
        };
        let builder = TableBuilder {
            pop_region: "fra".to_owned(),
            regions: Regions::default(),
            has_country: true,
            states: Arc::default(),
        };
        let backend = row.check().unwrap();
        let table = builder.build(vec![backend.clone()]).unwrap();
        assert_eq!(described("Backend"), shown(&Item::of_stored(backend, &table)));
        let candidates = table.explain(&Request {
            place: Place::default(),
            app: None,
            wanted: Wanted::Any,
            policy: Policy::default(),
            tried: &Exclusions::default(),
            bound: None,
            forced: false,
            now: Moment::from_millis(0),
            random: 0,
        });
        assert_eq!(described("Candidate"), shown(&candidates[0]));
        assert_eq!(described("BackendFields"), taken::<BackendFields>());
        assert_eq!(described("Registration"), taken::<Registration>());
        assert_eq!(described("DrainOrder"), taken::<Order>());
        assert_eq!(described("PeerFields"), taken::<PeerFields>());
        assert_eq!(described("Rotation"), taken::<Rotation>());
        assert_eq!(described("Collection"), taken::<Collection>());
        let row = PeerRow {
            id: PeerId(1),
            public: PublicKey([1; 32]),
            preshared: PresharedKey::default(),
            v4: None,
            v6: None,
            prefixes: Vec::new(),
            created: 0,
            expires: None,
            idle: None,
            keep: false,
            handshake: None,
            greatest: Tai64N::default(),
            former: None,
        };
        let (tags, endpoint, received, sent) = (Vec::new(), None, 0, 0);
        let peer = PeerRecord { row, name: None, region: None, tags, owner: None, endpoint, received, sent };
        assert_eq!(described("Peer"), shown(&PeerItem::of(&Shown { peer, awake: None })));
    }
}
