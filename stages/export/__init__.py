"""Turn the final checkpoint into one verified Hugging Face directory."""
