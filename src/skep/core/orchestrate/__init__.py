"""Services to tasks."""
