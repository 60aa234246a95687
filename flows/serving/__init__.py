"""What runs while the service is up: Prefect server, deployments, live page, process environment."""
