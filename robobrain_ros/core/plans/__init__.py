"""Plans for robots: the request, the schema of the answer, and the checks of both."""
