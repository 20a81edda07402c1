# `make` lists the targets. Each target first makes its prerequisites, so every target works right after a clone.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

VENV := .venv
NODE_MODULES := app/tests/node_modules/.package-lock.json
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export ANSIBLE_INVENTORY ?= $(CURDIR)/inventory/sandbox
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

# $(call program,COMMAND,PACKAGE): install Debian's PACKAGE, unless COMMAND exists.
program = command -v $(1) >/dev/null || { \
	echo "== Installing the missing package $(2)"; \
	$(SUDO) apt-get update -qq; \
	DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -qq -y --no-install-recommends $(2) >/dev/null; }

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

.PHONY: up
up: $(VENV)/control ## Create a sandbox host with the blog at http://127.0.0.1:8080
	@echo "== Creating the sandbox host"
	ansible-playbook playbooks/sandbox.yml
	echo "== Running site.yml, as for a real host"
	ansible-playbook site.yml
	echo "== Importing example posts"
	ansible-playbook playbooks/import.yml -e import_directory=$(CURDIR)/docs/site
	cat <<-'END'

	  The blog      http://127.0.0.1:8080
	  Its admin     admin@example.org, password: docker exec slipway-sandbox cat /etc/slipway/secrets/admin_password
	  The host      docker exec -it slipway-sandbox bash    (then: slipway status)

	  make deploy   release changes of app/
	  make bench    measure the blog
	  make test     run every test
	  make down     stop or remove the sandbox host
	END

.PHONY: deploy
deploy: $(VENV)/control ## Release changes of app/ on the sandbox host
	@ansible-playbook playbooks/deploy.yml

.PHONY: down
down: $(VENV)/control ## Stop the sandbox host, or remove it with its data; asks which
	@answer=
	if [ -t 0 ]; then
	  read -r -p "Type the host's name (sandbox) to remove it with its data and images, or press Enter to only stop it: " answer
	fi
	if [ "$$answer" = sandbox ]; then
	  ansible-playbook playbooks/sandbox.yml -e sandbox_state=absent
	else
	  ansible-playbook playbooks/sandbox.yml -e sandbox_state=stopped
	  echo "The host is stopped, and keeps its data: \`make up\` starts it again."
	fi

.PHONY: test
test: lint sanity unit app-test molecule ## Run lint, sanity, unit, app-test and molecule; then print the last benchmark results
	@bench/measure.py --show

.PHONY: lint
lint: $(VENV)/dev ## Run every linter: ansible-lint, yamllint, ruff, mypy, shellcheck, hadolint, zizmor
	@yamllint --strict .
	ansible-lint -q
	ruff check --quiet .
	ruff format --quiet --check .
	mypy --no-error-summary
	antsibull-changelog lint
	shellcheck .ci/run roles/baseline/files/swapfile roles/host_program/files/slipway roles/sandbox/files/entrypoint roles/images/files/db/docker-entrypoint.sh
	hadolint --config roles/images/files/.hadolint.yaml app/Dockerfile $$(git ls-files 'roles/*Dockerfile' 'tests/*Dockerfile')
	zizmor --quiet --offline .github/workflows

# $(call collection,DIRECTORY): build the collection slipway.blog, and install it in an empty DIRECTORY. The installation runs
# without this repository's ansible.cfg: with it, ansible-galaxy would find the collection in this repository and install nothing.
collection = rm -rf $(1); mkdir -p $(1); ansible-galaxy collection build --output-path $(1) >/dev/null; \
	(cd $(1) && env -u ANSIBLE_CONFIG ANSIBLE_COLLECTIONS_PATH=. ansible-galaxy collection install --offline --no-deps \
	  --collections-path . ./*.tar.gz >/dev/null)

.PHONY: collection
collection: $(VENV)/control ## Build the collection slipway.blog, and install it in .sandbox/collections
	@$(call collection,.sandbox/collections)

# ansible-test downloads a script that installs pip, unless its cache has that script. So this target writes a script there, which
# installs the pip that comes with Python.
.PHONY: sanity
sanity: $(VENV)/dev ## Run ansible-test sanity for the collection
	@place=$$(mktemp -d)
	trap 'rm -rf "$$place"' EXIT
	$(call collection,$$place)
	export HOME=$(CURDIR)/$(VENV)/ansible-test
	mkdir -p "$$HOME/.ansible/test/cache"
	printf 'import ensurepip\n\nensurepip.bootstrap()\n' > "$$HOME/.ansible/test/cache/get_pip_24_2.py"
	cd "$$place/ansible_collections/slipway/blog"
	python=$$(python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
	ansible-test sanity --venv --python "$$python" > sanity.log 2>&1 || { grep -E '^(ERROR|FATAL)' sanity.log; exit 1; }

.PHONY: unit
unit: $(VENV)/dev sandbox-base ## Run the tests that need no host
	@$(call program,restic,restic)
	pytest --numprocesses=auto tests host/tests

.PHONY: app-test
app-test: $(VENV)/dev $(NODE_MODULES) ## Run the blog's tests, with a real Postgres and a real browser
	@command -v google-chrome >/dev/null || $(call program,chromium,chromium)
	$(call program,java,default-jre-headless)
	[ -n "$$(ls -d /usr/lib/postgresql/*/bin/initdb 2>/dev/null)" ] || { $(call program,initdb,postgresql) }
	SCREENSHOT_DIR=$(CURDIR)/.screenshots pytest --numprocesses=auto app

.PHONY: molecule
molecule: $(VENV)/dev $(VENV)/audit/ready $(NODE_MODULES) ## Run the Molecule scenario default on a bare sandbox host
	@command -v google-chrome >/dev/null || $(call program,chromium,chromium)
	molecule test

.PHONY: soak
soak: $(VENV)/dev ## Run releases, rollbacks, changes of nginx and failures under constant load, on a separate host (50 minutes)
	@host="--inventory=$(CURDIR)/molecule/inventory --limit=molecule-default"
	trap 'ansible-playbook $$host molecule/destroy.yml >/dev/null' EXIT
	for playbook in molecule/destroy.yml playbooks/sandbox.yml molecule/default/converge.yml; do
	  ansible-playbook $$host $$playbook
	done
	timeout 3600 pytest -p no:cacheprovider --soak --ansible-inventory=$(CURDIR)/molecule/inventory \
	  --hosts=ansible://molecule-default molecule/default/tests/test_{load,releases,soak,failures,killed}.py
	# Run this test last and without load: it removes Slipway from the host, and installs it again.
	pytest -p no:cacheprovider --soak --ansible-inventory=$(CURDIR)/molecule/inventory \
	  --hosts=ansible://molecule-default molecule/default/tests/test_teardown.py

.PHONY: drill
drill: $(VENV)/dev ## Lose and recover a whole host, and run the failures that need no load, on separate hosts (more than an hour)
	@inventory=$(CURDIR)/molecule/inventory
	trap 'ansible-playbook --inventory=$$inventory molecule/destroy.yml >/dev/null' EXIT
	$(call collection,.sandbox/collections)
	for scenario in recovery default; do
	  for playbook in molecule/destroy.yml playbooks/sandbox.yml molecule/$$scenario/{prepare,converge}.yml; do
	    [ ! -e $$playbook ] || ansible-playbook --inventory=$$inventory --limit="molecule-$$scenario*" $$playbook
	  done
	done
	drill="pytest -p no:cacheprovider --drill --ansible-inventory=$$inventory"
	$$drill --hosts=ansible://molecule-recovery molecule/recovery/tests
	$$drill --hosts=ansible://molecule-default -m drill molecule/default/tests

EXAMPLES := site baseline docker secrets host_program tls images backup stack release
.PHONY: examples
examples: $(VENV)/dev ## Run the collection's site playbook and each role's example, each on a bare host, outside of this directory
	@host="--inventory=$(CURDIR)/molecule/inventory --limit=molecule-default"
	place=$$(mktemp -d)
	trap 'rm -rf "$$place"; ansible-playbook $$host molecule/destroy.yml >/dev/null' EXIT
	$(call collection,$$place)
	cp -rL molecule/inventory "$$place"
	sed -i 's#{{ inventory_dir }}/../..#$(CURDIR)#' "$$place"/inventory/group_vars/all/*.yml
	printf -- '- import_playbook: slipway.blog.site\n' > "$$place/site.yml"
	for role in $(EXAMPLES); do
	  echo "== $$role"
	  [ $$role = site ] || sed -n '/^```yaml/,/^```/{/^```/d;p}' roles/$$role/README.md > "$$place/$$role.yml"
	  for playbook in molecule/destroy.yml playbooks/sandbox.yml; do
	    ansible-playbook $$host $$playbook >/dev/null
	  done
	  # Log in as the user of a new host. An example without the role tls has no certificate, so it uses plain HTTP.
	  (cd "$$place" && env -u ANSIBLE_CONFIG ANSIBLE_COLLECTIONS_PATH="$$place" ansible-playbook --inventory inventory \
	    --limit molecule-default --extra-vars "ansible_user=debian $$([[ $$role =~ site|tls ]] || echo tls_mode=off stack_base_url=http://blog.example.org)" $$role.yml)
	done

.PHONY: bench
bench: $(VENV)/control ## Measure the blog beside the limit of nginx and the blog of a tutorial, on the host of `make up`
	@bench/measure.py slipway-sandbox

.PHONY: screenshots
screenshots: $(VENV)/dev ## Take the README's screenshots from the blog of `make up`
	@docs/screenshots.py

.PHONY: lock
lock: ## Lock the latest versions of all requirements, with hashes
	@python3 -m venv $(VENV)/uv && $(VENV)/uv/bin/pip install -q uv
	compile="$(VENV)/uv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --custom-compile-command"
	$$compile 'make lock' requirements.in -o requirements.txt
	$$compile 'make lock' app/pyproject.toml -o app/requirements.txt
	$$compile 'make lock' requirements-dev.in -o requirements-dev.txt
	$$compile 'make lock' requirements-audit.in -o requirements-audit.txt
	$$compile 'make lock' roles/images/files/sbom/requirements.in -o roles/images/files/sbom/requirements.txt
	$(call program,npm,npm)
	npm install --prefix app/tests --package-lock-only --ignore-scripts --omit-lockfile-registry-resolved \
	  --no-audit --no-fund --save-dev --save-exact axe-core@latest lighthouse@12 vnu-jar@latest  # Lighthouse 13 needs Node 22

.PHONY: sandbox-base
sandbox-base: $(VENV)/control
	@ansible-playbook playbooks/sandbox.yml -e sandbox_state=image >/dev/null

$(VENV)/control: requirements.txt
	@$(call program,ssh,openssh-client)
	python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Slipway needs Python 3.11 or newer; this is " + sys.version)'
	python3 -c 'import ensurepip' 2>/dev/null || $(call program,no-such-command,python3-venv)
	echo "== Creating the Python environment $(VENV) (up to a minute)"
	python3 -m venv $(VENV)
	pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	touch $@

$(VENV)/dev: requirements-dev.txt $(VENV)/control
	@echo "== Installing the test tools in $(VENV)"
	pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	touch $@

$(VENV)/audit/ready: requirements-audit.txt $(VENV)/control
	@echo "== Installing the audit tools ssh-audit and sslyze in $(VENV)/audit"
	python3 -m venv $(VENV)/audit
	$(VENV)/audit/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-audit.txt
	touch $@

$(NODE_MODULES): app/tests/package-lock.json
	@$(call program,npm,npm)
	echo "== Installing the checkers of pages (axe-core, Lighthouse, vnu-jar) in app/tests/node_modules"
	npm ci --ignore-scripts --no-audit --no-fund --loglevel=error --prefix app/tests >/dev/null
	touch $@
