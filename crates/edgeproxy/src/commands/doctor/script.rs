//! The script that makes the recommended settings permanent.

use std::fmt::Write;

use super::Machine;
use super::limits::DESCRIPTORS;
use super::sysctl::SYSCTLS;

/// For `sh`, as root. Settings that are higher already stay as they are.
pub(super) fn script(machine: &Machine) -> String {
    let mut sysctls = String::new();
    for sysctl in SYSCTLS {
        let target = sysctl.target(&machine.sysctl(sysctl.name));
        writeln!(sysctls, "# {}\n{} = {target}", sysctl.why, sysctl.name).expect("a String takes every write");
    }
    format!(
        "\
set -e
cat > /etc/sysctl.d/60-edgeproxy.conf <<'END'
{sysctls}END
sysctl -p /etc/sysctl.d/60-edgeproxy.conf

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
"
    )
}
