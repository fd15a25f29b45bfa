# `make` lists the targets. Everything here is a line or two of cargo; nothing needs make.

SHELL := /bin/sh
CARGO ?= cargo
INKWASH := target/release/inkwash
# Without it, as on a bare server, Mesa prints an error that is none. Nothing is written there.
export XDG_RUNTIME_DIR ?= /tmp

.DEFAULT_GOAL := help
.PHONY: help demo test setup lint lab-pictures interop web web-serve web-test ci

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The demo's own last lines name the pictures.
demo: ## Train the built-in glyphs for some minutes and draw what came of it
	$(CARGO) build --release
	@sh scripts/setup.sh $(INKWASH)
	@out=demo; n=2; while [ -e "$$out" ]; do out=demo-$$n; n=$$((n + 1)); done; \
	echo "$(INKWASH) demo --out $$out"; \
	$(INKWASH) demo --out "$$out" && \
	echo && echo "pictures in $$out:" && ls "$$out"/*.png "$$out"/samples/*.png

# `make test FEATURES="--features mpi"` tests ranks under mpirun too (docs/scale.md).
test: setup ## Run every test; a missing device is a failure
	INKWASH_REQUIRE_DEVICE=1 $(CARGO) test $(FEATURES)

setup: ## Install a software Vulkan driver if there is no driver at all
	@sh scripts/setup.sh

lint: ## Check the format, clippy and the documentation
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps

# The pages say which pictures they show. `make lab-pictures DATA=DIR` shows real pictures too, of CIFAR-10 in those that are kept.
lab-pictures: ## Run every experiment and make the pictures of docs/lab again (20 minutes)
	$(CARGO) build --release
	@out=$$(mktemp -d) && \
	$(INKWASH) lab all --out "$$out" $(if $(DATA),--data "$(DATA)") && \
	for picture in $$(grep -oh 'images/lab/[a-z]*/[a-z_-]*\.png' docs/lab/*.md | sort -u); do \
		mkdir -p "docs/$${picture%/*}" && cp "$$out/$${picture#images/lab/}" "docs/$$picture" || exit 1; \
	done; rm -rf "$$out"

interop: ## Prove against PyTorch and diffusers that models go both ways (installs them: some minutes, 1 to 6 GB)
	sh scripts/interop

web: ## Build the page for browsers into web/dist (needs the wasm32 target and wasm-bindgen)
	CARGO=$(CARGO) scripts/web build

web-serve: ## Serve it on this machine, at http://127.0.0.1:8080/
	CARGO=$(CARGO) scripts/web serve

web-test: ## Build it, and test it in headless Chromium (needs node too)
	CARGO=$(CARGO) sh tests/web/run

ci: ## What the continuous integration runs: everything, from nothing
	@.ci/run
