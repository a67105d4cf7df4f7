# `make help` lists what there is. Everything that a target needs is installed by scripts/bootstrap.
SHELL := /bin/bash
.DEFAULT_GOAL := help
INVENTORY ?= inventories/local
BIN := .venv/bin
export INVENTORY
export PATH := $(CURDIR)/$(BIN):$(PATH)
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
# Mitogen makes a task three to four times quicker. It is optional: LABYARD_MITOGEN=0 does without (docs/performance.md).
LABYARD_MITOGEN ?= 1
ANSIBLE := scripts/with-mitogen $(LABYARD_MITOGEN)
PLAYBOOK := $(ANSIBLE) ansible-playbook -i $(INVENTORY)/hosts.yml

.PHONY: help lab status doctor test test-fast lint unit molecule vms-integration evse-integration desktops-integration evse-emulator-image faas-single vm-image bench bench-trend destroy purge bootstrap lock

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

bootstrap: ## install what the control machine needs (part of every other target)
	@scripts/bootstrap

lab: bootstrap ## build the lab, or bring it up to date; ends with what it is and how to use it
	@labyard doctor --inventory $(INVENTORY)
	@$(PLAYBOOK) site.yml
	@labyard status --inventory $(INVENTORY) --next-steps

status: bootstrap ## hosts, daemons, addresses and health, from the live lab
	@labyard status --inventory $(INVENTORY)

doctor: bootstrap ## what this machine can do, found out by doing it
	@labyard doctor --inventory $(INVENTORY)

lint: bootstrap ## ruff, mypy, yamllint, ansible-lint
	@scripts/lint $(LINT)

unit: bootstrap ## unit tests: no daemon needed
	@pytest -q -n 2 tests/unit

test-fast: bootstrap ## lint and unit tests, side by side; ansible-lint reads only what changed since it last passed
	@$(MAKE) --no-print-directory --jobs=2 --output-sync LINT=--changed lint unit

molecule: bootstrap ## one role by itself: make molecule ROLE=dhcp
	@test -n "$(ROLE)" || { echo "say which role: make molecule ROLE=dhcp"; ls molecule | grep -v shared; exit 2; }
	@$(ANSIBLE) molecule test -s $(ROLE)

test: bootstrap ## all of it: lint, unit, integration, the lab, Molecule for every role, testinfra, flows, faults
	@scripts/test

vms-integration: bootstrap ## the VM manager's tests with real machines, inside the lab's first VM host
	@$(PLAYBOOK) playbooks/vms_integration.yml

evse-integration: bootstrap ## the charger pairs' tests, inside the lab's first charger host
	@$(PLAYBOOK) playbooks/evse_integration.yml

desktops-integration: bootstrap ## the suite of the desktops' requirement document, inside the lab's first desktop host
	@$(PLAYBOOK) playbooks/desktops_integration.yml

evse-emulator-image: bootstrap ## the charger emulator as a container image, labyard/evse-emulator:latest
	@$(PLAYBOOK) playbooks/evse_emulator_image.yml

faas-single: ## faasd and faas as single files in build/, which need nothing but Python
	@python3 scripts/faas_single.py

vm-image: bootstrap ## the kernel and the Debian that tests with the fixture vm boot, in build/vm
	@labyard vm build

bench: bootstrap ## measure; prints each figure with its target and writes build/bench.json; one family: make bench ONLY=vms
	@python -m labyard.bench --inventory $(INVENTORY) --only '$(ONLY)'

bench-trend: bootstrap ## how figures and suites of tests went from run to run on this machine; make bench-trend ONLY=vms
	@python -m labyard.bench --trend --only '$(ONLY)'

destroy: bootstrap ## take the lab away: containers, networks, route; images stay
	@$(PLAYBOOK) playbooks/destroy.yml

purge: bootstrap ## like destroy, and the images too
	@$(PLAYBOOK) playbooks/destroy.yml --extra-vars destroy_images=true

COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
SERVICE_ROLE := roles/labyard_service/files
lock: ## resolve pyproject.toml into requirements.lock, and what the hosts need into the roles that install it
	@$(COMPILE) --all-extras pyproject.toml --output-file requirements.lock
	@python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["service"], sep="\n")' \
	  | $(COMPILE) --no-annotate --constraint requirements.lock - --output-file $(SERVICE_ROLE)/requirements-service.txt
	@python -c 'import tomllib; extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; print(*extras["service"], *extras["desktops"], sep="\n")' \
	  | $(COMPILE) --no-annotate --constraint requirements.lock - --output-file $(SERVICE_ROLE)/requirements-desktops.txt
	@$(COMPILE) --no-annotate --group bmc --output-file roles/bmc/files/requirements-bmc.txt
	@echo 'uv>=0.8,<1' | $(COMPILE) --no-annotate - --output-file $(SERVICE_ROLE)/requirements-uv.txt
