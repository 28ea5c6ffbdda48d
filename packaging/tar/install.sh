#!/bin/sh
# Installs Flotilla from this archive, for systems without .deb or .rpm.
#
#   ./install.sh agent|controller [--prefix DIR]     default /usr/local
#   ./install.sh remove agent|controller             keeps state and configuration
#
# Needs root, and systemd for the service. Nothing that is there already in /etc is
# changed.
set -eu
cd "$(dirname "$0")"

fail() { echo "install.sh: $*" >&2; exit 64; }

remove=
if [ "${1:-}" = remove ]; then remove=1; shift; fi
part=${1:-}
[ $# -gt 0 ] && shift
prefix=/usr/local
while [ $# -gt 0 ]; do
  case "$1" in
    --prefix) [ -n "${2:-}" ] || fail "--prefix needs a folder"; prefix=$2; shift 2 ;;
    *) fail "unknown argument $1" ;;
  esac
done
case "$part" in
  agent) program=flotilla-agent ;;
  controller) program=flotilla ;;
  *) fail "say which: agent or controller" ;;
esac
unit=flotilla-$part.service
[ "$(id -u)" = 0 ] || fail "must run as root"

if [ -n "$remove" ]; then
  systemctl disable --now "$unit" 2>/dev/null || true
  rm -f "$prefix/bin/$program" "/etc/systemd/system/$unit"
  rm -f "$prefix/share/man/man1/$program.1" "$prefix/share/man/man1/$program"-[a-z]*.1
  systemctl daemon-reload 2>/dev/null || true
  echo "removed; /etc/flotilla and the state below /var/lib are kept"
  exit 0
fi

# Beside, then over: a running program is never written to.
install -D -m 755 "bin/$program" "$prefix/bin/.$program.new"
mv -f "$prefix/bin/.$program.new" "$prefix/bin/$program"
mkdir -p "$prefix/share/man/man1" /etc/flotilla
cp man/"$program".1 man/"$program"-[a-z]*.1 "$prefix/share/man/man1/"
[ -e "/etc/flotilla/$part.toml" ] || install -m 644 "etc/$part.toml" "/etc/flotilla/$part.toml"
if [ "$part" = controller ] && ! getent passwd flotilla >/dev/null; then
  useradd --system --home-dir /var/lib/flotilla --shell /usr/sbin/nologin flotilla
fi
if [ -d /run/systemd/system ]; then
  sed "s#/usr/bin/#$prefix/bin/#" "systemd/$unit" >"/etc/systemd/system/$unit"
  systemctl daemon-reload
  systemctl enable "$unit"
  systemctl try-restart "$unit"
fi
case "$part" in
  agent) echo "join a fleet with '$prefix/bin/flotilla-agent join TOKEN', then 'systemctl start $unit'" ;;
  controller) echo "set api.advertise in /etc/flotilla/controller.toml, then 'systemctl start $unit'" ;;
esac
