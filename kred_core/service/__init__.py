"""What the service knows beside Prefect: which fields are complete and new, and who serves a data root."""
