"""Translation models: one interface, two families, attention as independent choices."""
