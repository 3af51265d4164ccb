"""Plans that robots can run: what a request describes, the schema of its answer, and the checks of both."""
