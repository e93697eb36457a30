"""The configuration: models of every part, the located YAML loader, the dump and the JSON Schema."""
