# What quickstart, test and .ci/run share: the Debian packages, how to build, how to say things. Sourced, not run.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

# Debian 12 (bookworm). libdnnl-dev is optional to the build (-Donednn=disabled), but faster on CPUs with bf16 products.
build_packages=(
  g++ meson ninja-build pkg-config ccache
  libboost1.81-dev libsimdjson-dev libsentencepiece-dev libpcre2-dev libutf8proc-dev libdnnl-dev libhwy-dev
  libcli11-dev libspdlog-dev libfmt-dev libedit-dev libssl-dev
)
model_packages=(python3-venv ca-certificates)  # scripts/get-model
chat_packages=(curl)                           # quickstart's request
test_packages=(doctest-dev git curl haproxy openssl)  # the last two: a shipped config and TLS are tried out
fuzz_packages=(clang-16 libclang-rt-16-dev)
lint_packages=(clang-tidy-16)

say() { printf '%s\n' "$*"; }
fail() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# The packages of the arguments that are not installed, one a line.
missing_packages() {
  local package
  for package in "$@"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || printf '%s\n' "$package"
  done
}

# Installs what is missing of the arguments; without root, says what to type and ends.
need_packages() {
  local missing log
  command -v dpkg-query >/dev/null || fail "this needs Debian or Ubuntu packages: $*"
  mapfile -t missing < <(missing_packages "$@")
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" -ne 0 ]; then
    printf '%s: these packages are missing; install them as root, then run this again:\n\n  apt-get install %s\n\n' \
      "$(basename "$0")" "${missing[*]}" >&2
    exit 1
  fi
  say "installing ${#missing[@]} packages: ${missing[*]}"
  log="$(mktemp)"
  if ! { DEBIAN_FRONTEND=noninteractive apt-get update -q &&
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"; } \
    </dev/null 2>&1 | show_progress '^(Get:|Unpacking |Setting up )' 100 "$log"; then
    cat "$log" >&2
    rm -f "$log"
    fail "could not install the packages (see above)"
  fi
  rm -f "$log"
}

# Keeps everything that comes in as $3; on a terminal shows it as one line that changes, elsewhere every $2-th line that matches $1.
show_progress() {
  local width=0
  [ -t 1 ] && width="$(tput cols 2>/dev/null || echo 80)"
  awk -v pattern="$1" -v every="$2" -v log_file="$3" -v width="$width" '
    { print > log_file }
    $0 ~ pattern {
      if (width > 0) { printf "\r\033[K  %s", substr($0, 1, width - 4); fflush() }
      else if (++seen % every == 0) { print "  " substr($0, 1, 100); fflush() }
    }
    END { if (width > 0) printf "\r\033[K" }'
}

# configure FOLDER "MESON OPTIONS": makes a build folder; one that exists keeps its options, but for those given here.
configure() {
  local folder="$1" options="$2" log
  log="$(mktemp)"
  # shellcheck disable=SC2086  # the options are words
  if [ ! -f "$folder/build.ninja" ]; then
    rm -rf "$folder/meson-private"  # of a configuration that failed half way
    meson setup "$folder" "$root" $options >"$log" 2>&1
  else
    meson configure "$folder" $options >"$log" 2>&1
  fi || { cat "$log" >&2; rm -f "$log"; fail "could not configure $folder (see above)"; }
  rm -f "$log"
}

# build FOLDER TARGET...: with progress; what a compiler says is shown wholly where it fails.
build() {
  local folder="$1" log
  shift
  log="$(mktemp)"
  if ! NINJA_STATUS='[%f of %t, %p] ' ninja -C "$folder" -j "$(jobs_that_fit)" "$@" 2>&1 | show_progress '^\[' 25 "$log"; then
    grep -v '^\[' "$log" >&2 || cat "$log" >&2
    rm -f "$log"
    fail "could not build in $folder (see above)"
  fi
  # Warnings pass in a build of one's own (they are errors in CI), but never unseen.
  grep -E 'warning:' "$log" | sort -u | head -20 || true
  rm -f "$log"
}

# One compiler per core, but 2 GB of memory for each.
jobs_that_fit() {
  local cores gigabytes jobs
  cores="$(nproc)"
  gigabytes="$(awk '/MemAvailable/ { print int($2 / 1000000) }' /proc/meminfo)"
  jobs=$((gigabytes / 2 < cores ? gigabytes / 2 : cores))
  echo $((jobs > 0 ? jobs : 1))
}

# Nothing listens on 127.0.0.1:PORT.
port_is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# The first free port from the one given on.
free_port_from() {
  local port
  for ((port = $1; port < $1 + 200; port++)); do
    if port_is_free "$port"; then echo "$port"; return; fi
  done
  fail "no free port between $1 and $port"
}
