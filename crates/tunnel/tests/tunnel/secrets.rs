//! What is shown of secrets where something is printed.

use std::fmt::Debug;
use std::sync::Arc;

use edgeproxy_tunnel::{
    CookieJar, GateSettings, Handshakes, Identity, Introduction, MacKey, Message, Moment, Owners, PresharedKey,
    PrivateKey, Tai64N, halves,
};

use crate::support::{Seeded, address};

const PRIVATE: u8 = 0x48;
const EPHEMERAL: u8 = 0x50;
const PRESHARED: u8 = 0xb2;

/// The bytes of the keys above, in the ways bytes are printed.
fn secrets() -> Vec<String> {
    let bytes = [PRIVATE, EPHEMERAL, PRESHARED];
    let keys = bytes.map(|byte| PrivateKey::from_bytes([byte; 32]).to_base64().to_string());
    let repeated = bytes.iter().flat_map(|byte| [format!("{byte}, {byte}"), format!("{byte:02x}").repeat(4)]);
    repeated.chain(keys).chain([PresharedKey::from_bytes([PRESHARED; 32]).to_base64().to_string()]).collect()
}

fn show(what: &str, value: &impl Debug) -> String {
    let shown = format!("{value:?} {value:#?}");
    for secret in secrets() {
        assert!(!shown.contains(&secret), "{what}: {shown}");
    }
    shown
}

/// Nothing but names and numbers: whatever key was derived, its bytes would stand in a list.
fn show_no_bytes(what: &str, value: &impl Debug) {
    let shown = show(what, value);
    assert!(!shown.contains('['), "{what}: {shown}");
}

#[test]
fn no_secret_is_shown_by_whatever_holds_one() {
    let us = Identity::new(PrivateKey::from_bytes([PRIVATE; 32]));
    let them = Identity::new(PrivateKey::from_bytes([7; 32]));
    let preshared = PresharedKey::from_bytes([PRESHARED; 32]);
    let ephemeral = PrivateKey::from_bytes([EPHEMERAL; 32]);
    show_no_bytes("a private key", &ephemeral);
    show_no_bytes("a preshared key", &preshared);
    let shared = us.shared_with(&them.public()).unwrap();
    show_no_bytes("what two agree on", &shared);
    show("who we are", &us);
    show_no_bytes(
        "an introduction",
        &Introduction { preshared: preshared.clone(), ..Introduction::default() }.preshared,
    );

    let now = Moment::from_millis(1);
    let (mut initiation, initiated) =
        us.initiate(&them.public(), &shared, Tai64N([9; 12]), ephemeral.clone(), 1).unwrap();
    show_no_bytes("an initiation of ours", &initiated);
    CookieJar::default().sign(&mut initiation, &MacKey::of(&them.public()), now);
    let Some(Message::Initiation(message)) = Message::parse(&initiation) else { panic!("no initiation") };
    let identified = them.identify(message).unwrap();
    show_no_bytes("one whose sender is known", &identified);
    let verified = identified.verify(&them.shared_with(&us.public()).unwrap()).unwrap();
    show_no_bytes("one that is authentic", &verified);
    let (_, keys) = verified.answer(&preshared, &ephemeral, 2).unwrap();
    show_no_bytes("the keys of a session", &keys);
    let (send, mut receive) = halves(keys, now);
    show_no_bytes("the half that sends", &send);
    show_no_bytes("the half that receives", &receive);
    assert!(receive.opener(now).is_ok() && Arc::new(send).sealer(now).is_ok());

    // What comes out of all handshakes together.
    let mut gateway =
        Handshakes::new(PrivateKey::from_bytes([7; 32]), GateSettings::default(), Owners::new(1, 1), Seeded(1));
    let introduction = Introduction { preshared, ..Introduction::default() };
    let from = address("192.0.2.1:1");
    let outcome = gateway.handle_datagram(&initiation, from, now, |_| Some(introduction));
    let shown = show("an answer", &outcome);
    assert!(shown.contains("keys: SessionKeys { .. }"), "{shown}");
}
