# SPDX-License-Identifier: Apache-2.0
"""Programs and libraries of Debian packages that cannot be installed beside others: unpacked into the test's
directory. Lists of packages of other releases are kept for the tests that follow."""
import fcntl
import shutil
import time

from lib import ROOT, Skip, run_cmd, sh

KEPT = ROOT / "build" / "debian"
FRESH_S = 6 * 3600


def unpack(t, *packages):
    """The directory that the packages' files are in; what they depend on must be installed."""
    need_tools()
    debs, root = t.dir / "debs", t.dir / "root"
    debs.mkdir()
    p = run_cmd("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *packages, cwd=debs, timeout=90)
    if p.returncode:
        raise Skip(f"cannot download {' '.join(packages)}: {p.stderr.strip()[-200:]}")
    return extract(debs, root)


def need_tools():
    for tool in ("apt-get", "dpkg-deb"):
        if not shutil.which(tool):
            raise Skip(f"{tool} is not installed")


def extract(debs, root):
    for deb in debs.glob("*.deb"):
        sh("dpkg-deb", "-x", deb, root, timeout=60)
    return root


class Suite:
    """A release of Debian: apt-get and apt-cache on lists of their own; the system's are left alone. arch: as
    Debian names it, where it is not this machine's."""

    def __init__(self, suite, arch=None):
        need_tools()
        self.suite, self.top = suite, KEPT / (f"{suite}-{arch}" if arch else suite)
        self.arch = [f"-oAPT::Architecture={arch}", f"-oAPT::Architectures={arch}"] if arch else []
        for d in ("state/lists/partial", "cache/archives/partial"):
            (self.top / d).mkdir(parents=True, exist_ok=True)
        (self.top / "sources.list").write_text(f"deb [trusted=yes] http://deb.debian.org/debian {suite} main\n")
        (self.top / "status").touch()
        if not self.is_fresh():
            self.update()

    def is_fresh(self):
        stamp = self.top / "updated"
        return stamp.exists() and time.time() - stamp.stat().st_mtime < FRESH_S

    def update(self):
        self.must("apt-get", "update")
        (self.top / "updated").touch()

    def run(self, tool, *args, cwd=None):
        with open(self.top / "lock", "w") as lock:  # apt-get does not wait for another one; tests run side by side
            fcntl.flock(lock, fcntl.LOCK_EX)
            return run_cmd(tool, "-q", f"-oDir::Etc::sourcelist={self.top}/sources.list", "-oDir::Etc::sourceparts=-",
                           f"-oDir::State={self.top}/state", f"-oDir::State::status={self.top}/status",
                           f"-oDir::Cache={self.top}/cache", "-oAPT::Sandbox::User=root",
                           "-oAcquire::Languages=none", *self.arch, *args, timeout=180, cwd=cwd or self.top)

    def must(self, tool, *args):
        p = self.run(tool, *args)
        if p.returncode:
            raise Skip(f"no packages of {self.suite}: {p.stderr.strip()[-200:]}")
        return p.stdout

    def versions(self, *packages):
        """{name: version}, the newest; without those that the release does not have."""
        lines = (line.split("|") for line in self.run("apt-cache", "madison", *packages).stdout.splitlines())
        found = {}
        for name, version, _ in lines:
            found.setdefault(name.strip(), version.strip())
        return found

    def unpack(self, to, *packages):
        """The directory below `to` that the packages' files are in."""
        debs = to / "debs"
        debs.mkdir(parents=True)
        p = self.run("apt-get", "download", *packages, cwd=debs)
        if p.returncode:  # a version that the lists name may have gone
            self.update()
            p = self.run("apt-get", "download", *packages, cwd=debs)
        if p.returncode:
            raise Skip(f"no packages of {self.suite}: {p.stderr.strip()[-200:]}")
        return extract(debs, to / "x")

    def unpack_all(self, to, *packages, but=()):
        """The same, with all that they depend on: what a machine of that architecture would have. Without those
        whose names begin with one of `but`."""
        self.must("apt-get", "-y", "--download-only", "--no-install-recommends", "install", *packages)
        (to / "x").mkdir(parents=True, exist_ok=True)
        for deb in (self.top / "cache/archives").glob("*.deb"):
            if not deb.name.startswith(tuple(but)):
                sh("dpkg-deb", "-x", deb, to / "x", timeout=60)
        return to / "x"
