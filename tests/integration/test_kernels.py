#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Debian's own kernels, booted in software emulation: each flow hook that a kernel offers mirrors one
TLS connection byte-exact, and those of a Go program where there is a Go compiler. 5.10 and 6.1 have no
socket tracepoint, 5.10 no bpf_loop(). Where there is kernel TLS, what it carries is exact, and SSL_sendfile()
a gap of the file's size. GnuTLS: sends that are interrupted and resumed without their bytes; Debian builds it
without kernel TLS. Preload: the preloaded library in
programs of that machine, and no probes. Crowd: more threads than CPUs inside the same functions of a C and of a Go program, and four ring buffers. The newest
kernel preempts everything that can be preempted, eBPF programs at uprobes too. One of them is arm64's, with
everything built by a cross compiler.

test_kernels.py [SUITE...]   arm64 for the machine of that architecture"""
import base64
import collections
import concurrent.futures
import gzip
import hashlib
import lzma
import os
import platform
import re
import shutil
import sys

from lib import RINGS, check, equal, fact, find_flow, flows, go_trees, run, sh, sha256
from lib_experiment import experiment, kept_parts
from lib_targets import STUB, Arm64, Native, boot, fetch_kernel, judge_stub, pack

# name, suite, its architecture, hooks that its kernel must offer, whether it has kernel TLS, what its command
# line says more
KERNELS = (("bullseye", "bullseye", Native, ("fexit", "kprobe"), False, ""),
           ("bookworm", "bookworm", Native, ("fexit", "kprobe"), True, ""),
           ("trixie", "trixie", Native, ("tracepoint", "fexit", "kprobe"), True, ""),
           ("arm64", "trixie", Arm64, ("tracepoint", "fexit", "kprobe"), True, ""),
           ("forky", "forky", Native, ("tracepoint", "fexit", "kprobe"), True, "preempt=full"))
# what kernel TLS needs, and an interface that only those see who listen on it, as far as the kernel has it in modules
FULL = 14 + 1500  # the largest packet of an Ethernet
MODULES = ("tls", "gcm", "ctr", "seqiv", "ghash_generic", "dummy")
FILE_SIZE = 300000
SPEC_CLIENT, SPEC_SERVER = "90,1000x5,40000,600000", "70000,200x3,16384"
GNUTLS_SPEC, GNUTLS_TOTAL = "90,1000x5,40000,100000", 90 + 5000 + 40000 + 100000
TOTAL_CLIENT, TOTAL_SERVER = 90 + 5000 + 40000 + 600000, 70000 + 600 + 16384
CROWD, CROWD_ROUNDS, CROWD_MAX = 24, 20, 2000  # connections, messages each way, bytes of a message
VMS = 2  # at once: each keeps one core busy

INIT = """#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mount -t tracefs t /sys/kernel/tracing; mount -t bpf b /sys/fs/bpf
ip link set lo up; ip addr add 127.0.0.1/8 dev lo 2>/dev/null
mount -t debugfs d /sys/kernel/debug
mkdir -p /tmp /run /var/lib; uname -r; echo "preempt: $(cat /sys/kernel/debug/sched/preempt 2>/dev/null)"
# Where OpenSSL's records pass, as an experiment with this library has shown elsewhere: emulated, it takes too long.
if [ -n "KEPT_NAME" ]; then
  umask 077; mkdir -p /var/lib/sslcollector/sites; at=/var/lib/sslcollector/sites/KEPT_NAME
  cpu=$(sed '/^$/q' /proc/cpuinfo | grep -E '^(model|flags)' | sha256sum | cut -c1-64)
  echo "KEPT_BEFORE${cpu}KEPT_BEHIND" | xxd -r -p > /tmp/kept
  { cat /tmp/kept; sha256sum < /tmp/kept | cut -c1-64 | xxd -r -p; } > $at
  umask 022
fi
start() { # NAME OPTION...
  name=$1; shift
  echo "== $name"
  /sslcollector -v -I any "$@" -w /tmp/$name.pcap $OUTPUT --ring 4M ${rings:-MANY} >/tmp/$name.err 2>&1 & agent=$!
  for i in $(seq 1500); do grep -q '^ready' /tmp/$name.err && break; kill -0 $agent 2>/dev/null || break; sleep 0.2; done
  echo "$name: ready, the machine is up $(cut -d. -f1 /proc/uptime) s"
}
probed() { # NAME FILE, which is probed when somebody has mapped it: not before the program may speak
  for i in $(seq 1500); do grep -q "probes on .*$2" /tmp/$1.err && break; kill -0 $agent 2>/dev/null || break; sleep 0.2; done
}
said() { # NAME: what its programs said
  for f in client server; do [ ! -e /tmp/$1.$f ] || sed "s/^/$1 $f: /" /tmp/$1.$f; done
}
stop() { # NAME
  sleep 1
  kill -INT $agent; wait $agent; echo "agent status $?, the machine is up $(cut -d. -f1 /proc/uptime) s"
  said $1
  sed "s/^/$1 err: /" /tmp/$1.err
  { echo "BEGIN $1"; gzip -c /tmp/$1.pcap | base64; echo "END $1"; } > /dev/CAPTURES
}
for hook in HOOKS auto; do
  case $hook in auto) probes=records;; *) probes=pairs;; esac
  start $hook --flow-hook $hook --probes $probes
  /xfer server 127.0.0.1 4433 /cert.pem /key.pem SPEC_SERVER TOTAL_CLIENT > /tmp/$hook.server 2>&1 & server=$!
  sleep 1
  /xfer client 127.0.0.1 4433 /cert.pem /key.pem SPEC_CLIENT TOTAL_SERVER ex > /tmp/$hook.client 2>&1
  wait $server
  if [ -x /gotls ]; then
    /gotls serve 127.0.0.1:8443 /cert.pem /key.pem > /tmp/$hook.goserver 2>&1 & server=$!
    for i in $(seq 100); do grep -q '^listening' /tmp/$hook.goserver && break; sleep 0.2; done
    probed $hook gotls
    echo | /gotls talk 127.0.0.1:8443 3 4 50000 > /tmp/$hook.go 2>&1
    sleep 1; kill $server; wait $server
    sed "s/^/$hook go: /" /tmp/$hook.go
  fi
  stop $hook
done
gnutls() { # NAME OPTIONS OF THE SERVER, OF THE CLIENT
  start $1 --probes records
  /gnutlsx server 127.0.0.1 4435 /cert.pem /key.pem GNUTLS_SPEC GNUTLS_TOTAL $2 > /tmp/$1.server 2>&1 & server=$!
  sleep 1
  /gnutlsx client 127.0.0.1 4435 /cert.pem /key.pem GNUTLS_SPEC GNUTLS_TOTAL $3 > /tmp/$1.client 2>&1
  wait $server
  stop $1
}
insmod /modules/dummy.ko; ip link add name dummy0 type dummy 2>/dev/null; ip link set dummy0 up
OUTPUT="-o dummy0"
/listen dummy0 > /tmp/listen & listener=$!
gnutls gnutls "nonblock tiny packet" "nonblock tiny null"
kill $listener; wait $listener; sed 's/^/dummy: /' /tmp/listen; OUTPUT=
start preload --capture preload
export LD_PRELOAD=/libsslcollector-preload.so
/stubtls 4443 STUB > /tmp/preload.client 2>&1
/xfer server 127.0.0.1 4433 /cert.pem /key.pem 700 900 > /tmp/preload.server 2>&1 & server=$!
for i in $(seq 100); do /xfer client 127.0.0.1 4433 /cert.pem /key.pem 900 700 ex > /tmp/preload.xfer 2>&1 && break; sleep 0.2; done
wait $server
unset LD_PRELOAD
sed "s/^/preload xfer: /" /tmp/preload.xfer
stop preload
# modules need each other in an order that differs by version
for round in 1 2 3; do for m in /modules/*.ko; do insmod $m 2>/dev/null; done; done
# One agent for all these: emulated, it takes most of the time until its programs are verified.
rings="--rings 4"
start many --probes records
rings=
echo | /threads 127.0.0.1 4436 /cert.pem /key.pem CROWD_SIZE > /tmp/crowd.client 2>&1
said crowd
if [ -x /gotls ]; then
  /gotls serve 127.0.0.1:8443 /cert.pem /key.pem > /tmp/goserver 2>&1 & server=$!
  for i in $(seq 100); do grep -q '^listening' /tmp/goserver && break; sleep 0.2; done
  probed many gotls
  echo | /gotls talk 127.0.0.1:8443 CROWD_SIZE > /tmp/gocrowd.client 2>&1
  kill $server; wait $server
  said gocrowd
fi
for version in KTLS; do
  /ktls server 127.0.0.1 4434 /cert.pem /key.pem $version /file > /tmp/$version.server 2>&1 & server=$!
  sleep 1
  /ktls client 127.0.0.1 4434 /cert.pem /key.pem $version /file > /tmp/$version.client 2>&1
  wait $server
  said $version
done
stop many
echo finished; sync; poweroff -f
"""


def modules(top):
    """{name: contents}: those wanted and those that they depend on."""
    files = {f.name.split(".ko")[0].replace("-", "_"): f for f in top.rglob("*.ko*")}
    todo, got = list(MODULES), {}
    while todo:
        name = todo.pop()
        if name in files and name not in got:
            data = files[name].read_bytes()
            got[name] = lzma.decompress(data) if files[name].suffix == ".xz" else data  # busybox does not unpack
            depends = re.search(rb"\0depends=([^\0]*)\0", got[name])
            todo += [m for m in depends.group(1).decode().replace("-", "_").split(",") if m]
    return got


def copy_modules(t, name, to):
    """Whether kernel TLS is among them."""
    to.mkdir()
    got = modules(t.dir / name / "x")
    for module, data in got.items():
        (to / f"{module}.ko").write_bytes(data)
    return "tls" in got


def programs(t, target):
    """(file, its name in the initramfs) of what each kernel of that architecture runs."""
    crt, key = t.cert()
    openssl = ["-lssl", "-lcrypto"]
    stub, stub_library = target.stub()
    got = [(target.program(), "sslcollector"), (stub, "stubtls"), (target.compile("xfer.c", openssl), "xfer"),
           (target.compile("ktls.c", openssl), "ktls"),
           (target.compile("threads.c", [*openssl, "-lpthread"]), "threads"),
           (target.compile("gnutlsx.c", ["-lgnutls"]), "gnutlsx"), (target.compile("listen.c", []), "listen")]
    libraries = {to: f for exe, _ in got[:1] + got[2:] for f, to in target.libraries(exe)}
    got += [(target.preload(), "libsslcollector-preload.so"), (stub_library, f"lib/{STUB}")]
    go = target.go()
    got += [(go, "gotls")] if go else []
    return got + [(crt, "cert.pem"), (key, "key.pem"), *((f, to.lstrip("/")) for to, f in libraries.items())]


def kept_for(target, files):
    """What is kept of an experiment with the library there: see lib_experiment. Empty where it is not known."""
    if target.__class__ is not Native or platform.machine() != "x86_64":
        return "", "", ""
    ssl = next(src for src, dst in files if dst.endswith("/libssl.so.3"))
    return kept_parts(ssl, experiment(ssl))


def make_initramfs(t, name, target, hooks, ktls, files):
    root, out = t.dir / f"{name}.root", t.dir / f"{name}.cpio.gz"
    for d in ("bin", "proc", "sys", "dev"):
        (root / d).mkdir(parents=True)
    shutil.copy(target.busybox(), root / "bin/busybox")
    for applet in sh("busybox", "--list").split():
        if applet != "busybox":
            os.symlink("busybox", root / "bin" / applet)
    for src, dst in files:
        (root / dst).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(src, root / dst)
    (root / "file").write_bytes(b"x" * FILE_SIZE)
    equal(copy_modules(t, name, root / "modules"), ktls, f"{name}: kernel TLS in modules")
    text = INIT
    kept = (x.hex() if isinstance(x, bytes) else x for x in kept_for(target, files))
    for k, v in (*zip(("KEPT_NAME", "KEPT_BEFORE", "KEPT_BEHIND"), kept), ("CAPTURES", target.captures), ("MANY", f"--rings {RINGS}" if RINGS else ""), ("GNUTLS_SPEC", GNUTLS_SPEC), ("GNUTLS_TOTAL", str(GNUTLS_TOTAL)), ("HOOKS", " ".join(hooks[1:])), ("STUB", STUB), ("KTLS", "tls12 tls13" if ktls else ""), ("SPEC_SERVER", SPEC_SERVER), ("SPEC_CLIENT", SPEC_CLIENT),
                 ("TOTAL_CLIENT", str(TOTAL_CLIENT)), ("TOTAL_SERVER", str(TOTAL_SERVER)),
                 ("CROWD_SIZE", f"{CROWD} {CROWD_ROUNDS} {CROWD_MAX}")):
        text = text.replace(k, v)
    (root / "init").write_text(text)
    (root / "init").chmod(0o755)
    return pack(root, out)


def word(console, hook, end, what):
    m = re.search(rf"^{hook} {end}: {what} (.*?)\r?$", console, re.M)
    check(m, f"{hook}: no '{what}' from the {end}:", "\n".join(console.splitlines()[-40:]))
    return m.group(1).split()


def capture_of(name, hook, console, captures):
    m = re.search(rf"BEGIN {hook}\r?\n(.*?)END {hook}", captures, re.S)
    check(m, f"{name}: {hook}: no capture came back:", "\n".join(console.splitlines()[-40:]))
    return gzip.decompress(base64.b64decode(m.group(1)))


def judge_conns(name, what, console, seen, port):
    """The connections to this port are those that their client has told of; how many."""
    conns = re.findall(rf"^{what}: conn \S+:(\d+) \S+ (\d+ \w+) (\d+ \w+)\r?$", console, re.M)
    equal(len(seen), len(conns), f"{name}: {what}: flows")
    for from_port, got, sent in conns:
        f = find_flow(seen, int(from_port), port)
        equal([f"{len(d)} {hashlib.sha256(bytes(d)).hexdigest()}" for d in f.data], [sent, got], f"{name}: {what}: bytes")
    return len(conns)


def judge_go(name, hook, console, seen):
    """None where there is no Go program."""
    n = judge_conns(name, f"{hook} go", console, seen, 8443)
    check(n or not re.search(rf"^{hook} go: ", console, re.M), f"{name}: {hook}: Go's client failed")


def judge(t, name, hook, console, captures):
    f = t.dir / f"{name}.{hook}.pcapng"
    f.write_bytes(capture_of(name, hook, console, captures))
    seen = flows(f)
    judge_go(name, hook, console, [x for x in seen if x.server[1] == 8443])
    seen = [x for x in seen if x.server[1] != 8443]
    equal(len(seen), 1, f"{name}: {hook}: flows")
    for d, end in ((0, "client"), (1, "server")):
        total, digest = word(console, hook, end, "sent")[:2]
        equal(len(seen[0].data[d]), int(total), f"{name}: {hook}: bytes of the {end}")
        equal(hashlib.sha256(bytes(seen[0].data[d])).hexdigest(), digest, f"{name}: {hook}: sha256 of the {end}")


def judge_ktls(name, version, console, seen):
    sends, receives = word(console, version, "client", "kernel")
    equal(sends, "1", f"{name}: {version}: the kernel makes the client's records")
    for d, what in ((0, "sent"), (1, "got")):
        total, digest = word(console, version, "client", what)[:2]
        equal(len(seen.data[d]), int(total), f"{name}: {version}: bytes the client {what}")
        equal(hashlib.sha256(bytes(seen.data[d])).hexdigest(), digest, f"{name}: {version}: sha256 {what}")
    equal(word(console, version, "server", "got")[0], str(25000 + FILE_SIZE + 700 + 3), f"{name}: {version}: TLS itself")
    equal((seen.holes, seen.repeats), ([FILE_SIZE, 0], [0, 0]), f"{name}: {version}: gap of SSL_sendfile()")
    return f"{version} with the kernel sending{' and receiving' if receives == '1' else ''}"


def judge_gnutls(t, name, console, captures):
    judge(t, name, "gnutls", console, captures)
    resumed = int(word(console, "gnutls", "client", "retries")[2])
    check(resumed, f"{name}: gnutls: no send was interrupted: no test")
    return resumed


def judge_dummy(t, name, console):
    """Who listens on the very interface on which packets leave has seen all that is in the file, in packets that
    the kernel has cut and summed before."""
    seen = re.search(r"^dummy: segments (\d+) payload (\d+) tests (\d+) largest (\d+) wrong (\d+)\r?$", console, re.M)
    check(seen, f"{name}: nobody listened on a dummy interface:", "\n".join(console.splitlines()[-40:]))
    segments, *got = map(int, seen.groups())
    equal(got, [sum(len(d) for f in flows(t.dir / f"{name}.gnutls.pcapng") for d in f.data), 1, FULL, 0],
          f"{name}: bytes, test frames, largest packet and wrong checksums on a dummy interface")
    return segments


def judge_many(t, name, version, ktls, console, captures):
    """Crowds: every connection exact, although threads were preempted inside the probes' programs. And what the
    kernel sends."""
    f = t.dir / f"{name}.many.pcapng"
    f.write_bytes(capture_of(name, "many", console, captures))
    by_port = collections.defaultdict(list)
    for flow in flows(f, sound=False):
        by_port[flow.server[1]].append(flow)

    def counter(what):
        got = re.search(rf"^many err: .*counter {what} (\d+)", console, re.M)
        return int(got.group(1)) if got else 0  # counters that are 0 are not printed
    check(counter("capture_events"), f"{name}: many: no counters")

    crowds = [("crowd", 4436), ("gocrowd", 8443)][:1 + bool(go_trees())]
    for crowd, port in crowds:
        seen = by_port.pop(port, [])
        bad = [x for x in seen if not x.is_sound()]
        check(not bad, f"{name}: {crowd}: not sound:", bad[:3])
        equal(judge_conns(name, f"{crowd} client", console, seen, port), CROWD, f"{name}: {crowd}: connections")
    fact(f"{version}: {CROWD} connections at once exact, in C{' and in Go' if len(crowds) > 1 else ''}")
    versions = ("tls12", "tls13") if ktls else ()
    seen = by_port.pop(4434, [])
    equal(len(seen), len(versions), f"{name}: flows with kernel TLS")
    for v, flow in zip(versions, seen):  # in this order
        fact(f"{version}: {judge_ktls(name, v, console, flow)}: exact, the file a gap of its size")
    equal(counter("flow_bytes_gap_sendfile"), FILE_SIZE * len(versions), f"{name}: flow_bytes_gap_sendfile")
    equal(dict(by_port), {}, f"{name}: flows of nobody")
    return counter("capture_operations_missed")


def judge_preload(t, name, console, captures):
    """The preloaded library, and no probes: by functions linked, by dlsym(), in children; OpenSSL."""
    f = t.dir / f"{name}.preload.pcapng"
    f.write_bytes(capture_of(name, "preload", console, captures))
    seen = flows(f)
    judge_stub(f"{name}: preload", re.findall(r"^preload client: conn (\d+)\r?$", console, re.M),
               [x for x in seen if x.server[1] == 4443])
    mine = [x for x in seen if x.server[1] == 4433]
    equal(len(mine), 1, f"{name}: preload: OpenSSL's flows")
    for d, end in ((0, "xfer"), (1, "server")):
        equal([str(len(mine[0].data[d])), sha256(bytes(mine[0].data[d]))], word(console, "preload", end, "sent")[:2],
              f"{name}: preload: what OpenSSL moved")


def judge_preemption(name, more, console):
    mode = re.search(r"^preempt: .*\((\w+)\)", console, re.M)
    wanted = re.search(r"preempt=(\w+)", more)
    check(not wanted or mode and mode.group(1) == wanted.group(1), f"{name}: preemption is {mode and mode.group(1)}")
    return mode.group(1) if mode else "not selectable"


def judge_all(t, suite, architecture, hooks, ktls, more, version, console, captures):
    for hook in (*hooks[1:], "auto"):  # which takes the first one
        judge(t, suite, hook, console, captures)
    used = re.search(r"^auto err: .*sockets by (\w+): ok", console, re.M)
    check(used and used.group(1) == hooks[0], f"{suite}: auto chose {used and used.group(1)}, not {hooks[0]}")
    # Since 6.6 probes can tell about themselves; the experiment is x86-64's.
    by_records = "auto err: sslcollector: sites: OpenSSL: probes on records" in console
    equal(by_records, hooks[0] == "tracepoint" and architecture is Native and platform.machine() == "x86_64", f"{suite}: whether records are probed")
    fact(f"{version}: {', '.join(hooks)} exact; auto takes {hooks[0]}{', with probes on records' if by_records else ''}")
    fact(f"{version}: GnuTLS exact, {judge_gnutls(t, suite, console, captures)} sends resumed without their bytes")
    fact(f"{version}: all {judge_dummy(t, suite, console)} packets seen on the dummy interface on which they leave")
    missed = judge_many(t, suite, version, ktls, console, captures)
    fact(f"{version}: operations missed meanwhile: {missed}; preemption: {judge_preemption(suite, more, console)}")
    judge_preload(t, suite, console, captures)
    up = re.findall(r"the machine is up (\d+) s", console)
    fact(f"{version}: the preloaded library: exact; the machine was up {up[-1]} s")


def main(t):
    kernels = [k for k in KERNELS if k[0] in sys.argv[1:] or not sys.argv[1:]]
    check(kernels, "no such kernel:", *sys.argv[1:])
    targets, booted = {}, []
    with concurrent.futures.ThreadPoolExecutor(VMS) as pool:  # the first run while the next ones are made
        for name, suite, architecture, hooks, ktls, more in kernels:
            if architecture not in targets:
                target = architecture(t)
                targets[architecture] = (target, programs(t, target))
            target, files = targets[architecture]
            kernel, version = fetch_kernel(t, name, suite, target)
            initramfs = make_initramfs(t, name, target, hooks, ktls, files)
            booted.append((version, pool.submit(boot, t, name, target, kernel, initramfs, more)))
        for (name, _, architecture, hooks, ktls, more), (version, b) in zip(kernels, booted):
            judge_all(t, name, architecture, hooks, ktls, more, version, *b.result())


run(main, needs=["qemu-system-x86_64", "busybox", "cpio", "apt-get", "dpkg-deb", "gcc"])
