"""From a trained model to pictures: the pipeline, editing, and what is written."""
