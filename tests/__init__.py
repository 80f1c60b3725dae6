"""The tests, in packages: without this file tests/worker would shadow worker."""
