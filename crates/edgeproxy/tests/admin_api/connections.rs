//! Live connections.

use std::collections::BTreeSet;

use crate::pop::{Backend, Client, Pop, eventually};

#[test]
fn a_connection_is_listed_and_can_be_cut() {
    let pop = Pop::start();
    let backend = Backend::start("b1");
    pop.add("b1", "fra", &backend);
    let clients: Vec<Client> = (0..3).map(|_| Client::of(&pop, "b1")).collect();

    let first = pop.get("/api/v1/connections?limit=2").expect(200);
    let next = first["next"].as_str().expect("there is a third");
    let second = pop.get(&format!("/api/v1/connections?limit=2&cursor={next}")).expect(200);
    assert!(second["next"].is_null());
    let of = |page: &serde_json::Value| page["items"].as_array().unwrap().clone();
    let listed = [of(&first), of(&second)].concat();
    let ids: BTreeSet<&str> = listed.iter().map(|connection| connection["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 3);
    let oldest = &listed[0];
    assert_eq!((oldest["backend"].as_str(), oldest["bytes_out"].as_u64()), (Some("b1"), Some(3)));
    assert_eq!(oldest["listener"], pop.proxy.to_string());

    let path = format!("/api/v1/connections/{}", oldest["id"].as_str().unwrap());
    pop.delete(&path).expect(204);
    let mut clients = clients.into_iter();
    assert!(clients.next().unwrap().was_reset());
    eventually("it is gone", || Some(()).filter(|()| pop.delete(&path).status == 404));
    for mut other in clients {
        assert!(other.echoes(), "others stay");
    }
}
