"""Every setting of a run as pydantic models: checked, documented, and read without torch."""
