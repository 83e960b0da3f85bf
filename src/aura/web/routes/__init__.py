"""The endpoints, one module for each subject. Each has a ``ROUTES`` list; ``app`` puts them together."""
