"""A study as a graph of jobs: its cells, their submission, what a task runs, and what became of them."""
