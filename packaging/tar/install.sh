#!/bin/sh
# Installs Flotilla from this archive, for systems with systemd and without .deb or
# .rpm. Run again, from a newer archive, it upgrades.
#
#   ./install.sh agent|controller
#   ./install.sh --uninstall agent|controller     keeps state and configuration
#
# Programs and manual pages go below /usr/local, the unit to /etc/systemd/system. A
# configuration that is there already is kept. Needs root.
set -eu
cd "$(dirname "$0")"

usage() { echo "install.sh: $*; usage: install.sh [--uninstall] agent|controller" >&2; exit 64; }
fail() { echo "install.sh: $*" >&2; exit 1; }

remove=
if [ "${1:-}" = --uninstall ]; then
  remove=1
  shift
fi
[ $# = 1 ] || usage "say which: agent or controller"
part=$1
case "$part" in
  agent) program=flotilla-agent ;;
  controller) program=flotilla ;;
  *) usage "$part is neither agent nor controller" ;;
esac
unit=flotilla-$part.service
bin=/usr/local/bin
pages=/usr/local/share/man/man1
doc=/usr/local/share/doc/flotilla-$part
units=/etc/systemd/system
[ -n "$remove" ] || [ -e "bin/$program" ] || fail "there is no $program in this archive, which holds: $(ls bin)"
[ "$(id -u)" = 0 ] || fail "must run as root"
[ -d /run/systemd/system ] || fail "systemd does not run here, and the service needs it"
# Two units of one name, and two programs, would leave it to chance which one runs.
if [ -z "$remove" ] && [ -e "/usr/bin/$program" ]; then
  fail "/usr/bin/$program is there, from a package: remove the package first, or upgrade by it"
fi

# Pages of `flotilla-agent` begin with `flotilla-` as well, and stay with the agent.
each_page() { # folder
  for page in "$1/$program.1" "$1/$program"-*.1; do
    case "$part ${page##*/}" in "controller flotilla-agent"*) continue ;; esac
    if [ -e "$page" ]; then echo "$page"; fi
  done
}

if [ -n "$remove" ]; then
  systemctl disable --now "$unit" 2>/dev/null || true
  each_page "$pages" | while read -r page; do rm -f "$page"; done
  rm -f "$units/$unit" "$bin/$program"
  rm -rf "$doc"
  systemctl daemon-reload
  echo "removed; /etc/flotilla and the state below /var/lib are kept"
  exit 0
fi

# Beside, then over: a program that runs is never written to, and one that is half
# written never runs.
place() { # mode, from, to
  install -D -m "$1" "$2" "$3.new"
  sync "$3.new"
  mv -f "$3.new" "$3"
}
if [ "$part" = controller ] && ! getent passwd flotilla >/dev/null; then
  useradd --system --user-group --home-dir /var/lib/flotilla --shell /usr/sbin/nologin flotilla
fi
place 755 "bin/$program" "$bin/$program"
each_page man | while read -r page; do place 644 "$page" "$pages/${page##*/}"; done
for paper in "doc/flotilla-$part"/*; do place 644 "$paper" "$doc/${paper##*/}"; done
[ -e "/etc/flotilla/$part.toml" ] || place 644 "etc/$part.toml" "/etc/flotilla/$part.toml"
mkdir -p "$units"
sed "s#/usr/bin/flotilla#$bin/flotilla#" "systemd/$unit" >"$units/.$unit.new"
chmod 644 "$units/.$unit.new"
mv -f "$units/.$unit.new" "$units/$unit"
systemctl daemon-reload
# Only what runs is started again: a first start wants an identity, or an address.
systemctl try-restart "$unit"
case "$part" in
  agent) echo "join a fleet with 'flotilla-agent join TOKEN', then 'systemctl enable --now $unit'" ;;
  controller) echo "set api.advertise in /etc/flotilla/controller.toml, then 'systemctl enable --now $unit'" ;;
esac
