//! The script that makes the recommended settings permanent.

use std::fmt::Write;

use super::Machine;
use super::limits::DESCRIPTORS;
use super::sysctl::SYSCTLS;

/// Names the ports that the kernel never gives to an outgoing connection.
const RESERVED_PORTS: &str = "net.ipv4.ip_local_reserved_ports";
/// Those of `listener.bind` and `admin.listen` where nobody sets them.
const OUR_PORTS: [u16; 2] = [8080, 9090];

/// For `sh`, as root. Settings that are higher already stay as they are; those that this machine does not show are left
/// out, as they could not be set either.
pub(super) fn script(machine: &Machine) -> String {
    let mut sysctls = String::new();
    for sysctl in SYSCTLS {
        let current = machine.sysctl(sysctl.name);
        if current.is_some() {
            let target = sysctl.target(&current);
            writeln!(sysctls, "# {}\n{} = {target}", sysctl.why, sysctl.name).expect("a String takes every write");
        }
    }
    if let Some(current) = machine.sysctl(RESERVED_PORTS) {
        let ports = with_our_ports(&current);
        let why = "ports of our listeners, which no connection to a backend may take before a restart: add yours";
        writeln!(sysctls, "# {why}\n{RESERVED_PORTS} = {ports}").expect("a String takes every write");
    }
    format!(
        "\
set -e
cat > /etc/sysctl.d/60-edgeproxy.conf <<'END'
{sysctls}END
# A setting that is refused must not keep the others from being made.
sysctl -p /etc/sysctl.d/60-edgeproxy.conf || failed=1

# Services: takes effect when the unit is restarted.
mkdir -p /etc/systemd/system/edgeproxy.service.d
cat > /etc/systemd/system/edgeproxy.service.d/limits.conf <<'END'
[Service]
LimitNOFILE={DESCRIPTORS}
END
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi

# Logins: takes effect at the next one.
mkdir -p /etc/security/limits.d
cat > /etc/security/limits.d/60-edgeproxy.conf <<'END'
* soft nofile {DESCRIPTORS}
* hard nofile {DESCRIPTORS}
root soft nofile {DESCRIPTORS}
root hard nofile {DESCRIPTORS}
END
exit ${{failed:-0}}
"
    )
}

/// `current` is a list such as `5000,9000-9100`.
fn with_our_ports(current: &str) -> String {
    let holds = |part: &str, port: u16| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        matches!((first.parse::<u16>(), last.parse::<u16>()), (Ok(first), Ok(last)) if (first..=last).contains(&port))
    };
    let mut ports: Vec<String> = current.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    for port in OUR_PORTS {
        if !ports.iter().any(|part| holds(part, port)) {
            ports.push(port.to_string());
        }
    }
    ports.join(",")
}
