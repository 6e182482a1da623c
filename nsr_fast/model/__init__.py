"""The model: its loading, the layout of its tensors, packed batches and their attention."""
