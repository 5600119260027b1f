//! Who has nothing to do with whom: a hub passes nothing from one tenant's addresses to another's.
//!
//! Addresses decide, as nobody can send from one that is not its own. What is no tenant's (the hub's own, what is shared)
//! is everybody's.

use std::net::IpAddr;

use edgeproxy_tunnel::{Prefix, Routes};

/// Tenants by their addresses.
#[derive(Default)]
pub struct Tenants(Option<Routes<usize>>);

impl Tenants {
    /// Each tenant's prefixes; of one within another, the longer counts.
    pub fn new<'a>(tenants: impl IntoIterator<Item = &'a [Prefix]>) -> Self {
        // Nobody but the operator chooses these.
        let mut routes = Routes::new(0);
        let mut any = false;
        for (tenant, prefixes) in tenants.into_iter().enumerate() {
            any = true;
            for prefix in prefixes {
                routes.insert(*prefix, tenant);
            }
        }
        Self(any.then_some(routes))
    }

    /// Whether a packet may be passed on from one to the other.
    pub(crate) fn may_talk(&self, from: IpAddr, to: IpAddr) -> bool {
        let Some(routes) = &self.0 else { return true };
        match (routes.lookup(from), routes.lookup(to)) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        }
    }
}

impl std::fmt::Debug for Tenants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Tenants(some)" } else { "Tenants(none)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_keep_to_themselves() {
        let prefixes = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<Prefix>>();
        let (a, b) = (prefixes(&["10.50.1.0/24", "fd00:1::/32"]), prefixes(&["10.50.2.0/24", "10.50.1.99/32"]));
        let tenants = Tenants::new([&a[..], &b[..]]);
        let may = |from: &str, to: &str| tenants.may_talk(from.parse().unwrap(), to.parse().unwrap());
        assert!(may("10.50.1.1", "10.50.1.2") && may("10.50.2.1", "10.50.1.99"));
        assert!(!may("10.50.1.1", "10.50.2.1") && !may("10.50.2.1", "10.50.1.1") && !may("10.50.1.1", "10.50.1.99"));
        assert!(may("10.50.1.1", "10.50.0.1") && may("10.50.0.1", "10.50.2.1"), "what is nobody's is everybody's");
        assert!(Tenants::default().may_talk("10.50.1.1".parse().unwrap(), "10.50.2.1".parse().unwrap()));
    }
}
