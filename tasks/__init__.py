"""The stages as Prefect tasks: each module calls one function of kred_core; retries, caching and names live here."""
