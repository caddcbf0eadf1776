#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Wherever the library file is: loaded by dlopen() late, in a chroot, in a mount namespace, on an
overlay, deleted, replaced by an upgrade while in use, used by processes that live for an instant. And
the same four-tuple in two network namespaces: two flows."""
import os
import pathlib
import re
import shutil
import time

from lib import PROGS, PY, check, equal, fact, find_flow, flows, losses, run, sh, sha256

SEND, BACK = "100,20000,3", "70000,1"
N_SHORT = 60


def total(spec):
    return sum(int(w) for w in spec.split(","))


class Places:
    def __init__(self, t):
        self.t, self.exe, self.port, self.runs = t, t.compile("xfer.c"), 7100, []
        self.libs = [pathlib.Path(m) for m in re.findall(r"(/\S+) \(0x", sh("ldd", self.exe))]
        self.tls = [p for p in self.libs if re.match(r"lib(ssl|crypto)", p.name)]

    def copy_libs(self, to, libs=None):
        to.mkdir(parents=True, exist_ok=True)
        for lib in libs or self.tls:
            shutil.copy(lib, to)
        return to

    def start(self, name, *prefix, exe=None, env=None, pause=700):
        """One exchange with a client in that place; its end is awaited by finish()."""
        t, (crt, key) = self.t, self.t.cert()
        self.port += 1
        s = t.spawn("xfer-server", self.exe, "server", "10.71.1.1", self.port, crt, key, BACK, total(SEND),
                    ns=t.srv)
        s.wait_line("listening", where="out")
        c = t.spawn(f"xfer-{name}", *prefix, exe or self.exe, "client", "10.71.1.1", self.port, "-", "-", SEND,
                    total(BACK), f"pause{pause}", ns=t.cli, env=env)
        return name, self.port, s, c

    def finish(self, name, port, s, c):
        equal((c.wait(30), s.wait(20)), (0, 0), f"{name}: status {c.err()} {s.err()}")
        said = dict(re.findall(r"^(sent|got|port) (.*)$", c.out(), re.M))
        self.runs.append((name, int(said["port"]), port, said["sent"], said["got"]))

    def go(self, name, *prefix, **kw):
        self.finish(*self.start(name, *prefix, **kw))

    def judge(self, seen):
        for name, cport, sport, sent, got in self.runs:
            f = find_flow(seen, cport, sport)
            equal([f"{len(d)} {sha256(bytes(d))}" for d in f.data], [sent, got], f"{name}: {f}")
            check(f.is_sound() and f.end == "fin", f"{name}: {f}")


def in_chroot(p):
    root = p.t.dir / "root"
    for lib in p.libs:
        dst = root / str(lib).lstrip("/")
        dst.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(lib, dst)
    shutil.copy(p.exe, root / "xfer")
    (root / "dev").mkdir()
    sh("mknod", root / "dev/urandom", "c", 1, 9)
    p.go("chroot", "chroot", root, exe="/xfer")


def in_mount_namespace(p):
    """The library is on a file system that no other process can see."""
    here = p.t.dir / "private"
    here.mkdir()
    p.go("mount namespace", "unshare", "-m", "sh", "-c",
         f"mount -t tmpfs none {here} && cp {' '.join(map(str, p.tls))} {here} && "
         f"LD_LIBRARY_PATH={here} exec \"$@\"", "-")
    check(not list(here.iterdir()), "the mount was not private")


def on_overlay(p):
    """As in a container: one library from the lower layer, then a changed copy in the upper one."""
    t = p.t
    top = t.dir / "overlay"
    for d in ("tmp", "merged"):
        (top / d).mkdir(parents=True)
    p.copy_libs(t.dir / "lower")
    script = (f"mount -t tmpfs none {top}/tmp && mkdir {top}/tmp/u {top}/tmp/w && "
              f"mount -t overlay -o lowerdir={t.dir}/lower,upperdir={top}/tmp/u,workdir={top}/tmp/w none "
              f"{top}/merged && %s LD_LIBRARY_PATH={top}/merged exec \"$@\"")
    p.go("overlay, lower layer", "unshare", "-m", "sh", "-c", script % "", "-")
    p.go("overlay, upper layer", "unshare", "-m", "sh", "-c",
         script % f"for f in {top}/merged/*; do cp $f $f.new && mv $f.new $f; done &&", "-")


def deleted(p):
    """Mapped first, removed then, and only then the agent comes."""
    where = p.copy_libs(p.t.dir / "deleted")
    got = p.start("deleted", env={"LD_LIBRARY_PATH": str(where)}, pause=4000)
    time.sleep(0.5)
    shutil.rmtree(where)
    maps = pathlib.Path(f"/proc/{got[3].pid}/maps").read_text()
    check("libssl" in maps and "(deleted)" in maps, "the library is not mapped and deleted")
    return got


def upgraded(p):
    """A package upgrade renames a new file over the old one, whose users run on."""
    where = p.copy_libs(p.t.dir / "upgraded")
    env = {"LD_LIBRARY_PATH": str(where)}
    old = p.start("old file after an upgrade", env=env, pause=2500)
    time.sleep(0.5)
    for lib in where.iterdir():
        shutil.copy(lib, f"{lib}.new")
        os.rename(f"{lib}.new", lib)
    p.go("new file after an upgrade", env=env)
    p.finish(*old)


def dlopened(p, sport):
    where = p.copy_libs(p.t.dir / "dlopened")
    crypto, ssl = (next(where.glob(f"lib{n}*")) for n in ("crypto", "ssl"))
    c = p.t.spawn("dlopen", PY, PROGS / "client11.py", crypto, ssl, "10.71.1.1", sport, "/file", ns=p.t.cli)
    equal(c.wait(20), 0, f"dlopen: {c.err()[-300:]}")
    return pathlib.Path(c.out_path).read_bytes()


def short_lived(t):
    for i in range(N_SHORT):
        t.curl("-o", "/dev/null", f"https://10.71.1.1/who?{i}")


def same_tuple(t):
    """Two pairs of namespaces with the same addresses and ports, at the same time."""
    for pair in "ab":
        s, c = t.ns(f"s{pair}"), t.ns(f"c{pair}")
        t.link(s, "e0", ["10.72.0.1/24"], c, "e0", ["10.72.0.2/24"])
        t.spaces[pair] = (s, c)
    out = t.dir / "any.pcapng"
    agent = t.alone("-w", out, "net 10.72.0.0/24", iface="any", name="any", ns=t.srv)
    script = ("import socket,ssl,sys,time\n"
              "s=socket.socket(); s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1)\n"
              "s.bind(('10.72.0.2',45678)); s.connect(('10.72.0.1',443))\n"
              "c=ssl._create_unverified_context(); s=c.wrap_socket(s)\n"
              "for i in range(4): s.sendall(sys.argv[1].encode()*100); time.sleep(0.3)\n"
              "print(s.recv(100)); s.close()\n")
    crt, key = t.cert()
    server = ("import socket,ssl,sys\n"
              "c=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); c.load_cert_chain(sys.argv[2],sys.argv[3])\n"
              "l=socket.create_server(('10.72.0.1',443)); print('up',flush=True); k,_=l.accept()\n"
              "k=c.wrap_socket(k,server_side=True); n=0\n"
              "while n<400: n+=len(k.recv(1000))\n"
              "k.sendall(sys.argv[1].upper().encode()*7); k.recv(1)\n")
    procs = []
    for pair in "ab":
        sv = t.spawn(f"srv{pair}", PY, "-c", server, pair, crt, key, ns=t.spaces[pair][0])
        sv.wait_line("up", where="out")
    for pair in "ab":
        procs.append(t.spawn(f"cli{pair}", PY, "-c", script, pair, ns=t.spaces[pair][1]))
    for c in procs:
        equal(c.wait(20), 0, f"client: {c.err()[-300:]}")
    time.sleep(0.5)
    equal(agent.stop(), 0, "agent's exit status")
    seen = flows(out)
    equal(sorted(bytes(d) for f in seen for d in f.data), sorted([b"A" * 7, b"B" * 7, b"a" * 400, b"b" * 400]),
          f"two flows of one tuple: {seen}")


def main(t):
    t.lab(sensor=False)
    t.nginx()
    body = t.www("file", 300000)
    p = Places(t)
    first = deleted(p)
    out = t.dir / "c.pcapng"
    agent = t.alone("-w", out, iface="cli0", ns=t.cli)
    p.finish(*first)
    in_chroot(p)
    in_mount_namespace(p)
    on_overlay(p)
    upgraded(p)
    answer = dlopened(p, 443)
    short_lived(t)
    time.sleep(0.5)
    equal(agent.stop(), 0, "agent's exit status")
    seen = flows(out)
    p.judge(seen)
    whole = [f for f in seen if f.server[1] == 443]
    equal(len(whole), N_SHORT + 1, "flows of short-lived processes and of dlopen")
    equal([sha256(bytes(f.data[1])) for f in whole if f.data[0].startswith(b"GET /file")], [sha256(answer)],
          "dlopen: the answer")
    check(answer.endswith(body), "dlopen: the client did not get the file")
    uris = sorted(int(m) for f in whole for m in re.findall(rb"GET /who\?(\d+) ", f.data[0]))
    equal(uris, list(range(N_SHORT)), "requests of short-lived processes")
    equal(losses(agent), {}, "losses")
    for r in p.runs:
        fact(f"{r[0]}: {r[3].split()[0]} + {r[4].split()[0]} bytes exact")
    fact(f"dlopen: {len(answer)} bytes exact; {N_SHORT} processes of one request each: all mirrored")
    same_tuple(t)
    fact("one tuple in two network namespaces: two flows, each with its own bytes")


run(main, needs=["gcc", "curl", "nginx", "unshare", "chroot"])
