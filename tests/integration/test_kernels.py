#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Debian's own kernels, booted in software emulation: each flow hook that a kernel offers mirrors one
TLS connection byte-exact. 5.10 and 6.1 have no socket tracepoint, 5.10 no bpf_loop()."""
import base64
import gzip
import hashlib
import os
import pathlib
import re
import shutil

from lib import Failed, Skip, binary, check, equal, fact, flows, run, run_cmd, sh, until

# suite, hooks that its kernel must offer
SUITES = (("bullseye", ("fexit", "kprobe")),
          ("bookworm", ("fexit", "kprobe")),
          ("trixie", ("tracepoint", "fexit", "kprobe")),
          ("forky", ("tracepoint", "fexit", "kprobe")))
SPEC_CLIENT, SPEC_SERVER = "90,1000x5,40000,600000", "70000,200x3,16384"
TOTAL_CLIENT, TOTAL_SERVER = 90 + 5000 + 40000 + 600000, 70000 + 600 + 16384
UP_S, BOOT_S = 60, 240

INIT = """#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mount -t tracefs t /sys/kernel/tracing; mount -t bpf b /sys/fs/bpf
ip link set lo up; ip addr add 127.0.0.1/8 dev lo 2>/dev/null
mkdir -p /tmp; uname -r
for hook in HOOKS auto; do
  echo "== $hook"
  /sslcollector -v -I any --flow-hook $hook -w /tmp/$hook.pcap --ring 4M >/tmp/$hook.err 2>&1 & agent=$!
  for i in $(seq 300); do grep -q '^ready' /tmp/$hook.err && break; kill -0 $agent 2>/dev/null || break; sleep 0.2; done
  /xfer server 127.0.0.1 4433 /cert.pem /key.pem SPEC_SERVER TOTAL_CLIENT > /tmp/$hook.server 2>&1 & server=$!
  sleep 1
  /xfer client 127.0.0.1 4433 /cert.pem /key.pem SPEC_CLIENT TOTAL_SERVER ex > /tmp/$hook.client 2>&1
  wait $server
  sleep 1
  kill -INT $agent; wait $agent; echo "agent status $?"
  for f in client server err; do sed "s/^/$hook $f: /" /tmp/$hook.$f; done
  { echo "BEGIN $hook"; gzip -c /tmp/$hook.pcap | base64; echo "END $hook"; } > /dev/ttyS1
done
echo finished; sync; poweroff -f
"""


def apt(t, suite):
    """apt-get and apt-cache on a list of their own; the system's is left alone."""
    top = t.dir / suite
    for d in ("state/lists/partial", "cache/archives/partial"):
        (top / d).mkdir(parents=True)
    (top / "sources.list").write_text(f"deb [trusted=yes] http://deb.debian.org/debian {suite} main\n")
    (top / "status").touch()
    options = [f"-oDir::Etc::sourcelist={top}/sources.list", "-oDir::Etc::sourceparts=-",
               f"-oDir::State={top}/state", f"-oDir::State::status={top}/status",
               f"-oDir::Cache={top}/cache", "-oAPT::Sandbox::User=root"]

    def do(tool, *args):
        p = run_cmd(tool, "-q", *options, *args, timeout=180, cwd=top)
        if p.returncode:
            raise Skip(f"no packages of {suite}: {p.stderr.strip()[-200:]}")
        return p.stdout
    do("apt-get", "update")
    return top, do


def version_key(name):
    return [int(x) for x in re.findall(r"\d+", name)]


def fetch_kernel(t, suite):
    """(vmlinuz, version) of the suite's newest cloud kernel."""
    top, do = apt(t, suite)
    names = [n for n in do("apt-cache", "pkgnames", "linux-").split()
             if re.fullmatch(r"linux-(image|binary)-\d[\w.+-]*-cloud-amd64", n)]
    check(names, f"{suite} has no cloud kernel")
    # newer suites keep the kernel itself in linux-binary, beside an almost empty linux-image
    name = max(names, key=lambda n: (version_key(n), "binary" in n))
    do("apt-get", "download", name)
    sh("dpkg-deb", "-x", next(top.glob(f"{name}_*.deb")), top / "x", timeout=60)
    found = [f for f in (top / "x").rglob("vmlinuz*") if f.is_file() and not f.is_symlink()]
    equal(len(found), 1, f"kernels in {name}")
    return found[0], re.search(r"\d[\w.+-]*$", name).group(0)


def shared_libraries(exe):
    for m in re.finditer(r"(/\S+) \(0x", sh("ldd", exe)):
        yield pathlib.Path(m.group(1))


def make_initramfs(t, name, hooks):
    root, out = t.dir / f"{name}.root", t.dir / f"{name}.cpio.gz"
    for d in ("bin", "proc", "sys", "dev", "lib64"):
        (root / d).mkdir(parents=True)
    shutil.copy(shutil.which("busybox"), root / "bin/busybox")
    for applet in sh("busybox", "--list").split():
        if applet != "busybox":
            os.symlink("busybox", root / "bin" / applet)
    crt, key = t.cert()
    for src, dst in ((binary(), "sslcollector"), (t.compile("xfer.c"), "xfer"), (crt, "cert.pem"),
                     (key, "key.pem")):
        shutil.copy(src, root / dst)
    for exe in (binary(), root / "xfer"):
        for lib in shared_libraries(exe):
            dst = root / str(lib).lstrip("/")
            dst.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(lib, dst)
    text = INIT
    for k, v in (("HOOKS", " ".join(hooks)), ("SPEC_SERVER", SPEC_SERVER), ("SPEC_CLIENT", SPEC_CLIENT),
                 ("TOTAL_CLIENT", str(TOTAL_CLIENT)), ("TOTAL_SERVER", str(TOTAL_SERVER))):
        text = text.replace(k, v)
    (root / "init").write_text(text)
    (root / "init").chmod(0o755)
    sh("sh", "-c", f"cd {root} && find . | cpio -o -H newc --quiet | gzip -1 > {out}", timeout=60)
    return out


def boot_once(t, name, kernel, initramfs):
    """(console output, what came over the second serial line); None when the kernel did not come up."""
    console, captures = t.dir / f"{name}.console", t.dir / f"{name}.captures"
    vm = t.spawn(f"qemu-{name}", "qemu-system-x86_64", "-accel", "tcg,thread=single", "-cpu", "max",
                 "-m", "1024", "-smp", "2", "-nographic", "-no-reboot", "-display", "none", "-monitor",
                 "none", "-nic", "none", "-serial", f"file:{console}", "-serial", f"file:{captures}",
                 "-kernel", kernel, "-initrd", initramfs, "-append",
                 "console=ttyS0 panic=-1 oops=panic quiet rdinit=/init")

    def text(path):
        return path.read_text(errors="replace") if path.exists() else ""
    until(lambda: not vm.alive() or "== " in text(console), UP_S, f"{name}: kernel up", step=0.5)
    if "== " not in text(console):
        return None
    until(lambda: not vm.alive(), BOOT_S, f"{name}: virtual machine off", step=0.5)
    return text(console), text(captures)


def boot(t, name, kernel, initramfs):
    """The emulator now and then fails a kernel before its first process: that is tried again, and said."""
    for attempt in range(3):
        try:
            got = boot_once(t, name, kernel, initramfs)
        except Failed as e:
            if "kernel up" not in str(e):
                raise
            got = None
        if got:
            return got
        fact(f"{name}: the kernel did not come up in the emulator, attempt {attempt + 1}")
    raise Failed(f"{name}: no boot in 3 attempts")


def word(console, hook, end, what):
    m = re.search(rf"^{hook} {end}: {what} (.*?)\r?$", console, re.M)
    check(m, f"{hook}: no '{what}' from the {end}:", "\n".join(console.splitlines()[-40:]))
    return m.group(1).split()


def judge(t, name, hook, console, captures):
    m = re.search(rf"BEGIN {hook}\r?\n(.*?)END {hook}", captures, re.S)
    check(m, f"{name}: {hook}: no capture came back:", "\n".join(console.splitlines()[-40:]))
    f = t.dir / f"{name}.{hook}.pcapng"
    f.write_bytes(gzip.decompress(base64.b64decode(m.group(1))))
    seen = flows(f)
    equal(len(seen), 1, f"{name}: {hook}: flows")
    for d, end in ((0, "client"), (1, "server")):
        total, digest = word(console, hook, end, "sent")[:2]
        equal(len(seen[0].data[d]), int(total), f"{name}: {hook}: bytes of the {end}")
        equal(hashlib.sha256(bytes(seen[0].data[d])).hexdigest(), digest, f"{name}: {hook}: sha256 of the {end}")


def main(t):
    for suite, hooks in SUITES:
        kernel, version = fetch_kernel(t, suite)
        console, captures = boot(t, suite, kernel, make_initramfs(t, suite, hooks))
        for hook in (*hooks, "auto"):
            judge(t, suite, hook, console, captures)
        used = re.search(r"^auto err: .*sockets by (\w+): ok", console, re.M)
        check(used and used.group(1) == hooks[0], f"{suite}: auto chose {used and used.group(1)}, not {hooks[0]}")
        fact(f"{version}: {', '.join(hooks)} exact; auto takes {hooks[0]}")


run(main, needs=["qemu-system-x86_64", "busybox", "cpio", "apt-get", "dpkg-deb", "gcc"])
