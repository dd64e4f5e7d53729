"""The store: names, generations, transactions. Start with `commit.py`, then `session.py`; docs/explanation/architecture.md draws the floor."""
