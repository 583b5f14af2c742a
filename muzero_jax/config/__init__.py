"""The only readers of a config: what its fields may hold, and the objects that it names."""
