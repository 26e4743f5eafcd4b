"""Who makes answers: each provider's dialect, turned into OpenAI's shapes and back."""
