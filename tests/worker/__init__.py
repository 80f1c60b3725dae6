"""Tests of the worker: what turns a claimed job into an answer."""
