# `make` lists what there is. Everything runs from a fresh clone: each target makes what it needs first.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help up deploy down password test lint unit app-test molecule bench lock clean sandbox-base

VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
INVENTORY ?= inventory/sandbox
export ANSIBLE_INVENTORY := $(INVENTORY)

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: $(VENV)/control ## A sandbox host with the running blog at http://127.0.0.1:8080
	@echo "== Sandbox host"
	ansible-playbook playbooks/sandbox.yml
	@echo "== site.yml, as for a real host"
	ansible-playbook site.yml
	@echo "== A few posts, so that the first page is not empty"
	ansible-playbook playbooks/import.yml -e import_directory=$(CURDIR)/inventory/sandbox/posts
	@bin/summary

deploy: $(VENV)/control ## Put what is in app/ into service
	ansible-playbook playbooks/deploy.yml
