"""From a request to the end of its run: who is admitted, who waits for what and gets a place, and how steps are run."""
