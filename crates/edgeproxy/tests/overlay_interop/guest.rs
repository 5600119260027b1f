//! A machine of its own with Debian's kernel. It is emulated, which takes no privilege and no module of this host, and
//! is slow: what it shows is that the other side is understood, not how fast.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use edgeproxy_world::within;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::initramfs::Initramfs;
use crate::stage;
use crate::tunnel::THEIR_PORT;
use crate::wireguard::missing;

/// Where the host is, seen from the machine. What comes from the host's loopback comes from there.
pub(crate) const HOST: &str = "10.0.2.2";
/// The port of its WireGuard; on the host's loopback it is [`THEIR_PORT`].
pub(crate) const PORT: u16 = 51_820;
/// What the emulated hardware and WireGuard are driven by.
const MODULES: [&str; 3] = ["virtio_pci", "virtio_net", "wireguard"];
const MEGABYTES: &str = "256";
const BOOT: Duration = Duration::from_secs(60);
const ORDER: Duration = Duration::from_secs(60);

/// The first program. Orders come in over the second serial line, one in a line; what they say goes back, and then how
/// they ended. (The shell's own `read` gives half a line when a child ends meanwhile.)
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
exec </dev/null >/dev/ttyS0 2>&1
sh /load
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
ip route add default via 10.0.2.2
stty -F /dev/ttyS1 raw -echo
exec </dev/ttyS1 >/dev/ttyS1 2>&1
echo =0
while order=$(head -n 1); do
    eval "$order" </dev/null
    printf '\n=%d\n' $?
done
"#;

/// A running machine.
pub(crate) struct Guest {
    child: Child,
    orders: ChildStdin,
    answers: UnboundedReceiver<String>,
    console: PathBuf,
    /// Nothing is wrong with it.
    stopped: bool,
}

impl Guest {
    /// Boots one, with these more programs: where they are there, and where they are here.
    pub(crate) async fn boot(programs: &[(&str, &Path)]) -> Self {
        let started = Instant::now();
        let (linux, modules) = kernel();
        let initramfs = std::env::temp_dir().join("initramfs");
        fs::write(&initramfs, archive(&modules, programs)).unwrap();
        let console = std::env::temp_dir().join("console");
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-accel", "tcg", "-cpu", "max", "-m", MEGABYTES, "-nodefaults", "-no-user-config"]);
        command.args(["-display", "none", "-no-reboot", "-append", "console=ttyS0 quiet panic=-1"]);
        command.arg("-kernel").arg(linux).arg("-initrd").arg(initramfs);
        command.arg("-serial").arg(format!("file:{}", console.display()));
        command.args(["-chardev", "stdio,id=orders,signal=off", "-serial", "chardev:orders"]);
        command.arg("-netdev").arg(format!("user,id=net,ipv6=off,hostfwd=udp:127.0.0.1:{THEIR_PORT}-:{PORT}"));
        command.args(["-device", "virtio-net-pci,netdev=net,romfile="]);
        let errors = File::create(std::env::temp_dir().join("qemu")).unwrap();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
        let mut child = command.spawn().unwrap_or_else(|error| missing("qemu-system-x86_64", &error));
        let (said, answers) = unbounded_channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| said.send(line)));
        let orders = child.stdin.take().unwrap();
        let mut guest = Self { child, orders, answers, console, stopped: false };
        guest.answer("booting", BOOT).await;
        let release = guest.run("uname -r").await;
        println!("Linux {release} is up after {:.1} s", started.elapsed().as_secs_f64());
        guest
    }

    /// Has the shell there do something, and gives what it says.
    pub(crate) async fn run(&mut self, order: &str) -> String {
        let (said, status) = self.attempt(order).await;
        assert_eq!(status, 0, "{order}: {said}");
        said
    }

    /// The same of what may fail: what it said, and its exit status.
    pub(crate) async fn attempt(&mut self, order: &str) -> (String, i32) {
        assert!(!order.contains('\n'), "{order:?} is more than one line");
        writeln!(self.orders, "{order}").unwrap();
        self.answer(order, ORDER).await
    }

    async fn answer(&mut self, order: &str, limit: Duration) -> (String, i32) {
        let mut said = Vec::new();
        let answer = within(order, limit, async {
            loop {
                let line = self.answers.recv().await.ok_or(io::ErrorKind::UnexpectedEof)?;
                match line.strip_prefix('=').and_then(|status| status.parse().ok()) {
                    Some(status) => return Ok(status),
                    None => said.push(line),
                }
            }
        });
        let status = answer.await.unwrap_or_else(|error| panic!("{order}: {error}: {said:?}"));
        (said.join("\n").trim().to_owned(), status)
    }

    /// Ends it, where all went well: otherwise it tells its last lines at its end.
    pub(crate) fn stop(mut self) {
        self.stopped = true;
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if !self.stopped {
            for file in [&self.console, &std::env::temp_dir().join("qemu")] {
                let text = fs::read(file).unwrap_or_default();
                println!("{} ends with:", file.display());
                let text = String::from_utf8_lossy(&text);
                text.lines().rev().take(25).collect::<Vec<_>>().into_iter().rev().for_each(|line| println!("{line}"));
            }
        }
        // Gone already: then nothing is left to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The kernel and the folder of its modules.
fn kernel() -> (PathBuf, PathBuf) {
    let guest = stage::lent(stage::GUEST);
    let entries = fs::read_dir(guest.join("boot")).into_iter().flatten().flatten();
    let linux = entries
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")));
    let modules =
        ["lib/modules", "usr/lib/modules"].map(|folder| guest.join(folder)).into_iter().find(|path| path.is_dir());
    match linux.zip(modules) {
        Some(found) => found,
        None => stage::lack("there is no kernel to talk to: `make guest` fetches one where Debian's packages are had"),
    }
}

fn archive(modules: &Path, programs: &[(&str, &Path)]) -> Vec<u8> {
    let mut archive = Initramfs::default();
    for folder in ["/proc", "/sys", "/dev", "/run", "/tmp", "/bin"] {
        archive.add_folder(Path::new(folder));
    }
    archive.add("/init", INIT.as_bytes());
    let found = |name: &str| {
        let path = std::env::var("PATH").unwrap_or_default();
        let places = path.split(':').map(|folder| Path::new(folder).join(name));
        places.into_iter().find(|path| path.is_file()).unwrap_or_else(|| missing(name, &io::ErrorKind::NotFound.into()))
    };
    archive.add_program("/bin/busybox", &found("busybox"));
    archive.add_program("/bin/wg", &found("wg"));
    for (there, here) in programs {
        archive.add_program(there, here);
    }
    let order = archive.add_modules(modules, &MODULES);
    archive.add("/load", order.iter().map(|path| format!("insmod {path}\n")).collect::<String>().as_bytes());
    archive.finish()
}
