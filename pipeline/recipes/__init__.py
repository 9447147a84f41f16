"""One YAML file a recipe."""
