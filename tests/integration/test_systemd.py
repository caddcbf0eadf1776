#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""A machine with a real systemd, booted in software emulation: the packaged services run under their hardening, the
agent captures by probes and by the preloaded library and reaches its collector; `enable demo.service`, a restart, and
the service is mirrored by the library; `disable`, a restart, and it is not; and once more with --system-wide. systemd is
this host's."""
import base64
import gzip
import os
import pathlib
import re
import shutil

from lib import Skip, binary, check, equal, fact, flows, run, sh
from lib_targets import Native, boot, fetch_kernel, pack

PORT = 4433
# What the service says on its one connection: a size for each try.
TRIES = {"probes": 3001, "library": 3002, "disabled": 3003, "everywhere": 3004}
HEARD = 100
SERVICES = ("sslcollector-agent", "sslcollector-collector")

INIT = """#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
echo "== $(uname -r)"
mount -t tmpfs -o mode=755 root /newroot
for d in etc usr var root tmp; do cp -a /$d /newroot/; done
for l in bin sbin lib lib64; do ln -s usr/$l /newroot/$l; done
mkdir /newroot/proc /newroot/sys /newroot/dev /newroot/run
mount --move /proc /newroot/proc; mount --move /sys /newroot/sys; mount --move /dev /newroot/dev
exec switch_root /newroot /lib/systemd/systemd
"""

# Locked up as packaged services are.
DEMO = f"""[Service]
ExecStart=/usr/bin/xfer server 127.0.0.1 {PORT} /etc/demo.pem /etc/demo.key $SAYS {HEARD}
EnvironmentFile=/etc/demo.says
User=daemon
ProtectSystem=strict
PrivateTmp=yes
PrivateDevices=yes
NoNewPrivileges=yes
RestrictAddressFamilies=AF_UNIX AF_INET
SystemCallFilter=@system-service
StandardOutput=file:/run/demo.out
StandardError=inherit
"""

SCRIPT_UNIT = """[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh /root/script
StandardOutput=tty
StandardError=inherit
TTYPath=/dev/console
TimeoutStartSec=200
[Install]
WantedBy=default.target
"""

SCRIPT = """
ip link set lo up
wait_for() { for i in $(seq 300); do "$@" >/dev/null 2>&1 && return 0; sleep 0.2; done; echo "not: $*"; return 1; }
start() { # SERVICE
  systemctl start $1; echo "start $1: $?"
}
exchange() { # NAME SIZE
  echo SAYS=$2 > /etc/demo.says
  systemctl restart demo.service
  wait_for grep -q listening /run/demo.out
  wait_for /usr/bin/xfer client 127.0.0.1 PORT /etc/demo.pem /etc/demo.key HEARD $2 ex
  wait_for sh -c '! systemctl is-active demo.service'
  sleep 1
  echo "exchange $1: $(systemctl show -P Result demo.service) $(grep -c got /run/demo.out)"
}
start sslcollector-collector
sslcollector enroll 127.0.0.1 $(sslcollector token) --state-dir /var/lib/sslcollector/endpoint; echo "enroll: $?"
start sslcollector-agent
exchange probes SIZE_PROBES
sslcollector enable demo.service; echo "enable: $?"
systemctl daemon-reload
echo 'capture: preload' >> /etc/sslcollector/agent.yaml
systemctl restart sslcollector-agent; echo "restart: $?"
exchange library SIZE_LIBRARY
sslcollector disable demo.service; echo "disable: $?"
systemctl daemon-reload
exchange disabled SIZE_DISABLED
sslcollector enable --system-wide; echo "system-wide: $?"
systemctl restart systemd-journald; echo "journald: $?"
exchange everywhere SIZE_EVERYWHERE
sslcollector disable --system-wide; echo "no longer: $?"
for s in agent collector; do
  echo "$s: $(systemctl show -P ActiveState sslcollector-$s) $(systemctl show -P NRestarts sslcollector-$s)"
  systemctl stop sslcollector-$s; echo "stop $s: $? $(systemctl show -P Result sslcollector-$s)"
done
systemctl --failed --no-legend --plain | sed 's/^/failed: /'
journalctl -b -o cat -u sslcollector-agent -u sslcollector-collector --no-pager | sed 's/^/journal: /'
{ echo BEGIN; gzip -c /var/lib/sslcollector/mirror.pcapng | base64; echo END; } > /dev/ttyS1
sync; echo finished; systemctl poweroff -ff
"""


def files_of(package):
    """What this host has of it, without the manuals."""
    listed = (pathlib.Path(p) for p in sh("dpkg", "-L", package).splitlines())
    return [p for p in listed if not p.is_dir() and p.exists() and not str(p).startswith("/usr/share/")]


def merged(path):
    """Where it lies on the machine, whose /bin and /lib are links into /usr."""
    path = str(path)
    return path if path.startswith(("/usr/", "/etc/")) else "/usr" + path


def put(root, path, text, mode=0o644):
    f = root / path.lstrip("/")
    f.parent.mkdir(parents=True, exist_ok=True)
    f.write_text(text)
    f.chmod(mode)


def copy(root, src, to):
    dst = root / to.lstrip("/")
    dst.parent.mkdir(parents=True, exist_ok=True)
    if not dst.exists() and not dst.is_symlink():
        shutil.copy2(src, dst, follow_symlinks=not str(src).startswith("/lib/systemd/system"))


def is_program(path):
    """Or library."""
    with open(path, "rb") as f:
        return f.read(4) == b"\x7fELF"


def add_systemd(root):
    """Its programs and private libraries: those whose libraries are needed, too."""
    programs = []
    for f in files_of("systemd"):
        copy(root, f, merged(f))
        programs += [f] if not f.is_symlink() and is_program(f) else []
    return programs


# Of what every machine starts: what services are held in, not what serves a person or a disk.
WANTED = ("systemd-journald.service", "systemd-tmpfiles-setup.service", "sys-kernel-tracing.mount", "sys-kernel-debug.mount")


def thin_out(root):
    units = root / "usr/lib/systemd/system"
    shutil.rmtree(root / "usr/lib/systemd/system-generators")
    shutil.rmtree(units / "multi-user.target.wants")
    for f in (units / "sysinit.target.wants").iterdir():
        if f.name not in WANTED:
            f.unlink()


def add_program(root):
    """As the package installs it."""
    sh("cmake", "--install", pathlib.Path(binary()).parent, "--prefix", "/usr", env={**os.environ, "DESTDIR": str(root)})
    shutil.rmtree(root / "usr/share")


def add_busybox(root, target):
    """Those programs that are not there in full."""
    copy(root, target.busybox(), "/usr/bin/busybox")
    for applet in sh("busybox", "--list").split():
        at = root / "usr/bin" / applet
        if not at.exists() and not at.is_symlink():
            os.symlink("busybox", at)


def add_demo(t, root, target):
    exe = target.compile("xfer.c", ["-lssl", "-lcrypto"])
    copy(root, exe, "/usr/bin/xfer")
    crt, key = t.cert()
    copy(root, crt, "/etc/demo.pem")
    copy(root, key, "/etc/demo.key")
    (root / "etc/demo.key").chmod(0o644)
    return exe


def make_root(t, target):
    root = t.dir / "root"
    for d in ("proc", "sys", "dev", "newroot", "var/log", "root", "tmp", "usr/sbin", "usr/lib64"):
        (root / d).mkdir(parents=True)
    programs = [*add_systemd(root), pathlib.Path(binary()), add_demo(t, root, target)]
    thin_out(root)
    add_program(root)
    for f, to in {to: f for p in programs for f, to in target.libraries(p)}.items():
        copy(root, to, merged(f))
    add_busybox(root, target)
    for link in ("bin", "sbin", "lib", "lib64"):
        os.symlink(f"usr/{link}", root / link)
    put(root, "/etc/machine-id", "0123456789abcdef0123456789abcdef\n")  # else it asks who it is
    put(root, "/etc/passwd", "root:x:0:0::/root:/bin/sh\ndaemon:x:1:1::/:/bin/false\n")
    put(root, "/etc/group", "root:x:0:\ndaemon:x:1:\ntty:x:5:\nsystemd-journal:x:101:\n")
    put(root, "/etc/sslcollector/agent.yaml",
        "interface: any\nto: 127.0.0.1\nstate-dir: /var/lib/sslcollector/endpoint\n"
        f"filter: port {PORT}\n")
    put(root, "/etc/sslcollector/collector.yaml", "collect: true\nwrite: [/var/lib/sslcollector/mirror.pcapng]\n")
    put(root, "/etc/systemd/system/demo.service", DEMO)
    put(root, "/etc/systemd/system/script.service", SCRIPT_UNIT)
    (root / "etc/systemd/system/multi-user.target.wants").mkdir(parents=True, exist_ok=True)
    os.symlink("../script.service", root / "etc/systemd/system/multi-user.target.wants/script.service")
    put(root, "/etc/systemd/system/default.target", "[Unit]\nRequires=multi-user.target\nAfter=multi-user.target\n")
    script = SCRIPT.replace("PORT", str(PORT)).replace("HEARD", str(HEARD))
    for name, size in TRIES.items():
        script = script.replace(f"SIZE_{name.upper()}", str(size))
    put(root, "/root/script", script)
    put(root, "/init", INIT, 0o755)
    return root


def said(console, what):
    m = re.search(rf"^{what}: (.*?)\r?$", console, re.M)
    check(m, f"no '{what}' on the console:", "\n".join(console.splitlines()[-60:]))
    return m.group(1)


def judge(t, console, captures):
    for what, want in (("start sslcollector-collector", "0"), ("enroll", "0"), ("start sslcollector-agent", "0"),
                       ("enable", "0"), ("restart", "0"), ("disable", "0"), ("system-wide", "0"), ("journald", "0"),
                       ("no longer", "0"), ("agent", "active 0"),
                       ("collector", "active 0"), ("stop agent", "0 success"), ("stop collector", "0 success"),
                       *((f"exchange {name}", "success 1") for name in TRIES)):
        equal(said(console, what), want, what)
    mine = re.findall(r"^failed: (sslcollector\S+|demo\S+)", console, re.M)
    check(not mine, "units that failed:", mine)
    m = re.search(r"BEGIN\r?\n(.*?)END", captures, re.S)
    check(m, "no capture came back")
    f = t.dir / "mirror.pcapng"
    f.write_bytes(gzip.decompress(base64.b64decode(m.group(1))))
    got = sorted((len(x.data[1]), len(x.data[0])) for x in flows(f))
    equal(got, sorted((size, HEARD) for name, size in TRIES.items() if name != "disabled"), "flows of the mirror")


def main(t):
    target = Native(t)
    if not pathlib.Path("/lib/systemd/systemd").exists():
        raise Skip("systemd is not installed")
    root = make_root(t, target)
    kernel, version = fetch_kernel(t, "kernel", "bookworm", target)
    console, captures = boot(t, "systemd", target, kernel, pack(root, t.dir / "root.cpio.gz"),
                             "systemd.log_target=console")
    judge(t, console, captures)
    fact(f"{version}, {sh('systemctl', '--version').splitlines()[0]}: both services as packaged; by probes, by the library, "
         "not at all after `disable`, and with --system-wide")


run(main, needs=["qemu-system-x86_64", "busybox", "cpio", "apt-get", "dpkg-deb", "gcc", "cmake"])
