"""Services of a session: Prefect server, deployments, live page, process environment."""
