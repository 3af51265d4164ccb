"""Send one response for each request: quality of service, pacing, redelivery, and the boundary around callbacks."""
