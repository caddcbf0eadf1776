# SPDX-License-Identifier: Apache-2.0
"""What the integration tests share: namespaces, processes, certificates, nginx, Suricata, oracles.

A test is a file test_*.py whose main(t) gets a Test. It ends with exit status 0 (passed), 1 (failed),
3 (failed, and no second try excuses it) or 77 (skipped: the last line says why). Everything made is undone at exit; processes are ended by
their own id, namespaces and links carry the test's process id in their names.

SSLCOLLECTOR names the program under test; default: build/sslcollector beside the sources.
SSLC_TEST_KEEP=1 keeps the directory with logs and captures.
SSLC_TEST_PROBES=WHERE runs a test with --probes WHERE, for agents whose test says nothing about it.
SSLC_TEST_RINGS=N runs a test with --rings N, likewise.
SSLC_TEST_CAPTURE=preload runs a test with the preloaded library in all programs, and agents without probes.
"""
import ctypes
import glob
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PROGS = HERE / "progs"
PORT = 3005
PY = sys.executable


def binary():
    return os.environ.get("SSLCOLLECTOR", str(ROOT / "build" / "sslcollector"))


LIBRARY = os.environ.get("SSLC_PRELOAD", str(ROOT / "build" / "libsslcollector-preload.so"))
PRELOADS = os.environ.get("SSLC_TEST_CAPTURE") == "preload"
STATE = ROOT / "build" / "test-state"
GO_CACHE = ROOT / "build" / "go-cache"  # Go's own library is built once for all tests
PROBES = os.environ.get("SSLC_TEST_PROBES")
WORKERS = os.environ.get("SSLC_TEST_WORKERS")
RINGS = os.environ.get("SSLC_TEST_RINGS")


def is_sanitized():
    """Several times slower than what people run: tests of its soundness give it less to do."""
    return b"__asan_init" in pathlib.Path(binary()).read_bytes()


class Failed(Exception):
    """A check did not hold."""


class Untrue(Failed):
    """Something was mirrored that nobody said there: no load of the machine is an excuse."""


class Skip(Exception):
    """Something the test needs is not here."""


def fact(*words):
    print(*words, flush=True)


def check(ok, *words):
    if not ok:
        raise Failed(" ".join(str(w) for w in words))


def equal(got, want, what):
    check(got == want, f"{what}: got {got!r}, want {want!r}")


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def until(probe, timeout, what, step=0.05):
    """probe() until it is true; its value. Bounded."""
    end = time.monotonic() + timeout
    while True:
        got = probe()
        if got:
            return got
        if time.monotonic() > end:
            raise Failed(f"not within {timeout} s: {what}")
        time.sleep(step)


def sh(*cmd, timeout=30, ok=(0,), ns=None, **kw):
    """Run to its end; its stdout. Status must be in ok (None: any)."""
    p = run_cmd(*cmd, timeout=timeout, ns=ns, **kw)
    if ok is not None and p.returncode not in ok:
        raise Failed(f"{' '.join(map(str, cmd))}: status {p.returncode}: {p.stderr.strip()[-500:]}")
    return p.stdout


def run_cmd(*cmd, timeout=30, ns=None, **kw):
    try:
        return subprocess.run(in_ns(ns) + [str(c) for c in cmd], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, stdin=kw.pop("stdin", subprocess.DEVNULL),
                              text=True, errors="replace", timeout=timeout, **kw)
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(map(str, cmd))}: still running after {timeout} s") from None


def in_ns(ns):
    # not `ip netns exec`: it mounts a new /sys, which hides tracefs and bpffs
    return ["nsenter", f"--net=/run/netns/{ns}", "--"] if ns else []


LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent():
    LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


COUNTER = re.compile(r"^sslcollector: counter (\S+) (\d+)$", re.M)


class Proc:
    """A child in a session of its own; stdout and stderr go to files."""

    def __init__(self, t, name, cmd, ns=None, stdin=False, env=None, cwd=None, user=None):
        self.name, self.t, self.told = name, t, set()
        n = t.serial(name)
        if PRELOADS and str(cmd[0]) != binary():
            env = t.preloaded(ns, env)
        self.out_path, self.err_path = t.dir / f"{n}.out", t.dir / f"{n}.err"
        with open(self.out_path, "wb") as out, open(self.err_path, "wb") as err:
            self.p = subprocess.Popen(
                in_ns(ns) + [str(c) for c in cmd], stdout=out, stderr=err, cwd=cwd,
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL, start_new_session=True,
                env={**os.environ, **(env or {})}, preexec_fn=die_with_parent)
        self.pid = self.p.pid
        t.cleanup(self.kill)

    def out(self):
        return self.out_path.read_text(errors="replace")

    def err(self):
        return self.err_path.read_text(errors="replace")

    def alive(self):
        return self.p.poll() is None

    def wait_line(self, pattern, timeout=15, where="err", after=0):
        """First match of pattern in what came after offset; ends early when the process does."""
        text = self.err if where == "err" else self.out

        def probe():
            dead = not self.alive()
            m = re.search(pattern, text()[after:], re.M)
            if not m and dead:
                raise Failed(f"{self.name} ended (status {self.p.returncode}) before {pattern!r}: "
                             f"{self.err().strip()[-600:]}")
            return m
        return until(probe, timeout, f"{pattern!r} from {self.name}")

    def say(self, line, answer=None, timeout=20):
        """A command on stdin; with answer, the match of that pattern in the output that follows."""
        mark = len(self.out())
        self.p.stdin.write(line.encode() + b"\n")
        self.p.stdin.flush()
        return self.wait_line(answer, timeout, "out", mark) if answer else None

    def kick(self, sig):
        if self.alive():
            os.kill(self.pid, sig)

    def stop(self, sig=signal.SIGINT, timeout=20):
        """Signal, wait; the exit status."""
        self.kick(sig)
        try:
            return self.p.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name} still runs {timeout} s after signal {sig}") from None

    def wait(self, timeout):
        try:
            return self.p.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name} still runs after {timeout} s") from None

    def kill(self):
        try:
            os.killpg(self.pid, signal.SIGKILL)  # its own session: only its children
        except ProcessLookupError:
            pass
        if self.p.stdin:
            try:
                self.p.stdin.close()
            except OSError:
                pass
        try:
            self.p.wait(10)
        except subprocess.TimeoutExpired:
            pass

    def counters(self, timeout=5):
        """The last value of each counter; a live process is asked with SIGUSR1."""
        if self.alive():
            mark = len(self.err())
            self.kick(signal.SIGUSR1)
            self.wait_line(r"^sslcollector: counter \S+ \d+$", timeout, after=mark)
            time.sleep(0.1)
            # The rest may come later on a busy machine; a counter that was told once is told always.
            until(lambda: self.told <= {k for k, _ in COUNTER.findall(self.err()[mark:])} or not self.alive(),
                  timeout, "all counters")
        got = COUNTER.findall(self.err())
        self.told = {k for k, _ in got}
        return {k: int(v) for k, v in got}

    def status(self):
        text = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return {k: v.strip() for k, v in re.findall(r"^(\w+):\s*(.*)$", text, re.M)}

    def rss_kb(self):
        return int(self.status()["VmRSS"].split()[0])

    def n_fds(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))


LOSS = re.compile(r"^(?!link_).*(lost|shed|_gap|evicted|broken|malformed|no_flow|conflict|dropped)")


def losses(*procs):
    """Counters that speak of loss and are not zero: an empty dict is what we want."""
    out = {}
    for p in procs:
        out.update({f"{p.name}:{k}": v for k, v in p.counters().items() if v and LOSS.search(k)})
    return out


# What AddressSanitizer, LeakSanitizer and UndefinedBehaviorSanitizer say in a build that has them.
SANITIZER = re.compile(r"^.*(?:ERROR: \w+Sanitizer|: runtime error: |\w+Sanitizer:DEADLYSIGNAL).*$", re.M)


class Test:
    def __init__(self, name):
        self.name = name
        self.undo = []
        self.serials = {}
        self.spaces = {}
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix=f"sslc-{name}-"))
        self.dir.chmod(0o755)

    def cleanup(self, fn, *args):
        self.undo.append((fn, args))

    def sanitizer_reports(self):
        """First report of each process that made one, whatever became of the process."""
        found = ((f.name, SANITIZER.search(read(f))) for f in sorted(self.dir.glob("*.err")))
        return [f"{name}: {m.group(0).strip()}" for name, m in found if m]

    def run_dir(self, ns=None):
        """Where the agent of a namespace, or of the host, is looked for."""
        return self.dir / f"run-{(ns or 'host')[-1]}"

    def preloaded(self, ns=None, env=None):
        """Environment of programs that are to be mirrored by the preloaded library."""
        env = dict(env or {})
        env["LD_PRELOAD"] = ":".join(filter(None, (LIBRARY, env.get("LD_PRELOAD"))))
        return {**env, "SSLCOLLECTOR_RUN_DIR": str(self.run_dir(ns))}

    def serial(self, name):
        self.serials[name] = self.serials.get(name, 0) + 1
        n = self.serials[name]
        return name if n == 1 else f"{name}{n}"

    def finish(self):
        for fn, args in reversed(self.undo):
            try:
                fn(*args)
            except Exception as e:  # the rest must be undone too
                print(f"cleanup: {e!r}", file=sys.stderr)

    # processes -------------------------------------------------------------------------------
    def spawn(self, name, *cmd, **kw):
        return Proc(self, name, cmd, **kw)

    def helper(self, name, script, *args, **kw):
        """A program of progs/ written in Python, spoken to on stdin."""
        kw.setdefault("stdin", True)
        return self.spawn(name, PY, "-u", PROGS / script, *args, **kw)

    def compile(self, source, libs=("-lssl", "-lcrypto")):
        exe = self.dir / pathlib.Path(source).stem
        sh("gcc", "-std=c17", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror", "-o", exe,
           PROGS / source, *libs, timeout=60)
        return exe

    # network ---------------------------------------------------------------------------------
    def ns(self, name):
        full = f"sslct{os.getpid()}{name}"
        sh("ip", "netns", "add", full)
        self.cleanup(sh, "ip", "netns", "del", full)
        sh("ip", "-n", full, "link", "set", "lo", "up")
        self.spaces[name] = full
        return full

    def link(self, ns_a, if_a, addrs_a, ns_b, if_b, addrs_b, mtu=1500, offload=True):
        """A veth pair between two namespaces; no addresses: a wire for packets only, silent."""
        sh("ip", "link", "add", if_a, "netns", ns_a, "mtu", mtu, "type", "veth",
           "peer", "name", if_b, "netns", ns_b, "mtu", mtu)
        for ns, ifn, addrs in ((ns_a, if_a, addrs_a), (ns_b, if_b, addrs_b)):
            if not addrs:
                sh("sysctl", "-qw", f"net.ipv6.conf.{ifn}.disable_ipv6=1", ns=ns)
            for a in addrs:
                sh("ip", "-n", ns, "addr", "add", a, "dev", ifn, *(["nodad"] if ":" in a else []))
            if not offload:
                sh("ethtool", "-K", ifn, "tx", "off", "tso", "off", "gso", "off", "gro", "off",
                   ns=ns)
            sh("ip", "-n", ns, "link", "set", ifn, "up")

    def lab(self, mtu=1500, offload=True, sensor=True):
        """srv ══ cli; srv ── col (tunnel); col out0 ══ mon0 in mon. The usual four namespaces."""
        self.srv, self.cli, self.col = self.ns("s"), self.ns("c"), self.ns("k")
        self.link(self.srv, "srv0", ["10.71.1.1/24", "fd71:1::1/64"],
                  self.cli, "cli0", ["10.71.1.2/24", "fd71:1::2/64"], mtu, offload)
        self.link(self.srv, "tun0", ["10.71.2.1/24"], self.col, "col0", ["10.71.2.2/24"])
        if sensor:
            self.mon = self.ns("m")
            self.link(self.col, "out0", [], self.mon, "mon0", [])

    # the program under test ------------------------------------------------------------------
    def sslcollector(self, name, *args, ns=None, ready=60, **kw):
        if PRELOADS and "-I" in args:
            args = (*args[:2], "--capture", "preload", "--run-dir", self.run_dir(ns), *args[2:])
        if "-I" in args and "--state-dir" not in args:  # for what experiments have found, and no more
            STATE.mkdir(mode=0o700, parents=True, exist_ok=True)
            args = (*args[:2], "--state-dir", STATE, *args[2:])
        if PROBES and "-I" in args and "--probes" not in args:
            args = (*args[:2], "--probes", PROBES, *args[2:])
        if RINGS and "-I" in args and "--rings" not in args:
            args = (*args[:2], "--rings", RINGS, *args[2:])
        if WORKERS and "-t" not in args and "--workers" not in args:
            args = (*args[:1], "--workers", WORKERS, *args[1:]) if args[0] == "-C" else (*args[:2], "--workers", WORKERS, *args[2:])
        p = self.spawn(name, binary(), *args, ns=ns, **kw)
        if ready:
            p.wait_line(r"\bready\b", ready)
        return p

    def collector(self, *args, ns=None, state="col.state", name="collector", **kw):
        return self.sslcollector(name, "-C", *args, "--state-dir", self.dir / state,
                                 ns=ns or self.col, **kw)

    def token(self, *args, state="col.state"):
        return sh(binary(), "token", "--state-dir", self.dir / state, *args).strip()

    def enroll(self, host="10.71.2.2", ns=None, state="agent.state", col_state="col.state"):
        p = run_cmd(binary(), "enroll", host, self.token(state=col_state), "--state-dir",
                    self.dir / state, ns=ns or self.srv, timeout=20)
        check(p.returncode == 0, "enroll:", p.stderr.strip()[-500:])

    def agent(self, *args, ns=None, iface="srv0", host="10.71.2.2", state="agent.state",
              name="agent", **kw):
        return self.sslcollector(name, "-I", iface, "-t", host, "--state-dir", self.dir / state,
                                 *args, ns=ns or self.srv, **kw)

    def alone(self, *args, ns=None, iface="srv0", name="alone", **kw):
        return self.sslcollector(name, "-I", iface, *args, ns=ns or self.srv, **kw)

    def pair(self, *outs, agent_args=(), col_args=()):
        """Collector, enrolment, agent."""
        c = self.collector(*outs, *col_args)
        self.enroll()
        return self.agent(*agent_args), c

    def drain(self, agent, collector=None):
        """Stop in the order of the data; both must leave with 0."""
        equal(agent.stop(), 0, "agent's exit status")
        if collector:
            equal(collector.stop(), 0, "collector's exit status")

    # servers ---------------------------------------------------------------------------------
    def cert(self, name="server"):
        crt, key = self.dir / f"{name}.pem", self.dir / f"{name}.key"
        if not crt.exists():
            sh("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
               "-nodes", "-keyout", key, "-out", crt, "-days", "2", "-subj", "/CN=mirror.test")
        return crt, key

    def nginx(self, ns=None, listen=("443 ssl", "[::]:443 ssl"), extra="", workers=1, log="off",
              name="nginx", program="nginx"):
        """nginx in the foreground; root is <dir>/www. Returns the process once it listens."""
        crt, key = self.cert()
        www, tmp = self.dir / "www", self.dir / f"{name}.tmp"
        www.mkdir(exist_ok=True)
        tmp.mkdir(exist_ok=True)
        conf = self.dir / f"{name}.conf"
        paths = "".join(f"  {k}_temp_path {tmp}/{k};\n"
                        for k in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        conf.write_text(f"""user root; worker_processes {workers}; daemon off; pid {tmp}/pid;
error_log {tmp}/error.log warn; worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
{paths}  log_format told '$request_method $request_uri $status $body_bytes_sent'; log_format bytes '$remote_addr $remote_port $request_length $bytes_sent $request_time $status';
  access_log {log}; sendfile on; keepalive_requests 10000000; keepalive_timeout 300s;
  client_max_body_size 1g; default_type application/octet-stream; server_tokens off;
  ssl_certificate {crt}; ssl_certificate_key {key};
  server {{
    {' '.join(f'listen {x};' for x in listen)}
    server_name mirror.test; root {www};
    location = /who {{ return 200 "$remote_addr $remote_port $request_uri\\n"; }}
    location /evil {{ return 200 "evil answer\\n"; }}
    location /post {{ proxy_pass http://unix:{tmp}/sock; proxy_request_buffering on;
                      proxy_http_version 1.1; }}
    location /chunked/ {{ sub_filter 'needle' 'thread'; sub_filter_once off;
                          sub_filter_types *; }}
    {extra}
  }}
  server {{ listen unix:{tmp}/sock; location / {{ return 200 "stored\\n"; }} }}
}}
""")
        p = self.spawn(name, program, "-c", conf, "-e", f"{tmp}/error.log", ns=ns or self.srv)
        until(lambda: self.nginx_up(p, tmp), 10, "nginx up")
        return p

    @staticmethod
    def nginx_up(p, tmp):
        if not p.alive():
            raise Failed(f"nginx: {p.err()[-500:]} {(tmp / 'error.log').read_text()[-500:]}")
        return (tmp / "pid").exists() and (tmp / "pid").stat().st_size and (tmp / "sock").exists()

    def www(self, path, size=None, data=None):
        """A file of nginx's root; its bytes. Random bytes of a fixed seed when only size is given."""
        f = self.dir / "www" / path
        f.parent.mkdir(parents=True, exist_ok=True)
        if data is None:
            data = pattern(path, size)
        f.write_bytes(data)
        return data

    def curl(self, *args, ns=None, timeout=30, ok=(0,)):
        kw = {"env": {**os.environ, **self.preloaded(ns or self.cli)}} if PRELOADS else {}
        return sh("curl", "-sSk", "--http1.1", "--max-time", timeout, *args, ns=ns or self.cli,
                  timeout=timeout + 5, ok=ok, **kw)

    # Suricata --------------------------------------------------------------------------------
    def suricata(self, ns, iface, rules, *sets):
        """Live, with the stock configuration and `sets`; returns (process, log directory) once it captures."""
        if not os.path.exists(SURICATA_YAML):
            raise Skip(f"{SURICATA_YAML} is not there")
        logdir = self.dir / self.serial("suricata.log")
        logdir.mkdir()
        rule_file = self.dir / f"{logdir.name}.rules"
        rule_file.write_text(rules)
        p = self.spawn("suricata", "suricata", "-c", SURICATA_YAML, "-i", iface, "-l", logdir,
                       "-S", rule_file, "-k", "all", *[w for s in sets for w in ("--set", s)], ns=ns)
        until(lambda: "Engine started" in read(logdir / "suricata.log") or not p.alive()
              or re.search(r"Engine started", p.out() + p.err()), 60, "suricata up")
        check(p.alive(), "suricata:", p.out()[-300:], p.err()[-300:])
        time.sleep(0.5)
        return p, logdir

    def suricata_read(self, pcap, rules, *sets):
        """suricata -r; the list of eve records."""
        logdir = self.dir / self.serial("suricata.read")
        logdir.mkdir()
        rule_file = self.dir / f"{logdir.name}.rules"
        rule_file.write_text(rules)
        sh("suricata", "-c", SURICATA_YAML, "-r", pcap, "-l", logdir, "-S", rule_file, "-k", "all",
           *[w for s in sets for w in ("--set", s)], timeout=120)
        return eve(logdir)


def go_trees():
    """Go trees with crypto/tls: those of SSLC_TEST_GO, separated by colons, or the distribution's."""
    named = os.environ.get("SSLC_TEST_GO")
    found = named.split(":") if named else \
        sorted(glob.glob("/usr/lib/go-*")) + ["/usr/local/go", "/usr/lib/golang"]
    return [d for d in found
            if os.access(f"{d}/bin/go", os.X_OK) and os.path.isdir(f"{d}/src/crypto/tls")]


GO_FLAGS = {
    "plain": [], "stripped": ["-ldflags=-s -w"], "pie": ["-buildmode=pie"],
    "pie, stripped": ["-buildmode=pie", "-ldflags=-s -w"],
    "C linker, pie": ["-buildmode=pie", "-ldflags=-linkmode=external"],
    "C linker, stripped": ["-ldflags=-s -w -linkmode=external"],
}


def go_build(t, tree, kind, arch=None):
    """progs/gotls.go by that tree, offline; the program. arch: as Go names it, where it is another one."""
    name = os.path.basename(tree) + (f"-{arch}" if arch else "")
    exe = t.dir / f"gotls-{name}-{re.sub('[ ,]+', '-', kind)}"
    env = {**os.environ, "GOROOT": tree, "GOCACHE": str(GO_CACHE),
           "GO111MODULE": "off", "GOPATH": str(t.dir / "gopath"), "GOTOOLCHAIN": "local",
           "GOPROXY": "off", "GOFLAGS": "", "CGO_ENABLED": "1" if "C linker" in kind else "0",
           **({"GOARCH": arch} if arch else {})}
    p = run_cmd("nice", f"{tree}/bin/go", "build", "-o", exe, *GO_FLAGS[kind], PROGS / "gotls.go",
                timeout=600, env=env)
    check(p.returncode == 0, "go build:", p.stderr[-500:])
    return exe


SURICATA_YAML = "/etc/suricata/suricata.yaml"


def stream_event_rules():
    for d in ("/usr/share/suricata/rules", "/etc/suricata/rules", "/var/lib/suricata/rules"):
        f = pathlib.Path(d) / "stream-events.rules"
        if f.exists():
            return f.read_text()
    raise Skip("stream-events.rules of Suricata not found")


EVIL_RULE = ('alert http any any -> any any (msg:"evil uri"; flow:established,to_server; '
             'http.uri; content:"/evil"; sid:9000001; rev:1;)\n')


def read(path):
    try:
        return pathlib.Path(path).read_text(errors="replace")
    except FileNotFoundError:
        return ""


def eve(logdir):
    out = []
    for line in read(logdir / "eve.json").splitlines():
        try:
            out.append(json.loads(line))
        except ValueError:
            pass  # the last line of a log that is being written
    return out


def eve_stats(records, *keys):
    """The last statistics record's value at stats.<keys…>; 0 when absent."""
    stats = [r["stats"] for r in records if r.get("event_type") == "stats"]
    v = stats[-1] if stats else {}
    for k in keys:
        v = v.get(k, {}) if isinstance(v, dict) else {}
    return v or 0


def pattern(seed, size):
    """`size` bytes that do not compress and are the same each time."""
    return hashlib.shake_128(str(seed).encode()).digest(size)


# the oracle: reads pcapng and pcap, follows TCP by its sequence numbers ---------------------------
class Packet:
    __slots__ = ("ts", "src", "dst", "sport", "dport", "seq", "ack", "flags", "win", "payload",
                 "comment", "bad", "opts", "raw_len", "family", "vlan")


FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


def blocks(data):
    """Packets of a pcapng or classic pcap file: (ts in seconds, frame, comment). A cut tail ends it."""
    if len(data) < 12:
        return
    magic = struct.unpack_from("<I", data)[0]
    if magic in (0xa1b2c3d4, 0xa1b23c4d):
        scale = 1e-9 if magic == 0xa1b23c4d else 1e-6
        pos = 24
        while pos + 16 <= len(data):
            s, f, cap, _ = struct.unpack_from("<IIII", data, pos)
            if pos + 16 + cap > len(data):
                return
            yield s + f * scale, data[pos + 16:pos + 16 + cap], ""
            pos += 16 + cap
        return
    check(magic == 0x0a0d0d0a, "neither pcapng nor pcap")
    pos, res = 0, {}
    while pos + 12 <= len(data):
        kind, size = struct.unpack_from("<II", data, pos)
        check(size >= 12 and size % 4 == 0, f"pcapng block of size {size} at {pos}")
        if pos + size > len(data):
            return
        body = data[pos + 8:pos + size - 4]
        equal(struct.unpack_from("<I", data, pos + size - 4)[0], size, "pcapng trailing length")
        if kind == 1:
            link = struct.unpack_from("<H", body)[0]
            equal(link, 1, "pcapng link type")
            r = options(body[8:]).get(9, [b"\x06"])[0][0]
            res[len(res)] = 2.0 ** -(r & 127) if r & 128 else 10.0 ** -r
        elif kind == 6:
            ifc, hi, lo, cap, orig = struct.unpack_from("<IIIII", body)
            equal(cap, orig, "captured and original length")
            pad = (cap + 3) & ~3
            note = options(body[20 + pad:]).get(1, [b""])[0].decode(errors="replace")
            yield ((hi << 32) | lo) * res[ifc], body[20:20 + cap], note
        pos += size


def options(b):
    out, pos = {}, 0
    while pos + 4 <= len(b):
        code, n = struct.unpack_from("<HH", b, pos)
        if code == 0:
            break
        out.setdefault(code, []).append(b[pos + 4:pos + 4 + n])
        pos += 4 + ((n + 3) & ~3)
    return out


def sum_is_right(b):
    """Internet checksum (RFC 1071): words modulo 65535 add up to zero."""
    return int.from_bytes(b if len(b) % 2 == 0 else b + b"\0", "big") % 0xffff == 0


def parse(ts, frame, comment):
    """A TCP packet, or None for other traffic."""
    p = Packet()
    p.ts, p.comment, p.bad, p.raw_len = ts, comment, [], len(frame)
    kind, off, p.vlan = struct.unpack_from("!H", frame, 12)[0], 14, 0
    while kind in (0x8100, 0x88a8):
        p.vlan = struct.unpack_from("!H", frame, off)[0] & 4095
        kind, off = struct.unpack_from("!H", frame, off + 2)[0], off + 4
    if kind == 0x0800:
        ihl, total, proto = (frame[off] & 15) * 4, struct.unpack_from("!H", frame, off + 2)[0], frame[off + 9]
        p.family = 4
        if not sum_is_right(frame[off:off + ihl]):
            p.bad.append("IP checksum")
        raw_src, raw_dst = frame[off + 12:off + 16], frame[off + 16:off + 20]
        seg = frame[off + ihl:off + total]
        pseudo = raw_src + raw_dst + struct.pack("!HH", proto, len(seg))
    elif kind == 0x86dd:
        plen, proto = struct.unpack_from("!HB", frame, off + 4)
        p.family = 6
        raw_src, raw_dst = frame[off + 8:off + 24], frame[off + 24:off + 40]
        seg = frame[off + 40:off + 40 + plen]
        pseudo = raw_src + raw_dst + struct.pack("!II", len(seg), proto)
    else:
        return None
    if proto != 6:
        return None
    fam = socket.AF_INET if p.family == 4 else socket.AF_INET6
    p.src, p.dst = socket.inet_ntop(fam, raw_src), socket.inet_ntop(fam, raw_dst)
    p.sport, p.dport, p.seq, p.ack, dof, p.flags, p.win = struct.unpack_from("!HHIIBBH", seg)
    hl = (dof >> 4) * 4
    p.opts, p.payload = seg[20:hl], seg[hl:]
    if not sum_is_right(pseudo + seg):
        p.bad.append("TCP checksum")
    return p


def tcp_option(opts, kind):
    i = 0
    while i < len(opts):
        if opts[i] == 0:
            return None
        if opts[i] == 1:
            i += 1
            continue
        if opts[i] == kind:
            return opts[i + 2:i + opts[i + 1]]
        i += opts[i + 1] or 1
    return None


def diff(a, b):
    """a - b of sequence numbers, signed."""
    return ((a - b + 0x80000000) & 0xffffffff) - 0x80000000


class Flow:
    """One forged connection as a strict TCP receiver sees it. Direction 0: from the client."""

    def __init__(self, p):
        self.client, self.server = (p.src, p.sport), (p.dst, p.dport)
        self.family = p.family
        self.packets = []
        self.data = [bytearray(), bytearray()]
        self.nxt, self.edge, self.shift = [None, None], [None, None], [0, 0]
        self.fins, self.rsts = [], []
        self.holes, self.repeats, self.faults = [0, 0], [0, 0], []
        self.comments = []
        self.ends_at = None

    def add(self, p):
        d = 0 if (p.src, p.sport) == self.client else 1
        self.packets.append((d, p))
        self.faults += p.bad
        if self.packets[-2:-1] and p.ts < self.packets[-2][1].ts:
            self.faults.append("time runs backwards")
        if p.comment:
            self.comments.append(p.comment)
        if p.flags & SYN:
            w = tcp_option(p.opts, 3)
            self.shift[d] = w[0] if w else 0
            self.nxt[d] = (p.seq + 1) & 0xffffffff
            self.edge[1 - d] = (p.ack + p.win) & 0xffffffff if p.flags & ACK else None
            if p.payload:
                self.faults.append("data in SYN")
            return
        if self.nxt[d] is None:
            refuses = p.flags & RST and p.ack == self.nxt[1 - d]  # RFC 9293 3.10.7.1: what answers a SYN
            if not refuses:
                self.faults.append("data before handshake")
            self.nxt[d] = p.seq
        if p.flags & ACK:
            if self.nxt[1 - d] is None or diff(p.ack, self.nxt[1 - d]) > 0:
                self.faults.append("acknowledges what was not sent")
            self.edge[1 - d] = (p.ack + (p.win << self.shift[d])) & 0xffffffff
        jump = diff(p.seq, self.nxt[d])
        end = (p.seq + len(p.payload)) & 0xffffffff
        if p.payload or p.flags & (FIN | RST):
            if jump > 0:
                self.holes[d] += jump
            elif jump < 0:
                self.repeats[d] += 1
        if p.payload:
            if self.ends_at is not None or d in self.fins:
                self.faults.append("data after the end")
            if self.edge[d] is not None and diff(end, self.edge[d]) > 0:
                self.faults.append("outside the window")
            fresh = p.payload if jump >= 0 else p.payload[-jump:]
            self.data[d] += fresh
            if diff(end, self.nxt[d]) > 0:
                self.nxt[d] = end
        if p.flags & FIN and d not in self.fins:
            self.fins.append(d)
            self.nxt[d] = (end + 1) & 0xffffffff
        if p.flags & RST:
            self.rsts.append(d)
            self.ends_at = p.ts

    @property
    def end(self):
        return "rst" if self.rsts else "fin" if len(self.fins) == 2 else \
            "half" if self.fins else "open"

    def is_sound(self):
        return not self.faults and not any(self.holes) and not any(self.repeats)

    def __repr__(self):
        return (f"<{self.client}>{self.server} {len(self.data[0])}/{len(self.data[1])} {self.end} "
                f"holes={self.holes} repeats={self.repeats} faults={sorted(set(self.faults))}>")


def flows(path, sound=True):
    """Every TCP connection of a capture, in order of their SYN. sound: each must be faultless."""
    data = pathlib.Path(path).read_bytes()
    table, out = {}, []
    for ts, frame, comment in blocks(data):
        p = parse(ts, frame, comment)
        if p is None:
            continue
        key = (p.vlan, *sorted([(p.src, p.sport), (p.dst, p.dport)]))
        f = table.get(key)
        if f is None or (p.flags & (SYN | ACK)) == SYN:
            if f is not None and f.end == "open":
                f.faults.append("tuple reused while open")
            check(f is not None or (p.flags & (SYN | ACK)) == SYN, f"flow without SYN: {key}")
            f = table[key] = Flow(p)
            out.append(f)
        f.add(p)
    if sound:
        bad = [f for f in out if not f.is_sound()]
        check(not bad, f"{len(bad)} of {len(out)} flows not sound:", bad[:3])
    return out


def find_flow(all_flows, port, server_port):
    """The one flow between these two ports."""
    got = [f for f in all_flows if (f.client[1], f.server[1]) == (port, server_port)]
    equal(len(got), 1, f"flows from port {port} to {server_port} among {len(all_flows)}")
    return got[0]


def settle(path, want, timeout=15):
    """Wait until want(flows of a growing capture) is true: the flows."""
    def probe():
        try:
            got = flows(path, sound=False)
        except FileNotFoundError:
            return None
        return got if want(got) else None
    return until(probe, timeout, f"the awaited flows in {path}", 0.2)


# running -----------------------------------------------------------------------------------------
def run(main, needs=()):
    name = pathlib.Path(sys.argv[0]).stem.replace("test_", "")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    t = Test(name)
    began, status = time.monotonic(), 1
    try:
        if os.geteuid() != 0:
            raise Skip("needs root for namespaces and probes")
        os.environ["PATH"] += ":/usr/sbin:/sbin"
        for n in (*needs, "ip", "nsenter", "openssl"):
            if not shutil.which(n):
                raise Skip(f"{n} is not installed")
        if not os.access(binary(), os.X_OK):
            raise Skip(f"{binary()} is not built")
        main(t)
        reports = t.sanitizer_reports()
        check(not reports, "sanitizer:", *reports)
        status = 0
        fact(f"PASS {name} in {time.monotonic() - began:.1f} s")
    except Skip as e:
        status = 77
        reason = str(e)
    except Failed as e:
        status = 3 if isinstance(e, Untrue) else 1
        traceback.print_exc()
        fact(f"FAIL {name}: {e}")
    except Exception as e:
        traceback.print_exc()
        fact(f"FAIL {name}: {e!r}")
    finally:
        t.finish()
        if status in (1, 3):
            for f in sorted(t.dir.glob("*.err")):
                lines = [x for x in read(f).splitlines() if ": counter " not in x][-15:]
                if lines:
                    print(f"--- {f.name}", *lines, sep="\n", file=sys.stderr)
        if status == 0 and not os.environ.get("SSLC_TEST_KEEP") or status == 77:
            shutil.rmtree(t.dir, ignore_errors=True)
        elif status == 1 and not os.environ.get("SSLC_TEST_KEEP"):
            for f in t.dir.rglob("*"):  # logs stay, bulk goes
                if f.is_file() and f.stat().st_size > 4 << 20:
                    f.unlink()
            print(f"logs: {t.dir}", file=sys.stderr)
    if status == 77:
        fact(f"SKIP {name}: {reason}")
    sys.stdout.flush()
    os._exit(status)
