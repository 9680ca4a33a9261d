"""Launch files, configuration, the graph of nodes, its runner and the demo."""
