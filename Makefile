.PHONY: check serve bench format

check: ## what CI runs
	tox

serve: ## the proxy on the embedded default
	python -m app serve

bench: ## the yardstick and every scenario, side by side
	tox -q -e bench --

format:
	ruff format .
	ruff check --fix .
