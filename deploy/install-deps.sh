#!/usr/bin/env bash
# Installs what building (and, with `test`, testing) camnet needs on Debian 12/13 or Ubuntu 24.04.
# Asks nothing, says what it does, and does nothing when everything is there.
#
#   deploy/install-deps.sh build   what `make demo` needs
#   deploy/install-deps.sh test    that, and what `make test` needs beside it
#   deploy/install-deps.sh fuzz    what `make demo` needs, and what `make fuzz` needs beside it
#   deploy/install-deps.sh bench   that, and what `make bench` compares with
set -euo pipefail

what=${1:-build}
rust_version=1.95.0

packages=(
  build-essential pkg-config ca-certificates curl
  libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev libgstrtspserver-1.0-dev
  gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad
  gstreamer1.0-plugins-ugly gstreamer1.0-libav
)
if [ "$what" = test ] || [ "$what" = bench ]; then
  # Real parts that the tests run against.
  packages+=(ffmpeg mosquitto mosquitto-clients prometheus python3 python3-venv procps vlc-bin vlc-plugin-base)
  . /etc/os-release
  if [ "${ID:-}" = ubuntu ]; then
    # Ubuntu's chromium is a snap, which does not run in a container: the browser test says so there.
    packages+=(chromium-browser)
  else
    packages+=(chromium)
  fi
fi

if [ "$what" = bench ]; then
  # What people would otherwise write: a Python subscriber that inserts into PostgreSQL.
  packages+=(postgresql python3-paho-mqtt python3-psycopg2)
  # And for motion.
  packages+=(motion)
fi

say() { echo "install-deps: $*" >&2; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo -n "$@"
  else say "needs root for: $*; run it as root or install sudo"; exit 1
  fi
}

is_installed() { [ "$(dpkg-query -W -f='${Status}' "$1" 2>/dev/null)" = "install ok installed" ]; }

apt_install() {
  say "installing with apt: $*"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

missing=()
for package in "${packages[@]}"; do
  is_installed "$package" || missing+=("$package")
done
# Node from anywhere will do, if it is 18 or newer; else Debian's.
if ! command -v npm >/dev/null || [ "$(node -p 'process.versions.node.split(".")[0] >= 18' 2>/dev/null)" != true ]; then
  missing+=(nodejs npm)
fi
if [ ${#missing[@]} -gt 0 ]; then
  apt_install "${missing[@]}"
fi

# A distribution starts its mosquitto and its prometheus as services; the tests start their own and need none.
for service in mosquitto prometheus; do
  if [ "$what" != build ] && command -v systemctl >/dev/null && systemctl is-active -q "$service" 2>/dev/null; then
    case " ${missing[*]:-} " in *" $service "*)
      say "stopping the $service service that apt has just started"
      as_root systemctl disable --now -q "$service" ;;
    esac
  fi
done

# Clients and validators in Python that the tests run, in an environment of their own; made once for each list of them.
if [ "$what" = test ]; then
  wanted=$(cd "$(dirname "$0")/.." && pwd)/tests/interop/requirements.txt
  environment=${XDG_CACHE_HOME:-$HOME/.cache}/camnet/interop
  if ! cmp -s "$wanted" "$environment/requirements.txt"; then
    say "installing STAC and OpenAPI clients and validators into $environment"
    rm -rf "$environment"
    python3 -m venv "$environment"
    "$environment/bin/pip" install --quiet --disable-pip-version-check --no-deps --requirement "$wanted"
    cp "$wanted" "$environment/requirements.txt"
  fi
fi

[ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
has_rust() {
  command -v cargo >/dev/null || return 1
  local version
  version=$(cd / && cargo --version 2>/dev/null | cut -d' ' -f2)
  [ "$(printf '%s\n' "$rust_version" "$version" | sort -V | head -1)" = "$rust_version" ]
}
if ! has_rust; then
  if command -v rustup >/dev/null || { apt-cache show rustup >/dev/null 2>&1 && apt_install rustup; }; then
    say "installing Rust $rust_version with rustup"
    rustup default "$rust_version"
  else
    say "installing Rust $rust_version with rustup from https://sh.rustup.rs"
    curl -fsSL https://sh.rustup.rs | sh -s -- -y --profile minimal -c clippy -c rustfmt --default-toolchain "$rust_version"
  fi
fi

if [ "$what" = fuzz ]; then
  export PATH="$HOME/.cargo/bin:$PATH"
  # libFuzzer's instrumentation needs nightly; the product itself is built with stable.
  rustup toolchain list | grep -q "^nightly" || { say "installing Rust nightly"; rustup toolchain install nightly --profile minimal; }
  command -v cargo-fuzz >/dev/null || { say "installing cargo-fuzz"; cargo install --locked cargo-fuzz@0.13.2; }
fi
