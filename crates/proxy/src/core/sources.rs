//! Which connections come from where: of those to published services, so that ending a peer looks at its own alone.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

/// Connections by the address of their client's socket, each by its place in the core.
#[derive(Default)]
pub(super) struct Sources(BTreeSet<(IpAddr, usize)>);

impl Sources {
    pub(super) fn note(&mut self, from: IpAddr, place: usize) {
        self.0.insert((from, place));
    }

    pub(super) fn forget(&mut self, from: IpAddr, place: usize) {
        self.0.remove(&(from, place));
    }

    /// Those that come from these networks.
    pub(super) fn of(&self, from: &[IpNet]) -> Vec<usize> {
        let of = |network: &IpNet| {
            let (first, last) = ((network.network(), 0), (network.broadcast(), usize::MAX));
            self.0.range(first..=last).map(|(_, place)| *place)
        };
        from.iter().flat_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_of_a_network_are_found_and_no_others() {
        let mut sources = Sources::default();
        let addresses =
            ["10.50.0.1", "10.50.0.2", "10.50.0.2", "10.50.1.0", "fd00::1", "fd00::1:0:0:0:1", "255.255.255.255"];
        for (place, address) in addresses.iter().enumerate() {
            sources.note(address.parse().unwrap(), place);
        }
        let of = |networks: &[&str]| {
            let networks: Vec<IpNet> = networks.iter().map(|network| network.parse().unwrap()).collect();
            sources.of(&networks)
        };
        assert_eq!(of(&["10.50.0.2/32"]), [1, 2]);
        assert_eq!(of(&["10.50.0.0/24", "fd00::/64"]), [0, 1, 2, 4]);
        assert_eq!(of(&["10.50.0.77/24"]), [0, 1, 2], "by its network");
        assert_eq!(of(&["::/0"]), [4, 5]);
        assert_eq!(of(&["0.0.0.0/0"]), [0, 1, 2, 3, 6]);
        assert!(of(&["10.50.0.3/32", "fd00::2/128"]).is_empty());
        sources.forget("10.50.0.2".parse().unwrap(), 1);
        assert_eq!(sources.of(&["10.50.0.2/32".parse().unwrap()]), [2]);
    }
}
