"""How models write tool calls: one module a style, each turning an answer into text and calls."""
