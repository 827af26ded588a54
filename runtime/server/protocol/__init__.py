"""What clients send and get: OpenAI's shapes, and vLLM's where OpenAI has none."""
