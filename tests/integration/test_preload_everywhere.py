#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""`enable --system-wide`, on an /etc and a /run that only this test sees: every program has the library then, those
that use TLS are mirrored, one with setuid among them, and the others take no notice; `disable --system-wide`, or the
removal of the package, and none has it."""
import os
import pathlib
import shutil
import time

from lib import (LIBC, LIBRARY, ROOT, Skip, binary, check, equal, fact, flows, is_sanitized, read, run, run_cmd, sh, until)

CLONE_NEWNS = 0x20000
LINES = pathlib.Path("/etc/ld.so.preload")
HOME = pathlib.Path("/run/sslcollector-test")  # as /usr is: root's alone
PORT, GIVEN, ASKED = 4433, 900, 700
NOBODY = 65534


def own_etc(t):
    """From here on this process and its children see directories of their own."""
    check(not LIBC.unshare(CLONE_NEWNS), "unshare")
    sh("mount", "--make-rprivate", "/")
    if LINES.exists():
        raise Skip(f"{LINES} is there already")
    for d in ("up", "work"):
        (t.dir / "etc" / d).mkdir(parents=True)
    sh("mount", "-t", "tmpfs", "etc", t.dir / "etc")  # an overlay does not lie on another one
    for d in ("up", "work"):
        (t.dir / "etc" / d).mkdir()
    sh("mount", "-t", "overlay", "etc", "-o", f"lowerdir=/etc,upperdir={t.dir}/etc/up,workdir={t.dir}/etc/work", "/etc")
    sh("mount", "-t", "tmpfs", "-o", "mode=755", "run", "/run")
    HOME.mkdir()
    for f in (binary(), LIBRARY):
        shutil.copy(f, HOME)
    return HOME / pathlib.Path(binary()).name


def without_32_bit():
    """Where 32-bit programs can run the line is refused: their loader is hidden."""
    loader = pathlib.Path("/lib/ld-linux.so.2")
    where = loader.resolve().parent
    if where == pathlib.Path("/lib").resolve():
        raise Skip(f"{loader} cannot be hidden")
    sh("mount", "-t", "tmpfs", "none", where)


def library_of(pid):
    maps = pathlib.Path(f"/proc/{pid}/maps").read_text()
    return str(HOME / pathlib.Path(LIBRARY).name) in maps, "sslcollector-ring" in maps


def refused(program, *words):
    p = run_cmd(program, "enable", "--system-wide", *words[1:])
    equal(p.returncode, 1, f"{words}: {p.stdout}{p.stderr}")
    check(words[0] in p.stderr and not LINES.exists(), f"{words}:", p.stderr)


def prepare(t):
    """Programs of others, made while all is as usual; one with setuid, for somebody who is not root."""
    t.srv = t.ns("s")
    exe = t.compile("xfer.c")
    low = HOME / "low"
    shutil.copy(exe, low)
    os.chown(low, 1, 1)
    low.chmod(0o6755)
    return exe, low


def exchange(t, exe, low, agent_dir):
    """Its environment names another agent and switches the library off: not for a program with setuid."""
    crt, key = t.cert()
    key.chmod(0o644)
    server = t.spawn("server", exe, "server", "127.0.0.1", PORT, crt, key, ASKED, GIVEN, ns=t.srv)
    until(lambda: f":{PORT}" in sh("ss", "-Hltn", ns=t.srv), 10, "server listens")
    p = run_cmd("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", low, "client", "127.0.0.1", PORT, crt,
                key, GIVEN, ASKED, ns=t.srv,
                env={**os.environ, "SSLCOLLECTOR_RUN_DIR": str(agent_dir), "SSLCOLLECTOR_PRELOAD": "off"})
    equal((p.returncode, p.stderr), (0, ""), f"client: {p.stdout}")
    equal((server.wait(10), server.err()), (0, ""), "server")


def mirrored(t, program, exe, low):
    agent = t.spawn("agent", program, "-I", "any", "--capture", "preload", "-w", t.dir / "a.pcapng", f"port {PORT}", ns=t.srv)
    agent.wait_line("ready", 20)
    sleeper = t.spawn("sleep", "sleep", "30")
    until(lambda: b"sleep" in pathlib.Path(f"/proc/{sleeper.pid}/cmdline").read_bytes(), 5, "sleep runs")
    until(lambda: library_of(sleeper.pid)[0], 5, "the library in a program")
    check(not library_of(sleeper.pid)[1], "a program without TLS has a ring")
    exchange(t, exe, low, t.dir)
    time.sleep(0.5)
    equal(agent.counters().get("preload_processes_refused", 0), 0, "refused")
    equal(agent.stop(), 0, "agent's exit status")
    seen = flows(t.dir / "a.pcapng")
    equal(len(seen), 1, "flows")
    sent = dict(line.split()[:2] for line in read(t.dir / "server.out").splitlines() if line.startswith(("sent", "got")))
    equal([str(len(d)) for d in seen[0].data], [sent["got"], sent["sent"]], "bytes mirrored")
    return agent


def packages_life(program):
    """The line stays at an upgrade and goes with the package."""
    for script, upgrade, remove in (("deb/prerm", "upgrade", "remove"), ("rpm/preun", "1", "0")):
        text = (ROOT / "packaging" / script).read_text().replace("/usr/bin/sslcollector", str(program))
        sh(program, "enable", "--system-wide")
        sh("sh", "-c", text, script, upgrade)
        check(str(HOME) in LINES.read_text(), f"{script}: an upgrade takes the line away")
        sh("sh", "-c", text, script, remove)
        equal(LINES.read_text(), "# before\n", f"{script}: after the removal")


def main(t):
    if is_sanitized():
        raise Skip("AddressSanitizer wants to be the first library")
    program = own_etc(t)
    exe, low = prepare(t)
    HOME.chmod(0o777)
    refused(program, "others may write it")
    HOME.chmod(0o755)
    if pathlib.Path("/lib/ld-linux.so.2").exists():
        refused(program, "32-bit programs")
        without_32_bit()
    refused(program, "look in /run/sslcollector only", "--run-dir", t.dir)
    LINES.write_text("# before\n")
    said = sh(program, "enable", "--system-wide")
    check("undo with" in said, "enable says:", said)
    equal(LINES.read_text(), f"# before\n{HOME}/{pathlib.Path(LIBRARY).name}\n", "lines")
    mirrored(t, program, exe, low)
    p = run_cmd("sh", "-c", "ls / | grep -c .; exit 3")
    equal((p.returncode, p.stderr), (3, ""), "programs go on")
    packages_life(program)
    sleeper = t.spawn("sleep", "sleep", "30")
    until(lambda: b"sleep" in pathlib.Path(f"/proc/{sleeper.pid}/cmdline").read_bytes(), 5, "sleep runs")
    equal(library_of(sleeper.pid), (False, False), "the library afterwards")
    fact("every program had the library; both ends, one with setuid, mirrored; none has it afterwards")


run(main, needs=["gcc", "setpriv", "mount", "ss"])
