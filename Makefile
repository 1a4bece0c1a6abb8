# `make help` lists the targets. Everything runs in .venv; `. .venv/bin/activate` to call dvc by hand.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup plan repro profile-run test study ablations selfimprove longer trained stronger silmm kc-dpo pretrain pretrain-xl pretrain-mm prune clean

# The first Python that is new enough; `make PYTHON=/path/to/python3` chooses another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
    $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)

# The stamp carries a hash of requirements.txt: a change of its content installs, a touch does not.
STAMP := .venv/.installed-$(shell cksum < requirements.txt | cut -d' ' -f1)
PRETRAINED := $(addsuffix /model_index.json,models/backbones/shapes models/backbones/shapes_xl) \
    models/clip/shapes/tokenizer.json models/backbones/shapes_mm/config.json
# What must be here before `dvc repro`: hours of pretraining, which the shipped remote spares.
PULL = grep -q '^worlds: \[\]' params.yaml || ls $(PRETRAINED) >/dev/null 2>&1 || \
    dvc pull -r starter pretrain pretrain_xl pretrain_mm

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DVC_NO_ANALYTICS := 1

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{ printf "make %-12s %s\n", $$1, $$2 }'

setup: $(STAMP) ## the environment alone: .venv with the pinned packages

$(STAMP):
	@"$(or $(PYTHON),python3)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	    { echo "error: Python 3.11 or newer is needed; name one by make PYTHON=/path/to/python3" >&2; exit 2; }
	@[ -x .venv/bin/python ] || "$(PYTHON)" -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@rm -f .venv/.installed-* && touch $@

repro: setup ## run the pipeline, and print the table
	@$(PULL)
	python -m selma.dvc repro
	@python -m selma.table --beside
	@echo "report: data/report/index.html"
	@python -m selma.times --totals 2>/dev/null || true
	@python -m selma.runtime.recorder

plan: setup ## what `dvc repro` would do, before it does it: stages, images, steps, LLM calls, disk, hours
	@python -m selma.plan

profile-run: setup ## run every stage again, and print where its seconds went: start-up, loading, work, writing, tracking
	@$(PULL)
	@rm -rf .work/times
	@SECONDS=0; dvc repro --force --single-item $$(dvc stage list --name-only | grep -v '^pretrain'); \
	    python -m selma.times --wall $$SECONDS  # `--force` alone would sign the frozen stage's lock for today's code

test: setup ## lint and all tests, the end-to-end one included
	ruff check .
	ruff format --check .
	OMP_NUM_THREADS=1 python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

study: setup ## six training seeds and the guidance curve, for the README's claim (resumable)
	@$(PULL)
	python -m selma.experiments seeds
	python -m selma.curve

ablations: setup ## the comparison table, docs/ablations.md and the six pages below (hours from nothing, minutes for one more row; resumable)
	@$(PULL)
	@dvc repro --quiet judge own_judge $$(grep -q '^worlds: \[\]' params.yaml && echo backbone)
	python -m selma.ablations

selfimprove: setup ## models that learn from a judge, docs/selfimprove.md: every algorithm at equal pictures (resumable)
longer: setup ## NFT with four times the pictures, docs/longer.md (resumable)
trained: setup ## chosen images, preferences, gates, real pairs, docs/trained.md (resumable)
stronger: setup ## the stronger backbone, taught by its own images and by the weaker one's, docs/stronger.md (resumable)
selfimprove longer trained stronger:
	@$(PULL)
	@dvc repro --quiet judge own_judge $$(grep -q '^worlds: \[\]' params.yaml && echo backbone)
	python -m selma.ablations --page $@

silmm: setup ## a multimodal model that asks itself, three rounds of DPO on tokens, docs/asked.md (an hour; resumable)
kc-dpo: setup ## its arm of continuous features, a text encoder that learns by KC-DPO, docs/features.md (half an hour; resumable)
silmm kc-dpo:
	@$(PULL)
	@dvc repro --quiet judge own_judge $$(grep -q '^worlds: \[\]' params.yaml && echo backbone)
	python -m selma.ablations --page $(if $(filter silmm,$@),asked,features)

# `dvc unfreeze` and `dvc freeze` would rewrite dvc.yaml in their own layout, so its copy is put back instead,
# whether pretraining ends, fails or is interrupted.
pretrain: setup ## pretrain the embedded backbone again (hours on two cores; resumable); pretrain-xl then, too
pretrain-xl: setup ## pretrain the stronger one again, from the first (an hour on two cores; resumable)
pretrain-mm: setup ## pretrain the multimodal one again (an hour on two cores; resumable)
pretrain pretrain-xl pretrain-mm:
	@$(if $(filter pretrain-xl,$@),[ -f models/backbones/shapes/model_index.json ] || dvc pull -r starter pretrain,:)
	@mkdir -p .work && { [ -f .work/dvc.yaml.frozen ] && cp .work/dvc.yaml.frozen dvc.yaml || cp dvc.yaml .work/dvc.yaml.frozen; }
	@trap 'mv .work/dvc.yaml.frozen dvc.yaml' EXIT; \
	    sed '/^ *frozen: true/d' .work/dvc.yaml.frozen > dvc.yaml; \
	    dvc repro --single-item $(subst -,_,$@)@shapes

prune: setup ## remove folders under data/ and models/ that params.yaml does not name
	python -m selma.prune

clean: ## remove unfinished work and caches of tools (.venv, an LLM's replies in .llm and all that DVC keeps stay)
	rm -rf .work .pytest_cache .ruff_cache .hypothesis
	find selma stages tests -name __pycache__ -type d -prune -exec rm -rf {} +
