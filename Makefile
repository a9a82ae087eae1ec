# The verbs of this repository. Bare `make` prints them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# A virtual environment whose Python is gone (upgraded, moved) is made anew.
ifneq ($(wildcard $(VENV)/.run),)
ifneq ($(shell $(BIN)/python -c '' 2>/dev/null || echo broken),)
$(shell rm -f $(VENV)/.run $(VENV)/.dev $(VENV)/.load)
endif
endif

.DEFAULT_GOAL := help
.PHONY: help start doctor plan stop logs ps restart upgrade backup restore clean locust local local-reset check-config test test-extras test-max test-compose schema rules lint check format bench bench-affinity bench-peers load-test load-test-ui monitor model tiny-model lock clean-caches gpu-proof slo find-capacity dashboards

help: ## print this list
	@echo "llm-serving-stack: a private replacement for the OpenAI API."
	@echo "Start here: make start (a host with Docker and a GPU), or make local (no Docker, no GPU)"
	@awk -F ':.*## ' '/^## / {printf "\n%s\n", substr($$0, 4)} /^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

## The whole stack in containers
start: ## check this host, fetch the model, start everything, ask it once (DEVICE=cpu, ENGINE=max|external, MODEL_SOURCE=)
	@./init.sh

doctor: ## the checks of start; and, where the stack runs, each part of it
	@scripts/operate/doctor.sh

plan: ## how the engine would run on this host; starts nothing
	@scripts/operate/plan.sh

stop: ## end all containers, after their running answers
	@scripts/operate/stop.sh

ps: ## the containers and how they are
	@scripts/operate/ps.sh

logs: ## follow the logs (SERVICE=api-server for one)
	@scripts/operate/logs.sh

restart: ## apply .env and configs/, gateways one by one, no request fails (SERVICE=llama-cpp for one service)
	@scripts/operate/restart.sh

upgrade: ## after git pull: new images, then as restart
	@scripts/operate/upgrade.sh

backup: ## PostgreSQL, objects and vectors into backups/DATE (TO=folder)
	@scripts/operate/backup.sh

restore: ## a backup in the place of what is stored (FROM=folder CONFIRM=yes)
	@scripts/operate/restore.sh

locust: ## a page from which the stack is loaded
	@scripts/operate/locust.sh

clean: ## remove containers and networks (VOLUMES=yes CONFIRM=yes: the data too)
	@scripts/operate/clean.sh

## Without containers
local: $(VENV)/.run ## start an engine and the API on this machine (PORT=, HOST=, MODEL=, EMBEDDINGS=on, AUTH=off, DATA_DIR=)
	@exec $(BIN)/python -m api_server local

local-reset: $(VENV)/.run ## remove what `make local` stored, the data included (DATA_DIR, default .local)
	@$(BIN)/python -m api_server reset

check-config: $(VENV)/.run ## check the environment and configs/stack.yaml, start nothing
	@$(BIN)/python -m api_server check

monitor: $(VENV)/.run ## watch a running gateway in this terminal (URL=, MODEL=)
	@exec $(BIN)/python -m monitoring $(if $(URL),--url "$(URL)") $(if $(MODEL),--model "$(MODEL)")

## For who works on it
test: $(VENV)/.dev ## run every test, against a real engine (compiles it the first time); two at once, then those that want the machine alone
	@$(BIN)/python -m api_server engine
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "not alone"
	@$(BIN)/python -m pytest -m alone

test-extras: $(VENV)/.dev ## run the tests of models in this process (10 minutes the first time, for torch and llama.cpp)
	@$(BIN)/python -m scripts.extras python -m pytest tests/extras

test-max: $(VENV)/.dev ## run tests/max: the API in front of MAX on the CPU (2 GB, installed the first time)
	@$(BIN)/python -m pytest tests/max -o timeout_func_only=true

test-compose: $(VENV)/.dev ## bring docker-compose.yaml up with images built here, and test it (16 minutes; wants Docker and mmdebstrap)
	@$(BIN)/python -m pytest tests/compose -o timeout_func_only=true

schema: $(VENV)/.run ## write the schemas of configs/stack.yaml and of load tests' results anew from their types
	@$(BIN)/python -m scripts.write_schema
	@$(BIN)/python -m load_tests.report.schemas

rules: $(VENV)/.run ## write Prometheus' rules anew from configs/slo.yaml
	@$(BIN)/python -m monitoring.rules

dashboards: $(VENV)/.run ## write Grafana's dashboards anew from monitoring/boards/ and configs/slo.yaml
	@$(BIN)/python -m monitoring.dashboards

lint: $(VENV)/.dev ## formatting, types, the arrows between rooms, YAML, shell, Dockerfiles
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m scripts.check_arrows
	@$(BIN)/yamllint -s .
	@$(BIN)/shellcheck -x $$(git ls-files --cached --others --exclude-standard "*.sh") .ci/run
	@$(BIN)/hadolint Dockerfile
	@$(BIN)/hadolint --ignore DL3008 --ignore DL3066 $$(git ls-files "tests/*Dockerfile")

check: lint test test-extras ## what CI runs: lint, then all tests

format: $(VENV)/.dev ## format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(VENV)/.run ## what the gateway costs, with 1 and 4 replicas, beside a direct connection (5 minutes, two idle cores)
	@$(BIN)/python -m benchmarks

bench-affinity: $(VENV)/.dev ## how much of their prompts 4 real engines find in their caches, by routing (1 minute, after compiling the engine)
	@$(BIN)/python -m benchmarks --affinity

bench-peers: $(VENV)/.run ## the same with nginx, vllm-router, sglang-router and LiteLLM beside it (15 minutes)
	@$(BIN)/python -m benchmarks --peers

load-test: $(VENV)/.load ## requests as users send them, and what they felt (ARGS="--rate 20 --duration 60", ARGS=--help)
	@$(BIN)/python -m load_tests $(ARGS)

slo: $(VENV)/.load ## does configs/slo.yaml hold? 0 yes, 1 no, 2 the run says nothing (ARGS="--rate found", after find-capacity)
	@$(BIN)/python -m load_tests --slo $(ARGS)

find-capacity: $(VENV)/.load ## the highest rate at which 95 % of requests meet their target (7 minutes)
	@$(BIN)/python -m load_tests --find-capacity $(ARGS)

load-test-ui: $(VENV)/.load ## Locust's web page on 127.0.0.1:8089 (HOST_URL=http://127.0.0.1:8000)
	@ONLY_HOST="$(or $(HOST_URL),http://127.0.0.1:8000)" $(BIN)/locust -f load_tests/locustfile.py,load_tests/open_loop.py --class-picker --web-host 127.0.0.1 --host "$(or $(HOST_URL),http://127.0.0.1:8000)"

gpu-proof: ## measure the stack on an NVIDIA GPU, without a network (STEP=prepare, build, model, run, report; docs/gpu-proof.md)
	@$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m gpu_proof $(or $(STEP),all) $(ARGS)

model: ## fetch and verify a model into models/ (SOURCE=, a name of models/models.lock or owner/repo:file; OFFLINE=1)
	@./download_model.sh $(if $(SOURCE),"$(SOURCE)")

tiny-model: $(VENV)/.run ## train models/tiny anew and print its evaluation
	@sh scripts/venv.sh "$(PYTHON)" .venv-tiny models/tiny/requirements.txt
	@.venv-tiny/bin/python -m models.tiny.make --llama-server "$$($(BIN)/python -m api_server engine)"

lock: $(VENV)/.dev ## write the locked requirements anew from pyproject.toml
	@sh scripts/lock.sh

clean-caches: ## remove the virtual environments and caches of this checkout
	rm -rf .venv .venv-tiny .mypy_cache .ruff_cache .pytest_cache .gpu-proof-work

$(VENV)/.run: requirements.txt
	@sh scripts/venv.sh "$(PYTHON)" $(VENV) requirements.txt --require-hashes
	@touch $@

$(VENV)/.load: requirements.txt requirements-load.txt
	@sh scripts/venv.sh "$(PYTHON)" $(VENV) requirements-load.txt --require-hashes
	@touch $@ $(VENV)/.run

$(VENV)/.dev: requirements.txt requirements-dev.txt
	@sh scripts/venv.sh "$(PYTHON)" $(VENV) requirements-dev.txt --require-hashes
	@touch $@ $(VENV)/.run $(VENV)/.load
