# `make help` lists the targets. Each sets up what it needs in .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
RUST_SOURCES := $(shell find rust -path rust/gateway -prune -o -name '*.rs' -print -o -name 'Cargo.toml' -print) Cargo.toml Cargo.lock
PYTHON_SOURCES := $(shell find python -name '*.py')
BUILT := .venv/.built

.DEFAULT_GOAL := help
.PHONY: help demo test test-quick quick-rust quick-python quick-profiler test-arm check bench bench-text bench-static bench-profiler manners counts counts-accept bench-peers paper paper-quick paper-docs paper-test wheel light clean risk promise testbed testbed-quick gateway gateway-demo gateway-static gateway-wheel gateway-otel bench-gateway litellm-test scale-test bench-stream

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 10), "Python 3.10 or newer is needed: make PYTHON=python3.12"'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --upgrade pip

.venv/.tools: pyproject.toml | $(BIN)/python
	$(BIN)/pip install -q --group dev
	@touch $@

# An editable install, built with optimisation; again when Rust or the project file changed.
$(BUILT): $(RUST_SOURCES) pyproject.toml profiler/pyproject.toml .venv/.tools
	@command -v cargo >/dev/null || { echo "Rust is needed: see https://rustup.rs"; exit 1; }
	. $(BIN)/activate && maturin develop --release --extras lab,report,minilm,fetch
	$(BIN)/pip install -q -e 'profiler[plot]'
	@touch $@

demo: $(BUILT)  ## fit, calibrate, route and plot; CR2FAST_DATA=DIR for real data (out: ./demo)
	$(BIN)/cr2fast demo --out demo

test: $(BUILT)  ## all tests: Rust, Python, statistics, README
	cargo test --profile checked -p cr2fast-core -p cr2fast-train -p cr2fast-gateway
	$(BIN)/python -m pytest
	cd profiler && ../$(BIN)/python -m pytest

# Side by side, since each runs on one core for most of its time.
test-quick: $(BUILT)  ## what a change needs, in a minute: all but real data, many draws, a million rows
	@$(MAKE) --no-print-directory -j2 -Otarget quick-python quick-profiler quick-rust

quick-rust:
	cargo test -q --profile checked -p cr2fast-core -p cr2fast-train -p cr2fast-gateway -- --skip million

quick-python:
	$(BIN)/python -m pytest -q -m "not slow"

quick-profiler:
	cd profiler && ../$(BIN)/python -m pytest -q -m "not slow" -k "not intervals_hold"

gateway:  ## build the gateway, cr2fast-gateway, into target/release
	cargo build --release -p cr2fast-gateway --bin cr2fast-gateway

MUSL := $(shell uname -m)-unknown-linux-musl
gateway-static:  ## the same as one static binary, into target/*-musl/release
	@command -v musl-gcc >/dev/null || { echo "gateway-static: a C compiler for musl is needed: apt-get install musl-tools"; exit 1; }
	rustup target add $(MUSL)
	cargo build --release --target $(MUSL) -p cr2fast-gateway --bin cr2fast-gateway

gateway-wheel: .venv/.tools  ## the gateway's own wheel, installed and asked for its version
	rm -rf target/gateway-wheel
	. $(BIN)/activate && cd rust/gateway && maturin build --release --out ../../target/gateway-wheel
	$(PYTHON) -m venv target/gateway-wheel/venv
	target/gateway-wheel/venv/bin/pip install -q target/gateway-wheel/*.whl
	target/gateway-wheel/venv/bin/cr2fast-gateway --version

gateway-otel:  ## the gateway with the feature otel: lints, and the tests of its spans
	cargo clippy --profile checked -p cr2fast-gateway --features otel --all-targets -- -D warnings
	cargo test --profile checked -p cr2fast-gateway --features otel --test gateway -- spans traces

# The testbed's live models where its environment is made, stubs elsewhere.
DEMO_PYTHON = $(if $(wildcard .venv-testbed/.built),.venv-testbed/bin/python,$(BIN)/python)
gateway-demo: gateway $(BUILT)  ## two servers behind two gateways: ask, stream, kill the edge, reload, read the log
	$(DEMO_PYTHON) -m pip install -q openai 'polars>=1.20'
	$(DEMO_PYTHON) examples/testbed/demo.py --gateway target/release/cr2fast-gateway --out target/gateway-demo

bench-gateway: $(BUILT)  ## what the gateway costs and keeps, beside a bare proxy and LiteLLM's (ten minutes)
	$(BIN)/python -m benches.gateway

# Emulation is too slow for the million rows; the other tests compare NEON with scalar code, and both
# with bits from x86-64.
ARM = aarch64-unknown-linux-gnu
test-arm: export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER = aarch64-linux-gnu-gcc
test-arm: export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER = qemu-aarch64-static -L /usr/aarch64-linux-gnu
test-arm:  ## the core's tests on AArch64, emulated
	@command -v aarch64-linux-gnu-gcc qemu-aarch64-static >/dev/null || { echo "test-arm: a cross compiler and an emulator are needed: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static"; exit 1; }
	rustup target add $(ARM)
	cargo test --profile checked --target $(ARM) -p cr2fast-core -- --skip million

check: $(BUILT)  ## formatting, lints, types, stub against module
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	RUSTDOCFLAGS="-D warnings" cargo doc -q --no-deps --workspace
	$(BIN)/mypy
	PYTHONPATH=python $(BIN)/lint-imports
	$(BIN)/python -m pytest -q --noconftest tests/packaging/test_layers.py
	cd profiler && ../$(BIN)/mypy && ../$(BIN)/lint-imports
	PYTHONPATH=python $(BIN)/python -m mypy.stubtest cr2fast._core

bench: $(BUILT)  ## time single decisions, batches and calibration (answers asserted first)
	mkdir -p target/bench
	$(BIN)/python -m pytest benches --benchmark-only --benchmark-columns=min,median,iqr,rounds --benchmark-json=target/bench/python.json
	$(BIN)/python -m benches.history target/bench/python.json
	cargo bench -p cr2fast-core --bench kernels

# The harness's runner has to be of the library's version.
GUNGRAUN := $(shell sed -n '/^name = "gungraun"$$/{n;s/version = "\(.*\)"/\1/p;}' Cargo.lock)
# Tools that are compiled once per machine, whatever the checkout.
TOOLS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/cr2fast/tools
RUNNER := $(TOOLS)/gungraun-$(GUNGRAUN)
$(RUNNER):
	cargo install -q --debug --locked --root $@ --version $(GUNGRAUN) gungraun-runner

target/counts.json: $(RUST_SOURCES) | $(RUNNER)
	@mkdir -p target
	@command -v valgrind >/dev/null || { echo "counts: valgrind is needed: apt-get install valgrind (Debian, Ubuntu), dnf install valgrind (Fedora)"; exit 1; }
	GUNGRAUN_RUNNER=$(RUNNER)/bin/gungraun-runner cargo bench -p cr2fast-core --bench counts -- --output-format=json > $@.part
	mv $@.part $@

counts: target/counts.json  ## instructions of the hot kernels under callgrind; fails past +3 % of the committed ones
	$(PYTHON) benches/counts.py < $<

counts-accept: target/counts.json  ## commit to the present instruction counts
	$(PYTHON) benches/counts.py --accept < $<

bench-profiler: $(BUILT)  ## the profiler on this machine's own clock and sockets (a minute)
	cd profiler && PYTHONPATH=tests:. ../$(BIN)/python -m benches.real_time

manners: $(BUILT)  ## how servers and proxies stream, and what the profiler makes of each
	cd profiler && PYTHONPATH=tests:. ../$(BIN)/python -m benches.manners

bench-text: $(BUILT)  ## from text to decision: MiniLM beside a static encoder
	$(BIN)/python -m benches.text_path

bench-static: $(BUILT)  ## routing quality of a static encoder on CR2FAST_DATA, five seeds
	$(BIN)/python -m benches.static_encoder

bench-peers: wheel  ## side by side with onnxruntime, NumPy, JAX, scikit-learn, in an environment of its own
	[ -d .venv-peers ] || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install -q -r benches/peers/requirements.txt polars
	.venv-peers/bin/pip install -q --force-reinstall --no-deps dist/*.whl
	.venv-peers/bin/python -m benches.peers.run --out target/peers.json

# The experiments run on the wheel, beside the baselines' libraries.
PAPER = .venv-paper/bin/python -m benches.paper.run
.venv-paper/.built: $(RUST_SOURCES) $(PYTHON_SOURCES) benches/paper/requirements.txt
	$(MAKE) wheel
	[ -d .venv-paper ] || $(PYTHON) -m venv .venv-paper
	.venv-paper/bin/pip install -q --upgrade pip
	.venv-paper/bin/pip install -q -r benches/paper/requirements.txt
	.venv-paper/bin/pip install -q --force-reinstall --no-deps dist/*.whl
	@touch $@

paper: .venv-paper/.built  ## the paper's experiments on CR2FAST_DATA and every pool in it, five seeds (half an hour to an hour per pool; goes on where it stopped)
	$(PAPER) --out target/paper

paper-quick: .venv-paper/.built  ## the same on few queries, one seed, nothing chosen (minutes)
	$(PAPER) --quick --out target/paper-quick

paper-docs: .venv-paper/.built  ## the documents' page of results, from what make paper wrote
	.venv-paper/bin/python -m benches.paper.documents target/paper/*/results.json --out docs/explanation

paper-test: .venv-paper/.built  ## the experiments' own tests, on small made-up folders
	.venv-paper/bin/pip install -q pytest hypothesis
	.venv-paper/bin/python -m pytest -q tests/evaluation/test_paper_harness.py

# litellm takes seconds to import and brings much along, so it has an environment of its own; what
# is tested there is this checkout's build.
target/litellm/.built: pyproject.toml $(BUILT)
	[ -d target/litellm/bin ] || $(PYTHON) -m venv target/litellm
	target/litellm/bin/pip install -q "litellm>=1.92" "numpy>=1.24" "polars>=1.20" pytest hypothesis
	@touch $@

litellm-test: target/litellm/.built  ## the LiteLLM plugin, with the real package
	PYTHONPATH=python target/litellm/bin/python -m pytest -q tests/integrations/test_litellm.py

# Ray, Daft and datasets take 800 MB, so they have an environment of their own, too.
target/scale/.built: examples/scale/requirements.txt $(BUILT)
	[ -d target/scale/bin ] || $(PYTHON) -m venv target/scale
	target/scale/bin/pip install -q -r examples/scale/requirements.txt pytest hypothesis
	@touch $@

scale-test: target/scale/.built  ## the examples on real Ray, Daft, polars and datasets
	PYTHONPATH=$(CURDIR)/python target/scale/bin/python -m pytest -q tests/scale

STREAM_ROWS ?= 100000000
bench-stream: $(BUILT)  ## rows per second of RouteBatches beside the bare kernel, and memory (STREAM_ROWS=1e8: 20 minutes)
	$(BIN)/python -m benches.stream --rows $(STREAM_ROWS)

risk: $(BUILT)  ## realised risk over five seeds on CR2FAST_DATA
	$(BIN)/python -m benches.risk_over_seeds

promise: $(BUILT)  ## a day whose mix of queries shifts, on CR2FAST_DATA: a fixed threshold, the rolling one, recalibration
	$(BIN)/python -m benches.promise_over_a_day --out target/promise

light: wheel  ## install the wheel beside numpy alone in a fresh environment, and route
	rm -rf target/light && $(PYTHON) -m venv target/light
	target/light/bin/pip install -q dist/*.whl
	target/light/bin/pip list --format=freeze | grep -ivE '^(pip|setuptools|cr2fast|numpy)=' && exit 1 || true
	cd target && light/bin/python ../tests/packaging/light_install.py

# Two live models behind llama-cpp-python's server, compiled once and kept in a cache.
TESTBED = .venv-testbed/bin/python examples/testbed/run.py --out target/testbed
LLAMA := llama-cpp-python==0.3.36
LLAMA_CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/cr2fast/wheels
.venv-testbed/.built: examples/testbed/requirements.txt examples/testbed/requirements-nodeps.txt profiler/pyproject.toml $(RUST_SOURCES) $(PYTHON_SOURCES)
	$(MAKE) wheel
	[ -d .venv-testbed ] || $(PYTHON) -m venv .venv-testbed
	.venv-testbed/bin/pip install -q --upgrade pip
	.venv-testbed/bin/pip install -q --no-index --no-deps --find-links $(LLAMA_CACHE) $(LLAMA) 2>/dev/null || { \
		CMAKE_ARGS="-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF" CMAKE_BUILD_PARALLEL_LEVEL=$$(nproc) .venv-testbed/bin/pip wheel -q --no-deps $(LLAMA) -w $(LLAMA_CACHE) && \
		.venv-testbed/bin/pip install -q --no-index --no-deps --find-links $(LLAMA_CACHE) $(LLAMA); }
	.venv-testbed/bin/pip install -q -r examples/testbed/requirements.txt "$$(ls dist/*.whl)[lab,minilm]" -e 'profiler[plot]'
	.venv-testbed/bin/pip install -q --no-deps -r examples/testbed/requirements-nodeps.txt
	.venv-testbed/bin/pip install -q --force-reinstall --no-deps dist/*.whl
	@touch $@

testbed: .venv-testbed/.built gateway  ## profile two live models, route between them, ask through the gateways (ten minutes)
	$(TESTBED) --gateway target/release/cr2fast-gateway

testbed-quick: .venv-testbed/.built  ## the same with fewer questions and rounds
	rm -rf target/testbed-quick
	cargo build --profile checked -p cr2fast-gateway --bin cr2fast-gateway
	$(TESTBED)-quick --quick --gateway target/checked/cr2fast-gateway

wheel: .venv/.tools  ## build the wheel into dist/
	rm -rf dist
	. $(BIN)/activate && maturin build --release --out dist

clean:  ## remove what make made
	rm -rf .venv .venv-peers .venv-paper .venv-testbed target dist demo python/cr2fast/*.so

# Wheels for the systems that devices have, old ones included; zig links against their C libraries.
# A target and the platform tag that its wheel keeps.
WHEELS := \
  x86_64-unknown-linux-gnu:manylinux2014 \
  aarch64-unknown-linux-gnu:manylinux2014 \
  armv7-unknown-linux-gnueabihf:manylinux2014 \
  x86_64-unknown-linux-musl:musllinux_1_2 \
  aarch64-unknown-linux-musl:musllinux_1_2
GATEWAY_WHEELS := $(filter x86_64-% aarch64-%,$(WHEELS))
WHEEL = maturin build --release --zig --target $${wheel%%:*} --compatibility $${wheel\#\#*:} --out $(CURDIR)/dist
wheels: .venv/.tools  ## wheels for x86-64, AArch64 and armv7 Linux (glibc, musl) into dist/, audited; WHEELS=... for some
	$(BIN)/pip install -q --group wheels
	rm -rf dist
	rustup target add $(foreach wheel,$(WHEELS),$(firstword $(subst :, ,$(wheel))))
	. $(BIN)/activate && for wheel in $(WHEELS); do $(WHEEL) || exit 1; done
	$(BIN)/abi3audit --strict dist/*.whl
	for wheel in dist/*manylinux*.whl; do $(BIN)/auditwheel show $$wheel || exit 1; done

# Wheels of musl hold the static binary, which `pip download` and `unzip` bring to any Linux.
gateway-wheels: .venv/.tools  ## the gateway's wheels for the same systems into dist/
	$(BIN)/pip install -q --group wheels
	rustup target add $(foreach wheel,$(GATEWAY_WHEELS),$(firstword $(subst :, ,$(wheel))))
	. $(BIN)/activate && cd rust/gateway && for wheel in $(GATEWAY_WHEELS); do $(WHEEL) || exit 1; done

# A wheel for one interpreter without a GIL, which has no stable ABI (CPython 3.14t and later).
FREE_THREADED ?= python3.14t
wheel-free-threaded: .venv/.tools  ## a wheel for FREE_THREADED=python3.14t into dist/, tried with the GIL off
	. $(BIN)/activate && maturin build --release --no-default-features -i $(FREE_THREADED) --out dist
	$(FREE_THREADED) -m venv target/free-threaded
	target/free-threaded/bin/pip install -q dist/cr2fast-*t-*.whl
	cd target && free-threaded/bin/python -X gil=0 ../tests/packaging/light_install.py

# A Debian of another processor with its own Python and NumPy, unpacked; the golden bits, under emulation.
# For Debian's name of a processor: qemu's, the folder of its libraries, the wheel's platform.
EMULATED_arm64 := aarch64 aarch64-linux-gnu manylinux2014_aarch64
EMULATED_armhf := arm arm-linux-gnueabihf manylinux2014_armv7l
target/root-%/.unpacked:
	@command -v debootstrap qemu-aarch64-static >/dev/null || { echo "wheel-$*: apt-get install debootstrap qemu-user-static"; exit 1; }
	debootstrap --arch=$* --foreign --variant=minbase --include=python3,python3-numpy bookworm $(@D)
	for deb in $(@D)/var/cache/apt/archives/*.deb; do dpkg -x $$deb $(@D) || exit 1; done
	@touch $@

# wheel-arm64 and wheel-armhf: the wheel of `make wheels` routes under emulation (root, Debian)
wheel-arm64 wheel-armhf: wheel-%: target/root-%/.unpacked
	$(eval ROOT := $(CURDIR)/target/root-$*)
	rm -rf $(ROOT)/opt/cr2fast && mkdir -p $(ROOT)/opt/cr2fast && unzip -qo dist/cr2fast-*$(word 3,$(EMULATED_$*))*.whl -d $(ROOT)/opt/cr2fast
	PYTHONHOME=$(ROOT)/usr PYTHONPATH=$(ROOT)/opt/cr2fast:$(ROOT)/usr/lib/python3/dist-packages \
	  QEMU_SET_ENV=LD_LIBRARY_PATH=$(ROOT)/usr/lib/$(word 2,$(EMULATED_$*))/blas:$(ROOT)/usr/lib/$(word 2,$(EMULATED_$*))/lapack \
	  qemu-$(word 1,$(EMULATED_$*))-static -L $(ROOT) $(ROOT)/usr/bin/python3.11 tests/packaging/light_install.py

.PHONY: docs workflows fuzz fuzz-log miri audit wheels wheel-arm64 wheel-armhf gateway-wheels wheel-free-threaded
docs: $(BUILT)  ## the site, strictly (out: target/site)
	$(BIN)/pip install -q --group docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q --strict

workflows: .venv/.tools  ## check the workflows of .github
	$(BIN)/pip install -q --group workflows
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/zizmor --offline -q .github/workflows
	$(BIN)/actionlint

# Seconds per fuzz target. Fuzzing needs a nightly compiler and cargo-fuzz.
SECONDS ?= 60
FUZZ := $(TOOLS)/cargo-fuzz
FUZZ_CORE := artifact static_encoder cost_table state wordpiece
FUZZ_GATEWAY := $(notdir $(basename $(wildcard rust/gateway/fuzz/fuzz_targets/*.rs)))
$(FUZZ):
	cargo install -q --locked --root $@ cargo-fuzz

DENY := $(TOOLS)/cargo-deny
$(DENY):
	cargo install -q --debug --locked --root $@ cargo-deny

fuzz: | $(FUZZ)  ## fuzz what reads bytes from outside, SECONDS=60 per target (needs nightly Rust)
	mkdir -p target/fuzz/corpus/artifact target/fuzz/corpus/static_encoder target/fuzz/corpus/cost_table
	cp tests/golden/router.safetensors target/fuzz/corpus/artifact/
	printf 'a planet\0' | cat - tests/golden/static.safetensors > target/fuzz/corpus/static_encoder/golden
	cp rust/fuzz/cost_table.json target/fuzz/corpus/cost_table/
	@$(MAKE) --no-print-directory $(addprefix fuzz-core-,$(FUZZ_CORE)) $(addprefix fuzz-gateway-,$(FUZZ_GATEWAY)) fuzz-log

FUZZ_RUN = PATH=$(FUZZ)/bin:$$PATH CARGO_TARGET_DIR=$(CURDIR)/target/fuzz cargo +nightly fuzz run --fuzz-dir .
FUZZ_FLAGS = -max_total_time=$(SECONDS) -print_final_stats=1 -max_len=65536
fuzz-core-%:
	mkdir -p target/fuzz/corpus/$*
	cd rust/fuzz && $(FUZZ_RUN) $* $(CURDIR)/target/fuzz/corpus/$* -- $(FUZZ_FLAGS)
fuzz-gateway-%:
	mkdir -p target/fuzz/corpus/$*
	cd rust/gateway/fuzz && $(FUZZ_RUN) $* $(CURDIR)/target/fuzz/corpus/$* corpus/$* -- $(FUZZ_FLAGS)

fuzz-log: $(BUILT)  ## the same for the readers of log lines, in Python (Linux; CPython 3.11 to 3.13)
	$(BIN)/pip install -q --group fuzz
	mkdir -p target/fuzz/corpus/log_lines
	$(BIN)/python -m testing.fuzz_log_lines target/fuzz/corpus/log_lines $(FUZZ_FLAGS) -artifact_prefix=target/fuzz/log_lines-

# Raw loads, packed weights, order statistics; the tests try plain Rust and AVX2 beside each other.
miri:  ## undefined behaviour in the core's unsafe code (needs nightly Rust with miri; minutes)
	RUSTFLAGS=-Ctarget-feature=+avx2,+fma MIRIFLAGS=-Zmiri-disable-isolation \
	  cargo +nightly miri test -p cr2fast-core --target-dir target/miri --lib -- simd:: ranks::select::tests::both_ways

audit: | $(DENY)  ## licences, sources and advisories of what we depend on (reaches the advisory databases)
	PATH=$(DENY)/bin:$$PATH cargo deny check
	$(BIN)/pip install -q pip-audit
	$(BIN)/pip-audit --skip-editable
