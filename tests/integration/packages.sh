#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# deb and rpm: built from this build directory, contents checked, the deb installed here, tried,
# removed and purged; afterwards nothing of it is left.
set -euo pipefail

root=$(cd -- "$(dirname -- "$0")/../.." && pwd)
build=${BUILD_DIR:-$root/build}
tmp=$(mktemp -d)
installed=no
files='usr/bin/sslcollector
usr/lib/systemd/system/sslcollector-agent.service
usr/lib/systemd/system/sslcollector-collector.service
usr/share/man/man8/sslcollector.8.gz
usr/share/man/man5/sslcollector.yaml.5.gz
usr/share/doc/sslcollector/LICENSE
usr/share/doc/sslcollector/README.md
usr/share/doc/sslcollector/copyright
usr/share/doc/sslcollector/examples/suricata-sslcollector.yaml'
for conf in "$root"/packaging/conf/*.yaml; do
	files+=$'\n'etc/sslcollector/${conf##*/}
done

# Debian's multiarch directory, or the distribution's own.
libdir=lib$([ -e /etc/debian_version ] && printf '/%s' "$(gcc -print-multiarch)" || { [ -d /usr/lib64 ] && echo 64; })
files+=$'\n'usr/$libdir/libsslcollector-preload.so
for dir in "$libdir" libexec; do
	files+=$'\n'usr/$dir/wireshark/extcap/sslcollector
done

fail() { printf 'FAIL: %s\n' "$*"; exit 1; }
skip() { printf 'SKIP: %s\n' "$*"; exit 77; }
has() { command -v "$1" >/dev/null 2>&1; }

cleanup() {
	[ $installed = no ] || dpkg --purge sslcollector >/dev/null 2>&1 || true
	rm -rf -- "$tmp"
}
trap cleanup EXIT

# lists FILE: the package's list of paths (without a leading / or ./) names all of $files, and no stray.
check_list() {
	local f
	while read -r f; do
		grep -qxF -e "$f" "$1" || fail "$2 lacks $f"
	done <<<"$files"
	if grep -vE '^(etc|usr)(/|$)' "$1" | grep -q .; then
		fail "$2 has files in strange places: $(grep -vE '^(etc|usr)(/|$)' "$1")"
	fi
	if grep -E '\.(c|h|o|a|cmake)$|/tests?/' "$1"; then
		fail "$2 carries build files"
	fi
}

check_deb() {
	local deb=$1
	dpkg-deb -c "$deb" | awk '{ print $6 }' | sed 's,^\./,,; s,/$,,' | grep . >"$tmp/deb.list"
	check_list "$tmp/deb.list" "${deb##*/}"
	dpkg-deb -c "$deb" | awk '$1 ~ /^-.*w.$/ || $1 ~ /^d.......w/ || $2 != "root/root" { print; bad = 1 }
		END { exit bad }' || fail "files of ${deb##*/} are writable by others or not root's"
	dpkg-deb -I "$deb"
	dpkg-deb -f "$deb" Depends | grep -q libssl3 || fail "${deb##*/} does not depend on libssl3"
	dpkg-deb -f "$deb" Depends | grep -q libbpf1 || fail "${deb##*/} does not depend on libbpf1"
	dpkg-deb --ctrl-tarfile "$deb" | tar -xO ./conffiles | grep -qxF /etc/sslcollector/sslcollector.yaml ||
		fail "the configuration is no conffile"
	if has lintian; then
		lintian --allow-root --fail-on error --no-cfg "$deb" || fail "lintian found errors"
	fi
}

check_units() {
	has systemd-analyze || { echo 'no systemd-analyze: units not verified'; return 0; }
	local u out
	for u in sslcollector-agent sslcollector-collector; do
		out=$(systemd-analyze verify --man=no "/usr/lib/systemd/system/$u.service" 2>&1) ||
			fail "systemd-analyze verify $u: $out"
		# It warns about other units of the machine too.
		if grep -q sslcollector <<<"$out"; then
			fail "systemd-analyze verify: $out"
		fi
	done
	echo 'units verified'
}

check_installed() {
	local version
	version=$(/usr/bin/sslcollector --version) || fail "the installed program does not run"
	echo "$version"
	grep -q "$(dpkg-query -W -f '${Version}' sslcollector)" <<<"$version" ||
		fail "--version does not name the package's version"
	! ldd /usr/bin/sslcollector | grep 'not found' || fail "libraries are missing"
	if has man; then
		man -w sslcollector >/dev/null || fail "man does not find sslcollector"
		man -w 5 sslcollector.yaml >/dev/null || fail "man does not find sslcollector.yaml"
	fi
	check_units
	if [ -d /run/systemd/system ]; then
		! systemctl is-enabled --quiet sslcollector-agent || fail "the agent was enabled"
		! systemctl is-active --quiet sslcollector-agent || fail "the agent was started"
	fi
}

# What the program leaves in its state directory stays on remove and goes on purge.
check_life() {
	local deb=$1 f
	if dpkg-query -W -f '${db:Status-Status}' sslcollector 2>/dev/null | grep -q .; then
		skip "a package sslcollector is installed here: it is not touched"
	fi
	for f in /var/lib/sslcollector /etc/sslcollector /usr/bin/sslcollector; do
		[ ! -e $f ] || skip "$f exists here: it is not touched"
	done
	installed=yes
	# Container images leave manuals out by configuration.
	dpkg -i --path-include='/usr/share/man/*' --path-include='/usr/share/doc/*' "$deb"
	check_installed
	timeout 60 /usr/bin/sslcollector token >"$tmp/token" || fail "sslcollector token failed"
	[ "$(stat -c %a /var/lib/sslcollector)" = 700 ] || fail "the state directory is not 0700"
	dpkg -r sslcollector
	[ ! -e /usr/bin/sslcollector ] || fail "remove left the program"
	[ -e /etc/sslcollector/sslcollector.yaml ] || fail "remove deleted the configuration"
	[ -e /var/lib/sslcollector ] || fail "remove deleted the keys"
	dpkg --purge sslcollector
	installed=no
	while read -r f; do
		[ ! -e "/$f" ] || fail "purge left /$f"
	done <<<"$files"
	for f in /var/lib/sslcollector /etc/sslcollector /usr/share/doc/sslcollector; do
		[ ! -e $f ] || fail "purge left $f"
	done
}

check_rpm() {
	local rpm=$1
	rpm -qpl "$rpm" 2>/dev/null | sed 's,^/,,' | grep . >"$tmp/rpm.list"
	check_list "$tmp/rpm.list" "${rpm##*/}"
	rpm -qp --requires "$rpm"
	rpm -qp --requires "$rpm" | grep -q '^libssl\.so\.3' || fail "${rpm##*/} does not require libssl.so.3"
	rpm -qp --requires "$rpm" | grep -q '^libbpf\.so\.1' || fail "${rpm##*/} does not require libbpf.so.1"
	rpm -qpc "$rpm" | grep -qxF /etc/sslcollector/sslcollector.yaml || fail "the configuration is no config file"
	# Directories of the distribution must not be owned: rpm would see a conflict.
	! grep -xE 'usr|usr/bin|usr/lib|usr/lib/systemd(/system)?|usr/share/(man|doc)|usr/share/man/man[0-9]|etc' \
		"$tmp/rpm.list" || fail "${rpm##*/} owns directories of the distribution"
	if has rpm2cpio && has cpio; then
		rpm2cpio "$rpm" | cpio -t --quiet | sed 's,^\./,,' | sort >"$tmp/cpio.list"
		check_list "$tmp/cpio.list" "${rpm##*/} (payload)"
		mkdir "$tmp/x"
		(cd "$tmp/x" && rpm2cpio "$rpm" | cpio -id --quiet)
		timeout 20 "$tmp/x/usr/bin/sslcollector" --version || fail "the program out of the rpm does not run"
		grep -qx 'ExecStart=/usr/bin/sslcollector --config /etc/sslcollector/agent.yaml' \
			"$tmp/x/usr/lib/systemd/system/sslcollector-agent.service" || fail "wrong ExecStart in the rpm"
	fi
}

[ "$(id -u)" = 0 ] || skip "needs root to install a package"
has cpack || skip "no cpack"
has dpkg-deb || has rpmbuild || skip "neither dpkg-deb nor rpmbuild"
[ -x "$build/sslcollector" ] || fail "$build/sslcollector is not built"

cd -- "$build"
# The manual pages are part of a whole build, which this directory may not have had.
cmake --build . --target sslcollector manpages >"$tmp/build.log" 2>&1 || { cat "$tmp/build.log"; fail "build"; }
if has dpkg-deb; then
	cpack -G DEB -B "$tmp/pkg" >"$tmp/cpack.log" 2>&1 || { cat "$tmp/cpack.log"; fail "cpack -G DEB"; }
	check_deb "$(echo "$tmp"/pkg/*.deb)"
	check_life "$(echo "$tmp"/pkg/*.deb)"
fi
if has rpmbuild; then
	cpack -G RPM -B "$tmp/pkg" >"$tmp/cpack.log" 2>&1 || { cat "$tmp/cpack.log"; fail "cpack -G RPM"; }
	check_rpm "$(echo "$tmp"/pkg/*.rpm)"
fi
echo "packages: all checks passed"
