"""The run folder and its checkpoints: format, reading, writing."""
