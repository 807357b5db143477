"""The report of runs: what is measured for it, its charts and its page."""
