"""One run: what it is in memory, its steps' attempts, what came of them, and how it waits, stops and ends."""
