//! One handshake with all of its keys fixed, byte for byte. The bytes were computed from the paper's formulas with
//! Python's hashlib and hmac and the `cryptography` package, which share no code with this one.

use edgeproxy_tunnel::{
    CookieJar, Identity, MacKey, Message, Moment, PresharedKey, Rejected, TRANSPORT_HEADER, Tai64N, Transport,
    datagram_length, halves,
};

use crate::support::private;

const INITIATION: &str = "01000000040302015dfedd3b6bd47f6fa28ee15d969d5bb0ea53774d488bdaf9df1c6e0124b3ef220a26599fb2188bb723276\
    fc173af67616c817fc32fd04d686d87ec152fac10eed2bda3bb3b6f1eded6977684082284d817fb46b3a99b6be3bd273ed6533c68635663c21c\
    99296e34deaf1c8fe676cfb75abc2300af0a82c08622b00800000000000000000000000000000000";
const RESPONSE: &str = "020000000807060504030201ac01b2209e86354fb853237b5de0f4fab13c7fcbf433a61c019369617fecf10b5176a1060259947cb\
    4f5a7beef58df69ebe64591302ef46806fbb3284899ad2200000000000000000000000000000000";
const TRANSPORT: &str =
    "04000000080706050000000000000000ee8afdca1f228df3444a3c4886c644d0e253eeb0adc12deb012c7df968fd1c6c";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_handshake_is_what_the_paper_says() {
    let [initiator, responder] = [1, 2].map(private).map(Identity::new);
    let now = Moment::default();
    let timestamp = Tai64N([0x40, 0, 0, 0, 0x65, 0x53, 0xf1, 0x0a, 0, 0, 0, 0]);
    let preshared = PresharedKey::from_bytes([5; 32]);

    let shared = initiator.shared_with(&responder.public()).unwrap();
    let (mut initiation, initiated) =
        initiator.initiate(&responder.public(), &shared, timestamp, private(3), 0x0102_0304).unwrap();
    CookieJar::default().sign(&mut initiation, &MacKey::of(&responder.public()), now);
    assert_eq!(hex(&initiation), INITIATION);

    let Some(Message::Initiation(message)) = Message::parse(&initiation) else { panic!("no initiation") };
    let identified = responder.identify(message).unwrap();
    assert_eq!(identified.peer, initiator.public());
    let verified = identified.verify(&responder.shared_with(&initiator.public()).unwrap()).unwrap();
    assert_eq!(verified.timestamp, timestamp);
    let (mut response, theirs) = verified.answer(&preshared, &private(4), 0x0506_0708).unwrap();
    CookieJar::default().sign(&mut response, &MacKey::of(&initiator.public()), now);
    assert_eq!(hex(&response), RESPONSE);

    let Some(Message::Response(message)) = Message::parse(&response) else { panic!("no response") };
    let ours = initiator.finish(&initiated, message, &preshared).unwrap();
    let (send, _) = halves(ours, now);
    let packet = b"a known packet";
    let mut datagram = vec![0; datagram_length(packet.len(), 1420)];
    datagram[TRANSPORT_HEADER..][..packet.len()].copy_from_slice(packet);
    std::sync::Arc::new(send).sealer(now).unwrap().seal(&mut datagram).unwrap();
    assert_eq!(hex(&datagram), TRANSPORT);

    let (_, mut receive) = halves(theirs, now);
    let header = Transport::parse(&datagram).unwrap();
    let mut opener = receive.opener(now).unwrap();
    assert_eq!(opener.open(header, &mut datagram.clone()).unwrap().packet, b"a known packet\0\0");
    assert_eq!(opener.open(header, &mut datagram).err(), Some(Rejected::Replayed));
}
