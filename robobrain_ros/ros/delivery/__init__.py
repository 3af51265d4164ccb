"""One response for each request: quality of service, pacing, and the boundary around callbacks."""
