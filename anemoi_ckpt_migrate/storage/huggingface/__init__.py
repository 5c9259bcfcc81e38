"""Folders of Hugging Face: weights in one file or in shards with an index, and `config.json` beside them."""
