"""What goes to Weights & Biases once runs are done: the report job, uploads, and the workspace."""
