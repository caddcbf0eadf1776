#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""The preloaded library as it is built: it needs the C library alone, exports what it wraps and nothing else, and gives a
child a ring of its own. And for musl, the C library of Alpine: built, and loaded into a program of that C library, whose
stub of a TLS library it mirrors."""
import pathlib
import re
import time

from lib import LIBRARY, PY, ROOT, check, equal, fact, flows, run, sh
from lib_targets import build_stub, exported, judge_library, judge_stub

PORT = 4443
LATER = {"SSL_write_ex2"}  # OpenSSL 3.3
KERNEL_HEADERS = ("linux", "asm", "asm-generic")


def judge_names():
    """Whoever asks for a name that we export must have meant a library's: each is one of these libraries'."""
    known = set(LATER)
    for lib in ("libssl.so.3", "libcrypto.so.3", "libgnutls.so.30", "libnspr4.so", "libssl3.so", "libc.so.6"):
        path = re.search(rf"{re.escape(lib)} .*=> (\S+)", sh("ldconfig", "-p"))
        check(path, f"{lib} is not installed")
        known |= exported("objdump", path.group(1))
    ours = judge_library("objdump", LIBRARY)
    check(ours <= known, "exported, and nobody else's:", sorted(ours - known))
    return ours


def kernel_headers(t):
    """musl's compiler sees its own headers only: beside them, those of the kernel."""
    top = t.dir / "headers"
    top.mkdir()
    machine = sh("gcc", "-print-multiarch").strip()
    for name in KERNEL_HEADERS:
        here = pathlib.Path("/usr/include") / name
        (top / name).symlink_to(here if here.exists() else pathlib.Path("/usr/include") / machine / name)
    return top


def build_for_musl(t):
    build = t.dir / "musl"
    sh("cmake", "-G", "Ninja", "-B", build, "-DSSLC_PRELOAD_ONLY=ON", "-DSSLC_WERROR=ON", "-DCMAKE_C_COMPILER=musl-gcc",
       f"-DCMAKE_C_FLAGS=-isystem {kernel_headers(t)}", ROOT, timeout=60)
    sh("ninja", "-C", build, timeout=60)
    return build / pathlib.Path(LIBRARY).name, *build_stub("musl-gcc", t.dir / "stub", name="libssl.so.3")


def mirrored(t, library, exe, stub):
    ns = t.ns("s")
    agent = t.alone("--capture", "preload", "--run-dir", t.run_dir(), "-w", t.dir / "musl.pcapng", f"port {PORT}", ns=ns,
                    iface="any")
    # env(1) is not of this C library: the environment begins behind it
    p = t.spawn("stubtls", "env", f"LD_PRELOAD={library}", f"SSLCOLLECTOR_RUN_DIR={t.run_dir()}", exe, PORT,
                stub.name, ns=ns)
    equal(p.wait(20), 0, f"stubtls: {p.err()}")
    equal(p.err(), "", "words of the loader")
    time.sleep(0.5)
    equal(agent.stop(), 0, "agent's exit status")
    seen = flows(t.dir / "musl.pcapng")
    judge_stub("musl", re.findall(r"^conn (\d+)$", p.out(), re.M), seen)
    equal({k: v for k, v in agent.counters().items() if k.startswith("preload_") and ("lost" in k or "broken" in k)}, {},
          "losses")


def ring_of(pid):
    """Which file of memory it has mapped."""
    m = re.search(r"(\d+) +/memfd:sslcollector-ring", pathlib.Path(f"/proc/{pid}/maps").read_text())
    return m and m.group(1)


def judge_child(t):
    """A child without exec() has not its parent's ring: what the parent says is none of its business."""
    p = t.spawn("forks", PY, "-c", "import os, sys; print(os.fork(), flush=True); sys.stdin.read()", stdin=True,
                env={"LD_PRELOAD": LIBRARY, "SSLCOLLECTOR_RUN_DIR": str(t.run_dir())})
    child = p.wait_line(r"^([1-9]\d*)$", where="out").group(1)
    p.wait_line(r"^0$", where="out")
    rings = ring_of(p.pid), ring_of(child)
    check(all(rings) and rings[0] != rings[1], "rings of a process and its child:", rings)
    p.p.stdin.close()
    equal(p.wait(10), 0, "the process with a child")


def main(t):
    ours = judge_names()
    judge_child(t)
    fact(f"{len(ours)} functions exported, each a library's; needs libc.so.6 alone")
    library, exe, stub = build_for_musl(t)
    equal(judge_library("objdump", library, "libc.so"), ours, "exported by the one for musl")
    mirrored(t, library, exe, stub)
    fact("musl: the same functions, libc.so alone; linked, by dlsym() and in children: 4 connections equal")


run(main, needs=["gcc", "objdump", "cmake", "ninja", "musl-gcc"])
