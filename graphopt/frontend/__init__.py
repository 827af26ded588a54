"""From a model to a graph: checkpoints, tracing, and the gates that stop silent errors."""
