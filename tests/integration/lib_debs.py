# SPDX-License-Identifier: Apache-2.0
"""Programs of Debian packages that cannot be installed beside others: unpacked into the test's directory."""
import shutil

from lib import Skip, run_cmd, sh


def unpack(t, *packages):
    """The directory that the packages' files are in; what they depend on must be installed."""
    for tool in ("apt-get", "dpkg-deb"):
        if not shutil.which(tool):
            raise Skip(f"{tool} is not installed")
    debs, root = t.dir / "debs", t.dir / "root"
    debs.mkdir()
    p = run_cmd("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *packages, cwd=debs, timeout=90)
    if p.returncode:
        raise Skip(f"cannot download {' '.join(packages)}: {p.stderr.strip()[-200:]}")
    for deb in debs.glob("*.deb"):
        sh("dpkg-deb", "-x", deb, root)
    return root
