"""Studio page of `liveavatar serve`: inputs that it is given, its queue of jobs, its HTTP interface, its files.

It renders nothing itself: a job is a run of the deployment `render`, so that Prefect shows what the page shows.
"""
