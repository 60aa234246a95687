"""Services of a session: Prefect server, deployments, studio page, process environment."""
