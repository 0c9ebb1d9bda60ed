"""A model and a table, or an index and labels, to scores."""
