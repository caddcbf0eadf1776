#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""Where the agent puts its probes, in functions compiled in many ways and in the TLS libraries of Debian's
releases: whatever it claims of a place is compared with what happens there (see tests/tools/sitewatch.c).
One false claim is a failure that no second try excuses. Spoilt claims must be noticed."""
import concurrent.futures
import glob
import os
import pathlib
import platform
import re
import shutil
import tempfile
import time

import test_nss
from lib import PROGS, ROOT, Failed, Skip, Untrue, check, equal, fact, run, run_cmd, sh
from lib_debs import Suite

WATCH = pathlib.Path(os.environ.get("BUILD_DIR", ROOT / "build")) / "tests" / "sitewatch"
CALLS = "10"  # of each function
LEVELS = ("-O0", "-O1", "-O2", "-O3", "-Os")
WAYS = ("",
        "-fcf-protection=full -fstack-protector-strong",
        "-fcf-protection=none -fstack-protector-strong -fPIC",
        "-fno-omit-frame-pointer -fstack-protector-strong",
        "-fomit-frame-pointer -fstack-protector-all",
        "-static -fno-pie -no-pie")
ODD = {"gcc": ("-O2 -fno-asynchronous-unwind-tables",
               "-O2 -fpatchable-function-entry=5",
               "-O2 -fcf-protection=none -mindirect-branch=thunk -mharden-sls=all -fstack-protector-all",
               "-O2 -fzero-call-used-regs=all -fno-optimize-sibling-calls -fstack-protector-strong",
               "-O2 -fno-shrink-wrap -fno-crossjumping -fno-reorder-blocks -fstack-protector-all",
               "-O2 -fstack-clash-protection -mno-red-zone -maccumulate-outgoing-args -fstack-protector-strong",
               "-O2 -mstackrealign -fno-reorder-blocks-and-partition",
               "-O3 -march=x86-64-v3 -funroll-loops -fstack-protector-strong",
               "-O1 -fstack-protector-strong -fno-tree-dce -ffunction-sections -falign-functions=1"),
       "clang": ("-O2 -fno-asynchronous-unwind-tables",
                 "-O2 -mretpoline -fstack-protector-strong",
                 "-O2 -mstack-probe-size=512 -fstack-clash-protection -fstack-protector-strong",
                 "-O1 -fno-optimize-sibling-calls -mno-red-zone -fstack-protector-all",
                 "-O3 -march=x86-64-v3 -fcf-protection -fstack-protector-strong")}
SPOILT = ("sp", "exit-sp", "exit-lost", "late", "inside")

OPENSSL, GNUTLS, NSS = ("libssl1.1", "libssl3", "libssl3t64"), ("libgnutls30", "libgnutls30t64"), ("libnss3",)
SUITES = ("bullseye", "bookworm", "bookworm-backports", "trixie", "forky")
LIBC = ("libc6", "libc-", "libgcc-s1", "gcc-", "libcrypt1")  # what a C library of one's own is

RECV_TYPED = 18  # enum sslc_call, proto/event.h

OTHERS, TRIES = 4, 8  # status of sitewatch: others' probes are in the same program
COPIED = 256 << 20  # bytes

SUMMARY = re.compile(r"^SUMMARY (.*)$", re.M)


def numbers(out):
    m = SUMMARY.search(out)
    check(m, "no summary:", out[-300:])
    words = m.group(1).split()
    return dict(zip(words[::2], map(int, words[1::2])))


def watch(what, file, cmd, *opts):
    """Run the command under the watch: (numbers, output). An agent somewhere on this machine would put its probes
    into the file, too: it is given a file that nobody knows yet."""
    for i in range(TRIES):
        with tempfile.TemporaryDirectory(prefix="sslc-watched-") as d:
            own = shutil.copy2(file, d) if os.path.getsize(file) < COPIED else file
            p = run_cmd(WATCH, "-s", "1", *opts, own, *(own if c == file else c for c in cmd), timeout=130)
        if p.returncode != OTHERS:
            break
        time.sleep(i)
    if p.returncode == 3:
        raise Untrue(f"{what}:\n" + "\n".join(re.findall(r"^FALSE .*$", p.stdout, re.M)))
    check(p.returncode == 0, f"{what}: status {p.returncode}: {p.stderr.strip()[-300:]} {p.stdout[-300:]}")
    return numbers(p.stdout), p.stdout


def told(what, n):
    fact(f"{what}: {n['functions']} functions, {n['fast']} cheap ({n['pairs']} of them pairs), {n['callers']} at calls, "
         f"{n['plain']} plain; {n['calls']} calls, exits passed {n['exits'] - n['unseen']} of {n['exits']}")


# --- what compilers make ----------------------------------------------------------------------------

def names():
    return re.findall(r"^\s*X\((\w+)\)", (PROGS / "bodies.h").read_text(), re.M)


def functions():
    return [w for n in names() for w in ("-f", f"body_{n}")]


def build(t, i, cc, flags):
    exe = t.dir / f"bodies{i}"
    sh(cc, "-std=gnu17", "-fwrapv", *flags.split(), "-w", "-o", exe, PROGS / "bodies.c", PROGS / "bodycalls.c",
       timeout=60)
    return exe


def compiled(t, i, cc, flags):
    exe = build(t, i, cc, flags)
    alone = sh(exe, CALLS)
    n, out = watch(f"{cc} {flags}", exe, [exe, CALLS], "-p", *functions())
    check(alone.strip() in out, f"{cc} {flags}: computes something else under the watch")
    check("UNSEEN" not in out, f"{cc} {flags}: not called: {re.findall('^UNSEEN.*', out, re.M)}")
    if flags.startswith("-O2 -fcf-protection=full"):  # kernels that take no pairs
        old, _ = watch(f"{cc} {flags}, no pairs", exe, [exe, CALLS], *functions())
        equal(old["pairs"], 0, "pairs that were not wanted")
    exe.unlink()
    return f"{cc} {flags}", n


def all_compiled(t, pool):
    builds = [(cc, f"{level} {way}") for cc in ("gcc", "clang") for level in LEVELS for way in WAYS]
    builds += [(cc, flags) for cc, more in ODD.items() for flags in more]
    total = {}
    for what, n in pool.map(lambda b: compiled(t, b[0], *b[1]), enumerate(builds)):
        told(what, n)
        for k, v in n.items():
            total[k] = total.get(k, 0) + v
    told(f"{len(builds)} builds", total)
    check(total["pairs"] > 300 and total["unseen"] * 10 < total["exits"], "too little was tried:", total)


def spoilt(t):
    """Wrong claims are noticed."""
    exe = build(t, "spoilt", "gcc", "-O2 -fstack-protector-strong")
    for how in SPOILT:
        p = run_cmd(WATCH, "-p", "-s", "1", "-w", how, *functions(), exe, exe, CALLS, timeout=130)
        check(p.returncode == 3 and "FALSE body_" in p.stdout, f"spoilt by {how}, and nobody noticed: {p.stdout[-300:]}")
    fact("noticed when spoilt:", ", ".join(SPOILT))


# --- libraries --------------------------------------------------------------------------------------

def libc_version(text):
    return tuple(int(n) for n in re.search(r"(\d+)\.(\d+)", text).groups())


def unpacked(t, suite):
    """(suite, command that runs a program with its libraries, {family: (package, library)})"""
    s = Suite(suite)
    known = s.versions(*OPENSSL, *GNUTLS, *NSS, "libc6")
    have = {f: next((p for p in ps if p in known), None)
            for f, ps in (("openssl", OPENSSL), ("gnutls", GNUTLS), ("nss", NSS))}
    packages = [p for p in have.values() if p]
    if not packages:
        return suite, None, {}
    own = libc_version(known["libc6"]) >= libc_version(platform.libc_ver()[1])
    top = s.unpack_all(t.dir / suite, *packages, but=() if own else LIBC)
    dirs = [d for d in (top / "usr/lib/x86_64-linux-gnu", top / "lib/x86_64-linux-gnu") if d.is_dir()]
    path = ":".join(f"{d}:{d}/nss" for d in dirs)
    loader = [next(d / n for d in dirs for n in ["ld-linux-x86-64.so.2"] if (d / n).exists()),
              "--library-path", path] if own else ["env", f"LD_LIBRARY_PATH={path}"]
    files = {"openssl": "libssl.so.*", "gnutls": "libgnutls.so.30.*", "nss": "libssl3.so"}
    return suite, loader, {f: (f"{p} {known[p]}", next(x for d in dirs for x in d.glob(files[f])))
                           for f, p in have.items() if p}


def of_library(job):
    what, cmd, file, args, opts = job
    n, out = watch(what, file, [*cmd, *args], *opts)
    unseen = re.findall(r"^UNSEEN (.*)", out, re.M)
    # One of GnuTLS's two functions that receive serves sockets where the kernel does TLS.
    other = [u for u in unseen if not u.startswith(f"(internal), call {RECV_TYPED},")]
    check("\ndone" in f"\n{out}" and not other and len(unseen) <= 1, f"{what}: not called: {unseen}")
    return what, n


def all_libraries(t, pool, exe):
    crt, key = t.cert()
    args = {"openssl": (crt, key), "gnutls": (crt, key), "nss": (test_nss.database(t),)}
    jobs = []
    for suite, loader, libs in pool.map(lambda s: unpacked(t, s), SUITES):
        if not libs:
            fact(f"{suite}: has none of these packages")
        for family, (package, file) in libs.items():
            cmd = (*loader, exe, family, file, *args[family])
            jobs += [(f"{suite}: {package}{name}", cmd, file, (), opts)
                     for name, opts in (("", ("-p", "-c")), (", no calls", ("-p",)), (", no pairs", ()))
                     if family == "openssl" or not name]
    results = list(pool.map(of_library, jobs))
    for what, n in results:
        told(what, n)
    spoilt_callers(next((j for j, (_, n) in zip(jobs, results) if n["callers"]), None))


def spoilt_callers(job):
    """A caller of an internal function that the agent would not know of is noticed, too."""
    check(job, "no library was probed at calls")
    what, cmd, file, _, opts = job
    p = run_cmd(WATCH, *opts, "-w", "caller", file, *cmd, timeout=130)
    check(p.returncode in (3, OTHERS) and "called from elsewhere" in p.stdout, f"{what}: a call was left out: {p.stdout[-300:]}")
    fact(f"{what}: noticed when a call is left out")


def static_program(t):
    if not glob.glob("/usr/lib/*/libssl.a"):
        return fact("libssl.a is not installed: no static program")
    exe = t.dir / "inside-static"
    sh("gcc", "-std=gnu17", "-D_GNU_SOURCE", "-O2", "-w", "-DLINKED", "-static", "-o", exe, PROGS / "inside.c",
       "-lssl", "-lcrypto", timeout=60)
    return told(*of_library(("static program", (exe, "openssl", "-", *t.cert()), exe, (), ("-p", "-c"))))


def node(t):
    """As its makers and some distributions build it, it has OpenSSL inside."""
    exe = os.path.realpath(shutil.which("node") or "/nonexistent")
    if not os.path.exists(exe) or "libssl" in sh("ldd", exe, ok=None):
        return fact("no node with OpenSSL inside: not tried")
    n, out = watch("node", exe, [exe, PROGS / "talkalone.js", *t.cert()], "-p", "-c")
    for name in ("SSL_read,", "SSL_write,", "SSL_free,"):
        check(f"UNSEEN {name}" not in out, f"node never called {name}")
    check("\ndone" in f"\n{out}", "node:", out)
    return told(f"node {sh(exe, '--version').strip()}", n)


def main(t):
    if platform.machine() != "x86_64":
        raise Skip("cheap sites are looked for on x86-64 only")
    check(WATCH.exists(), f"{WATCH} is not built")
    exe = t.dir / "inside"
    sh("gcc", "-std=gnu17", "-D_GNU_SOURCE", "-O2", "-w", *sh("pkg-config", "--cflags", "nss", "gnutls", "openssl").split(),
       "-o", exe, PROGS / "inside.c", "-ldl", timeout=60)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        spoilt(t)
        all_libraries(t, pool, exe)
        static_program(t)
        node(t)
        all_compiled(t, pool)


if __name__ == "__main__":
    run(main, needs=["gcc", "clang", "pkg-config", "certutil", "pk12util", "apt-get", "dpkg-deb"])
