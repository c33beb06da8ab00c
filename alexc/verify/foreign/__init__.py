"""A model that another tool exported, held against a spec: see `crosscheck.verify_foreign`."""
