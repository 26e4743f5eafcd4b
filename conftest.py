"""The fixtures that start real servers, for every test below."""

pytest_plugins = ("tests.support.postgres", "tests.support.valkey")
