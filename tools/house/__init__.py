"""The habits of this code base as checks: each yields a line for every place that breaks it.

`python -m tools.house` prints them all; tests/test_house.py fails on any.
"""
