"""The benchmark: `python -m tests.bench`. It measures ratios inside one sitting; how to read them is in docs/performance.md."""
