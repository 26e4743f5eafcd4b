.PHONY: check serve bench format

check: ## what CI runs
	tox

serve: ## the proxy on the embedded default
	python -m app serve

bench: ## the yardstick and every scenario, side by side
	tox -q -e bench -- --only start,S2,S4,S5,S6,S2r,S1,S3,S8

format:
	ruff format .
	ruff check --fix .
