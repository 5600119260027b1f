//! What is asked of a new peer, and the rules it has to keep.

use std::net::IpAddr;
use std::time::Duration;

use edgeproxy_tunnel::{Prefix, PresharedKey, PublicKey};

/// Bytes of a name, a region or a tag, at most.
const WORD_MOST: usize = 63;
/// Tags of a peer, at most.
const TAGS_MOST: usize = 16;
/// Networks behind a peer, at most.
const PREFIXES_MOST: usize = 64;
/// Longest time a peer may be given: fifty years, well within what a row counts seconds in.
const TIME_MOST: Duration = Duration::from_secs(50 * 31_557_600);
/// A peer that ends sooner without a handshake could end while it is in use: a session lives so long.
pub const IDLE_LEAST: Duration = Duration::from_secs(180);

/// A peer to be.
#[derive(Clone, Default, Debug)]
pub struct PeerRequest {
    /// Its key; without one a pair is made and the private key is told once.
    pub public: Option<PublicKey>,
    /// A secret mixed into its handshakes.
    pub preshared: Option<PresharedKey>,
    /// Has one made. Not together with `preshared`.
    pub make_preshared: bool,
    /// What people know it by.
    pub name: Option<String>,
    /// Decides which pools its addresses come from.
    pub region: Option<String>,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// The addresses it is to have; of kinds that are not named it gets any.
    pub addresses: Vec<IpAddr>,
    /// Networks behind it.
    pub prefixes: Vec<Prefix>,
    /// It ends after so long, whatever it does.
    pub ttl: Option<Duration>,
    /// It ends when it has had no handshake for so long.
    pub idle_ttl: Option<Duration>,
    /// It never ends for being idle.
    pub keep: bool,
    /// Who has it made, by the name of its token.
    pub owner: Option<String>,
}

/// A field that breaks its rule.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{field} {rule}")]
pub struct RequestError {
    /// Which, as the API calls it.
    pub field: &'static str,
    /// The rule.
    pub rule: String,
}

impl PeerRequest {
    pub(crate) fn check(&self) -> Result<(), RequestError> {
        let broken = |field, rule: String| Err(RequestError { field, rule });
        let words =
            self.name.iter().map(|name| ("name", name)).chain(self.region.iter().map(|region| ("region", region)));
        for (field, word) in words.chain(self.tags.iter().map(|tag| ("tags", tag))) {
            let fits = (1..=WORD_MOST).contains(&word.len())
                && word.chars().all(|c| c.is_alphanumeric() || "-_.:/@".contains(c));
            if !fits {
                let rule = format!("{word:?} is not 1 to {WORD_MOST} bytes of letters, digits and -_.:/@");
                return broken(field, rule);
            }
        }
        if self.tags.len() > TAGS_MOST {
            return broken("tags", format!("are more than the {TAGS_MOST} a peer may have"));
        }
        if self.prefixes.len() > PREFIXES_MOST {
            return broken("prefixes", format!("are more than the {PREFIXES_MOST} a peer may have"));
        }
        if self.make_preshared && self.preshared.is_some() {
            return broken("preshared_key", "cannot be both given and made".to_owned());
        }
        for (field, time, least) in [("ttl", self.ttl, Duration::from_secs(1)), ("idle_ttl", self.idle_ttl, IDLE_LEAST)]
        {
            if time.is_some_and(|time| time < least) {
                return broken(field, format!("is shorter than {} s", least.as_secs()));
            }
            if time.is_some_and(|time| time > TIME_MOST) {
                return broken(field, format!("is longer than {} s", TIME_MOST.as_secs()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_names_its_field() {
        let of = |change: fn(&mut PeerRequest)| {
            let mut request = PeerRequest::default();
            change(&mut request);
            request.check().map_err(|error| error.field)
        };
        assert_eq!(of(|_| {}), Ok(()));
        assert_eq!(of(|request| request.name = Some("ci/build-7@main".to_owned())), Ok(()));
        assert_eq!(of(|request| request.name = Some("Zürich".to_owned())), Ok(()));
        assert_eq!(of(|request| request.name = Some(String::new())), Err("name"));
        assert_eq!(of(|request| request.name = Some("two words".to_owned())), Err("name"));
        assert_eq!(of(|request| request.region = Some("x".repeat(64))), Err("region"));
        assert_eq!(of(|request| request.tags = vec!["a\nb".to_owned()]), Err("tags"));
        assert_eq!(of(|request| request.tags = vec!["a".to_owned(); 17]), Err("tags"));
        assert_eq!(of(|request| request.ttl = Some(Duration::ZERO)), Err("ttl"));
        assert_eq!(of(|request| request.ttl = Some(TIME_MOST)), Ok(()));
        assert_eq!(of(|request| request.ttl = Some(Duration::MAX)), Err("ttl"));
        assert_eq!(of(|request| request.idle_ttl = Some(Duration::from_secs(179))), Err("idle_ttl"));
    }
}
