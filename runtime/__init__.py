"""Artifact to tokens: KV blocks, scheduling, sampling, the engine."""
