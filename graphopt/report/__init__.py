"""The page that shows what became of a model: graphs, costs, memory, pieces, decisions, passes."""
